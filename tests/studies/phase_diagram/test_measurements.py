"""Scans over disorder against enumeration and known scaling; the power of the check of equilibrium."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.studies.phase_diagram.measurements import (
    OVERLAP_EDGES,
    Scan,
    form_topology,
    iid_machine,
    place_machine,
    scaling_crossing,
    scan,
)
from calo4pqvae.testing import all_states


def small_scan(n_burn: int = 100, coldest: float = 0.7, n: int = 2, n_disorder: int = 20) -> Scan:
    return scan(
        "four-partite",
        n,
        0.0,
        np.geomspace(coldest, 2.5, 5).tolist(),
        seed=3,
        n_disorder=n_disorder,
        n_chains=64,
        n_burn=n_burn,
        n_records=10,
        every=5 if n_burn > 1 else 1,
        progress=lambda: None,
    )


def fake_scan(n_units: int, kt: np.ndarray, moments: np.ndarray) -> Scan:
    """A scan whose second moments are given for every draw."""
    nothing = np.zeros_like(moments)
    return Scan(
        "four-partite", n_units, 0.0, kt, moments, nothing, moments, nothing, nothing, nothing, nothing,
        np.zeros((len(kt), 42)), np.ones(len(moments)), 1.0, 1,
    )  # fmt: skip


def test_forms_of_one_size_are_equally_large() -> None:
    assert form_topology("bipartite", 3).sizes == (6, 6)
    assert form_topology("four-partite", 3).sizes == (3, 3, 3, 3)


@pytest.fixture(scope="module")
def tiny_scan() -> Scan:
    return small_scan()


def test_scan_in_equilibrium_keeps_the_identity_of_energy_and_links(tiny_scan: Scan) -> None:
    excess = tiny_scan.thermal_excess()
    pulls = excess.mean(axis=0) / (excess.std(axis=0, ddof=1) / math.sqrt(len(excess)))
    assert np.abs(pulls).max() < 4
    assert tiny_scan.q2.shape == (20, 5)
    assert (np.diff(tiny_scan.q2.mean(axis=0)) < 0).all()  # overlaps grow as the temperature falls


def test_chains_that_are_too_short_break_the_identity() -> None:
    found = small_scan(n_burn=1, coldest=0.3, n=12, n_disorder=10)
    excess = found.thermal_excess()[:, 0]
    assert excess.mean() / (excess.std(ddof=1) / math.sqrt(len(excess))) > 5


def test_density_of_overlaps_has_mass_one_and_both_signs(tiny_scan: Scan) -> None:
    found = tiny_scan
    assert (found.histograms @ np.diff(OVERLAP_EDGES)) == pytest.approx(np.ones(5), abs=0.12)  # cells of N = 8 are wide
    assert found.histograms == pytest.approx(found.histograms[:, ::-1])


def test_crossing_of_moments_that_scale() -> None:
    """q^2 = N^(-2/3) f((kT - 1.1) N^(1/3)) crosses at 1.1; draws with noise give an error that covers it."""
    kt, rng = np.geomspace(0.5, 2.0, 12), np.random.default_rng(0)

    def moments(n: int) -> np.ndarray:
        mean = n ** (-2 / 3) * np.exp(-(kt - 1.1) * n ** (1 / 3))
        return mean * rng.gamma(10, 0.1, (40, 1))

    value, error = scaling_crossing(fake_scan(32, kt, moments(32)), fake_scan(256, kt, moments(256)), "q", rng)
    assert abs(value - 1.1) < 4 * error + 0.01
    assert 0.005 < error < 0.1
    never = scaling_crossing(fake_scan(32, kt, np.ones((5, 12))), fake_scan(64, kt, np.ones((5, 12))), "q", rng)
    assert math.isnan(never[0])


def test_ferromagnet_without_disorder_crosses_at_its_line() -> None:
    """m^2 of Curie and Weiss by a sum over magnetisations; kT = J0~ up to corrections of small sizes."""
    kt = np.linspace(0.7, 1.4, 15)

    def moments(n: int) -> np.ndarray:
        up = np.arange(n + 1)
        m = 2 * up / n - 1
        degeneracy = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in up])
        weights = np.exp(degeneracy + n * m**2 / (2 * kt[:, None]))
        return np.tile((weights * m**2).sum(axis=1) / weights.sum(axis=1), (4, 1))

    rng = np.random.default_rng(0)
    value, _ = scaling_crossing(fake_scan(64, kt, moments(64)), fake_scan(512, kt, moments(512)), "m", rng)
    assert value == pytest.approx(1.0, abs=0.02)


def exact_means(machine: BoltzmannMachine) -> tuple[np.ndarray, np.ndarray]:
    """Means of bits and P(q) of spins from sums over all states, written out."""
    states = all_states(machine.n_nodes).numpy().astype(float)
    biases, couplings = machine.biases.tolist(), machine.couplings.tolist()
    energy = -states @ np.array(biases)
    for (i, j), coupling in zip(machine.topology.edges.tolist(), couplings, strict=True):
        energy -= coupling * states[:, i] * states[:, j]
    weights = np.exp(-(energy - energy.min()))
    weights /= weights.sum()
    return weights @ states, weights


def test_enumerated_machine_is_exact() -> None:
    machine = iid_machine(lambda rng, n: rng.normal(0, 1, n), 4, np.random.default_rng(1))
    found = place_machine(machine, "small", 0, torch.Generator(), 2, 2)
    means, _ = exact_means(machine)
    assert found.overlaps == pytest.approx([(means[:4] ** 2).mean(), (means[4:] ** 2).mean()], abs=1e-6)
    assert found.spin_overlap == (pytest.approx(((2 * means - 1) ** 2).mean(), abs=1e-6), 0.0)
    assert found.n_draws == 256
    assert len(found.histogram) == 0


def test_tempered_machine_agrees_with_sums_over_its_independent_halves() -> None:
    """Twenty-four bits without couplings between twelve pairs: every pair is summed exactly."""
    topology = bipartite_topology(12, 12)
    machine, rng = BoltzmannMachine(topology), np.random.default_rng(2)
    pair = topology.edges[:, 1] - topology.edges[:, 0] == 12
    with torch.no_grad():
        machine.biases.copy_(torch.from_numpy(rng.normal(0, 1, 24)))
        machine.couplings.copy_(torch.from_numpy(np.where(pair, rng.normal(0, 2, 144), 0.0)))
    found = place_machine(machine, "pairs", 5, torch.Generator().manual_seed(1), 64, 4)
    means = np.zeros(24)
    for k in range(12):
        b, c = machine.biases[[k, k + 12]].tolist()
        w = machine.couplings.tolist()[int(np.flatnonzero(pair)[k])]
        weights = np.array([1.0, math.exp(c), math.exp(b), math.exp(b + c + w)])  # of 00, 01, 10, 11
        weights /= weights.sum()
        means[k], means[k + 12] = weights[2] + weights[3], weights[1] + weights[3]
    exact = np.array([(means[:12] ** 2).mean(), (means[12:] ** 2).mean()])
    assert (np.abs(found.overlaps - exact) < 6 * found.overlap_errors + 0.005).all()
    q, error = found.spin_overlap
    assert abs(q - ((2 * means - 1) ** 2).mean()) < 6 * error + 0.005
    spread, spread_error = found.spread
    assert abs(spread - exact_spread(machine, means)) < 6 * spread_error + 0.05
    assert found.least_acceptance > 0.5
    assert float(found.histogram @ np.diff(OVERLAP_EDGES)) == pytest.approx(1.0, abs=1e-6)


def exact_spread(machine: BoltzmannMachine, means: np.ndarray) -> float:
    """N var(q) = (1/N) sum_ij [<s_i s_j>^2 - <s_i>^2 <s_j>^2], the sum over equal bits and the two of a pair."""
    spins = 2 * means - 1
    total = float((1 - spins**4).sum())
    couplings = machine.couplings.tolist()
    for (i, j), w in zip(machine.topology.edges.tolist(), couplings, strict=True):
        if j - i == 12:
            b, c = machine.biases[[i, j]].tolist()
            weights = np.array([1.0, math.exp(c), math.exp(b), math.exp(b + c + w)])
            product = float((weights * [1, -1, -1, 1]).sum() / weights.sum())
            total += 2 * (product**2 - spins[i] ** 2 * spins[j] ** 2)
    return total / len(means)
