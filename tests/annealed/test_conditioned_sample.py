"""Turns of conditions and their events, counted by hand."""

import numpy as np
import pytest
import torch

from calo4pqvae.annealed.conditioned_sample import ConditionedSample, Turn
from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.prior.graph.topology import complete_topology


def config_of(mode: str) -> Config:
    changes = {"condition.mode": mode, "condition.bits": 4, "latent.levels": 2, "latent.bits_per_level": 4}
    return load_config().replace(
        {**changes, "latent.factors": 2, "data.energy_max_mev": 1e5, "prior.graph": "complete"}
    )


def prior_of(mode: str = "clamp") -> LatentPrior:
    return LatentPrior(config_of(mode), complete_topology((4, 4, 4) if mode == "clamp" else (4, 4)))


def sample_of(prior: LatentPrior, n: int = 300, *, events: int | None = None, shift: float = 0.0) -> ConditionedSample:
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 2, (n, prior.n_bits), generator=generator).to(torch.uint8)
    energies = 1e3 * 100 ** torch.rand(n, 1, generator=generator)
    return ConditionedSample(prior, bits, energies, n_events=events, energy_shift=shift, seed=3)


def test_conditions_come_with_their_frequency() -> None:
    prior = prior_of()
    sample = sample_of(prior)
    assert len(sample.rows) == 5  # a thermometer of four bits
    counts = torch.zeros(5)
    for number in range(400):
        turn = sample.turn(number, 3)
        assert int(turn.counts.sum()) == 3
        counts[turn.groups] += turn.counts
    states, weights, _ = sample.data(Turn(torch.arange(5), torch.ones(5, dtype=torch.int64)))
    steps = states[:, :4].sum(dim=1)
    shares = torch.stack([(steps == step).float().mean() for step in range(5)])
    order = sample.rows.sum(dim=1).long()
    torch.testing.assert_close(counts / 1200, shares[order], atol=0.01, rtol=0)
    assert float(weights.sum()) == pytest.approx(1.0)


def test_the_events_of_a_turn_are_all_of_its_conditions() -> None:
    prior = prior_of()
    sample = sample_of(prior)
    turn = Turn(torch.tensor([1, 3]), torch.tensor([2, 1]))
    assert turn.shares == pytest.approx([2 / 3, 1 / 3])
    states, weights, condition = sample.data(turn)
    assert condition is None
    for group, share in ((1, 2 / 3), (3, 1 / 3)):
        own = (states[:, :4] == sample.rows[group]).all(dim=1)
        assert float(weights[own].sum()) == pytest.approx(share)
        assert len(torch.unique(weights[own])) == 1
    everything = sample.data(Turn(torch.arange(5), torch.ones(5, dtype=torch.int64)))[0]
    n_own = sum(int((everything[:, :4] == sample.rows[group]).all(dim=1).sum()) for group in (1, 3))
    assert len(states) == n_own
    torch.testing.assert_close(sample.offsets.bits, everything.mean(dim=0))


def test_a_folded_condition_comes_beside_the_bits() -> None:
    sample = sample_of(prior_of("fold"))
    states, _, condition = sample.data(sample.turn(0, 2))
    assert states.shape[1] == 8
    assert condition is not None
    assert condition.shape == (len(states), 4)
    assert sample.offsets.condition is not None


def test_low_and_high_energies_come_in_each_turn() -> None:
    sample = sample_of(prior_of())
    steps = sample.rows.sum(dim=1)
    for number in range(20):
        chosen = steps[sample.turn(number, 4).groups]
        assert float(chosen.max() - chosen.min()) >= 2


def test_turns_are_those_of_the_seed() -> None:
    one, two = sample_of(prior_of()), sample_of(prior_of())
    for number in range(5):
        assert torch.equal(one.turn(number, 4).groups, two.turn(number, 4).groups)


def test_a_smaller_sample_and_bins_of_energy() -> None:
    sample = sample_of(prior_of(), events=40, shift=0.3)
    assert sample.n_events == 40
    assert 0 < sample.binned.largest_shift <= 0.3 + 1e-6
    assert sample.binned.n_bins < 12
    assert np.unique(sample.binned.energies).size == sample.binned.n_bins


@pytest.mark.parametrize("events", [1, 301])
def test_samples_that_cannot_be_taken(events: int) -> None:
    with pytest.raises(DataError, match=f"a sample of {events} of 300 events cannot be taken; ask for 2 to 300"):
        sample_of(prior_of(), events=events)
