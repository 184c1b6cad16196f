"""The protocol of copies side by side: what it programs, whose law it draws, and what that is good for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.emulator.settings import EmulatorSettings
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.annealer.placing.tiles import tiles_on
from calo4pqvae.annealer.protocols.named import SameReads
from calo4pqvae.annealer.protocols.run import Conditioning, ProtocolResult
from calo4pqvae.annealer.protocols.tiled import Tiled
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import MissingParts, chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import all_states
from tests.annealer.known_annealer import KnownAnnealer
from tests.annealer.machines import machine_on

PATCH = chip_topology("zephyr", 2, 4)
CHIP = chip_topology("zephyr", 4)
CONDITIONS = np.array([[1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]])
N_TILES = len(tiles_on(machine_on(PATCH), KnownAnnealer(CHIP, 1.0), PATCH.is_in_partition(0)))


def drawn(
    protocol: Tiled, counts: Any, beta: Any = 8.93, of: BoltzmannMachine | None = None, chip: Any = CHIP
) -> tuple[ProtocolResult, KnownAnnealer]:
    known = KnownAnnealer(chip, beta)
    machine = of or machine_on(PATCH, coupling_std=1.5)
    generator = torch.Generator().manual_seed(3)
    return protocol.sample(known, machine, CONDITIONS, counts, generator), known  # type: ignore[arg-type]


def test_many_conditions_share_a_programming() -> None:
    assert N_TILES >= 6
    result, annealer = drawn(Tiled(polish_sweeps=0), [5, 2, 20])
    assert annealer.ledger.totals.programmings == -(-27 // N_TILES)
    assert np.bincount(result.condition).tolist() == [5, 2, 20]
    assert (np.diff(result.condition) >= 0).all()
    assert (result.states[:, :4] == CONDITIONS[result.condition]).all()
    assert annealer.n_reads[0] == -(-100 // N_TILES)
    assert annealer.n_reads[-1] == -(-100 // (27 % N_TILES or N_TILES))  # fewer copies, more reads of each
    assert [record.n_reads for record in result.betas] == [1] * 27


def test_samples_of_a_programming_as_asked_for() -> None:
    three, annealer = drawn(Tiled(polish_sweeps=0, reads_per_call=3), [5, 2, 20])
    assert sorted(record.n_reads for record in three.betas) == [2, 2, 2, *[3] * 7]
    assert annealer.ledger.totals.programmings == -(-10 // N_TILES)
    all_at_once, annealer = drawn(Tiled(polish_sweeps=0, reads_per_call=0, least_reads=1), N_TILES * 3)
    assert annealer.n_reads == [9]
    assert all_at_once.n_reads == 9 * N_TILES
    few, annealer = drawn(Tiled(polish_sweeps=0, most_tiles=2), [1, 1, 1])
    assert annealer.n_reads == [50, 100]
    assert few.n_reads == 3


def test_a_programming_is_made_again_from_what_it_found() -> None:
    result, annealer = drawn(Tiled(start=8.93 * 1.5, polish_sweeps=0), [1, 1, 1])
    assert annealer.ledger.totals.programmings == 2
    assert [record.programmed for record in result.betas] == pytest.approx([8.93] * 3, rel=0.1)
    once, annealer = drawn(Tiled(start=8.93 * 1.5, max_redos=0, polish_sweeps=0), [1, 1, 1])
    assert annealer.ledger.totals.programmings == 1
    assert once.betas[0].ratio == pytest.approx(1 / 1.5, rel=0.1)


def test_one_beta_of_all_copies() -> None:
    result, _ = drawn(Tiled(least_reads=400, polish_sweeps=0), N_TILES)
    assert len({record.beta for record in result.betas}) == 3
    for record in result.betas:
        assert record.estimate is not None
        assert record.estimate.n_spins == 12 * N_TILES
        assert record.beta == pytest.approx(8.93, abs=5 * record.beta_error)


def exact_moments(of: BoltzmannMachine, condition: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of all bits and of all products along couplers under a condition, by enumeration from the formula."""
    free = all_states(12).double().numpy()
    states = np.concatenate([np.tile(condition, (len(free), 1)), free], axis=1)
    first, second = of.topology.edges.T
    products = states[:, first] * states[:, second]
    energies = -states @ of.biases.detach().double().numpy() - products @ of.couplings.detach().double().numpy()
    weights = np.exp(-(energies - energies.min()))
    weights /= weights.sum()
    return weights @ states, weights @ products


def largest_pull(of: BoltzmannMachine, result: ProtocolResult, conditions: Sequence[NDArray[Any]]) -> float:
    """Of means and products under all conditions, in standard errors."""
    pulls = []
    first, second = of.topology.edges.T
    for index, condition in enumerate(conditions):
        states = result.states[result.condition == index].astype(np.float64)
        seen = np.concatenate([states, states[:, first] * states[:, second]], axis=1)
        wanted = np.concatenate(exact_moments(of, condition))
        error = np.sqrt(np.maximum(wanted * (1 - wanted), 0) / len(states))
        alive = error > 1e-9
        pulls.append(np.abs(seen.mean(axis=0) - wanted)[alive] / error[alive])
    return float(np.concatenate(pulls).max())


def test_every_copy_draws_the_law_of_its_condition() -> None:
    of = machine_on(PATCH, coupling_std=1.5)
    result, _ = drawn(Tiled(start=8.93, reads_per_call=300, correction="none"), 2000, of=of)
    assert largest_pull(of, result, CONDITIONS) < 4.5  # type: ignore[arg-type]
    assert largest_pull(of, result, CONDITIONS[[1, 0, 2]]) > 10  # type: ignore[arg-type]


@pytest.mark.parametrize("is_resampled", [True, False])
def test_samples_chosen_by_importance_mend_a_beta_that_lags(is_resampled: bool) -> None:
    """The chip grows colder by a fifth with each programming, so that every one is divided by too little."""
    of = machine_on(PATCH, coupling_std=1.5)
    protocol = Tiled(
        start=8.0, reads_per_call=40, least_reads=400 * N_TILES, redo_beyond=0.5, correction="none",
        is_resampled=is_resampled,
    )  # fmt: skip
    result, annealer = drawn(protocol, 1600, lambda call, _n: 8.0 * 1.2 ** (call + 1), of=of)
    assert [record.ratio for record in result.betas] == pytest.approx([1.2] * len(result.betas), abs=0.2)
    assert annealer.n_reads[0] == 400
    pull = largest_pull(of, result, CONDITIONS)  # type: ignore[arg-type]
    assert pull < 4.5 if is_resampled else pull > 6


def test_copies_may_lack_different_qubits() -> None:
    """Gone bits are drawn given the others; without couplings all bits have the law of their fields, gone or not."""
    of = machine_on(PATCH, coupling_std=0.0)
    lost = np.random.default_rng(1).choice(CHIP.node_labels, 40, replace=False)
    broken = chip_topology("zephyr", 4, missing=MissingParts(qubits=tuple(lost.tolist())))
    protocol = Tiled(is_pruned=True, reads_per_call=400, correction="none", start=8.93)
    result, annealer = drawn(protocol, 2000, of=of, chip=broken)
    tiles = protocol.tiles(annealer, of)  # type: ignore[arg-type]
    assert len({tuple(tile.placement.nodes.tolist()) for tile in tiles}) > 1
    assert largest_pull(of, result, CONDITIONS) < 4.5  # type: ignore[arg-type]


def test_samples_of_many_copies_average_the_errors_of_control() -> None:
    """Fields that are wrong by half a nat, anew on every qubit and programming; no other error."""
    settings = EmulatorSettings(field_error=0.06, sweeps=60)
    of = machine_on(PATCH, coupling_std=0.3)
    wanted = np.mean([exact_moments(of, condition)[0] for condition in CONDITIONS], axis=0)
    errors: dict[str, float] = {}
    for protocol in (SameReads(correction="none"), Tiled(correction="none")):
        annealer = open_annealer("emulator:advantage2:4:whole", seed=1, settings=settings)
        machine = of if isinstance(protocol, Tiled) else tiles_on(of, annealer, PATCH.is_in_partition(0))[0].machine
        result = protocol.sample(annealer, machine, CONDITIONS, 200, torch.Generator().manual_seed(1))
        seen = result.states.mean(axis=0)
        errors[protocol.name] = float(np.sqrt(np.mean((seen - wanted)[4:] ** 2)))
    floor = float(np.sqrt(np.mean((wanted * (1 - wanted))[4:] / 600)))
    assert errors["same-reads"] > 2.5 * floor
    assert errors["tiled"] < 1.7 * floor


def test_bad_input() -> None:
    with pytest.raises(AnnealerError, match="take folded conditions, not 'flux'"):
        Tiled(conditioning=Conditioning("flux"))
    patch = place(PATCH, PATCH.node_labels, np.array(PATCH.node_labels)[PATCH.edges].tolist())
    with pytest.raises(AnnealerError, match="leave the placement out"):
        Tiled(conditioning=Conditioning(placement=patch))
    with pytest.raises(AnnealerError, match="0 copies draw nothing"):
        Tiled(most_tiles=0)
    with pytest.raises(AnnealerError, match="no place of the chip"):
        drawn(Tiled(), 1, of=machine_on(chip_topology("zephyr", 4)), chip=chip_topology("zephyr", 4, 8))
