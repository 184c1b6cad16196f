"""The energy gap where it is known: independent bits in closed form, and a prior judged on bits of its own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.validation_gap import EnergyGap, correlation_slope, energy_gap, paired_difference
from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.seeds import stream
from tests.annealed.test_conditioned_sample import config_of

N = 2000


def prior_with(coupling_std: float, seed: int = 2) -> LatentPrior:
    prior = LatentPrior(config_of("clamp"), complete_topology((4, 4, 4)))
    generator = torch.Generator().manual_seed(seed)
    prior.machine.initialise(torch.full((12,), 0.3), coupling_std, generator)
    return prior


def energies_of(n: int = N) -> Tensor:
    return 1e3 * 100 ** torch.rand(n, 1, generator=torch.Generator().manual_seed(4))


def test_independent_bits_in_closed_form() -> None:
    """Eight bits of mean 0.3 cost 0.3 ln(7 / 3) each on the average; bits that are all one cost ln(7 / 3) each."""
    prior = prior_with(0.0)
    price = np.log(7 / 3)  # of a one; the means are smoothed by 1e-3, which is far below the tolerance
    gap = energy_gap(prior, torch.ones(N, 8), energies_of(), draws=4, n_sweeps=1, seed=1)
    held = gap.data - 8 * price  # what the condition costs, the same for data and samples
    assert gap.model.mean() - held.mean() == pytest.approx(8 * 0.3 * price, abs=0.05)
    assert gap.value == pytest.approx(8 * 0.7 * price, abs=5 * gap.error + 0.02)


def test_a_prior_judged_on_its_own_bits_has_no_gap_and_a_warmer_one_has() -> None:
    prior, incident = prior_with(0.7), energies_of()
    bits = prior.sample(incident, 50, stream(9, "own"))
    gap = energy_gap(prior, bits, incident, draws=3, n_sweeps=50, seed=1)
    assert abs(gap.value) < 4 * gap.error
    assert 0.02 < gap.error < 0.1
    with torch.no_grad():
        prior.machine.couplings.mul_(0.7)
    assert abs(energy_gap(prior, bits, incident, draws=3, n_sweeps=50, seed=1).value) > 6 * gap.error


def test_the_slope_sees_what_the_gap_does_not() -> None:
    """Independent bits with the means of correlated ones: no energy gap, and no correlation."""
    prior, incident = prior_with(1.0), energies_of(4000)
    bits = prior.sample(incident, 50, stream(9, "own"))
    slope, error = correlation_slope(prior, bits, incident, n_sweeps=50, seed=1)
    assert abs(slope - 1) < 4 * error
    assert error < 0.1
    blind = prior_with(0.0)
    blind.machine.initialise(torch.cat([torch.full((4,), 0.5), bits.mean(0)]), 0.0, torch.Generator().manual_seed(1))
    gap = energy_gap(blind, bits, incident, draws=2, n_sweeps=1, seed=1)
    assert abs(gap.value) < 4 * gap.error
    slope, error = correlation_slope(blind, bits, incident, n_sweeps=1, seed=1)
    assert abs(slope) < 4 * error + 0.05


def test_the_error_is_that_of_repeated_draws() -> None:
    prior, incident = prior_with(0.7), energies_of(300)
    pulls = []
    for number in range(40):
        bits = prior.sample(incident, 20, stream(number, "own"))
        gap = energy_gap(prior, bits, incident, draws=2, n_sweeps=20, seed=number)
        pulls.append(gap.value / gap.error)
    assert 0.7 < np.std(pulls) < 1.35
    assert abs(np.mean(pulls)) < 0.6


def test_priors_are_compared_event_by_event() -> None:
    data = np.array([1.0, 2.0, 4.0])
    one = EnergyGap(data, np.array([[0.0, 1.0, 1.0], [2.0, 1.0, 1.0]]), 5, 1)
    other = EnergyGap(data, np.zeros((1, 3)), 5, 1)
    np.testing.assert_allclose(one.differences, [0.0, 1.0, 3.0])
    assert (one.value, one.error) == (pytest.approx(4 / 3), pytest.approx(np.sqrt(7 / 3 / 3)))
    change = np.array([-1.0, -1.0, -1.0])
    assert paired_difference(one, other) == (pytest.approx(change.mean()), pytest.approx(0.0))
    assert one.to_dict()["n_model"] == 6
    assert "6 samples of 5 Gibbs sweeps, seed 1" in str(one)
    with pytest.raises(DataError, match="3 and 2 events cannot be paired"):
        paired_difference(one, EnergyGap(data[:2], np.zeros((1, 2)), 5, 1))


@pytest.mark.parametrize(("n", "draws"), [(1, 2), (10, 0)])
def test_no_gap_without_events(n: int, draws: int) -> None:
    with pytest.raises(DataError, match="have no energy gap"):
        energy_gap(prior_with(0.1), torch.zeros(n, 8), energies_of(n), draws=draws, n_sweeps=1, seed=1)
