"""Weighted reads of an ideal emulator against the enumerated law of the machine."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calo4pqvae.annealer.beta.running_beta import RunningBeta
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.ledger import SpendingLimitError
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.learning.negative_phase import ChipPatch, NegativePhase, PhaseReads, PhaseRequest
from calo4pqvae.annealer.placing.tiles import tiles_on
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from tests.annealer.machines import machine_on

BETA = 8.928571428571429  # of the ideal emulator
TOPOLOGY = chip_topology("zephyr", 2, (3, 4, 4, 3))
ROWS = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
SHARES = np.array([0.25, 0.75])


def annealer_of(folder: Path, gone: tuple[int, ...] = (), limit: float | None = None) -> Annealer:
    ideal = chip_topology("zephyr", 2)
    alive = sorted(set(ideal.node_labels) - {TOPOLOGY.node_labels[node] for node in gone})
    emulator = Emulator("advantage2", seed=2, m=2, mode="ideal", nodelist=alive)
    return open_annealer(emulator, ledger=folder / "ledger.jsonl", limit=limit)


def machine_with_condition() -> BoltzmannMachine:
    machine = machine_on(TOPOLOGY, coupling_std=1.0)
    with torch.no_grad():
        machine.biases.add_(torch.randn(14, generator=torch.Generator().manual_seed(4)) / 2)
    return machine


def read(
    folder: Path,
    machine: BoltzmannMachine,
    *,
    beta: float = 6.0,
    gone: tuple[int, ...] = (),
    n_reads: int = 4000,
    protocol: str = "same-reads",
    correction: str = "importance",
    running: RunningBeta | None = None,
) -> PhaseReads:
    annealer = annealer_of(folder, gone)
    patch = ChipPatch.of(machine, 0, annealer, is_pruned=bool(gone))
    patch.prune(machine)
    phase = NegativePhase(machine, 0, patch, protocol=protocol, correction=correction, seed=3)  # type: ignore[arg-type]
    request = PhaseRequest(ROWS, [n_reads, n_reads], SHARES, beta, running)
    return phase.read(annealer, folder / "phase", request, 0)


def pulls(machine: BoltzmannMachine, reads: PhaseReads, n_reads: int = 4000) -> NDArray[np.float64]:
    """Deviations of weighted bit and coupler means under each condition from the enumerated law, in standard errors."""
    found = []
    mask = torch.from_numpy(TOPOLOGY.is_in_partition(0))
    first, second = torch.from_numpy(TOPOLOGY.edges.T.copy())
    for number, row in enumerate(ROWS):
        part = slice(number * n_reads, (number + 1) * n_reads)
        values = torch.zeros(14)
        values[mask] = torch.from_numpy(row).float()
        law = enumerate_machine(machine, clamped=mask, values=values)
        states, weights = reads.states[part].double(), reads.weights[part].double()
        assert float(weights.sum()) == pytest.approx(SHARES[number], rel=1e-5)
        weights = weights / weights.sum()
        statistics = torch.cat([states[:, ~mask], states[:, first] * states[:, second]], dim=1)
        exact = torch.cat([law.first[~mask], law.second])
        seen = weights.square() @ (statistics - exact).square()
        known = weights.square().sum() * exact * (1 - exact)  # rare events that were not drawn count as well
        found.append(((weights @ statistics - exact) / torch.maximum(seen, known).sqrt().clamp(min=1e-6)).numpy())
    return np.concatenate(found)


def test_weights_mend_a_wrong_beta(tmp_path: Path) -> None:
    """The machine is divided by 6 where 8.93 was right: reads are drawn at 1.49 times its inverse temperature."""
    machine = machine_with_condition()
    reads = read(tmp_path, machine)
    assert reads.beta == pytest.approx(BETA, abs=4 * reads.beta_error)
    assert reads.ratios == pytest.approx(reads.beta / 6.0)
    assert 0.1 < reads.effective_share < 0.9
    assert np.abs(pulls(machine, reads)).max() < 4.5


def test_without_weights_the_test_above_would_see_it(tmp_path: Path) -> None:
    machine = machine_with_condition()
    reads = read(tmp_path, machine, correction="none")
    assert np.abs(pulls(machine, reads)).max() > 10
    torch.testing.assert_close(reads.weights[:4000], torch.full((4000,), 0.25 / 4000))


def test_a_right_beta_needs_no_weights(tmp_path: Path) -> None:
    machine = machine_with_condition()
    reads = read(tmp_path, machine, beta=BETA)
    assert reads.effective_share > 0.99
    assert np.abs(pulls(machine, reads)).max() < 4.5


def test_a_tracked_phase_moves_its_estimate_by_each_programming(tmp_path: Path) -> None:
    machine = machine_with_condition()
    start = RunningBeta.start(6.0, 0.2)
    reads = read(tmp_path, machine, protocol="tracked", running=start)
    assert reads.running is not None
    assert reads.running.n_estimates == 2
    assert reads.beta == reads.running.value == pytest.approx(BETA, abs=4 * reads.beta_error)
    assert reads.ratios[1] == pytest.approx(reads.beta / 6.0)
    assert reads.ratios[0] != reads.ratios[1]
    assert np.abs(pulls(machine, reads)).max() < 4.5
    with pytest.raises(AnnealerError, match="needs the running estimate"):
        read(tmp_path, machine, protocol="tracked")


@pytest.mark.parametrize("protocol", ["same-reads", "tracked"])
def test_a_machine_without_fields_has_no_temperature(tmp_path: Path, protocol: str) -> None:
    machine = BoltzmannMachine(TOPOLOGY)
    with torch.no_grad():
        machine.couplings.normal_(0.0, 0.01, generator=torch.Generator().manual_seed(1))
    running = RunningBeta.start(7.0, 0.2)
    reads = read(tmp_path, machine, beta=7.0, n_reads=50, protocol=protocol, running=running)
    assert (reads.beta, reads.misfit) == (pytest.approx(7.0), None)
    assert reads.beta_error >= 0.199 * 7.0
    assert reads.ratios == pytest.approx(1.0)


def test_a_polish_is_reported(tmp_path: Path) -> None:
    reads = read(tmp_path, machine_with_condition(), correction="polish")
    assert reads.polish is not None
    assert (reads.polish.n_sweeps, reads.polish.n_reads) == (5, 8000)
    assert reads.polish.energy_change > 10 * reads.polish.energy_change_error  # the reads were too cold


@pytest.mark.parametrize("protocol", ["same-reads", "tracked"])
def test_copies_draw_the_law_of_their_conditions(tmp_path: Path, protocol: str) -> None:
    """Six copies or more take turns over two conditions; the temperature is wrong, and weights mend it."""
    machine = machine_with_condition()
    emulator = Emulator("advantage2", seed=2, m=4, mode="ideal", nodelist=chip_topology("zephyr", 4).node_labels)
    annealer = open_annealer(emulator, ledger=tmp_path / "ledger.jsonl")
    tiles = tiles_on(machine, annealer, TOPOLOGY.is_in_partition(0))[:6]
    patch = ChipPatch.of(tiles[0].machine, 0, annealer, is_pruned=False)
    phase = NegativePhase(tiles[0].machine, 0, patch, protocol=protocol, seed=3, tiles=tiles)  # type: ignore[arg-type]
    assert phase.n_qubits == 6 * 11
    running = RunningBeta.start(6.0, 0.2)
    reads = phase.read(annealer, tmp_path / "phase", PhaseRequest(ROWS, [4000, 3000], SHARES, 6.0, running), 0)
    assert annealer.ledger.programmings == 1
    assert annealer.ledger.reads == 1334  # a third of 4,000 each
    assert reads.n_reads == 6 * 1334
    assert reads.beta == pytest.approx(BETA, abs=4 * reads.beta_error)
    assert reads.ratios == pytest.approx(reads.beta / 6.0)
    assert np.abs(pulls(machine, reads, 3 * 1334)).max() < 4.5
    with pytest.raises(AnnealerError, match="room for 6 whole copies of the machine, 7 conditions need as many"):
        phase.check(7)


def test_bits_without_a_qubit_are_drawn_from_their_field(tmp_path: Path) -> None:
    machine = machine_with_condition()
    gone = (4, 9)
    reads = read(tmp_path, machine, beta=BETA, gone=gone)
    dead = TOPOLOGY.edges[(machine.couplings == 0).numpy()]
    assert len(dead) > 4
    assert (np.isin(dead, gone).any(axis=1)).all()
    assert not np.isin(dead, [0, 1, 2]).any()  # couplers to the folded partition need no chip
    assert np.abs(pulls(machine, reads)).max() < 4.5


def test_what_is_gone_is_refused_unless_it_may_be_left_out(tmp_path: Path) -> None:
    machine = machine_with_condition()
    with pytest.raises(AnnealerError, match="the working graph lacks 1 of 14 qubits"):
        ChipPatch.of(machine, 0, annealer_of(tmp_path, (9,)), is_pruned=False)
    folded = ChipPatch.of(machine, 0, annealer_of(tmp_path, (0, 2)), is_pruned=False)  # these are folded away
    assert folded.n_qubits == 11
    assert str(folded) == "0 of 11 free bits and 0 of 28 couplers between them"
    far = open_annealer("emulator:advantage2:12", seed=1)
    with pytest.raises(AnnealerError, match=r"choose its own chip|lacks"):
        ChipPatch.of(machine, 0, far, is_pruned=False)


def test_a_phase_that_was_stopped_goes_on_with_what_it_has(tmp_path: Path) -> None:
    machine = machine_with_condition()
    annealer = annealer_of(tmp_path, limit=0.1)
    patch = ChipPatch.of(machine, 0, annealer, is_pruned=False)
    phase = NegativePhase(machine, 0, patch, seed=3)
    request = PhaseRequest(ROWS, [300, 300], SHARES, BETA)
    with pytest.raises(SpendingLimitError):
        phase.read(annealer, tmp_path / "phase", request, 0)
    assert annealer.ledger.reads == 300
    annealer.ledger.limit = None
    done = phase.read(annealer, tmp_path / "phase", request, 0)
    assert (done.n_reads, annealer.ledger.programmings) == (600, 2)
    again = phase.read(annealer, tmp_path / "phase", request, 0)
    assert annealer.ledger.programmings == 2
    torch.testing.assert_close(again.states, done.states, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"protocol": "luck"}, "no protocol 'luck' to learn with; choose one of same-reads, tracked"),
        ({"correction": "hope"}, "no correction 'hope'"),
        ({"polish_sweeps": -1}, "-1 sweeps of a polish"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, object], told: str) -> None:
    machine = machine_with_condition()
    patch = ChipPatch.of(machine, 0, annealer_of(tmp_path), is_pruned=False)
    with pytest.raises(AnnealerError, match=told):
        NegativePhase(machine, 0, patch, **options)  # type: ignore[arg-type]
