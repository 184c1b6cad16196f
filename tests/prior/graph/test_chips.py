import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dwave.graphs
import networkx as nx
import numpy as np
import pytest

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import MissingParts, chip_topology, load_missing
from calo4pqvae.prior.graph.topology import Topology


def label_edges(topology: Topology) -> set[frozenset[int]]:
    labels = np.array(topology.node_labels)
    return {frozenset(pair) for pair in labels[topology.edges].tolist()}


@pytest.mark.parametrize(
    ("family", "m", "sizes", "n_edges"),
    [
        ("zephyr", 12, (1200,) * 4, 45_864),
        ("zephyr", 4, (144,) * 4, 5_032),
        ("pegasus", 16, (1410,) * 4, 40_484),
        ("pegasus", 6, (170,) * 4, 4_484),
    ],
)
def test_whole_chips_have_the_published_counts(family: str, m: int, sizes: tuple[int, ...] | int, n_edges: int) -> None:
    topology = chip_topology(family, m)
    assert topology.sizes == sizes
    assert topology.n_edges == n_edges


@pytest.mark.parametrize(
    ("family", "build"), [("zephyr", dwave.graphs.zephyr_graph), ("pegasus", dwave.graphs.pegasus_graph)]
)
def test_labels_and_couplers_are_those_of_the_chip(family: str, build: Callable[[int], nx.Graph]) -> None:
    topology = chip_topology(family, 3)
    graph = build(3)
    assert set(topology.node_labels) == set(graph.nodes)
    assert label_edges(topology) == {frozenset(edge) for edge in graph.edges}


@pytest.mark.parametrize(
    ("family", "m", "sizes", "least"),
    [
        ("zephyr", 12, 302, 11_009),
        ("zephyr", 6, 302, 11_009),
        ("pegasus", 16, 302, 8_312),
        ("pegasus", 16, 512, 14_404),
    ],
)
def test_patches_have_exact_sizes_are_connected_and_no_looser_than_published_ones(
    family: str, m: int, sizes: tuple[int, ...] | int, least: int
) -> None:
    topology = chip_topology(family, m, sizes)
    assert topology.sizes == (sizes,) * 4
    assert topology.n_edges >= least
    graph = nx.Graph(topology.edges.tolist())
    assert len(graph) == topology.n_nodes
    assert nx.is_connected(graph)
    whole = label_edges(chip_topology(family, m))
    chosen = set(topology.node_labels)
    assert label_edges(topology) == {edge for edge in whole if edge <= chosen}


def test_patches_are_deterministic_and_may_be_unequal() -> None:
    first, second = (chip_topology("zephyr", 3, (5, 9, 7, 2)) for _ in range(2))
    assert first == second
    assert first.sizes == (5, 9, 7, 2)
    assert first.name == "zephyr-3-5x9x7x2"


def test_missing_parts_are_gone_and_nothing_else() -> None:
    graph = dwave.graphs.zephyr_graph(2)
    rng = np.random.default_rng(3)
    qubits = tuple(rng.choice(graph.number_of_nodes(), 9, replace=False).tolist())
    couplers = tuple(tuple(reversed(edge)) for edge in list(graph.edges)[::17])
    topology = chip_topology("zephyr", 2, missing=MissingParts(qubits, couplers))
    graph.remove_edges_from(couplers)
    graph.remove_nodes_from(qubits)
    assert set(topology.node_labels) == set(graph.nodes)
    assert label_edges(topology) == {frozenset(edge) for edge in graph.edges}
    assert len(set(topology.sizes)) > 1
    patch = chip_topology("zephyr", 2, 20, missing=MissingParts(qubits, couplers))
    assert patch.sizes == (20,) * 4
    assert not set(qubits) & set(patch.node_labels)


def test_missing_parts_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "chip.json"
    coupler = next(iter(dwave.graphs.zephyr_graph(2).edges))
    content = {"family": "zephyr", "m": 2, "t": 4, "missing_qubits": [17], "missing_couplers": [coupler[::-1]]}
    path.write_text(json.dumps(content), encoding="utf-8")
    missing = load_missing(path)
    assert missing.qubits == (17,)
    assert missing.couplers == (tuple(sorted(coupler)),)
    topology = chip_topology("zephyr", 2, missing=missing)
    assert topology.n_nodes == dwave.graphs.zephyr_graph(2).number_of_nodes() - 1
    with pytest.raises(PriorError, match="the chip asked for is zephyr m=3"):
        chip_topology("zephyr", 3, missing=missing)
    with pytest.raises(PriorError, match="is of zephyr m=2"):
        chip_topology("pegasus", 2, missing=missing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "needs family"),
        ('{"m": 2}', "lacks family"),
        ('{"family": "zephyr"}', "needs family"),
        ('{"family": "zephyr", "m": "2"}', "not a whole number"),
        ('{"family": "chimera", "m": 2}', "'chimera' is unknown"),
        ('{"family": "zephyr", "m": 2, "missing_qubits": [1.5]}', "not a whole number"),
        ('{"family": "zephyr", "m": 2, "missing_qubits": 3}', "TypeError"),
        ('{"family": "zephyr", "m": 2, "missing_qubits": [99999]}', "missing qubit 99999 is not on the chip"),
        ('{"family": "zephyr", "m": 2, "missing_couplers": [[0, 0]]}', "is not on the chip"),
        ('{"family": "zephyr", "m": 2, "missing_couplers": [[0, 1, 2]]}', "needs family"),
        ('{"family": "zephyr", "m": 2, "dead": []}', "unknown keys"),
    ],
)
def test_bad_working_graph_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "chip.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PriorError, match=message):
        load_missing(path)


def test_absent_working_graph_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="cannot read the working graph"):
        load_missing(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zephyr", 2, 41), "fewer than"),
        (("zephyr", 2, (1, 2, 3, 4, 5)), "up to four"),
        (("zephyr", 2, 0), "up to four"),
        (("chimera", 4), "unknown"),
        (("pegasus", 1), "no pegasus chip"),
        (("zephyr", 0), "no zephyr chip"),
        (("pegasus", 4, None, 3), "no pegasus chip"),
    ],
)
def test_impossible_chips_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        chip_topology(*arguments)


def test_fewer_sizes_leave_the_last_partitions_out() -> None:
    three = chip_topology("zephyr", 2, (5, 6, 7))
    assert three.sizes == (5, 6, 7)
    assert three.n_edges > 0
