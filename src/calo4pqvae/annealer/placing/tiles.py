r"""Copies of one machine side by side on a chip, so that one programming draws many conditions at once.

The graphs of a chip family repeat themselves: a patch of a small Pegasus or Zephyr graph lies in a larger one at many
places. A machine trained on a patch is moved there label by label, nothing is embedded. Copies share no qubit, and the
couplers between them are programmed to zero, so that the joint problem

.. math:: H(s) = \sum_k H_k(s^{(k)})

draws the law of each copy by itself. Folded bits need no qubits, so that copies may overlap where only those lie.

Copies are at one temperature in one programming, since they share the chip, but each has control errors of its own: one
programming averages over as many of them as there are copies. A coupler that is programmed to zero is not zero: errors
of control couple copies that lie next to each other. By default copies are therefore kept apart, so that no coupler
joins two of them; that costs up to half of the places of small machines.

Which copies there are is found greedily: places are tried in a few orders, and the order that gives most is taken. By
default only places are used where no qubit and no coupler is gone. Where parts may be gone, a place counts as
:math:`1 - 5 x`, x being the share of its qubits and couplers that are, so that whole places are not given up for a few
more; places that lack a fifth or more are left out.
"""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.chip.problem import IntArray, IsingProblem, Reads
from calo4pqvae.annealer.placing.placement import Placement
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["Tile", "chip_of", "moved_onto", "read_apart", "side_by_side", "tiles_on"]

BoolArray = NDArray[np.bool_]

_DEARTH = 5.0  # how much dearer a missing part is than a part that is there

_CHIP = re.compile(r"(zephyr|pegasus)-(\d+)")


class Grid(Protocol):
    """A structured sampler: what tells where copies can lie."""

    @property
    def nodelist(self) -> Sequence[int]:
        """Working qubits."""

    @property
    def edgelist(self) -> Sequence[tuple[int, int]]:
        """Working couplers."""

    @property
    def properties(self) -> Any:  # noqa: ANN401
        """Properties, of which ``topology`` says what ideal graph it is."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A place of a machine on a chip.

    Args:
        machine: The machine with the labels of this place; its parameters are those of the original, not copies.
        placement: What of it is there; of folded bits nothing is.
        n_missing_qubits: Qubits of bits that are not folded which are gone.
        n_missing_couplers: Couplers between such bits that are gone.
    """

    machine: BoltzmannMachine
    placement: Placement
    n_missing_qubits: int
    n_missing_couplers: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is gone that is needed."""
        return not self.n_missing_qubits and not self.n_missing_couplers


def chip_of(topology: Topology) -> tuple[str, int]:
    """Family and size of the ideal graph whose labels the nodes have.

    Raises:
        AnnealerError: If it is not the graph of a chip.
    """
    found = _CHIP.match(topology.name)
    if found is None:
        raise AnnealerError(
            f"the graph {topology.name} is not that of a chip; train on zephyr or pegasus, or embed the machine"
        )
    return found[1], int(found[2])


def tiles_on(
    machine: BoltzmannMachine,
    grid: Grid,
    folded: BoolArray | None = None,
    *,
    prune: bool = False,
    apart: bool = True,
) -> tuple[Tile, ...]:
    """All copies of a machine that lie on a chip side by side.

    Args:
        machine: The machine, on the graph of a chip of the same family or a patch of it.
        grid: The chip.
        folded: Mask (N,) of bits that are folded into fields and need no qubits; none if None.
        prune: Whether places where less than a fifth is gone are used too; they lack these parts then.
        apart: Whether no working coupler may join two copies.

    Returns:
        The copies, from one end of the chip to the other.

    Raises:
        AnnealerError: If the chip is of another family, too small, or has no place.
    """
    places = _Places.of(machine, grid, folded)
    worth = places.worth if prune else np.where(places.n_missing == 0, 1.0, 0.0)
    if not worth.any():
        raise AnnealerError(places.refusal)
    own = [set(row[is_there].tolist()) for row, is_there in zip(places.labels, places.has_qubit, strict=True)]
    blocked = [_with_neighbours(qubits, places.couplers) for qubits in own] if apart else own
    return tuple(places.tile(machine, number) for number in _packed(own, blocked, worth))


def moved_onto(machine: BoltzmannMachine, grid: Grid, folded: BoolArray | None = None) -> BoltzmannMachine:
    """The machine with labels of a chip, where least of it is gone; its parameters are those of the original.

    A machine whose labels are of a graph of this size stays where it is, and so does one whose graph or chip is none
    of a family: it is placed by identity.

    Args:
        machine: The machine.
        grid: The chip.
        folded: Mask (N,) of bits that are folded into fields and need no qubits; none if None.

    Raises:
        AnnealerError: If the chip is of another family or too small.
    """
    told, found = grid.properties.get("topology"), _CHIP.match(machine.topology.name)
    if told is None or found is None or (found[1], int(found[2])) == (told["type"], told["shape"][0]):
        return machine
    places = _Places.of(machine, grid, folded)
    return places.tile(machine, int(np.argmin(places.n_missing))).machine


def side_by_side(problems: Sequence[IsingProblem]) -> IsingProblem:
    """Problems with the same beta as one; its rows are theirs, one problem after another.

    Raises:
        AnnealerError: If they were divided by different betas or share a qubit.
    """
    betas = {problem.beta for problem in problems}
    if len(betas) != 1:
        raise AnnealerError(f"problems divided by {sorted(betas)} have no common beta; divide all by the same")
    starts = np.cumsum([0, *(problem.n_qubits for problem in problems)])
    return IsingProblem(
        fields=np.concatenate([problem.fields for problem in problems]),
        couplings=np.concatenate([problem.couplings for problem in problems]),
        edges=np.concatenate([problem.edges + start for problem, start in zip(problems, starts[:-1], strict=True)]),
        constant=math.fsum(problem.constant for problem in problems),
        beta=betas.pop(),
        qubits=np.concatenate([problem.qubits for problem in problems]),
    )


def read_apart(reads: Reads, problems: Sequence[IsingProblem]) -> list[Reads]:
    """Reads of :func:`side_by_side` as reads of each of its problems."""
    starts = np.cumsum([problem.n_qubits for problem in problems])[:-1]
    return [
        Reads(bits, problem, reads.timing, reads.info)
        for bits, problem in zip(np.split(reads.bits, starts, axis=1), problems, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Places:
    """Where a machine may lie on a chip.

    Args:
        chip: Family and size of the ideal graph of the chip.
        topology: Graph of the machine.
        labels: Label of every node at every place, shape (places, N).
        free: Mask (N,) of nodes that need a qubit.
        has_qubit: Which nodes need a qubit and have it, shape (places, N).
        inner: Rows of the couplers between nodes that need a qubit, shape (m,).
        has_coupler: Which of these are there, shape (places, m).
        couplers: Working couplers of the chip, shape (k, 2).
    """

    chip: tuple[str, int]
    topology: Topology
    labels: IntArray
    free: BoolArray
    has_qubit: BoolArray
    inner: IntArray
    has_coupler: BoolArray
    couplers: IntArray

    @classmethod
    def of(cls, machine: BoltzmannMachine, grid: Grid, folded: BoolArray | None) -> "_Places":
        topology = machine.topology
        free = np.ones(topology.n_nodes, dtype=np.bool_) if folded is None else ~np.asarray(folded, dtype=np.bool_)
        if not free.any():
            raise AnnealerError("all bits are folded, nothing would be drawn; leave some free")
        chip, labels = _labels(topology, grid)
        inner = np.flatnonzero(free[topology.edges].all(axis=1))
        ends = topology.edges[inner]
        has_qubit = np.isin(labels, np.fromiter(grid.nodelist, dtype=np.int64)) & free
        couplers = np.array(grid.edgelist, dtype=np.int64).reshape(-1, 2)
        has_coupler = np.isin(_keys(labels[:, ends]), _keys(couplers)) & has_qubit[:, ends].all(axis=2)
        return cls(chip, topology, labels, free, has_qubit, inner, has_coupler, couplers)

    @property
    def n_qubits(self) -> IntArray:
        """Qubits that are needed and there, (places,)."""
        return np.asarray(self.has_qubit.sum(axis=1))

    @property
    def n_missing(self) -> IntArray:
        """Qubits and couplers that are gone, (places,)."""
        n_needed = int(self.free.sum()) + len(self.inner)
        return np.asarray(n_needed - self.n_qubits - self.has_coupler.sum(axis=1))

    @property
    def worth(self) -> NDArray[np.float64]:
        """What a place counts, one if it is whole, (places,)."""
        n_needed = int(self.free.sum()) + len(self.inner)
        return np.asarray(np.clip(1 - _DEARTH * self.n_missing / n_needed, 0, 1))

    @property
    def refusal(self) -> str:
        """That no place is whole."""
        best = int(np.argmin(self.n_missing))
        n_qubits, n_couplers = int(self.free.sum()), len(self.inner)
        return (
            f"no place of the chip has all {n_qubits} qubits and {n_couplers} couplers of {self.topology.name}: the "
            f"best of {len(self.labels)} lacks {n_qubits - self.n_qubits[best]} and "
            f"{n_couplers - self.has_coupler[best].sum()}; prune the machine (--prune), or train it on the graph of "
            "today"
        )

    def tile(self, machine: BoltzmannMachine, number: int) -> Tile:
        """The machine at a place."""
        topology, has_qubit, has_coupler = self.topology, self.has_qubit[number], self.has_coupler[number]
        family, size = self.chip
        name = f"{family}-{size}-" + "x".join(str(size) for size in topology.sizes)
        moved = copy.copy(machine)  # shares the parameters
        moved.topology = Topology(name, topology.sizes, topology.edges, tuple(self.labels[number].tolist()))
        placement = Placement(moved.topology, np.flatnonzero(has_qubit), self.inner[has_coupler])
        return Tile(moved, placement, int((self.free & ~has_qubit).sum()), int((~has_coupler).sum()))


def _labels(topology: Topology, grid: Grid) -> tuple[tuple[str, int], IntArray]:
    """Family and size of the ideal graph of the chip, and labels of all nodes at every place, shape (places, N)."""
    import dwave.graphs as chips

    family, size = chip_of(topology)
    told = grid.properties.get("topology")
    if told is None:
        raise AnnealerError(f"the sampler does not say of what graph it is; {topology.name} cannot be moved on it")
    if told["type"] != family or told["shape"][0] < size:
        raise AnnealerError(
            f"{topology.name} does not fit a {told['type']} graph of size {told['shape'][0]}; choose a chip of its own "
            "family that is as large or larger"
        )
    if family == "zephyr" and tuple(told["shape"][1:]) not in ((), (4,)):
        raise AnnealerError(f"machines are not moved on zephyr graphs of tile {told['shape'][1]}; use one of tile 4")
    if family == "zephyr":
        source, target = chips.zephyr_graph(size), chips.zephyr_graph(*told["shape"])
        mappings = chips.zephyr_sublattice_mappings(source, target)
    else:
        source, target = chips.pegasus_graph(size), chips.pegasus_graph(told["shape"][0])
        mappings = chips.pegasus_sublattice_mappings(source, target)
    own = np.array(topology.node_labels, dtype=np.int64)
    if not np.isin(_keys(own[topology.edges]), _keys(np.array(source.edges, dtype=np.int64))).all():
        raise AnnealerError(f"{topology.name} has couplers that a {family} graph of size {size} lacks; name it rightly")
    labels = [[mapping(label) for label in topology.node_labels] for mapping in mappings]
    return (family, int(told["shape"][0])), np.array(labels, dtype=np.int64)


def _with_neighbours(qubits: set[int], couplers: IntArray) -> set[int]:
    """Qubits and all that a coupler joins to them."""
    touched = couplers[np.isin(couplers, list(qubits)).any(axis=1)]
    return qubits | set(touched.ravel().tolist())


def _packed(own: Sequence[set[int]], blocked: Sequence[set[int]], worth: NDArray[np.float64]) -> list[int]:
    """Places beside each other; of the orders of trying them the one whose places are worth most.

    Args:
        own: Qubits of each place.
        blocked: Qubits that no other place may have if this one is taken.
        worth: What each place counts, shape (places,); those of none are not taken.
    """
    number = np.arange(len(own))
    corner = np.array([min(qubits, default=0) for qubits in own])
    packings = []
    for order in (number, number[::-1], np.argsort(corner, kind="stable"), np.argsort(-worth, kind="stable")):
        taken: set[int] = set()
        packing = []
        for place in order[worth[order] > 0].tolist():
            if taken.isdisjoint(own[place]):
                taken |= blocked[place]
                packing.append(place)
        packings.append(sorted(packing))
    return max(packings, key=lambda packing: float(worth[packing].sum()))


def _keys(pairs: IntArray) -> IntArray:
    """One number a pair (..., 2), whatever the order of its ends."""
    keys: IntArray = pairs.min(axis=-1) * 2**31 + pairs.max(axis=-1)
    return keys
