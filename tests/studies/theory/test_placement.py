"""Coordinates by hand, transitions against the table of known lines, and the law of bits against large machines."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.theory.overlaps import measure_overlaps, zero_field_machine
from calo4pqvae.studies.theory.placement import (
    bit_order,
    block_statistics,
    mode_point,
    paramagnet_susceptibility,
    place,
)


def machine_of(topology: Topology, couplings: np.ndarray, biases: np.ndarray | None = None) -> BoltzmannMachine:
    machine = BoltzmannMachine(topology)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(couplings))
        if biases is not None:
            machine.biases.copy_(torch.from_numpy(biases))
    return machine


def test_statistics_and_coordinates_by_hand() -> None:
    """Two visible and one hidden bit; the pair (1, 2) has no coupler."""
    machine = machine_of(Topology("hand", (2, 1), np.array([[0, 2]])), np.array([3.0]))
    found = block_statistics(machine)
    assert found.means.tolist() == [[0, 1.5], [1.5, 0]]
    assert found.variances.tolist() == [[0, 2.25], [2.25, 0]]
    bits = place(found, "bits")
    assert (bits.j0, bits.j) == (9.0, 0.0)  # N times the mean over the coupler that exists, and no spread
    assert bits.j0_form == pytest.approx(1.5 * math.sqrt(2))
    assert bits.j_form == pytest.approx(math.sqrt(2.25 * math.sqrt(2)))
    spins = place(found, "spins")
    assert (spins.j0, spins.j0_form) == (pytest.approx(9 / 4), pytest.approx(1.5 * math.sqrt(2) / 4))


def test_the_example_of_the_presentation() -> None:
    """Twenty units with unit couplings stand at 4.47 if bits are taken for spins, at 1.12 after the map."""
    rng = np.random.default_rng(0)
    points = [
        [place(block_statistics(machine), units) for units in ("bits", "spins")]
        for machine in (machine_of(bipartite_topology(10, 10), rng.normal(size=100)) for _ in range(200))
    ]
    assert np.mean([bits.j for bits, _ in points]) == pytest.approx(math.sqrt(20), rel=0.02)
    assert np.mean([spins.j for _, spins in points]) == pytest.approx(math.sqrt(20) / 4, rel=0.02)
    assert np.mean([spins.j_form for _, spins in points]) == pytest.approx(math.sqrt(10) / 4, rel=0.02)


@pytest.mark.parametrize(
    ("topology", "beta_c"),
    [
        (bipartite_topology(300, 200), 1 / (0.06 * (300 * 200) ** 0.25)),
        (complete_topology((90,) * 4), 1 / (0.06 * math.sqrt(270))),
    ],
    ids=["bipartite", "four-partite"],
)
def test_spin_glass_transitions_of_the_table(topology: Topology, beta_c: float) -> None:
    """beta_c = 1 / (s (n_v n_h)^(1/4)) and 1 / (s sqrt(3 n)) for spins of coupling spread s = 0.06."""
    couplings = np.random.default_rng(1).normal(0, 4 * 0.06, topology.n_edges)
    point = place(block_statistics(machine_of(topology, couplings)), "spins")
    assert point.j_form == pytest.approx(1 / beta_c, rel=0.02)
    statistics = block_statistics(machine_of(topology, couplings))
    assert paramagnet_susceptibility(statistics, 0.7 * beta_c) > 1
    with pytest.raises(PriorError, match="transition"):
        paramagnet_susceptibility(statistics, 1.03 * beta_c)


def test_susceptibility_of_the_complete_graph() -> None:
    """1 / (1 - (beta J~)^2) for partitions of one spin."""
    machine = zero_field_machine(complete_topology((1,) * 80), 0.0, 1.0, np.random.default_rng(2))
    statistics = block_statistics(machine)
    statistics = type(statistics)(
        statistics.sizes, statistics.means, np.where(np.eye(80) > 0, 0, 16 / 79), 0.0, 4 / math.sqrt(79)
    )
    assert paramagnet_susceptibility(statistics, 0.6) == pytest.approx(1 / (1 - 0.36), rel=1e-6)


def test_leading_mode_of_a_pattern() -> None:
    """A Mattis pattern on top of a bulk is a ferromagnet in its gauge: the eigenvalue is that of the pattern."""
    topology = bipartite_topology(80, 80)
    rng = np.random.default_rng(3)
    pattern = rng.choice([-1.0, 1.0], topology.n_nodes)
    first, second = topology.edges.T
    bulk = rng.normal(0, 0.05, topology.n_edges)
    machine = machine_of(topology, 4 * (3 / 80 * pattern[first] * pattern[second] + bulk))
    point = mode_point(machine)
    assert point.j0_form == pytest.approx(3, rel=0.03)  # the bulk moves the eigenvalue to 3 + J~^2 / 3
    assert point.j_form == pytest.approx(math.sqrt(80) * 0.05, rel=0.1)
    assert abs(place(block_statistics(machine), "spins").j0_form) < 0.5  # moments are blind to the pattern


@pytest.mark.parametrize("topology", [bipartite_topology(150, 150), complete_topology((75,) * 4)], ids=["two", "four"])
def test_strength_of_a_pattern_near_the_bulk(topology: Topology) -> None:
    """A pattern of 1.3 in a bulk of 0.8: its eigenvalue is 1.79, far from 1.3; a bulk alone stands at its spread."""
    rng = np.random.default_rng(5)
    pattern = rng.choice([-1.0, 1.0], topology.n_nodes)
    first, second = topology.edges.T
    scale = topology.degrees[0]
    points = []
    for strength in (1.3, 0.0):
        bulk = rng.normal(0, 0.8 / math.sqrt(scale), topology.n_edges)
        points.append(
            mode_point(machine_of(topology, 4 * (strength / scale * pattern[first] * pattern[second] + bulk)))
        )
    assert points[0].j0_form == pytest.approx(1.3, rel=0.06)
    assert points[1].j0_form == pytest.approx(0.8, rel=0.15)
    assert [point.j_form for point in points] == pytest.approx([0.8, 0.8], rel=0.05)


def test_law_of_bits_without_couplings_and_in_a_strong_field() -> None:
    topology = bipartite_topology(3, 2)
    biases = np.array([0.0, 1.0, -2.0, 30.0, -30.0])
    order = bit_order(block_statistics(machine_of(topology, np.full(6, 1e-9))), biases, topology)
    odds = 1 / (1 + np.exp(-biases))
    assert order.means == pytest.approx([odds[:3].mean(), odds[3:].mean()], abs=1e-6)
    assert order.overlaps == pytest.approx([(odds[:3] ** 2).mean(), (odds[3:] ** 2).mean()], abs=1e-6)


def test_law_of_bits_is_the_mean_over_large_machines() -> None:
    """Overlaps and means, measured in six machines of 160 bits with biases of their own."""
    topology, rng = bipartite_topology(100, 60), np.random.default_rng(4)
    biases = rng.normal(-0.5, 1.0, topology.n_nodes)
    measured, solved = [], []
    for seed in range(6):
        machine = machine_of(topology, rng.normal(0.05, 0.3, topology.n_edges), biases)
        generator = torch.Generator().manual_seed(seed)
        found = measure_overlaps(machine, (0.5, 1.0), generator, n_chains=100, n_burn=60, n_records=20, every=5)
        measured.append(np.concatenate([found.bit_overlaps[-1], found.bit_means[-1]]))
        order = bit_order(block_statistics(machine), biases, topology)
        solved.append(np.concatenate([order.overlaps, order.means]))
        assert order.stability < 1
    gap = np.mean(measured, axis=0) - np.mean(solved, axis=0)
    assert np.abs(gap).max() < 0.015  # without the reaction term, half of W^2 (rho - Q), it is 0.046


def test_bad_machines_are_refused() -> None:
    with pytest.raises(PriorError, match="without couplers"):
        block_statistics(BoltzmannMachine(Topology("bare", (2, 2), np.empty((0, 2)))))
    statistics = block_statistics(machine_of(bipartite_topology(2, 2), np.ones(4)))
    with pytest.raises(PriorError, match="one a bit"):
        bit_order(statistics, np.zeros(3), bipartite_topology(2, 2))
