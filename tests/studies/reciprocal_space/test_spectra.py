"""Spectra of random couplings on graphs: the semicircle, the power of the test, planted modes, mirrors of two forms."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.reciprocal_space.spectra import (
    RandomGraphs,
    block_spectra,
    fit_graph,
    graph_spectra,
    random_graphs,
    semicircle_cdf,
)
from calo4pqvae.studies.theory.marchenko_pastur import random_blocks

CHIP = chip_topology("zephyr", 2, (32, 32, 32, 32))


@pytest.fixture(scope="module")
def graphs() -> RandomGraphs:
    return random_graphs(CHIP, 398, np.random.default_rng(1))


def machine_of(topology: Topology, couplings: np.ndarray) -> BoltzmannMachine:
    machine = BoltzmannMachine(topology)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(couplings))
    return machine


def eigenvalues(topology: Topology, couplings: np.ndarray) -> np.ndarray:
    """By the matrix, filled entry by entry."""
    matrix = np.zeros((topology.n_nodes, topology.n_nodes))
    for (i, j), value in zip(topology.edges.tolist(), couplings.tolist(), strict=True):
        matrix[i, j] = matrix[j, i] = value
    return np.linalg.eigvalsh(matrix)


def test_semicircle_by_its_density() -> None:
    x = np.linspace(-2, 2, 40001)
    density = 2 / (math.pi * 4) * np.sqrt(4 - x**2)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    assert np.abs(semicircle_cdf(x, 2.0) - mass).max() < 1e-5


def test_four_equal_partitions_have_a_semicircle() -> None:
    """Radius 2 s sqrt(3 n) on the complete graph."""
    n, spread = 150, 0.02
    topology = complete_topology((n,) * 4)
    values = eigenvalues(topology, np.random.default_rng(0).normal(0, spread, topology.n_edges))
    radius = 2 * spread * math.sqrt(3 * n)
    steps = (np.arange(4 * n) + 0.5) / (4 * n)
    assert np.abs(semicircle_cdf(values, radius) - steps).max() < 0.01
    assert values[-1] == pytest.approx(radius, rel=0.05)


def test_random_couplings_pass_as_often_as_they_should(graphs: RandomGraphs) -> None:
    rng = np.random.default_rng(2)
    fits = [fit_graph(eigenvalues(CHIP, rng.normal(0, 0.3, CHIP.n_edges)), graphs) for _ in range(200)]
    p_values = np.array([fit.p_value for fit in fits])
    assert 0.005 <= (p_values < 0.05).mean() <= 0.12
    assert 0.4 < p_values.mean() < 0.6
    assert np.mean([fit.n_outside > 0 for fit in fits]) < 0.05
    assert fits[0].scale == pytest.approx(0.3, rel=0.1)


def test_unequal_couplings_fail(graphs: RandomGraphs) -> None:
    """Couplings of one pair of partitions three times as large as the others."""
    rng = np.random.default_rng(3)
    inside = (CHIP.partition[CHIP.edges] == [0, 1]).all(axis=1)
    couplings = rng.normal(0, 1, CHIP.n_edges) * np.where(inside, 3.0, 1.0)
    assert fit_graph(eigenvalues(CHIP, couplings), graphs).p_value < 0.02


def test_planted_patterns_are_counted(graphs: RandomGraphs) -> None:
    rng = np.random.default_rng(4)
    first, second = CHIP.edges.T
    couplings = rng.normal(0, 0.3, CHIP.n_edges)
    for _ in range(2):
        pattern = rng.choice([-1.0, 1.0], CHIP.n_nodes)
        couplings += 0.45 * pattern[first] * pattern[second]
    fit = fit_graph(eigenvalues(CHIP, couplings), graphs)
    assert fit.n_outside >= 2
    assert fit.p_value < 0.02
    assert fit_graph(eigenvalues(CHIP, rng.normal(0, 0.3, CHIP.n_edges)), graphs).n_outside == 0


def test_machines_along_a_training_are_fitted_one_by_one(graphs: RandomGraphs) -> None:
    rng = np.random.default_rng(5)
    couplings = [rng.normal(0, scale, CHIP.n_edges) for scale in (0.01, 0.5)]
    spectra = graph_spectra((0, 7), [machine_of(CHIP, one) for one in couplings], graphs)
    assert [one.step for one in spectra] == [0, 7]
    assert spectra[1].values == pytest.approx(eigenvalues(CHIP, couplings[1]), abs=1e-6)
    assert spectra[0].fit.scale == pytest.approx(0.01, rel=0.1)


def test_singular_values_are_half_of_the_eigenvalues_of_the_block_matrix() -> None:
    topology = bipartite_topology(30, 12)
    couplings = np.random.default_rng(6).normal(0, 1, topology.n_edges)
    blocks = random_blocks((30, 12), 99, np.random.default_rng(7))
    spectrum = block_spectra([3], [machine_of(topology, couplings)], blocks)[0]
    assert spectrum.values == pytest.approx(eigenvalues(topology, couplings)[::-1][:12], abs=1e-5)
    assert spectrum.step == 3


def test_bad_input_is_refused(graphs: RandomGraphs) -> None:
    with pytest.raises(PriorError, match="at least 38"):
        random_graphs(CHIP, 10, np.random.default_rng(0))
    with pytest.raises(PriorError, match="give them all"):
        fit_graph(np.ones(3), graphs)
