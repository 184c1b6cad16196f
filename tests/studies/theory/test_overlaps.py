"""Overlaps by parallel tempering against sums over all states, written out here."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.theory.overlaps import Overlaps, coupling_variance, measure_overlaps, zero_field_machine
from calo4pqvae.testing import all_states

BETAS = (0.3, 0.6, 1.0)


def glassy(seed: int = 1) -> BoltzmannMachine:
    """Nine spins of four unequal partitions, deep in what would be a glass."""
    return zero_field_machine(complete_topology((2, 3, 2, 2)), 0.4, 2.0, np.random.default_rng(seed))


def spins_of(machine: BoltzmannMachine) -> tuple[np.ndarray, np.ndarray]:
    """All states as spins, and the energy -sum J s s by its definition."""
    spins = 2 * all_states(machine.n_nodes).numpy() - 1
    energy = np.zeros(len(spins))
    for (i, j), coupling in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
        energy -= coupling / 4 * spins[:, i] * spins[:, j]
    return spins, energy


def measured(machine: BoltzmannMachine, n_records: int = 40) -> Overlaps:
    generator = torch.Generator().manual_seed(3)
    return measure_overlaps(machine, BETAS, generator, n_chains=400, n_burn=100, n_records=n_records, every=10)


def test_zero_field_machine_has_the_energy_of_its_spins() -> None:
    machine = glassy()
    _, energy = spins_of(machine)
    bits = machine.energy(all_states(machine.n_nodes).float()).detach().numpy()
    assert np.ptp(bits - energy) < 1e-5  # a constant apart


def test_couplings_have_the_moments_of_the_diagram() -> None:
    for topology, largest in (
        (complete_topology((1,) * 60), 59),
        (bipartite_topology(60, 60), 60),
        (complete_topology((30,) * 4), 90),
    ):
        assert coupling_variance(topology) == (pytest.approx(1 / largest), topology.n_edges)
        couplings = zero_field_machine(topology, 3.0, 2.0, np.random.default_rng(0)).couplings.detach().numpy() / 4
        n = len(couplings)
        assert couplings.mean() == pytest.approx(3 / largest, abs=4 * 2 / math.sqrt(largest * n))
        assert couplings.std() == pytest.approx(2 / math.sqrt(largest), rel=4 / math.sqrt(2 * n))
    with pytest.raises(PriorError, match="not complete"):
        coupling_variance(Topology("chain", (2, 2), np.array([[0, 2], [1, 3]])))


def pulls(machine: BoltzmannMachine, found: Overlaps, factor: float = 1.0) -> np.ndarray:
    """Deviations of second moments from exact ones in standard errors, at the stated temperatures times a factor."""
    spins, energy = spins_of(machine)
    result = []
    for level, beta in enumerate(found.betas * factor):
        weights = np.exp(-beta * (energy - energy.min()))
        weights /= weights.sum()
        correlations = (spins * weights[:, None]).T @ spins
        for values, exact in (
            (found.overlaps[level] ** 2, float((correlations**2).mean())),
            (found.magnetisations[level] ** 2, float(correlations.mean())),
        ):
            records = values.reshape(40, -1).mean(axis=1)  # records are ten sweeps and two exchanges apart
            result.append((records.mean() - exact) / (records.std(ddof=1) / math.sqrt(len(records))))
    return np.array(result)


def test_second_moments_agree_with_sums_over_all_states() -> None:
    machine = glassy()
    found = measured(machine)
    assert np.abs(pulls(machine, found)).max() < 4.5
    assert np.abs(pulls(machine, found, 1.1)).max() > 6, "temperatures that are wrong by a tenth must show"


def test_distribution_of_the_overlap_is_exact() -> None:
    """The histogram of q at every level against P(q) summed over all pairs of states."""
    machine = glassy(2)
    found = measured(machine)
    spins, energy = spins_of(machine)
    n = machine.n_nodes
    for level, beta in enumerate(found.betas):
        weights = np.exp(-beta * (energy - energy.min()))
        weights /= weights.sum()
        overlap = np.rint((spins @ spins.T + n) / 2).astype(int)
        exact = np.bincount(overlap.ravel(), np.outer(weights, weights).ravel(), n + 1)
        counts = np.bincount(np.rint((found.overlaps[level] * n + n) / 2).astype(int), minlength=n + 1)
        share = counts / counts.sum()
        error = np.sqrt(exact * (1 - exact) / counts.sum())
        assert (np.abs(share - exact) < 6 * error + 1e-12).all()


def test_bit_overlaps_links_and_energy_are_exact() -> None:
    machine = glassy(3)
    found = measured(machine)
    spins, energy = spins_of(machine)
    offset = float(machine.couplings.detach().sum()) / 4
    ends = machine.topology.edges
    for level, beta in enumerate(found.betas):
        weights = np.exp(-beta * (energy - energy.min()))
        weights /= weights.sum()
        means = weights @ ((spins + 1) / 2)
        pairs = weights @ (spins[:, ends[:, 0]] * spins[:, ends[:, 1]])
        exact = np.array([np.mean(means[part] ** 2) for part in machine.topology.slices])
        assert found.bit_overlaps[level] == pytest.approx(exact, abs=0.02)
        assert found.bit_means[level] == pytest.approx([0.5] * 4, abs=0.02)
        assert found.link_overlaps[level] == pytest.approx(float((pairs**2).mean()), abs=0.02)
        assert found.energies[level] - offset == pytest.approx(float(weights @ energy), abs=0.05)


def test_energy_and_link_overlap_belong_together() -> None:
    """The mean over couplings of <E> + beta s^2 M (1 - q_l) vanishes: summed exactly for many machines."""
    topology = complete_topology((2, 2, 1, 2))
    variance, n_couplers = coupling_variance(topology)
    excess = []
    for seed in range(400):
        machine = zero_field_machine(topology, 0.0, 1.5, np.random.default_rng(seed))
        spins, energy = spins_of(machine)
        weights = np.exp(-energy)
        weights /= weights.sum()
        ends = topology.edges
        pairs = weights @ (spins[:, ends[:, 0]] * spins[:, ends[:, 1]])
        excess.append(weights @ energy + 1.5**2 * variance * n_couplers * (1 - (pairs**2).mean()))
    values = np.array(excess)
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(len(values))


def test_odd_chains_are_refused() -> None:
    with pytest.raises(PriorError, match="even number"):
        measure_overlaps(glassy(), BETAS, torch.Generator(), n_chains=3, n_burn=1, n_records=1, every=1)
