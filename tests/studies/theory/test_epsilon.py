"""Epsilon against sums over all states that are written from the formula, and its errors against repeated draws."""

import itertools
import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.studies.theory.bipartite_table import BipartiteTable
from calo4pqvae.studies.theory.epsilon import (
    exact_epsilon,
    high_temperature_slopes,
    parameter_groups,
    sampled_epsilon,
    weighted_epsilon,
)
from calo4pqvae.testing import all_states, tiny_machine

BETAS = (1.0, 0.6)


def by_loops(machine: BoltzmannMachine, beta: float) -> tuple[list[float], list[float]]:
    """Beta Cov(E, x) and <x> of all biases, then couplings, by plain loops over states and couplers."""
    biases = machine.biases.tolist()
    couplers = list(zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True))
    weights, energies, statistics = [], [], []
    for z in itertools.product((0, 1), repeat=len(biases)):
        energy = -sum(b * x for b, x in zip(biases, z, strict=True)) - sum(w * z[i] * z[j] for (i, j), w in couplers)
        weights.append(math.exp(-beta * energy))
        energies.append(energy)
        statistics.append([*z, *(z[i] * z[j] for (i, j), _ in couplers)])
    total = sum(weights)
    mean_energy = sum(w * e for w, e in zip(weights, energies, strict=True)) / total
    covariances, means = [], []
    for column in zip(*statistics, strict=True):
        mean = sum(w * x for w, x in zip(weights, column, strict=True)) / total
        product = sum(w * e * x for w, e, x in zip(weights, energies, column, strict=True)) / total
        covariances.append(beta * (product - mean_energy * mean))
        means.append(mean)
    return covariances, means


def two_sides(seed: int = 2) -> BoltzmannMachine:
    machine = BoltzmannMachine(bipartite_topology(3, 2)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return machine


@pytest.mark.parametrize("beta", BETAS)
def test_exact_epsilon_is_that_of_plain_loops(beta: float) -> None:
    machine = two_sides()
    found = exact_epsilon(BipartiteTable.of(machine, beta), parameter_groups(machine, ("visible", "hidden")))
    covariance, mean = by_loops(machine, beta)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.values, np.divide(covariance, mean), atol=1e-12)
    couplings = np.divide(covariance, mean)[5:]
    summary = found.summaries["couplings"]
    np.testing.assert_allclose(summary.values[0], np.median(couplings))
    np.testing.assert_allclose(summary.values[3], np.std(couplings))
    np.testing.assert_allclose(summary.values[5], math.hypot(*covariance[5:]) / math.hypot(*mean[5:]))


@pytest.mark.parametrize("beta", BETAS)
def test_weighted_epsilon_is_that_of_plain_loops_on_any_graph(beta: float) -> None:
    machine = tiny_machine((2, 1, 3), seed=5).double()
    law = enumerate_machine(machine, beta=beta)
    found = weighted_epsilon(machine, law.states(), law.probabilities, parameter_groups(machine), beta)
    covariance, mean = by_loops(machine, beta)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_full_derivative_of_the_mean_energy_minus_the_exact_gradient_is_the_covariance(beta: float, seed: int) -> None:
    """By automatic differentiation in float64 through sums over all states, to 1e-10 in every parameter."""
    machine = tiny_machine((3, 1, 2, 2), seed=seed).double()
    ends = torch.from_numpy(machine.topology.edges.copy())
    biases, couplings = (part.detach().clone().requires_grad_() for part in (machine.biases, machine.couplings))
    z = all_states(machine.n_nodes).double()
    energies = -(z @ biases) - (z[:, ends[:, 0]] * z[:, ends[:, 1]]) @ couplings
    surrogate = -beta * (torch.softmax(-beta * energies, 0) * energies).sum()
    log_z = torch.logsumexp(-beta * energies, 0)
    full = torch.cat(torch.autograd.grad(surrogate, (biases, couplings), retain_graph=True))
    exact = torch.cat(torch.autograd.grad(log_z, (biases, couplings)))
    law = enumerate_machine(machine, beta=beta)
    found = weighted_epsilon(machine, law.states(), law.probabilities, parameter_groups(machine), beta)
    extra = -beta * found.covariance  # beta^2 Cov(E, dE/dtheta), with dE/dtheta = -x
    assert np.abs((full - exact).numpy() - extra).max() < 1e-10
    assert np.abs(extra).max() > 0.05
    np.testing.assert_allclose(((full - exact) / exact).numpy(), -found.values, atol=1e-9)


def test_slopes_at_infinite_temperature_are_those_of_exact_laws() -> None:
    machine = tiny_machine((2, 1, 3), seed=6).double()
    beta = 1e-5
    law = enumerate_machine(machine, beta=beta)
    hot = weighted_epsilon(machine, law.states(), law.probabilities, parameter_groups(machine), beta)
    slopes, means = high_temperature_slopes(machine)
    np.testing.assert_allclose(slopes, hot.values / beta, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(means, hot.mean, atol=1e-4)


def test_slopes_of_a_held_partition_are_averages_over_its_values() -> None:
    """Held bits folded into biases by hand, each law enumerated; numerator and denominator averaged over the laws."""
    machine, beta = tiny_machine((2, 1, 3), seed=7, coupling_std=1.0).double(), 1e-5
    clamped = np.array([True, True, False, False, False, False])
    held = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    rows = torch.cat([held, torch.zeros(3, 4)], dim=1)
    covariances, means = [], []
    ends = machine.topology.edges.copy()
    for values in held:
        states = torch.cat([values.expand(16, 2), all_states(4)], dim=1).double()
        energies = machine.energy(states).detach()
        weights = torch.softmax(-beta * energies, 0)
        statistics = torch.cat([states, states[:, ends[:, 0]] * states[:, ends[:, 1]]], dim=1)
        covariances.append(beta * (weights * (energies - weights @ energies)) @ statistics)
        means.append(weights @ statistics)
    expected, mean = torch.stack(covariances).mean(dim=0).numpy(), torch.stack(means).mean(dim=0).numpy()
    slopes, found = high_temperature_slopes(machine, clamped=clamped, held=rows)
    np.testing.assert_allclose(found, mean, atol=1e-4)
    told = mean > 0
    np.testing.assert_allclose(slopes[told], expected[told] / mean[told] / beta, rtol=1e-3, atol=1e-3)


def test_held_bits_have_no_epsilon_of_their_own() -> None:
    machine = tiny_machine((2, 1, 3), seed=7)
    clamped = np.array([True, True, False, False, False, False])
    groups = parameter_groups(machine, clamped=clamped)
    assert set(groups) == {"biases 1", "biases 2", "couplings"}
    ends = machine.topology.edges[groups["couplings"] - machine.n_nodes]
    assert not clamped[ends].all(axis=1).any()


def draws(machine: BoltzmannMachine, n: int, rng: np.random.Generator) -> torch.Tensor:
    law = enumerate_machine(machine)
    picks = rng.choice(len(law.probabilities), n, p=law.probabilities.double().numpy())
    return law.states()[torch.from_numpy(picks)]


def test_errors_of_sampled_epsilon_cover_the_exact_one() -> None:
    machine = two_sides().float()
    groups = parameter_groups(machine, ("visible", "hidden"))
    truth = exact_epsilon(BipartiteTable.of(machine), groups)
    rng = np.random.default_rng(11)
    pulls, summary_pulls, lengths = [], [], []
    for _ in range(60):
        found = sampled_epsilon(machine, draws(machine, 1500, rng), groups, rng, n_bootstrap=60)
        pulls.append((found.covariance - truth.covariance) / found.covariance_error)
        one, exact = found.summaries["couplings"], truth.summaries["couplings"]
        summary_pulls.append((one.values[0] - exact.values[0]) / one.errors[0])
        lengths.append(one.values[5])
    assert 0.8 < np.mean(np.square(pulls)) < 1.3
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.6
    assert 0.5 < np.mean(np.square(summary_pulls)) < 1.8
    assert abs(np.mean(lengths) / truth.summaries["couplings"].values[5] - 1) < 0.03


def test_length_of_the_covariance_is_free_of_noise() -> None:
    """Independent bits with small biases, few states: noise makes squares too large, but not the length."""
    machine = BoltzmannMachine(bipartite_topology(20, 15))
    with torch.no_grad():
        machine.biases.fill_(0.05)
    p = 1 / (1 + math.exp(-0.05))
    exact = (2 * 0.05 * (1 - p)) ** 2  # Cov(E, x_i x_j) / <x_i x_j> = -2 b p^2 (1 - p) / p^2
    rng = np.random.default_rng(3)
    noisy, clean = [], []
    for _ in range(200):
        states = torch.from_numpy((rng.random((60, 35)) < p).astype(np.float32))
        one = sampled_epsilon(machine, states, parameter_groups(machine), rng, n_bootstrap=20)
        noisy.append((one.covariance[35:] ** 2).sum() / (one.mean[35:] ** 2).sum())
        clean.append(np.nan_to_num(one.summaries["couplings"].values[5]) ** 2)
    assert np.mean(noisy) > 1.25 * exact
    assert abs(np.mean(clean) - exact) < 0.1 * exact


def test_denominators_within_noise_are_left_out() -> None:
    machine = two_sides().float()
    with torch.no_grad():
        machine.biases[0] = -9.0
    rng = np.random.default_rng(5)
    found = sampled_epsilon(machine, draws(machine, 400, rng), parameter_groups(machine), rng, n_bootstrap=10)
    summary = found.summaries["couplings"]
    assert summary.n_kept == 4
    assert summary.n_parameters == 6
    assert summary.as_data(1)["share_left_out"] == pytest.approx(1 / 3)
    assert not found.resolved()[0]


def test_covariance_under_several_conditions_is_that_within_each() -> None:
    """Two laws of one machine: held bits differ, and pooling them would add the covariance between the laws."""
    machine = tiny_machine((2, 1, 3), seed=8).double()
    with torch.no_grad():
        machine.biases[:2] = 2.0
    clamped = np.array([True, True, False, False, False, False])
    states = torch.randint(0, 2, (400, 6), generator=torch.Generator().manual_seed(1)).double()
    laws = np.arange(400) % 2
    states[:, :2] = torch.from_numpy(np.stack([laws, laws], axis=1))
    groups = parameter_groups(machine, clamped=clamped)
    rng = np.random.default_rng(1)
    found = sampled_epsilon(machine, states, groups, rng, n_bootstrap=2, laws=laws)
    energies, z = machine.energy(states).detach().numpy(), states.numpy()
    expected = [
        np.mean([np.cov(energies[laws == law], z[laws == law, node])[0, 1] for law in (0, 1)]) for node in range(6)
    ]
    np.testing.assert_allclose(found.covariance[:6], expected, atol=1e-12)
    pooled = sampled_epsilon(machine, states, groups, rng, n_bootstrap=2)
    assert np.abs(pooled.covariance[:2]).min() > 0.05
    assert np.abs(found.covariance[:2]).max() < 1e-12


def test_too_few_states_are_refused() -> None:
    machine = two_sides().float()
    groups, rng = parameter_groups(machine), np.random.default_rng(1)
    with pytest.raises(PriorError, match="two states of every law"):
        sampled_epsilon(machine, torch.zeros(1, 5), groups, rng)
    with pytest.raises(PriorError, match="two states of every law"):
        sampled_epsilon(machine, torch.zeros(3, 5), groups, rng, laws=np.array([0, 0, 1]))


def test_weights_that_are_no_law_are_refused() -> None:
    machine = two_sides()
    with pytest.raises(PriorError, match="normalise"):
        weighted_epsilon(machine, all_states(5), torch.full((32,), 0.1), parameter_groups(machine))
