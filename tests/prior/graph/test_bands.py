import numpy as np
import pytest

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.bands import Bands, find_bands
from calo4pqvae.prior.graph.chips import Family, MissingParts, chip_topology
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology


def chain(order: list[int], distances: tuple[int, ...] = (1,)) -> Topology:
    """Nodes coupled at some odd distances along an order; even nodes are partition 0."""
    edges = [(order[k], order[k + d]) for d in distances for k in range(len(order) - d)]
    half = len(order) // 2
    return Topology("chain", (half, len(order) - half), np.array(edges))


def shuffled_chain(n: int, distances: tuple[int, ...], seed: int) -> tuple[Topology, list[int]]:
    rng = np.random.default_rng(seed)
    order = [0] * n
    order[::2], order[1::2] = rng.permutation(n // 2).tolist(), (n // 2 + rng.permutation(n // 2)).tolist()
    return chain(order, distances), order


def test_shares_of_links_by_hand() -> None:
    topology = chain([0, 3, 1, 4, 2, 5], (1, 3))
    shares = Bands(np.array([[0, 3, 1, 4, 2, 5]])).link_shares(topology)
    assert shares == {1: 1.0, 2: 0.0, 3: 1.0, 5: 0.0}
    swapped = Bands(np.array([[0, 3, 1, 4, 5, 2]])).link_shares(topology)  # a mark out of order is seen
    assert swapped == pytest.approx({1: 4 / 5, 2: 2 / 4, 3: 1 / 3, 5: 0.0})
    without = Topology("hole", (3, 3), topology.edges[1:])  # and so is a missing coupler
    assert sum(Bands(np.array([[0, 3, 1, 4, 2, 5]])).link_shares(without).values()) < 2


def test_places_of_nodes() -> None:
    band, place = Bands(np.array([[4, 0], [2, 5]])).places(7)
    assert band.tolist() == [0, -1, 1, -1, 0, 1, -1]
    assert place.tolist() == [1, -1, 0, -1, 0, 1, -1]


def test_a_hidden_chain_is_found() -> None:
    topology, order = shuffled_chain(16, (1, 3, 5), seed=2)
    found = find_bands(topology, 1).nodes[0].tolist()
    assert found in (order, order[::-1])


@pytest.mark.parametrize(
    ("family", "sizes", "n_bands", "length", "held", "least"),
    [
        ("zephyr", 32, 3, 28, (0,), {1: 0.97, 3: 0.88, 5: 0.6}),
        ("zephyr", 32, 4, 28, (), {1: 0.98, 3: 0.93, 5: 0.7}),
        ("pegasus", 32, 4, 28, (), {1: 0.93, 2: 0.25, 3: 0.7}),
        ("pegasus", 32, 3, 26, (0,), {1: 0.9, 3: 0.5}),
    ],
)
def test_chips_have_good_bands(
    family: Family, sizes: int, n_bands: int, length: int, held: tuple[int, ...], least: dict[int, float]
) -> None:
    m = 2 if family == "zephyr" else 3
    topology = chip_topology(family, m, sizes)
    bands = find_bands(topology, n_bands, length, held=held, n_tries=300)
    assert bands.nodes.shape == (n_bands, length)
    assert not topology.is_in_partition(*held)[bands.nodes].any()
    shares = bands.link_shares(topology)
    assert all(shares[distance] >= share for distance, share in least.items()), shares


def test_missing_qubits_and_couplers_are_gone_round() -> None:
    whole = chip_topology("zephyr", 2)
    dead = tuple(int(label) for label in whole.node_labels[::40])
    broken = tuple((int(a), int(b)) for a, b in np.array(whole.node_labels)[whole.edges[5::50]])
    alive = [pair for pair in broken if not set(pair) & set(dead)]
    topology = chip_topology("zephyr", 2, missing=MissingParts(dead, tuple(alive)))
    bands = find_bands(topology, 3, 28, held=(0,), n_tries=300)
    assert bands.link_shares(topology)[1] > 0.9


def test_more_than_a_random_order_and_the_same_again() -> None:
    topology = chip_topology("zephyr", 3, 60)
    bands = find_bands(topology, 5, 40, n_tries=60, seed=3)
    other = Bands(np.random.default_rng(1).permutation(topology.n_nodes)[:200].reshape(5, 40))
    assert bands.link_shares(topology)[1] > 4 * other.link_shares(topology)[1]
    assert (find_bands(topology, 5, 40, n_tries=60, seed=3).nodes == bands.nodes).all()


def test_bands_that_follow_each_other_lie_side_by_side() -> None:
    topology = chip_topology("zephyr", 2, 32)
    nodes = find_bands(topology, 3, 28, n_tries=300).nodes
    codes = set(map(tuple, topology.edges.tolist()))

    def joined(first: int, second: int, shift: int) -> int:
        near = np.roll(nodes[second], shift)
        return sum((min(pair), max(pair)) in codes for pair in zip(nodes[first].tolist(), near.tolist(), strict=True))

    beside = sum(joined(f, f + 1, e) for f in range(2) for e in (-1, 0, 1))
    apart = sum(joined(f, f + 1, 14 + e) for f in range(2) for e in (-1, 0, 1))
    assert beside > 2 * apart, (beside, apart)


@pytest.mark.parametrize("topology", [complete_topology((3, 7, 6, 8)), independent_topology((3, 7, 6, 8))])
def test_without_a_sparse_graph_neighbours_change_their_partition(topology: Topology) -> None:
    nodes = find_bands(topology, 3, 6, held=(0,)).nodes
    parts = topology.partition[nodes]
    assert (parts > 0).all()
    assert (parts[:, 1:] != parts[:, :-1]).all()


@pytest.mark.parametrize(("n_bands", "length"), [(0, 4), (3, 9), (2, 1), (20, None)])
def test_bands_that_do_not_fit_are_refused(n_bands: int, length: int | None) -> None:
    with pytest.raises(PriorError, match="do not fit on 20 free nodes"):
        find_bands(complete_topology((4, 10, 10)), n_bands, length, held=(0,))


def test_a_node_cannot_be_in_two_places() -> None:
    with pytest.raises(PriorError, match="two places"):
        Bands(np.array([[0, 1], [1, 2]]))
