r"""Regions of a chip: groups of nodes that are close to each other on the graph.

A chip graph is sparse, so that a machine on it can carry strong dependence only among nodes that are near each other.
To let a group of latent bits write one quantity, the nodes of a graph are dealt to regions, each with its share of
every partition, such that many couplers lie inside regions.

Recursive spectral bisection: the second eigenvector of the Laplacian :math:`L = D - A` of a (sub)graph varies slowly
along its edges; each partition is cut at the same quantile of it. Simulated annealing with swaps inside partitions then
raises the number of inner couplers. The result is a renumbering of the nodes: region after region in each partition.

Fiedler, Czechoslovak Mathematical Journal 25 (1975); Kirkpatrick, Gelatt and Vecchi, Science 220 (1983).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import eigsh

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology

__all__ = ["arrange_in_regions", "inner_couplers", "region_of_node"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_HOT, _COLD = 2.0, 0.1  # in couplers
_DENSE_BELOW = 400  # nodes up to which a full diagonalisation is quicker and safer


def region_of_node(topology: Topology, n_regions: int) -> IntArray:
    """Region of every node (N,): within each partition the nodes are dealt to regions in order, as evenly as can be.

    Raises:
        PriorError: If a partition has fewer nodes than there are regions.
    """
    if min(topology.sizes) < n_regions:
        smallest = min(topology.sizes)
        raise PriorError(f"a partition of {smallest} nodes cannot be dealt to {n_regions} regions; ask for fewer")
    return np.concatenate([np.arange(size) * n_regions // size for size in topology.sizes])


def inner_couplers(topology: Topology, n_regions: int) -> int:
    """Number of couplers whose ends lie in the same region."""
    region = region_of_node(topology, n_regions)
    return int((region[topology.edges[:, 0]] == region[topology.edges[:, 1]]).sum())


def arrange_in_regions(
    topology: Topology, n_regions: int, *, held: Sequence[int] = (), n_tries: int = 300, seed: int = 0
) -> Topology:
    """Renumbers the nodes within their partitions so that regions are compact.

    Args:
        topology: The graph; its content but for the numbering stays.
        n_regions: Number of regions.
        held: Partitions whose nodes will be clamped; their couplers carry no dependence among the others and do not
            count.
        n_tries: Swaps tried for each node.
        seed: Seed of the swaps.

    Raises:
        PriorError: If a partition has fewer nodes than there are regions.
    """
    slots = region_of_node(topology, n_regions)
    if n_regions == 1 or topology.n_edges == 0:
        return topology
    adjacency = _adjacency(topology, held)
    partition = topology.partition
    region = np.zeros(topology.n_nodes, dtype=np.int64)
    _bisect(adjacency, partition, slots, np.arange(topology.n_nodes), np.arange(n_regions), region)
    region = _anneal(adjacency, topology.slices, region, n_regions, n_tries, np.random.default_rng(seed))
    region = _densest_first(adjacency, region, n_regions)
    order = np.lexsort((np.arange(topology.n_nodes), region, partition))
    number = np.argsort(order)
    labels = tuple(topology.node_labels[node] for node in order)
    return Topology(topology.name, topology.sizes, np.sort(number[topology.edges], axis=1), labels)


def _densest_first(adjacency: csr_array, region: IntArray, n_regions: int) -> IntArray:
    """Renumbers regions of equal make by falling number of inner couplers, so that the first ones are the best."""
    first, second = adjacency.nonzero()
    inner = np.bincount(region[first[region[first] == region[second]]], minlength=n_regions)
    return np.argsort(np.argsort(-inner, kind="stable"), kind="stable")[region]


def _adjacency(topology: Topology, held: Sequence[int]) -> csr_array:
    counts = ~topology.is_in_partition(*held)[topology.edges].any(axis=1)
    first, second = topology.edges[counts].T
    ones = np.ones(2 * len(first))
    shape = (topology.n_nodes, topology.n_nodes)
    return csr_array((ones, (np.concatenate([first, second]), np.concatenate([second, first]))), shape=shape)


def _bisect(
    adjacency: csr_array, partition: IntArray, slots: IntArray, nodes: IntArray, regions: IntArray, region: IntArray
) -> None:
    """Deals ``nodes`` to ``regions``: the lower half of them along the Fiedler vector, the rest above."""
    if len(regions) == 1:
        region[nodes] = regions[0]
        return
    lower, upper = np.array_split(regions, 2)
    rank = _fiedler(adjacency[nodes][:, nodes])
    goes_low = np.zeros(len(nodes), dtype=bool)
    for part in np.unique(partition[nodes]):
        members = np.flatnonzero(partition[nodes] == part)
        n_low = int(np.isin(slots[partition == part], lower).sum())
        goes_low[members[np.argsort(rank[members], kind="stable")[:n_low]]] = True
    _bisect(adjacency, partition, slots, nodes[goes_low], lower, region)
    _bisect(adjacency, partition, slots, nodes[~goes_low], upper, region)


def _fiedler(adjacency: csr_array) -> NDArray[np.float64]:
    matrix = laplacian(adjacency.astype(np.float64))
    n_nodes = matrix.shape[0]
    if n_nodes <= _DENSE_BELOW:
        vector = np.linalg.eigh(matrix.toarray())[1][:, min(1, n_nodes - 1)]
    else:
        start = np.random.default_rng(0).standard_normal(n_nodes)
        values, vectors = eigsh(matrix, k=3, sigma=-1e-2, which="LM", v0=start)
        vector = vectors[:, np.argsort(values)[1]]
    largest = vector[np.argmax(np.abs(vector))]
    rounded: NDArray[np.float64] = np.round(vector * np.sign(largest), 9)
    return rounded


def _anneal(
    adjacency: csr_array,
    slices: Sequence[slice],
    region: IntArray,
    n_regions: int,
    n_tries: int,
    rng: np.random.Generator,
) -> IntArray:
    """Swaps regions of two nodes of a partition; ``ties[i][g]`` counts the neighbours of node i in region g."""
    n_nodes = len(region)
    indptr, indices = adjacency.indptr.tolist(), adjacency.indices.tolist()
    neighbours = [indices[indptr[node] : indptr[node + 1]] for node in range(n_nodes)]
    place = region.tolist()
    ties = [[0] * n_regions for _ in range(n_nodes)]
    for node, others in enumerate(neighbours):
        for other in others:
            ties[node][place[other]] += 1
    first, second, chance = _proposals(slices, n_tries * n_nodes, rng)
    temperatures = np.geomspace(_HOT, _COLD, len(first))
    for i, j, allowance in zip(first, second, (temperatures * np.log(chance)).tolist(), strict=True):
        a, b = place[i], place[j]
        if a == b or ties[i][b] - ties[i][a] + ties[j][a] - ties[j][b] <= allowance:
            continue
        place[i], place[j] = b, a
        for other in neighbours[i]:
            ties[other][a] -= 1
            ties[other][b] += 1
        for other in neighbours[j]:
            ties[other][b] -= 1
            ties[other][a] += 1
    return np.array(place, dtype=np.int64)


def _proposals(slices: Sequence[slice], n: int, rng: np.random.Generator) -> tuple[list[int], list[int], FloatArray]:
    """Pairs of nodes of one partition each, and uniform numbers."""
    starts = np.array([part.start for part in slices])
    sizes = np.array([part.stop - part.start for part in slices])
    part = rng.choice(len(sizes), n, p=sizes / sizes.sum())
    first, second = (starts[part] + (rng.random(n) * sizes[part]).astype(np.int64) for _ in range(2))
    return first.tolist(), second.tolist(), rng.random(n)
