import itertools

import numpy as np
import pytest

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology, independent_topology


def test_edges_are_ordered_and_partitions_contiguous() -> None:
    topology = Topology("t", (2, 1, 2), np.array([[4, 0], [2, 1], [0, 2]]))
    assert topology.edges.tolist() == [[0, 2], [0, 4], [1, 2]]
    assert [list(range(5))[part] for part in topology.slices] == [[0, 1], [2], [3, 4]]
    assert topology.partition.tolist() == [0, 0, 1, 2, 2]
    assert topology.degrees.tolist() == [2, 1, 2, 0, 1]
    assert topology.node_labels == (0, 1, 2, 3, 4)
    assert topology.is_in_partition(0, 2).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("sizes", "edges", "labels", "message"),
    [
        ((2, 1), [[0, 1]], (), r"edge \(0, 1\) lies inside partition 0"),
        ((2, 1), [[1, 1]], (), "inside partition"),
        ((2, 1), [[0, 3]], (), r"edge \(0, 3\) names a node outside 0\.\.2"),
        ((2, 1), [[-1, 2]], (), "outside"),
        ((2, 1), [[0, 2], [2, 0]], (), "listed twice"),
        ((2, 0), [], (), "not all positive"),
        ((2, 1), [], (5, 5, 6), "labels"),
        ((2, 1), [], (5, 6), "labels"),
    ],
)
def test_bad_graphs_are_refused(
    sizes: tuple[int, ...] | int, edges: list[list[int]], labels: tuple[int, ...], message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        Topology("bad", sizes, np.array(edges, dtype=np.int64).reshape(-1, 2), labels)


def test_complete_topology_joins_all_nodes_of_different_partitions() -> None:
    sizes = (3, 1, 2)
    partition = [0, 0, 0, 1, 2, 2]
    expected = [[i, j] for i, j in itertools.combinations(range(6), 2) if partition[i] != partition[j]]
    assert complete_topology(sizes).edges.tolist() == expected
    assert bipartite_topology(3, 2).edges.tolist() == [[i, j] for i in range(3) for j in (3, 4)]
    assert independent_topology(sizes).n_edges == 0


def test_equality_is_of_content_and_survives_storage() -> None:
    topology = Topology("a", (2, 2), np.array([[0, 2], [1, 3]]), (7, 3, 9, 1))
    stored = Topology.from_arrays(topology.to_arrays())
    assert stored == topology
    assert hash(stored) == hash(topology)
    assert (stored.name, stored.node_labels) == ("a", (7, 3, 9, 1))
    assert topology == Topology("b", (2, 2), np.array([[3, 1], [0, 2]]), (7, 3, 9, 1))
    assert topology != Topology("a", (2, 2), np.array([[0, 2], [1, 2]]), (7, 3, 9, 1))
    assert topology != Topology("a", (1, 3), np.array([[0, 2]]), (7, 3, 9, 1))
    assert topology != Topology("a", (2, 2), np.array([[0, 2], [1, 3]]))
    arrays = topology.to_arrays()
    del arrays["edges"]
    with pytest.raises(PriorError, match="lacks"):
        Topology.from_arrays(arrays)


def test_edges_cannot_be_changed_afterwards() -> None:
    topology = complete_topology((1, 1))
    with pytest.raises(ValueError, match="read-only"):
        topology.edges[0, 0] = 5


def test_unknown_partition_is_refused() -> None:
    with pytest.raises(PriorError, match="partition 2 does not exist"):
        complete_topology((1, 1)).is_in_partition(2)
