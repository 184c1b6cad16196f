r"""Rows of a sweep in the order and grouping that the packed kernel wants.

A row is a free bit. Rows of one partition are put into groups of four, two or one so that the rows of a group have many
neighbours in common: on a Zephyr graph four qubits of a cell share 16 of their 20 neighbours, in a bipartite machine
all rows share all. Within a partition, groups alike in their numbers of neighbours follow each other, so that a
processor foresees where its loops end. All depends on graph and clamp mask alone.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from calo4pqvae.prior.graph.pairs import compressed_rows
from calo4pqvae.prior.graph.topology import IntArray, Topology

__all__ = ["PackedRows"]

_LARGEST_GROUP = 4
_DENSE_FROM = 0.1  # coupled share of all pairs


@dataclass(frozen=True)
class PackedRows:
    """Neighbour lists of the free bits, group by group; all arrays are int64 where nothing else is said.

    Args:
        nodes: Node of every row, in the order of drawing, shape (rows,).
        groups: Of each group the number of rows, the first row, start and stop of its share of ``common``, and where
            its share of ``common_couplers`` begins less start times rows: (groups, 5).
        common: Nodes that all rows of a group are coupled to, group by group.
        common_couplers: Coupler of each entry of ``common`` and row of its group, flat.
        common_rows: Their rows.
        own: Other neighbours, row by row.
        own_couplers: Their couplers.
        own_offsets: Start of each row's share of ``own``, shape (rows + 1,).
    """

    nodes: IntArray
    groups: IntArray
    common: IntArray
    common_couplers: IntArray
    common_rows: IntArray
    own: IntArray
    own_couplers: IntArray
    own_offsets: IntArray

    @cached_property
    def own_rows(self) -> IntArray:
        """Row of each entry of ``own``."""
        return np.repeat(np.arange(len(self.nodes)), np.diff(self.own_offsets))

    @cached_property
    def largest_degree(self) -> int:
        """Most neighbours of a row."""
        shared = np.zeros(len(self.nodes), dtype=np.int64)
        for n_rows, row, start, stop, _ in self.groups:
            shared[row : row + n_rows] = stop - start
        return int((shared + np.diff(self.own_offsets)).max(initial=0))

    @classmethod
    def of(cls, topology: Topology, mask: NDArray[np.bool_]) -> Self:
        """Groups the rows that a clamp mask leaves free."""
        indices, offsets, couplers = compressed_rows(topology.edges, topology.n_nodes)
        neighbours = [dict(zip(indices[a:b].tolist(), couplers[a:b].tolist(), strict=True))
                      for a, b in pairwise(offsets.tolist())]  # fmt: skip
        matrix = sparse.csr_array(
            (np.ones(len(indices), dtype=np.int32), indices, offsets), shape=(topology.n_nodes,) * 2
        )
        build = _Builder(neighbours)
        for nodes in topology.slices:
            free = [node for node in range(nodes.start, nodes.stop) if not mask[node]]
            for members in sorted(map(build.by_degree, _grouped(free, matrix)), key=build.shape):
                build.add(members)
        return cls(*build.arrays())


class _Builder:
    """Collects the lists group by group."""

    def __init__(self, neighbours: list[dict[int, int]]) -> None:
        self.neighbours = neighbours
        self.nodes: list[int] = []
        self.groups: list[tuple[int, int, int, int, int]] = []
        self.common: list[int] = []
        self.common_couplers: list[int] = []
        self.common_rows: list[int] = []
        self.own: list[int] = []
        self.own_couplers: list[int] = []
        self.own_offsets = [0]

    def by_degree(self, members: list[int]) -> list[int]:
        """Rows of a group, those with most neighbours first."""
        return sorted(members, key=lambda node: -len(self.neighbours[node]))

    def shared(self, members: list[int]) -> list[int]:
        """Neighbours that all rows of a group have; none for a group of one."""
        sets = [self.neighbours[node].keys() for node in members]
        return sorted(set(sets[0]).intersection(*sets[1:])) if len(sets) > 1 else []

    def shape(self, members: list[int]) -> tuple[int, int, list[int]]:
        """Groups in this order change the lengths of the loops over neighbours as seldom as can be."""
        return -len(members), -len(self.shared(members)), [-len(self.neighbours[node]) for node in members]

    def add(self, members: list[int]) -> None:
        lists = [self.neighbours[node] for node in members]
        shared = self.shared(members)
        start = len(self.common)
        shift = len(self.common_couplers) - start * len(members)
        self.groups.append((len(members), len(self.nodes), start, start + len(shared), shift))
        self.common += shared
        self.common_couplers += [couplers[node] for node in shared for couplers in lists]
        self.common_rows += [len(self.nodes) + place for _ in shared for place in range(len(lists))]
        taken = set(shared)
        for node, couplers in zip(members, lists, strict=True):
            self.nodes.append(node)
            rest = [other for other in couplers if other not in taken]
            self.own += rest
            self.own_couplers += [couplers[other] for other in rest]
            self.own_offsets.append(len(self.own))

    def arrays(self) -> list[IntArray]:
        """The fields of :class:`PackedRows`, in order."""
        lists = (
            self.nodes,
            self.groups,
            self.common,
            self.common_couplers,
            self.common_rows,
            self.own,
            self.own_couplers,
            self.own_offsets,
        )
        arrays = [np.array(entries, dtype=np.int64) for entries in lists]
        arrays[1] = arrays[1].reshape(-1, 5)
        return arrays


def _grouped(free: list[int], matrix: sparse.csr_array) -> list[list[int]]:
    """Rows of one partition in groups: greedily, each row with those that share most neighbours with it.

    A row more in a group saves loading a mask for each neighbour that all share: a group of R rows with c of them saves
    (R - 1) c loads. Four rows stay together if that saves more than two pairs would.
    """
    if not free:
        return []
    part = matrix[free]
    overlaps = _overlaps(part)
    left = set(range(len(free)))
    pairs, groups = [], []
    for first in range(len(free)):
        if first not in left:
            continue
        four = _companions(first, left, overlaps)
        n_two = _n_shared(four[:2], part)
        n_four = _n_shared(four, part) if len(four) == 4 else 0
        if n_four > 0 and 3 * n_four >= 2 * n_two:
            groups.append(four)
        elif n_two > 1:
            pairs.append(four[:2])
        else:
            continue
        left.difference_update(groups[-1] if n_four > 0 and 3 * n_four >= 2 * n_two else pairs[-1])
    return [[free[row] for row in sorted(members)] for members in groups + pairs + [[row] for row in sorted(left)]]


def _overlaps(part: sparse.csr_array) -> sparse.csr_array:
    """How many neighbours each two rows share; dense products are faster where many are shared."""
    if part.nnz < _DENSE_FROM * part.shape[0] * part.shape[1]:
        return (part @ part.T).tocsr()
    dense = part.toarray().astype(np.float32)
    return sparse.csr_array((dense @ dense.T).astype(np.int32))


def _companions(first: int, left: set[int], overlaps: sparse.csr_array) -> list[int]:
    """``first`` and up to three rows that share most neighbours with it, most first."""
    span = slice(overlaps.indptr[first], overlaps.indptr[first + 1])
    rows, counts = overlaps.indices[span], overlaps.data[span]
    members = [first]
    for at in np.lexsort((rows, -counts)):
        row = int(rows[at])
        if row != first and row in left:
            members.append(row)
        if len(members) == _LARGEST_GROUP:
            break
    return members


def _n_shared(members: list[int], part: sparse.csr_array) -> int:
    """Neighbours that all members have."""
    if len(members) < 2:
        return 0
    lists = [part.indices[part.indptr[row] : part.indptr[row + 1]] for row in members]
    return len(set.intersection(*({*entries.tolist()} for entries in lists)))
