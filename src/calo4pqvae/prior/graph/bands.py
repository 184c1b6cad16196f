r"""Bands on a chip: orders of nodes along which a quantity can be written so that the couplers carry it.

A quantity written into m bits like a thermometer is a ferromagnetic chain with one wall, whose place is the value
(the domain-wall code of arXiv 1903.05068). The couplers carry its law if consecutive nodes of the order are coupled;
where the wall is soft, second, third and fifth neighbours are wanted too. A *band* is such an order, and several
bands share a chip.

**By construction** there is much to find. A Zephyr qubit crosses 4t qubits of the other orientation, in groups of t
that are crossed as a whole: the graph is full of complete blocks K(2t, 2t), a Pegasus graph of blocks K(4, 4). A path
that alternates between the two orientations and leaves a group when it is used up has *all* odd neighbours coupled,
to distance 5, straight on and round corners; neighbours on the path have different colours, as block Gibbs sampling
wants. Even neighbours have the same orientation and are coupled by odd and external couplers only.

**Search.** Such paths through patches of any shape, with qubits and couplers missing and a partition spent on the
condition, are found by annealing of

.. math:: S = \sum_{\text{bands}} \sum_{d \in \{1, 2, 3, 5\}} w_d \sum_k A_{o_k, o_{k+d}} +
              w_s \sum_{f} \sum_k \sum_{|e| \le 1} A_{o^f_k, o^{f+1}_{k+e}} ,

with the adjacency A. The last sum lays band f beside band f + 1, like place to like place: their couplers can then
carry what two quantities have in common. Moves are guided by the graph: a neighbour of a node is brought to one of
the wanted distances from it, in exchange for the node there (in the same band, in another one, or idle), or the
stretch between the two is turned round.

Kirkpatrick, Gelatt and Vecchi, Science 220 (1983); N. Chancellor, Quantum Sci. Technol. 4, 045004 (2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology

__all__ = ["LINK_DISTANCES", "Bands", "find_bands"]

IntArray = NDArray[np.int64]

LINK_DISTANCES = (1, 2, 3, 5)
_WEIGHTS = (4.0, 1.0, 2.0, 1.0)  # of links at these distances
_SIDE_WEIGHT = 0.3
_REACH = max(LINK_DISTANCES)
_SWAP_TO = (-5, -3, -2, -1, -1, -3, 5, 3, 2, 1, 1, 3)  # distances that a neighbour is brought to, the best ones twice
_TURNS = 0.25  # share of the moves that turn a stretch round
_HOT, _COLD = 6.0, 0.3  # in units of the score
_DENSE = 0.4  # coupled share of all pairs from which any order that changes partition will do
_SMALL = 600  # nodes up to which several starts are cheap


@dataclass(frozen=True, eq=False)
class Bands:
    """Node orders of F quantities.

    Args:
        nodes: Nodes of every band in order, (F, m); no node twice.

    Raises:
        PriorError: If a node is in two places.
    """

    nodes: IntArray

    def __post_init__(self) -> None:
        nodes = np.asarray(self.nodes, dtype=np.int64)
        if nodes.ndim != 2 or len(np.unique(nodes)) != nodes.size:
            raise PriorError("a node stands in two places of the bands; give each node one place")
        object.__setattr__(self, "nodes", nodes)

    @property
    def n_bands(self) -> int:
        """Number of bands F."""
        return len(self.nodes)

    @property
    def length(self) -> int:
        """Nodes m of a band."""
        return int(self.nodes.shape[1])

    def places(self, n_nodes: int) -> tuple[IntArray, IntArray]:
        """Band and place of each of N nodes, (N,) each; -1 for nodes in no band."""
        band, place = np.full(n_nodes, -1), np.full(n_nodes, -1)
        band[self.nodes] = np.arange(self.n_bands)[:, None]
        place[self.nodes] = np.arange(self.length)
        return band, place

    def link_shares(self, topology: Topology) -> dict[int, float]:
        """Share of the pairs at distance 1, 2, 3 and 5 along the bands that are coupled; 1 where there is no pair."""
        codes = _pair_codes(topology.edges, topology.n_nodes)
        shares = {}
        for distance in LINK_DISTANCES:
            pairs = np.stack([self.nodes[:, :-distance].ravel(), self.nodes[:, distance:].ravel()], axis=1)
            found = np.isin(_pair_codes(np.sort(pairs, axis=1), topology.n_nodes), codes)
            shares[distance] = float(found.mean()) if len(found) else 1.0
        return shares


def find_bands(
    topology: Topology,
    n_bands: int,
    length: int | None = None,
    *,
    held: Sequence[int] = (),
    n_tries: int = 1500,
    seed: int = 0,
) -> Bands:
    """Bands of equal length on the nodes that are not held.

    Args:
        topology: The graph.
        n_bands: Number of bands F.
        length: Nodes of a band; by default as many as there are for each.
        held: Partitions that will be clamped; their nodes and couplers are not used.
        n_tries: Moves tried for each node.
        seed: Seed of start and moves.

    Raises:
        PriorError: If there are fewer free nodes than the bands need.
    """
    free = np.flatnonzero(~topology.is_in_partition(*held))
    size = len(free) // max(n_bands, 1) if length is None else length
    if n_bands < 1 or size < 2 or n_bands * size > len(free):
        raise PriorError(
            f"{n_bands} bands of {max(size, 2)} nodes do not fit on {len(free)} free nodes; "
            "ask for fewer factors or fewer nodes a factor"
        )
    number = np.full(topology.n_nodes, -1)
    number[free] = np.arange(len(free))
    edges = number[topology.edges]
    edges = edges[(edges >= 0).all(axis=1)]
    if len(edges) == 0 or 2 * len(edges) > _DENSE * len(free) ** 2:
        return Bands(_dealt(topology.partition[free], free, n_bands, size))
    n_starts = 4 if len(free) <= _SMALL else 1
    found = [_Search(edges, len(free), n_bands, size, seed + start) for start in range(n_starts)]
    for search in found:
        search.anneal(n_tries * len(free))
    best = max(found, key=lambda search: search.score())
    return Bands(free[best.bands()])


def _pair_codes(pairs: IntArray, n_nodes: int) -> IntArray:
    return pairs[:, 0] * n_nodes + pairs[:, 1]


def _dealt(partition: IntArray, free: IntArray, n_bands: int, length: int) -> IntArray:
    """Bands that change the partition from node to node, for graphs where that is all that matters."""
    turn = np.zeros(len(free), dtype=np.int64)
    for part in np.unique(partition):
        members = np.flatnonzero(partition == part)
        turn[members] = np.arange(len(members))
    order = free[np.lexsort((partition, turn))]
    return order[: n_bands * length].reshape(n_bands, length)


class _Search:
    """Annealing of the score on one flat list: bands with gaps between them, then idle nodes.

    Gaps hold the number N of a node that has no neighbours, so that no border needs a question. Bands have equal
    lengths, so that the like place of the next band is one stride further.
    """

    def __init__(self, edges: IntArray, n_nodes: int, n_bands: int, length: int, seed: int) -> None:
        self.n_nodes, self.n_bands, self.length = n_nodes, n_bands, length
        self.rng = np.random.default_rng(seed)
        self.adjacency = [bytearray(n_nodes + 1) for _ in range(n_nodes + 1)]
        self.neighbours: list[list[int]] = [[] for _ in range(n_nodes)]
        for i, j in edges.tolist():
            self.adjacency[i][j] = self.adjacency[j][i] = 1
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
        self.stride = length + _REACH
        self.starts = [(f + 1) * self.stride for f in range(n_bands)]
        self.sequence = [n_nodes] * (self.stride * (n_bands + 2))
        self.where = [0] * (n_nodes + 1)
        shuffled = self.rng.permutation(n_nodes).tolist()
        for start in self.starts:
            self.sequence[start : start + length] = [shuffled.pop() for _ in range(length)]
        self.n_places = len(self.sequence)
        for node in shuffled:  # idle ones, out of reach of each other
            self.sequence += [node, *[n_nodes] * _REACH]
        for place, node in enumerate(self.sequence):
            self.where[node] = place

    def bands(self) -> IntArray:
        """Nodes of the bands, (F, m)."""
        return np.array([self.sequence[start : start + self.length] for start in self.starts], dtype=np.int64)

    def score(self) -> float:
        """Twice the score S."""
        return sum(self._local(place, self.sequence[place]) for place in self._joined())

    def anneal(self, n_moves: int) -> None:
        """Tries moves while the temperature falls."""
        neighbours, sequence, where = self.neighbours, self.sequence, self.where
        joined = self._joined()
        chosen = self.rng.integers(0, len(joined), n_moves).tolist()
        ways = self.rng.integers(0, len(_SWAP_TO), n_moves).tolist()
        draws = self.rng.random((n_moves, 2)).tolist()
        turns = (self.rng.random(n_moves) < _TURNS).tolist()
        chance = np.geomspace(_HOT, _COLD, n_moves) * np.log(self.rng.random(n_moves))
        for index, way, (draw, _), turn, least in zip(chosen, ways, draws, turns, chance.tolist(), strict=True):
            place = joined[index]
            near = neighbours[sequence[place]]
            if not near:
                continue
            node = near[int(draw * len(near))]
            if turn:
                self._turn(place, where[node], least)
            else:
                self._swap(place + _SWAP_TO[way], node, least)

    def _joined(self) -> list[int]:
        return [start + k for start in self.starts for k in range(self.length)]

    def _local(self, place: int, node: int) -> float:
        """What the score would gain by a node at a place."""
        joined, sequence, side = self.adjacency[node], self.sequence, self.stride
        if place >= self.n_places:
            return 0.0
        links = 4.0 * (joined[sequence[place - 1]] + joined[sequence[place + 1]])
        links += joined[sequence[place - 2]] + joined[sequence[place + 2]]
        links += 2.0 * (joined[sequence[place - 3]] + joined[sequence[place + 3]])
        links += joined[sequence[place - 5]] + joined[sequence[place + 5]]
        return links + _SIDE_WEIGHT * (
            joined[sequence[place - side - 1]]
            + joined[sequence[place - side]]
            + joined[sequence[place - side + 1]]
            + joined[sequence[place + side - 1]]
            + joined[sequence[place + side]]
            + joined[sequence[place + side + 1]]
        )

    def _swap(self, place: int, node: int, least: float) -> None:
        """Brings a node to a place, in exchange for the one there, if the score rises by ``least`` at least."""
        sequence, where = self.sequence, self.where
        other, origin = sequence[place], where[node]
        if other in (node, self.n_nodes):
            return
        before = self._local(place, other) + self._local(origin, node)
        sequence[place], sequence[origin] = node, other
        if self._local(place, node) + self._local(origin, other) - before >= least:
            where[node], where[other] = place, origin
        else:
            sequence[place], sequence[origin] = other, node

    def _turn(self, place: int, origin: int, least: float) -> None:
        """Turns a stretch round so that the node at ``origin`` comes next to ``place``, if that is good enough."""
        first, last = (place + 1, origin) if origin > place else (origin, place - 1)
        is_same_band = place // self.stride == origin // self.stride and origin < self.n_places
        if not is_same_band or last - first < _REACH:
            return
        sequence = self.sequence
        before = self._around(first, last)
        sequence[first : last + 1] = sequence[first : last + 1][::-1]
        if self._around(first, last) - before >= least:
            for index in range(first, last + 1):
                self.where[sequence[index]] = index
        else:
            sequence[first : last + 1] = sequence[first : last + 1][::-1]

    def _around(self, first: int, last: int) -> float:
        """Score of the links over both ends of a stretch and of its side links."""
        sequence, adjacency, side = self.sequence, self.adjacency, self.stride
        total = 0.0
        for cut in (first, last + 1):
            for distance, weight in zip(LINK_DISTANCES, _WEIGHTS, strict=True):
                total += weight * sum(
                    adjacency[sequence[k]][sequence[k + distance]] for k in range(cut - distance, cut)
                )
        for index in range(first, last + 1):
            joined = adjacency[sequence[index]]
            for near in (index - side, index + side):
                total += _SIDE_WEIGHT * sum(joined[sequence[near + step]] for step in (-1, 0, 1))
        return total
