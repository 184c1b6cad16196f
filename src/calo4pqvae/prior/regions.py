r"""Regions of a chip: groups of nodes that are close to each other on the graph.

A chip graph is sparse, so that a machine on it can carry strong dependence only among nodes that are near each other.
To let a group of latent bits write one quantity, the nodes of a graph are dealt to regions, each with its share of every
partition, such that many couplers lie inside regions.

Recursive spectral bisection: the second eigenvector of the Laplacian :math:`L = D - A` of a (sub)graph varies slowly
along its edges; each partition is cut at the same quantile of it. Greedy swaps within partitions then raise the number
of inner couplers. The result is a renumbering of the nodes: region after region within each partition.

Fiedler, Czechoslovak Mathematical Journal 25 (1975); Kernighan and Lin, Bell System Technical Journal 49 (1970).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import laplacian
from scipy.sparse.linalg import eigsh

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.topology import Topology

__all__ = ["arrange_in_regions", "inner_couplers", "region_of_node"]

IntArray = NDArray[np.int64]

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


def arrange_in_regions(topology: Topology, n_regions: int, n_rounds: int = 4) -> Topology:
    """Renumbers the nodes within their partitions so that regions are compact.

    Args:
        topology: The graph; its content but for the numbering stays.
        n_regions: Number of regions.
        n_rounds: Rounds of greedy swaps at most.

    Raises:
        PriorError: If a partition has fewer nodes than there are regions.
    """
    slots = region_of_node(topology, n_regions)
    if n_regions == 1 or topology.n_edges == 0:
        return topology
    adjacency = _adjacency(topology)
    partition = topology.partition
    region = np.zeros(topology.n_nodes, dtype=np.int64)
    _bisect(adjacency, partition, slots, np.arange(topology.n_nodes), np.arange(n_regions), region)
    for _ in range(n_rounds):
        if not _swap_round(adjacency, partition, region, n_regions):
            break
    order = np.lexsort((np.arange(topology.n_nodes), region, partition))
    number = np.argsort(order)
    labels = tuple(topology.node_labels[node] for node in order)
    return Topology(topology.name, topology.sizes, np.sort(number[topology.edges], axis=1), labels)


def _adjacency(topology: Topology) -> csr_array:
    first, second = topology.edges.T
    ones = np.ones(2 * topology.n_edges)
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


def _swap_round(adjacency: csr_array, partition: IntArray, region: IntArray, n_regions: int) -> bool:
    """Swaps the best pair for each node that would rather be elsewhere; whether anything was gained."""
    gained = False
    for node in range(len(region)):
        ties = np.bincount(region[_neighbours(adjacency, node)], minlength=n_regions)
        wish = int(np.argmax(ties))
        gain = int(ties[wish] - ties[region[node]])
        if gain <= 0:
            continue
        best, partner = 0, -1
        for other in np.flatnonzero((partition == partition[node]) & (region == wish)):
            theirs = np.bincount(region[_neighbours(adjacency, int(other))], minlength=n_regions)
            total = gain + int(theirs[region[node]] - theirs[wish])
            if total > best:
                best, partner = total, int(other)
        if partner >= 0:
            region[node], region[partner] = region[partner], region[node]
            gained = True
    return gained


def _neighbours(adjacency: csr_array, node: int) -> IntArray:
    found: IntArray = adjacency.indices[adjacency.indptr[node] : adjacency.indptr[node + 1]]
    return found
