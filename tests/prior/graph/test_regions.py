import numpy as np
import pytest

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.regions import arrange_in_regions, inner_couplers, region_of_node
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology


def graph_of(topology: Topology) -> set[frozenset[int]]:
    labels = topology.node_labels
    return {frozenset((labels[i], labels[j])) for i, j in topology.edges}


def planted_cliques(n_cliques: int, seed: int) -> Topology:
    """Four-partite cliques of 2 + 1 + 1 + 2 nodes, one loose chain between them, nodes in random order."""
    rng = np.random.default_rng(seed)
    sizes = (2, 1, 1, 2)
    starts = np.concatenate([[0], np.cumsum([size * n_cliques for size in sizes])])
    place = [rng.permutation(size * n_cliques) + start for size, start in zip(sizes, starts[:-1], strict=True)]
    members = [
        [
            (part, int(node))
            for part, size in enumerate(sizes)
            for node in place[part][clique * size : (clique + 1) * size]
        ]
        for clique in range(n_cliques)
    ]
    edges = {tuple(sorted((a, b))) for nodes in members for p, a in nodes for q, b in nodes if p != q}
    edges |= {tuple(sorted((members[k][0][1], members[k + 1][2][1]))) for k in range(n_cliques - 1)}
    return Topology("cliques", tuple(size * n_cliques for size in sizes), np.array(sorted(edges)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_cliques_become_regions(seed: int) -> None:
    topology = planted_cliques(5, seed)
    arranged = arrange_in_regions(topology, 5)
    assert inner_couplers(arranged, 5) == topology.n_edges - 4  # all but the chain between cliques
    assert inner_couplers(topology, 5) < inner_couplers(arranged, 5)


@pytest.mark.parametrize(("family", "m", "sizes"), [("zephyr", 3, (20, 32, 17, 32)), ("pegasus", 4, (24, 24, 24, 24))])
def test_renumbering_keeps_the_graph(family: str, m: int, sizes: tuple[int, ...]) -> None:
    topology = chip_topology(family, m, sizes)  # type: ignore[arg-type]
    arranged = arrange_in_regions(topology, 4)
    assert graph_of(arranged) == graph_of(topology)
    for old, new in zip(topology.slices, arranged.slices, strict=True):
        assert sorted(topology.node_labels[old]) == sorted(arranged.node_labels[new])
    assert inner_couplers(arranged, 4) > 1.5 * inner_couplers(topology, 4)


def test_same_graph_same_numbering() -> None:
    topology = chip_topology("zephyr", 2, 16)
    assert arrange_in_regions(topology, 4) == arrange_in_regions(topology, 4)


def test_couplers_to_held_partitions_do_not_count() -> None:
    """Summed over several divisions: a single one is found by annealing from eigenvectors, and may end in a tie."""
    topology = chip_topology("zephyr", 4, 64)

    def latent(n_regions: int, held: tuple[int, ...]) -> int:
        arranged = arrange_in_regions(topology, n_regions, held=held)
        region, free = region_of_node(arranged, n_regions), arranged.partition > 0
        first, second = arranged.edges.T
        return int(((region[first] == region[second]) & free[first] & free[second]).sum())

    divisions = (4, 6, 8)
    assert sum(latent(n, (0,)) for n in divisions) > 1.03 * sum(latent(n, ()) for n in divisions)


def test_regions_come_densest_first() -> None:
    arranged = arrange_in_regions(chip_topology("zephyr", 2, 32), 8, held=(0,))
    region, free = region_of_node(arranged, 8), arranged.partition > 0
    first, second = arranged.edges[(free[arranged.edges]).all(axis=1)].T
    inner = np.bincount(region[first[region[first] == region[second]]], minlength=8)
    assert (np.diff(inner) <= 0).all()


@pytest.mark.parametrize("sizes", [(3, 5, 4), (7, 7)])
def test_regions_share_each_partition_evenly(sizes: tuple[int, ...]) -> None:
    region = region_of_node(complete_topology(sizes), 3)
    for part in complete_topology(sizes).slices:
        counts = np.bincount(region[part], minlength=3)
        assert counts.max() - counts.min() <= 1
        assert (np.diff(region[part]) >= 0).all()


def test_nothing_to_arrange() -> None:
    lonely = independent_topology((4, 4))
    assert arrange_in_regions(lonely, 2) == lonely
    complete = complete_topology((4, 4))
    assert arrange_in_regions(complete, 1) == complete


def test_more_regions_than_nodes_is_an_error() -> None:
    with pytest.raises(PriorError, match="2 nodes cannot be dealt to 3 regions"):
        arrange_in_regions(complete_topology((2, 5)), 3)
