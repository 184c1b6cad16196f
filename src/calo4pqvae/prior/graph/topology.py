r"""Graphs of Boltzmann machines: which bits exist, in which partition, and which pairs are coupled.

A partition is a set of nodes without a coupler inside it, that is a colour class of a proper colouring. Given
all other partitions its bits are independent, so a whole partition is drawn at once (block Gibbs sampling).
The chips of D-Wave need four colours: their largest cliques have four nodes.

Nodes are numbered by partition: partition ``p`` is the contiguous slice ``slices[p]`` of ``0 .. N-1``.
Partitions may differ in size, as they do on every real chip. A coupler is a row ``(i, j)`` with ``i < j`` of
the edge list, and the machine keeps one number a coupler: couplings that the chip does not have do not exist.

The graphs of D-Wave chips and compact patches of them are built in :mod:`calo4pqvae.prior.graph.chips`; here are
the graph itself and the two baselines that bracket every chip, the complete multipartite graph and the graph
without couplers.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import PriorError

__all__ = ["Topology", "bipartite_topology", "complete_topology", "independent_topology"]

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Topology:
    """Graph of a machine; two are equal if sizes, edges and labels are, whatever their names.

    Args:
        name: For people and files; not part of the content.
        sizes: Nodes per partition, which may differ.
        edges: Couplers (M, 2) in any order; kept as int64 with i < j, sorted lexicographically, read-only.
        node_labels: Chip label of every node; ``0 .. N-1`` if empty.

    Raises:
        PriorError: If a partition is empty, or an edge leaves the graph, joins two nodes of one partition or
            is listed twice, or if labels are repeated or too few.
    """

    name: str
    sizes: tuple[int, ...]
    edges: IntArray
    node_labels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        sizes = tuple(int(size) for size in self.sizes)
        if not sizes or min(sizes) < 1:
            raise PriorError(f"partition sizes {sizes} are not all positive; give each at least one node")
        object.__setattr__(self, "sizes", sizes)
        labels = tuple(int(label) for label in self.node_labels) or tuple(range(sum(sizes)))
        if len(labels) != sum(sizes) or len(set(labels)) != len(labels):
            raise PriorError(f"{len(labels)} node labels for {sum(sizes)} nodes; give each node one label of its own")
        object.__setattr__(self, "node_labels", labels)
        object.__setattr__(self, "edges", self._checked_edges())

    def _checked_edges(self) -> IntArray:
        edges = np.sort(np.asarray(self.edges, dtype=np.int64).reshape(-1, 2), axis=1)
        edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
        outside = (edges < 0) | (edges >= self.n_nodes)
        if outside.any():
            first = tuple(edges[outside.any(axis=1)][0].tolist())
            raise PriorError(f"edge {first} names a node outside 0..{self.n_nodes - 1}; correct the list")
        inside = self.partition[edges[:, 0]] == self.partition[edges[:, 1]]
        if inside.any():
            i, j = edges[inside][0].tolist()
            raise PriorError(
                f"edge ({i}, {j}) lies inside partition {self.partition[i]}; "
                "give a proper colouring of the graph as partitions"
            )
        repeated = (edges[1:] == edges[:-1]).all(axis=1)
        if repeated.any():
            raise PriorError(f"edge {tuple(edges[1:][repeated][0].tolist())} is listed twice; remove the copy")
        edges.setflags(write=False)
        return edges

    @property
    def n_nodes(self) -> int:
        """Number of nodes N."""
        return sum(self.sizes)

    @property
    def n_edges(self) -> int:
        """Number of couplers M."""
        return len(self.edges)

    @property
    def n_partitions(self) -> int:
        """Number of partitions P."""
        return len(self.sizes)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Nodes of each partition as a slice of ``0 .. N-1``."""
        bounds = np.concatenate([[0], np.cumsum(self.sizes)]).tolist()
        return tuple(slice(start, stop) for start, stop in pairwise(bounds))

    @cached_property
    def partition(self) -> IntArray:
        """Partition of every node, shape (N,)."""
        return np.repeat(np.arange(self.n_partitions, dtype=np.int64), self.sizes)

    @cached_property
    def degrees(self) -> IntArray:
        """Couplers of every node, shape (N,)."""
        return np.bincount(self.edges.ravel(), minlength=self.n_nodes).astype(np.int64)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over sizes, edges and labels, in hexadecimal digits; the name does not enter."""
        digest = hashlib.sha256()
        for part in (self.sizes, self.edges, self.node_labels):
            array = np.ascontiguousarray(part, dtype="<i8")
            digest.update(np.int64(array.size).astype("<i8").tobytes())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def is_in_partition(self, *partitions: int) -> NDArray[np.bool_]:
        """Mask (N,) of the nodes of the given partitions, as samplers take it to clamp them.

        Raises:
            PriorError: If a partition does not exist.
        """
        for index in partitions:
            if not 0 <= index < self.n_partitions:
                raise PriorError(f"partition {index} does not exist; choose from 0..{self.n_partitions - 1}")
        return np.isin(self.partition, partitions)

    def to_arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.uint8]]:
        """Content as arrays that any array file (safetensors, HDF5) can hold."""
        return {
            "sizes": np.array(self.sizes, dtype=np.int64),
            "edges": self.edges.copy(),
            "node_labels": np.array(self.node_labels, dtype=np.int64),
            "name": np.frombuffer(self.name.encode(), dtype=np.uint8).copy(),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> Self:
        """Rebuilds a topology from :meth:`to_arrays`.

        Raises:
            PriorError: If an array is missing or the graph is not valid.
        """
        absent = {"sizes", "edges", "node_labels", "name"} - set(arrays)
        if absent:
            raise PriorError(f"the stored topology lacks {sorted(absent)}; store it again with to_arrays")
        return cls(
            name=np.asarray(arrays["name"], dtype=np.uint8).tobytes().decode(),
            sizes=tuple(np.asarray(arrays["sizes"]).tolist()),
            edges=np.asarray(arrays["edges"], dtype=np.int64),
            node_labels=tuple(np.asarray(arrays["node_labels"]).tolist()),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Topology):
            return NotImplemented
        return self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return hash(self.content_hash)


def complete_topology(sizes: Sequence[int]) -> Topology:
    """Every node coupled to every node of the other partitions: the dense baseline.

    Args:
        sizes: Nodes per partition.
    """
    partition = np.repeat(np.arange(len(sizes)), sizes)
    edges = np.argwhere(np.triu(partition[:, None] != partition[None, :]))
    return Topology("complete-" + _joined(sizes), tuple(sizes), edges.astype(np.int64))


def bipartite_topology(n_visible: int, n_hidden: int) -> Topology:
    """The graph of a restricted Boltzmann machine, :func:`complete_topology` of two partitions."""
    return complete_topology((n_visible, n_hidden))


def independent_topology(sizes: Sequence[int]) -> Topology:
    """No couplers at all: the baseline of independent bits.

    Args:
        sizes: Nodes per partition.
    """
    return Topology("independent-" + _joined(sizes), tuple(sizes), np.empty((0, 2), dtype=np.int64))


def _joined(sizes: Sequence[int]) -> str:
    return "x".join(str(size) for size in sizes)
