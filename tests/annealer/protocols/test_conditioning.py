"""Conditions on an annealer: all three ways draw the same conditional law; slips are counted and handled."""

from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.chip.table import chip
from calo4pqvae.annealer.placing.placement import Placement, place
from calo4pqvae.annealer.protocols.conditioning import ClampReport, Conditioner
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import all_states, assert_samples_boltzmann
from tests.annealer.machines import machine_on

SIZES = (4, 2, 3, 4)
BITS = np.array([1, 0, 0, 1])
N_READS = 5000


def ideal() -> Annealer:
    return open_annealer("emulator:advantage2:1:whole", seed=7, mode="ideal")


def machine_of(seed: int = 3, std: float = 0.9) -> BoltzmannMachine:
    return machine_on(chip_topology("zephyr", 1, SIZES), coupling_std=std, seed=seed)


def conditioner(machine: BoltzmannMachine, method: Any, annealer: Annealer, **settings: Any) -> Conditioner:
    return Conditioner(machine, method, annealer.chip, annealer.properties["num_qubits"], **settings)


def states_drawn(machine: BoltzmannMachine, method: Any, bits: Any = BITS, placement: Placement | None = None) -> Any:
    annealer = ideal()
    imposed = conditioner(machine, method, annealer, placement=placement).impose(annealer.chip.beta, bits)
    reads = annealer.read(imposed.problem, N_READS, flux_biases=imposed.flux_biases)
    kept, _, report = imposed.settle(reads.bits)
    states, known = imposed.states(kept, machine.n_nodes)
    return torch.from_numpy(states).float(), known, report, imposed


def held_mask(machine: BoltzmannMachine) -> Any:
    held = np.zeros(machine.n_nodes, dtype=np.bool_)
    held[machine.topology.slices[0]] = True
    return held


@pytest.mark.parametrize("method", ["fold", "fields", "flux"])
def test_all_ways_draw_the_conditional_law(method: str) -> None:
    machine = machine_of()
    states, known, report, imposed = states_drawn(machine, method)
    assert known.all()
    assert_samples_boltzmann(states, machine, clamped=held_mask(machine))
    assert (states[:, :4].numpy() == BITS).all()
    assert report.n_held == (0 if method == "fold" else 4)
    assert len(imposed.problem.qubits) == (machine.n_nodes if method != "fold" else machine.n_nodes - 4)
    assert (imposed.flux_biases is not None) == (method == "flux")


def test_the_test_of_the_law_sees_a_wrong_condition() -> None:
    machine = machine_of()
    states, *_ = states_drawn(machine, "fold", 1 - BITS)
    states[:, :4] = torch.from_numpy(BITS).float()
    with pytest.raises(AssertionError):
        assert_samples_boltzmann(states, machine, clamped=held_mask(machine))


@pytest.mark.parametrize("method", ["fold", "fields", "flux"])
def test_energies_are_those_of_the_machine(method: str) -> None:
    machine = machine_of()
    annealer = ideal()
    imposed = conditioner(machine, method, annealer).impose(5.0, BITS)
    free = all_states(machine.n_nodes - 4)
    states = torch.cat([torch.from_numpy(BITS).float().expand(len(free), -1), free], dim=1)
    expected = machine.energy(states).detach().numpy()
    rows = states.numpy().astype(np.uint8)[:, imposed.nodes]
    np.testing.assert_allclose(imposed.problem.machine_energy(rows), expected, atol=1e-4)
    np.testing.assert_allclose(imposed.energies(rows), expected, atol=1e-4)


@pytest.mark.parametrize("method", ["fields", "flux"])
def test_held_bits_that_are_gone_are_folded_in(method: str) -> None:
    machine = machine_of()
    annealer = ideal()
    labels = machine.topology.node_labels
    placement = place(
        machine.topology, [label for label in annealer.nodelist if label != labels[1]], annealer.edgelist, prune=True
    )
    states, known, report, _ = states_drawn(machine, method, placement=placement)
    assert known.all()
    assert report.n_held == 3
    assert_samples_boltzmann(states, machine, clamped=held_mask(machine))


def test_the_strength_follows_from_couplings_and_error_rate() -> None:
    machine = machine_of()
    beta = 6.0
    sums = np.zeros(machine.n_nodes)
    for (a, b), w in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
        sums[a] += abs(w) / 4 / beta
        sums[b] += abs(w) / 4 / beta
    for rate in (1e-3, 1e-6):
        imposed = conditioner(machine, "fields", ideal(), error_rate=rate).impose(beta, BITS)
        assert imposed.strength == pytest.approx(sums[:4].max() - np.log(rate) / (2 * beta), rel=1e-5)
        assert np.abs(imposed.problem.fields[:4]) == pytest.approx([imposed.strength] * 4)
        assert (np.sign(imposed.problem.fields[:4]) == 1 - 2 * BITS).all()


def test_flux_biases_have_the_sign_of_the_bit_and_the_chip_s_own_constants() -> None:
    machine = machine_of()
    imposed = conditioner(machine, "flux", ideal()).impose(8.93, BITS)
    assert imposed.flux_biases is not None
    assert imposed.flux_biases.shape == (48,)
    on_chip = imposed.flux_biases[imposed.problem.qubits[:4]]
    np.testing.assert_allclose(on_chip, (2 * BITS - 1) * imposed.strength * 5.75e-4, rtol=3e-3)
    assert np.count_nonzero(imposed.flux_biases) == 4
    assert (imposed.problem.fields[:4] == 0).all()


def test_more_than_the_chip_can_hold_is_refused_with_what_it_takes() -> None:
    machine = machine_of(std=30.0)
    with pytest.raises(AnnealerError, match=r"takes fields of .* and fields on this chip give 4; fold the condition"):
        conditioner(machine, "fields", ideal()).impose(8.93, BITS)
    with pytest.raises(AnnealerError, match=r"and flux on this chip give 17\.4"):
        conditioner(machine_of(std=300.0), "flux", ideal()).impose(8.93, BITS)


def test_a_weak_clamp_slips_at_the_rate_that_was_allowed_and_slips_are_handled() -> None:
    machine = machine_of()
    annealer = open_annealer("emulator:advantage2:1:whole", seed=7, mode="ideal")
    imposed = conditioner(machine, "fields", annealer, error_rate=0.2).impose(annealer.chip.beta, BITS)
    reads = annealer.read(imposed.problem, N_READS)
    wrong = reads.bits[:, :4] != BITS
    assert 0 < wrong.mean() <= 0.2
    for policy in ("reject", "repair", "report"):
        settled, kept, report = imposed.settle(reads.bits, policy)  # type: ignore[arg-type]
        assert (report.n_wrong_bits, report.n_wrong_reads) == (int(wrong.sum()), int(wrong.any(axis=1).sum()))
        assert report.rate == pytest.approx(wrong.mean())
        assert report.rate_error == pytest.approx(np.sqrt(wrong.mean() * (1 - wrong.mean()) / wrong.size))
        assert report.worst_qubit == imposed.problem.qubits[wrong.sum(axis=0).argmax()]
        assert report.policy == policy
        left = (settled[:, :4] != BITS).sum()
        assert left == (wrong.sum() if policy == "report" else 0)
        assert len(settled) == (N_READS - report.n_wrong_reads if policy == "reject" else N_READS) == kept.sum()
    rejected, *_ = imposed.settle(reads.bits)
    states, _ = imposed.states(rejected, machine.n_nodes)
    assert_samples_boltzmann(torch.from_numpy(states).float(), machine, clamped=held_mask(machine))


def test_reports_add_up() -> None:
    one, two = ClampReport(10, 4, 1, 1, 17, "reject"), ClampReport(30, 4, 5, 3, 20, "reject")
    both = one + two
    assert (both.n_reads, both.n_wrong_bits, both.n_wrong_reads, both.worst_qubit) == (40, 6, 4, 20)
    assert both.rate == 6 / 160
    assert both.read_rate == 0.1
    assert ClampReport(10, 4, 0, 0, None, "reject").rate_error > 0
    with pytest.raises(AnnealerError, match="cannot be added"):
        one + ClampReport(1, 3, 0, 0, None, "reject")


def test_a_machine_with_a_condition_of_its_own() -> None:
    machine = machine_on(chip_topology("zephyr", 1, SIZES), n_condition=2, coupling_std=0.6)
    annealer, condition = ideal(), torch.tensor([0.5, -1.0])
    imposed = Conditioner(machine, partition=None).impose(annealer.chip.beta, None, condition)
    reads = annealer.read(imposed.problem, N_READS)
    assert_samples_boltzmann(torch.from_numpy(reads.bits).float(), machine, condition=condition)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "glue"}, "no method 'glue'"),
        ({"method": "fields"}, "needs the ranges of a chip"),
        ({"method": "flux", "chip": chip("advantage2")}, "say how many there are"),
        ({"error_rate": 0.0}, "an error rate of 0"),
        ({"partition": 4}, r"partition 4 does not exist; choose from 0\.\.3"),
    ],
)
def test_conditioners_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        Conditioner(machine_of(), **settings)


def test_conditions_that_do_not_fit() -> None:
    machine = machine_of()
    for bits in (None, [1, 0, 1], [0, 1, 2, 0], [0.5, 0, 0, 1]):
        with pytest.raises(AnnealerError, match="give a zero or a one for each"):
            Conditioner(machine).impose(1.0, bits)
    imposed = Conditioner(machine).impose(1.0, BITS)
    with pytest.raises(AnnealerError, match="no policy 'forget'"):
        imposed.settle(np.zeros((1, 9), np.uint8), "forget")  # type: ignore[arg-type]
    other = place(chip_topology("zephyr", 1, (2, 2, 2, 2)), range(48), [(0, 1)], prune=True)
    with pytest.raises(AnnealerError, match="made for another graph"):
        Conditioner(machine, placement=other)
    with pytest.raises(AnnealerError, match="beyond the 3 flux biases"):
        Conditioner(machine, "flux", chip("advantage2"), 3).impose(8.93, BITS)
