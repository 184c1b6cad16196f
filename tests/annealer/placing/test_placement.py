"""Placement by identity: what is gone is refused with its numbers, or pruned with a report whose bounds hold."""

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.placing.placement import place, pruning_report
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.testing import all_states, assert_samples_boltzmann, tiny_machine


def parts(topology: Topology) -> tuple[list[int], list[tuple[int, int]]]:
    labels = topology.node_labels
    return list(labels), [(labels[a], labels[b]) for a, b in topology.edges.tolist()]


def test_a_whole_graph_is_placed_whatever_the_order_of_its_lists() -> None:
    topology = tiny_machine().topology
    qubits, couplers = parts(topology)
    placement = place(topology, [*reversed(qubits), 99], [(b, a) for a, b in reversed(couplers)])
    assert placement.is_whole
    assert placement.qubits.tolist() == qubits
    assert placement.lost() == ((), ())


def test_what_is_gone_is_refused_with_counts_and_names() -> None:
    topology = tiny_machine().topology
    qubits, couplers = parts(topology)
    degree = sum(3 in pair for pair in couplers)
    own = next(pair for pair in couplers if 3 not in pair)
    left = [pair for pair in couplers if pair != own]
    with pytest.raises(AnnealerError) as told:
        place(topology, [label for label in qubits if label != 3], left)
    text = str(told.value)
    assert f"lacks 1 of 8 qubits and {degree + 1} of {len(couplers)} couplers" in text
    assert "(1 of them between working qubits)" in text
    assert f"among them 3, {own}" in text
    assert "\n" not in text


def test_another_chip_is_told() -> None:
    topology = tiny_machine().topology
    with pytest.raises(AnnealerError, match="none of the 8 qubits of tiny is on this chip"):
        place(topology, [100], [(100, 101)], prune=True)


def test_the_report_bounds_what_is_left_out_and_averages_it() -> None:
    machine = tiny_machine().double()
    topology = machine.topology
    qubits, couplers = parts(topology)
    placement = place(topology, [label for label in qubits if label != 2], couplers[:-1], prune=True)
    states = all_states(8).double()
    kept = states.clone()
    problem_energy = torch.zeros(len(states), dtype=torch.float64)
    with torch.no_grad():
        for i in placement.nodes:
            problem_energy -= machine.biases[i] * kept[:, i]
        for row in placement.couplers:
            a, b = topology.edges[row]
            problem_energy -= machine.couplings[row] * kept[:, a] * kept[:, b]
        left_out = machine.energy(states) - problem_energy
    report = pruning_report(placement, machine, states)
    low, high = report.energy_bounds
    assert low - 1e-9 <= left_out.min() <= left_out.max() <= high + 1e-9
    assert report.mean_energy == pytest.approx(float(left_out.mean()))
    assert report.energy_std == pytest.approx(float(left_out.std()))
    assert report.mean_energy_error == pytest.approx(float(left_out.std()) / 16)
    assert (report.qubits, report.n_qubits, report.n_couplers) == ((2,), 8, topology.n_edges)
    for words in ("1 of 8 qubits", "its mean is", "256 states"):
        assert words in str(report)
    assert "its mean" not in str(pruning_report(placement, machine))
    with pytest.raises(AnnealerError, match="made for another graph"):
        pruning_report(placement, tiny_machine(sizes=(2, 2)))


def test_gone_bits_are_drawn_given_the_others() -> None:
    """Reads of the exact marginal of the bits that are there, completed, follow the law of the whole machine."""
    machine = tiny_machine()
    topology = machine.topology
    qubits, couplers = parts(topology)
    placement = place(topology, [label for label in qubits if label != 3], couplers, prune=True)
    states = all_states(8)
    with torch.no_grad():
        p = torch.softmax(-machine.energy(states).double(), dim=0).numpy()
    rows = np.random.default_rng(1).choice(256, size=6000, p=p)
    reads = states[torch.from_numpy(rows)][:, torch.from_numpy(placement.nodes)]
    whole = placement.complete(reads.numpy(), machine, torch.Generator().manual_seed(2), n_sweeps=1)
    assert_samples_boltzmann(whole, machine)
    coins = whole.clone()
    coins[:, 3] = torch.randint(0, 2, (6000,), generator=torch.Generator().manual_seed(3)).float()
    with pytest.raises(AssertionError):
        assert_samples_boltzmann(coins, machine)
    with pytest.raises(AnnealerError, match=r"must be \(reads, 7\)"):
        placement.complete(states.numpy(), machine, torch.Generator())


def test_folded_bits_count_as_there() -> None:
    topology = tiny_machine().topology
    qubits, couplers = parts(topology)
    held = np.zeros(8, dtype=np.bool_)
    held[topology.slices[0]] = True
    without_held = place(topology, qubits[3:], couplers, prune=True)
    assert not without_held.is_whole
    assert without_held.with_folded(held).is_whole
    one_free_gone = place(topology, [*qubits[3:6], *qubits[7:]], couplers, prune=True).with_folded(held)
    assert one_free_gone.missing_nodes.tolist() == [6]
    assert set(map(tuple, topology.edges[one_free_gone.missing_couplers].tolist())) == {
        pair for pair in couplers if 6 in pair
    }
