"""Rotated variables against the energy, the linear theory against exact chains of large and small machines."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.studies.theory.modes import (
    coupling_block,
    coupling_matrix,
    fit_ornstein_uhlenbeck,
    follow,
    linear_modes,
    mean_gains,
    mode_machine,
    pattern_machine,
    rotate,
    sweep_matrix,
    sweep_modes,
)
from calo4pqvae.testing import all_states, tiny_machine

AMPLITUDES = (0.9, 0.75, 0.6, 0.45, 0.3)


def random_machine(seed: int = 0, spread: float = 1.0) -> BoltzmannMachine:
    machine = BoltzmannMachine(bipartite_topology(5, 3))
    machine.initialise(torch.full((8,), 0.4), spread, torch.Generator().manual_seed(seed))
    return machine


def autoregressions(memory: np.ndarray, n_steps: int, n_chains: int, seed: int) -> np.ndarray:
    """Stationary Gaussian series with unit noise."""
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=(n_chains, len(memory))) / np.sqrt(1 - memory**2)]
    for _ in range(n_steps - 1):
        values.append(memory * values[-1] + rng.normal(size=values[-1].shape))
    return np.array(values)


def test_energy_of_the_modes_is_that_of_the_bits() -> None:
    machine = random_machine()
    rotated = rotate(machine)
    assert rotated.left @ np.diag(rotated.values) @ rotated.right.T == pytest.approx(coupling_block(machine))
    states = all_states(8)
    modes, rest = rotated.energies(states.double().numpy())
    assert modes.shape == (256, 3)
    assert modes.sum(axis=1) + rest == pytest.approx(machine.energy(states.float()).detach().numpy(), abs=1e-5)


def test_saddle_of_the_energy_of_a_mode() -> None:
    """The gradient in x_k, y_k vanishes at x = -b_k / sigma_k, y = -a_k / sigma_k."""
    rotated = rotate(random_machine())
    x, y = -rotated.hidden_fields / rotated.values, -rotated.visible_fields / rotated.values
    assert rotated.visible_fields + rotated.values * y == pytest.approx(np.zeros(3), abs=1e-12)
    assert rotated.hidden_fields + rotated.values * x == pytest.approx(np.zeros(3), abs=1e-12)


def test_gain_is_the_mean_conditional_variance() -> None:
    machine = random_machine(1)
    law = enumerate_machine(machine)
    states = law.states()
    picks = torch.multinomial(law.probabilities, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    gains = mean_gains(machine, states[picks].float())
    odds = torch.sigmoid(machine.local_fields(states.float()).detach().double())
    exact = (law.probabilities[:, None] * odds * (1 - odds)).sum(dim=0).numpy()
    assert gains == pytest.approx(exact, abs=2e-3)


def test_modes_of_equal_gains_are_singular_values() -> None:
    machine = random_machine()
    modes = linear_modes(machine, np.full(8, 0.25))
    assert modes.amplitudes == pytest.approx(np.linalg.svd(coupling_block(machine), compute_uv=False) / 4)
    assert modes.rates == pytest.approx(modes.amplitudes**2)


def test_directions_stand_on_the_noise() -> None:
    """The rows are p_k / sqrt(g): with noise of covariance g they have unit variance, uncorrelated."""
    machine = random_machine()
    gains = np.random.default_rng(0).uniform(0.05, 0.25, 8)
    rows = linear_modes(machine, gains).directions
    assert (rows * gains) @ rows.T == pytest.approx(np.eye(3), abs=1e-12)
    frozen = gains.copy()
    frozen[:2] = 0.0
    assert np.isfinite(linear_modes(machine, frozen).directions).all()


def test_sweep_matrix_has_the_rates_of_the_modes() -> None:
    machine = random_machine()
    gains = np.random.default_rng(0).uniform(0.05, 0.25, 8)
    values = np.sort(np.abs(np.linalg.eigvals(sweep_matrix(machine, gains))))[::-1][:3]
    assert values == pytest.approx(linear_modes(machine, gains).rates)


def test_sweep_matrix_is_the_mean_response_of_weak_machines() -> None:
    """Mean bits after one sweep from every state, in four partitions of unequal sizes, to first order in couplings."""
    machine = tiny_machine((2, 1, 3, 2), seed=3)
    with torch.no_grad():
        machine.couplings.mul_(0.02)
        machine.biases.zero_()
    states = all_states(machine.n_nodes).double()
    means = states.clone()
    for part in machine.topology.slices:  # the sweep on mean values: exact to first order in the couplings
        means[:, part] = torch.sigmoid(machine.local_fields(means.float()).detach().double())[:, part]
    matrix = sweep_matrix(machine, np.full(machine.n_nodes, 0.25))
    expected = (states - 0.5).numpy() @ matrix.T
    found = (means - means.mean(dim=0)).numpy()
    assert np.abs(expected).max() > 0.005
    assert found == pytest.approx(expected, abs=0.05 * np.abs(expected).max())


def test_slow_modes_of_four_partitions_relax_as_they_should() -> None:
    """A zero-field machine of four unequal partitions with a planted pattern: memory within ten per cent."""
    machine = pattern_machine((90, 70, 60, 80), 0.7, 0.05, np.random.default_rng(6))
    generator = torch.Generator().manual_seed(1)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(512, generator), 200, generator)
    modes = sweep_modes(machine, mean_gains(machine, state.states), 2)
    series, _ = follow(machine, state, modes.directions, 200, generator)
    fit = fit_ornstein_uhlenbeck(series)
    assert 0.5 < modes.rates[0] < 0.95
    assert fit.memory == pytest.approx(modes.rates, rel=0.10)
    assert modes.directions[:, :90] == pytest.approx(0.0, abs=1e-9), "a sweep forgets what it draws first"


def test_slow_modes_of_two_partitions_are_those_of_the_singular_values() -> None:
    gains = np.random.default_rng(0).uniform(0.05, 0.25, 8)
    machine = random_machine()
    assert sweep_modes(machine, gains, 3).rates == pytest.approx(linear_modes(machine, gains).rates)


def test_fit_of_a_process_that_is_one() -> None:
    memory = np.array([0.9, 0.5, 0.0])
    fit = fit_ornstein_uhlenbeck(autoregressions(memory, 400, 300, 1))
    assert (np.abs(fit.memory - memory) < 4 * fit.memory_error).all()
    assert (np.abs(fit.noise - 1) < 4 * fit.noise_error).all()
    assert (np.abs(fit.variance - 1 / (1 - memory**2)) < 4 * fit.variance_error).all()
    assert (np.abs(fit.kurtosis) < 4 * fit.kurtosis_error).all()
    assert fit.memory_error == pytest.approx(np.sqrt((1 - memory**2) / (400 * 300)), rel=0.6)
    assert (fit.n_steps, fit.n_chains) == (400, 300)


def test_errors_of_the_fit_are_those_of_repetitions() -> None:
    memory = np.array([0.8])
    fits = [fit_ornstein_uhlenbeck(autoregressions(memory, 60, 32, seed)) for seed in range(100)]
    pulls = np.array([(fit.memory[0] - 0.8) / fit.memory_error[0] for fit in fits])
    assert 0.8 < pulls.std() < 1.5


def test_fit_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(PriorError, match="too few"):
        fit_ornstein_uhlenbeck(np.zeros((3, 8, 1)))
    with pytest.raises(PriorError, match="does not move"):
        fit_ornstein_uhlenbeck(np.zeros((8, 8, 1)))


def test_relaxation_rates_of_gaussian_like_modes() -> None:
    """Memory and relaxation rate within ten per cent of alpha^2; noise and variance of the process as well."""
    machine = mode_machine((300, 200), AMPLITUDES, 0.02, np.random.default_rng(2))
    generator = torch.Generator().manual_seed(1)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(512, generator), 100, generator)
    gains = mean_gains(machine, sampler.sample(state, 20, generator).states)
    modes = linear_modes(machine, gains)
    kept = len(AMPLITUDES)
    series, _ = follow(machine, state, modes.directions[:kept], 300, generator)
    fit = fit_ornstein_uhlenbeck(series)
    rates = modes.rates[:kept]
    assert fit.memory == pytest.approx(rates, rel=0.10)
    assert -np.log(fit.memory) == pytest.approx(-np.log(rates), rel=0.10)
    assert fit.noise == pytest.approx(1 + rates, rel=0.10)
    assert fit.variance == pytest.approx(1 / (1 - rates), rel=0.15)
    with pytest.raises(AssertionError):  # the power of the bound: singular values in place of their squares
        assert fit.memory == pytest.approx(modes.amplitudes[:kept], rel=0.10)


def test_gains_take_the_place_of_a_quarter_in_a_dense_machine() -> None:
    """Independent couplings near the glass: memory within a tenth with measured gains, far off with a quarter."""
    n, strength = 200, 0.7  # J~ of the spins; a quarter would make the edge critical at 0.5
    machine = mode_machine((n, n), (), 4 * strength / math.sqrt(n), np.random.default_rng(5))
    generator = torch.Generator().manual_seed(1)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(512, generator), 200, generator)
    gains = mean_gains(machine, state.states)
    modes = linear_modes(machine, gains)
    series, _ = follow(machine, state, modes.directions[:3], 200, generator)
    memory = fit_ornstein_uhlenbeck(series).memory
    assert memory == pytest.approx(modes.rates[:3], rel=0.10)
    bare = linear_modes(machine, np.full(2 * n, 0.25))
    assert (bare.rates[:3] > 1.3).all()


def test_clamped_bits_are_held_and_watched() -> None:
    machine = random_machine()
    generator, seen = torch.Generator().manual_seed(0), []
    state = BlockGibbsSampler(machine).init(16, generator)
    held = np.zeros(8, dtype=bool)
    held[:2] = True
    rows = np.eye(8)[:3]
    series, end = follow(machine, state, rows, 5, generator, clamped=held, watch=seen.append)
    assert series.shape == (5, 16, 3)
    assert (series[:, :, :2] == state.states[:, :2].numpy()).all()
    assert (series[-1] == end.states[:, :3].numpy()).all()
    assert len(seen) == 5


@pytest.mark.parametrize(
    "machine",
    [
        mode_machine((5, 3), (0.8,), 0.3, np.random.default_rng(0)),
        pattern_machine((2, 3, 2), 0.8, 0.3, np.random.default_rng(0)),
    ],
    ids=["modes", "pattern"],
)
def test_planted_machines_have_fair_bits(machine: BoltzmannMachine) -> None:
    assert enumerate_machine(machine).first.numpy() == pytest.approx(np.full(machine.n_nodes, 0.5), abs=1e-6)


def test_only_two_partitions_have_singular_modes() -> None:
    machine = BoltzmannMachine(complete_topology((2, 2, 2)))
    assert coupling_matrix(machine).shape == (6, 6)
    with pytest.raises(PriorError, match="give one of two"):
        rotate(machine)
    with pytest.raises(PriorError, match="in \\[0, 1/4\\]"):
        linear_modes(random_machine(), np.full(8, 0.3))
