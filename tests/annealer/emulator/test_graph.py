"""Working graphs of emulated chips: the documented numbers of parts, what is lost, and the properties shown."""

import numpy as np
import pytest

from calo4pqvae.annealer.chip.table import CHIPS, chip
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.emulator.graph import broken_graph, listed_graph, whole_graph
from calo4pqvae.errors import AnnealerError

PARTS = {
    "Advantage_system4": (5627, 40279),
    "Advantage_system6": (5612, 40088),
    "Advantage2_system1": (4577, 41515),
    "Advantage2_system2": (4514, 40409),
    "Advantage2_system4": (1202, 10537),
}


@pytest.mark.parametrize("name", ["Advantage2_system4", "Advantage2_system1"])
def test_a_chip_has_its_documented_number_of_parts(name: str) -> None:
    graph = broken_graph(chip(name))
    assert (len(graph.qubits), len(graph.couplers)) == PARTS[name]


def test_the_table_has_the_documented_parts() -> None:
    assert {name: (entry.n_qubits, entry.n_couplers) for name, entry in CHIPS.items()} == PARTS


def test_a_slice_has_the_same_shares_and_a_whole_graph_lacks_nothing() -> None:
    entry = chip("advantage2")
    whole, broken = whole_graph(entry, 4), broken_graph(entry, 4)
    assert (len(whole.qubits), len(whole.couplers)) == (576, 5032)
    assert len(broken.qubits) == round(576 * 4577 / 4800)
    assert len(broken.couplers) == round(5032 * 41515 / 45864)
    assert set(broken.couplers) < set(whole.couplers)


def test_it_is_the_same_chip_whenever_it_is_opened_and_whatever_the_seed() -> None:
    graphs = [Emulator("advantage2", seed=seed, m=2) for seed in (1, 1, 2)]
    assert len({graph.properties["graph_id"] for graph in graphs}) == 1
    assert graphs[0].nodelist == graphs[2].nodelist


def test_dead_qubits_are_on_no_list_and_take_no_problem() -> None:
    sampler = Emulator("advantage2", seed=1, m=4)
    dead = sorted(set(whole_graph(chip("advantage2"), 4).qubits) - set(sampler.nodelist))
    assert dead
    assert not [pair for pair in sampler.edgelist if set(pair) & set(dead)]
    with pytest.raises(AnnealerError, match=rf"1 of the 2 qubits .* do not work .*\({dead[0]}\)"):
        sampler.sample_ising({dead[0]: 0.1, sampler.nodelist[0]: 0.1}, {}, auto_scale=False)


def test_qubits_are_lost_for_good() -> None:
    sampler = Emulator("advantage2", seed=1, m=2)
    before = sampler.properties["graph_id"], len(sampler.nodelist)
    lost = sampler.degrade(5)
    assert len(lost) == 5
    assert before[1] - len(sampler.nodelist) == 5
    assert not set(lost) & set(sampler.nodelist)
    assert not [pair for pair in sampler.edgelist if set(pair) & set(lost)]
    assert sampler.adjacency.keys() == set(sampler.nodelist)
    assert sampler.properties["graph_id"] != before[0]
    assert sampler.properties["qubits"] == sampler.nodelist
    with pytest.raises(AnnealerError, match="do not work"):
        sampler.sample_ising({lost[0]: 0.1}, {}, auto_scale=False)
    for k in (0, 10_000):
        with pytest.raises(AnnealerError, match="cannot be lost"):
            sampler.degrade(k)


def test_properties_are_those_of_the_family() -> None:
    zephyr, pegasus = (Emulator(name, seed=1, m=2).properties for name in ("advantage2", "advantage4"))
    assert zephyr["topology"] == {"type": "zephyr", "shape": [2, 4]}
    assert pegasus["topology"] == {"type": "pegasus", "shape": [2]}
    assert (zephyr["num_qubits"], pegasus["num_qubits"]) == (160, 48)
    assert "per_qubit_coupling_range" not in zephyr
    assert "per_group_coupling_range" not in pegasus
    assert zephyr["per_group_coupling_range"] == [-13.0, 10.0]
    assert pegasus["per_qubit_coupling_range"] == [-18.0, 15.0]
    assert (zephyr["h_range"], zephyr["extended_j_range"]) == ([-4.0, 4.0], [-2.0, 1.0])


def test_every_coupler_is_in_two_groups_of_a_whole_zephyr_chip() -> None:
    graph = whole_graph(chip("advantage2"), 3)
    sampler = Emulator("advantage2", seed=1, m=3, nodelist=graph.qubits)
    groups = [[tuple(pair) for pair in group] for group in sampler.properties["coupling_groups"]]
    counts = dict.fromkeys(sampler.edgelist, 0)
    for group in groups:
        shared = set.intersection(*map(set, group))
        assert len(shared) == 1 or len(group) == 1  # all of a group meet at one qubit
        for pair in group:
            counts[pair] += 1
    assert set(counts.values()) == {2}
    assert len(groups) == 2 * len(sampler.nodelist)
    assert {len(group) for group in groups} <= set(range(4, 11))


def test_the_full_chip_has_the_documented_groups() -> None:
    groups = Emulator("Advantage2_system4", seed=1).properties["coupling_groups"]
    assert max(map(len, groups)) == 10


def test_lists_of_ones_own() -> None:
    whole = whole_graph(chip("advantage2"), 2)
    kept, couplers = whole.qubits[:100], [pair for pair in whole.couplers if max(pair) < 100]
    graph = listed_graph(chip("advantage2"), 2, kept, couplers[:-3])
    assert graph.qubits == kept
    assert graph.couplers == couplers[:-3]
    assert len(np.unique(graph.topology.partition)) == 4
