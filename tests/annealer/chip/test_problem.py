"""The Ising door: energies and laws of bits and spins are the same, with unequal partitions and parts that are gone."""

from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.chip.problem import IsingProblem, Reads, bits_to_spins, ising_problem, spins_to_bits
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.errors import AnnealerError, PriorError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import all_states, tiny_machine


def by_hand() -> BoltzmannMachine:
    """b = (1/2, -1, 1/4), W_01 = 2, W_02 = -1/2, on qubits 7, 3, 9."""
    machine = BoltzmannMachine(Topology("hand", (1, 2), np.array([[0, 1], [0, 2]]), (7, 3, 9)))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([0.5, -1.0, 0.25]))
        machine.couplings.copy_(torch.tensor([2.0, -0.5]))
    return machine


def test_by_hand() -> None:
    problem = ising_problem(by_hand(), 2.0)
    np.testing.assert_allclose(problem.fields, -np.array([0.25 + 0.375, -0.5 + 0.5, 0.125 - 0.125]) / 2)
    np.testing.assert_allclose(problem.couplings, [-0.25, 0.0625])
    assert problem.constant == pytest.approx(-(0.5 - 1.0 + 0.25) / 2 - 1.5 / 4)
    assert problem.qubits.tolist() == [7, 3, 9]


@pytest.mark.parametrize("beta", [0.3, 1.0, 8.93])
@pytest.mark.parametrize("n_condition", [0, 2])
def test_energies_of_all_states_agree(beta: float, n_condition: int) -> None:
    machine = tiny_machine(n_condition=n_condition).double()
    condition = torch.tensor([0.7, -1.3], dtype=torch.float64) if n_condition else None
    problem = ising_problem(machine, beta, condition)
    bits = all_states(machine.n_nodes)
    rows = None if condition is None else condition.expand(len(bits), -1)
    energies = machine.energy(bits.double(), rows).detach().numpy()
    np.testing.assert_allclose(problem.machine_energy(bits.numpy()), energies, atol=1e-12)
    spins = 2 * bits.numpy() - 1
    h = sum(problem.fields[i] * spins[:, i] for i in range(problem.n_qubits))
    h = h + sum(j * spins[:, a] * spins[:, b] for (a, b), j in zip(problem.edges, problem.couplings, strict=True))
    np.testing.assert_allclose(beta * h + problem.constant, energies, atol=1e-12)


def test_parts_that_are_gone_are_left_out_with_their_share_of_the_fields() -> None:
    machine = tiny_machine().double()
    topology = machine.topology
    qubits = [label for label in topology.node_labels if label != 4]
    couplers = [tuple(pair) for pair in topology.edges.tolist()][1:]
    placement = place(topology, qubits, couplers, prune=True)
    problem = ising_problem(machine, 3.0, placement=placement)
    smaller = machine.couplings.detach().clone()
    gone = np.setdiff1d(np.arange(topology.n_edges), placement.couplers)
    smaller[torch.from_numpy(gone)] = 0.0
    with torch.no_grad():
        machine.couplings.copy_(smaller)
    bits = all_states(8)
    bits = bits[bits[:, 4] == 0]
    kept = bits[:, torch.from_numpy(placement.nodes)].numpy()
    np.testing.assert_allclose(problem.machine_energy(kept), machine.energy(bits.double()).detach().numpy(), atol=1e-12)


def test_a_quadratic_model_has_the_energies_of_the_problem() -> None:
    problem = ising_problem(tiny_machine(), 1.7)
    bqm = problem.to_bqm()
    spins = 2 * all_states(8).numpy().astype(int) - 1
    np.testing.assert_allclose(bqm.energies((spins, problem.qubits.tolist())), problem.energy(spins), atol=1e-12)


def test_bits_and_spins() -> None:
    bits = np.array([[0, 1], [1, 1]])
    assert bits_to_spins(bits).tolist() == [[-1, 1], [1, 1]]
    np.testing.assert_array_equal(spins_to_bits(bits_to_spins(bits)), bits)
    for wrong in ([0.5], [2], [-1]):
        with pytest.raises(AnnealerError, match="zeros and ones"):
            bits_to_spins(wrong)
    for wrong in ([0], [3]):
        with pytest.raises(AnnealerError, match="spins must be -1 or 1"):
            spins_to_bits(wrong)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fields": [0.0]}, "1 fields for 2 qubits"),
        ({"couplings": []}, "0 couplings for 1 couplers"),
        ({"qubits": [3, 3]}, "a qubit is listed twice"),
        ({"edges": [[0, 2]]}, r"a row outside 0\.\.1"),
        ({"fields": [0.0, np.nan]}, "must be finite"),
        ({"beta": 0.0}, "beta positive"),
    ],
)
def test_problems_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    parts = {
        "fields": [0.1, 0.2],
        "couplings": [0.3],
        "edges": [[0, 1]],
        "constant": 0.0,
        "beta": 1.0,
        "qubits": [5, 4],
    }
    with pytest.raises(AnnealerError, match=told):
        IsingProblem(**(parts | changes))


def test_refusals() -> None:
    machine = tiny_machine()
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(AnnealerError, match="cannot divide"):
            ising_problem(machine, beta)
    problem = ising_problem(machine, 1.0)
    with pytest.raises(AnnealerError, match=r"must be \(reads, 8\)"):
        problem.energy(np.ones((2, 3)))
    with pytest.raises(AnnealerError, match=r"bits of shape \(reads, 8\)"):
        Reads(np.full((2, 8), 2), problem)
    with pytest.raises(AnnealerError, match=r"one condition of shape"):
        ising_problem(tiny_machine(n_condition=2), 1.0, torch.zeros(3, 2))
    with pytest.raises(PriorError):
        ising_problem(machine, 1.0, torch.zeros(2))
