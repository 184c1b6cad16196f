"""Copies of a machine side by side: where they lie, and that each is the machine."""

from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.chip.problem import IsingProblem, Reads, ising_problem
from calo4pqvae.annealer.placing.tiles import chip_of, moved_onto, read_apart, side_by_side, tiles_on
from calo4pqvae.annealer.protocols.conditioning import Conditioner
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from tests.annealer.machines import machine_on

PATCHES = {"zephyr": chip_topology("zephyr", 2, 16), "pegasus": chip_topology("pegasus", 3, 12)}
CHIPS = {"zephyr": "emulator:advantage2:6", "pegasus": "emulator:advantage4:6"}


def grid_of(family: str, *, is_whole: bool = True) -> Annealer:
    return open_annealer(CHIPS[family] + (":whole" if is_whole else ""), seed=1)


def ideal(family: str, size: int) -> nx.Graph:
    """The chip as its makers draw it."""
    import dwave.graphs as chips

    graph: nx.Graph = (chips.zephyr_graph if family == "zephyr" else chips.pegasus_graph)(size)
    return graph


@pytest.mark.parametrize("family", PATCHES)
@pytest.mark.parametrize("apart", [True, False])
def test_copies_lie_on_the_chip_and_do_not_touch(family: str, apart: bool) -> None:
    topology, graph = PATCHES[family], ideal(family, 6)
    folded = topology.is_in_partition(0)
    tiles = tiles_on(machine_on(topology), grid_of(family), folded, apart=apart)
    owner: dict[int, int] = {}
    for number, tile in enumerate(tiles):
        labels = np.array(tile.machine.topology.node_labels)
        assert tile.is_whole
        for i, j in topology.edges[~folded[topology.edges].any(axis=1)]:
            assert graph.has_edge(labels[i], labels[j])
        for label in labels[~folded]:
            assert owner.setdefault(int(label), number) == number
    joined = sum(1 for a, b in graph.edges if owner.get(a, -1) != owner.get(b, -1) and a in owner and b in owner)
    assert (joined == 0) == apart
    assert len(tiles) >= (4 if apart else 6)


@pytest.mark.parametrize("family", PATCHES)
def test_bits_that_are_folded_need_no_qubits(family: str) -> None:
    topology = PATCHES[family]
    machine, grid = machine_on(topology), grid_of(family)
    folded = tiles_on(machine, grid, topology.is_in_partition(0), apart=False)
    assert len(folded) >= len(tiles_on(machine, grid, apart=False))
    assert all(set(tile.placement.nodes.tolist()).isdisjoint(range(topology.sizes[0])) for tile in folded)


@pytest.mark.parametrize("family", PATCHES)
def test_what_is_gone_is_counted_or_avoided(family: str) -> None:
    topology, grid = PATCHES[family], grid_of(family, is_whole=False)
    qubits, couplers = set(grid.nodelist), {frozenset(pair) for pair in grid.edgelist}
    n_missing = 0
    for tile in tiles_on(machine_on(topology), grid, prune=True):
        labels = tile.machine.topology.node_labels
        assert tile.n_missing_qubits == sum(label not in qubits for label in labels)
        pairs = [frozenset((labels[i], labels[j])) for i, j in topology.edges]
        assert tile.n_missing_couplers == sum(pair not in couplers for pair in pairs)
        assert {frozenset(pair) for pair in tile.placement.qubits[:, None].tolist()} <= {
            frozenset((q,)) for q in qubits
        }
        n_missing += tile.n_missing_qubits
    assert n_missing > 0
    small = chip_topology(family, 2, 2)  # type: ignore[arg-type]
    whole = tiles_on(machine_on(small), grid)
    assert whole
    assert all(tile.is_whole for tile in whole)
    assert set(whole[0].machine.topology.node_labels) <= qubits


def test_whole_places_are_not_given_up_for_a_few_more_and_poor_ones_are_left() -> None:
    """A chip with a strip of qubits gone: no copy lacks a fifth, and no whole copy is lost by pruning."""
    full = grid_of("zephyr")
    machine = machine_on(PATCHES["zephyr"])
    gone = set(full.nodelist[200:420])
    from calo4pqvae.annealer.emulator.emulator import Emulator

    broken = open_annealer(Emulator("advantage2", seed=1, m=6, nodelist=[q for q in full.nodelist if q not in gone]))
    whole, pruned = tiles_on(machine, broken), tiles_on(machine, broken, prune=True)
    needed = machine.n_nodes + machine.topology.n_edges
    assert all(5 * (tile.n_missing_qubits + tile.n_missing_couplers) < needed for tile in pruned)
    assert sum(tile.is_whole for tile in pruned) >= len(whole) - 1
    assert len(pruned) >= len(whole)


def test_every_copy_is_the_machine() -> None:
    """Energies of all copies under conditions of their own, from the joint problem and from the machine."""
    topology = PATCHES["zephyr"]
    machine = machine_on(topology)
    tiles = tiles_on(machine, grid_of("zephyr"), topology.is_in_partition(0))[:3]
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2, (3, 16))
    imposed = [
        Conditioner(tile.machine, placement=tile.placement).impose(8.0, row)
        for tile, row in zip(tiles, rows, strict=True)
    ]
    problems = [one.problem for one in imposed]
    joint = side_by_side(problems)
    bits = rng.integers(0, 2, (5, joint.n_qubits)).astype(np.uint8)
    parts = read_apart(Reads(bits, joint, info={"emulated": True}), problems)
    total = np.zeros(5)
    for row, one, part in zip(rows, imposed, parts, strict=True):
        assert part.is_emulated
        states, known = one.states(part.bits, topology.n_nodes)
        assert known.all()
        assert (states[:, :16] == row).all()
        own = machine.energy(torch.from_numpy(states).float()).detach().double().numpy()
        np.testing.assert_allclose(part.problem.machine_energy(part.bits), own, atol=1e-4)
        total += own
    np.testing.assert_allclose(joint.machine_energy(bits), total, atol=1e-3)


def test_copies_follow_the_parameters_of_the_machine() -> None:
    machine = machine_on(PATCHES["zephyr"])
    tile = tiles_on(machine, grid_of("zephyr"))[-1]
    before = ising_problem(tile.machine, 8.0)
    with torch.no_grad():
        machine.couplings *= 2
    after = ising_problem(tile.machine, 8.0)
    np.testing.assert_allclose(after.couplings, 2 * before.couplings)
    assert list(tile.machine.topology.node_labels) != list(machine.topology.node_labels)


def problem(qubits: list[int], beta: float = 1.0) -> IsingProblem:
    return IsingProblem(np.ones(len(qubits)), np.empty(0), np.empty((0, 2)), 0.5, beta, np.array(qubits))


def test_problems_that_cannot_be_joined() -> None:
    assert side_by_side([problem([3, 1]), problem([2])]).constant == 1.0
    with pytest.raises(AnnealerError, match="divide all by the same"):
        side_by_side([problem([1]), problem([2], 2.0)])
    with pytest.raises(AnnealerError, match="listed twice"):
        side_by_side([problem([1]), problem([1])])


@pytest.mark.parametrize("family", PATCHES)
def test_a_machine_is_moved_where_least_is_gone(family: str) -> None:
    topology, grid = PATCHES[family], grid_of(family, is_whole=False)
    machine = machine_on(topology)
    moved = moved_onto(machine, grid)
    assert chip_of(moved.topology) == (family, 6)
    assert moved_onto(moved, grid) is moved
    qubits = set(grid.nodelist)
    lacking = [tile.n_missing_qubits + tile.n_missing_couplers for tile in tiles_on(machine, grid, prune=True)]
    own = sum(label not in qubits for label in moved.topology.node_labels)
    assert own <= min(lacking)
    assert moved_onto(moved, grid_of(family)) is moved


def test_machines_that_stay_where_they_are() -> None:
    own = open_annealer("emulator:advantage2:2", seed=1)
    machine = machine_on(PATCHES["zephyr"])
    assert moved_onto(machine, own) is machine
    dense = BoltzmannMachine(complete_topology((2, 2)))
    assert moved_onto(dense, own) is dense

    class Nameless:
        def __init__(self) -> None:
            self.nodelist, self.edgelist = own.nodelist, own.edgelist
            self.properties: dict[str, Any] = {}

    assert moved_onto(machine, Nameless()) is machine
    with pytest.raises(AnnealerError, match="does not say of what graph it is"):
        tiles_on(machine, Nameless())


def test_bad_input() -> None:
    machine, grid = machine_on(PATCHES["zephyr"]), grid_of("zephyr")
    with pytest.raises(AnnealerError, match="does not fit a pegasus graph of size 6"):
        tiles_on(machine, grid_of("pegasus"))
    with pytest.raises(AnnealerError, match="does not fit a zephyr graph of size 6"):
        tiles_on(machine_on(chip_topology("zephyr", 7, 8)), grid)
    with pytest.raises(AnnealerError, match="is not that of a chip"):
        tiles_on(BoltzmannMachine(complete_topology((2, 2))), grid)
    with pytest.raises(AnnealerError, match="all bits are folded"):
        tiles_on(machine, grid, np.ones(64, dtype=np.bool_))
    strange = BoltzmannMachine(Topology("zephyr-2-1x1", (1, 1), np.array([[0, 1]]), (0, 159)))
    with pytest.raises(AnnealerError, match="has couplers that a zephyr graph of size 2 lacks"):
        tiles_on(strange, grid)
    full = machine_on(chip_topology("zephyr", 6))
    with pytest.raises(AnnealerError, match="no place of the chip has all 1248 qubits and 11400 couplers"):
        tiles_on(full, grid_of("zephyr", is_whole=False))
