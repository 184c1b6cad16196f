"""Drift, noise, later lags and the way from coins, on processes that are known and on machines that must fail."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.studies.reciprocal_space.dynamics import (
    correlation_energy,
    drift_curve,
    from_coins,
    measure_dynamics,
)
from calo4pqvae.studies.theory.modes import linear_modes, mode_machine
from calo4pqvae.testing import all_states


def process(memory: float, n_steps: int = 400, n_chains: int = 256, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=n_chains)]
    for _ in range(n_steps - 1):
        values.append(memory * values[-1] + math.sqrt(1 - memory**2) * rng.normal(size=n_chains))
    return np.array(values)


def double_well(n_steps: int = 400, n_chains: int = 256) -> np.ndarray:
    """Langevin steps in a potential with two wells."""
    rng = np.random.default_rng(1)
    values = [rng.normal(size=n_chains)]
    for _ in range(n_steps + 200):
        x = values[-1]
        values.append(x + 0.2 * (x - x**3) + 0.3 * rng.normal(size=n_chains))
    return np.array(values[-n_steps:])


def follow_modes(machine: BoltzmannMachine, n_chains: int = 512, n_sweeps: int = 200):  # noqa: ANN201
    generator = torch.Generator().manual_seed(2)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(n_chains, generator), 150, generator)
    return measure_dynamics(machine, state, generator, label="test", step=0, n_modes=3, n_sweeps=n_sweeps, n_lags=8)[0]


def test_drift_of_a_known_process_is_its_line() -> None:
    curve = drift_curve(process(0.7), 0.7)
    assert curve.chi_square < curve.freedom + 5 * math.sqrt(2 * curve.freedom)
    assert (np.abs(curve.drift + 0.3 * curve.values) < 5 * curve.drift_error + 0.005).all()
    assert (np.abs(curve.noise - (1 - 0.49)) < 5 * curve.noise_error + 0.005).all()


def test_errors_of_the_drift_are_honest() -> None:
    ratios = [drift_curve(process(0.7, seed=seed), 0.7) for seed in range(20)]
    mean = float(np.mean([curve.chi_square / curve.freedom for curve in ratios]))
    assert 0.7 < mean < 1.8  # 1.15 is expected: errors come from sixteen parts


def test_two_wells_are_not_a_line() -> None:
    series = double_well()
    standard = (series - series.mean()) / series.std()
    memory = float((standard[1:] * standard[:-1]).mean() / (standard[:-1] ** 2).mean())
    curve = drift_curve(series, memory)
    assert curve.chi_square > 20 * curve.freedom
    assert (np.diff(np.sign(curve.drift)) != 0).sum() >= 3  # three zeros


def test_modes_for_which_the_theory_is_meant() -> None:
    """Memory, noise, and the autocorrelation at all lags of planted modes."""
    machine = mode_machine((300, 200), (0.85, 0.6), 0.02, np.random.default_rng(3))
    found = follow_modes(machine)
    rates = found.rates[:2]
    assert found.fit.memory[:2] == pytest.approx(rates, rel=0.1)
    assert (found.fit.noise / found.fit.variance)[:2] == pytest.approx(1 - rates**2, rel=0.1)
    lags = np.arange(9)[:, None]
    gap = np.abs(found.autocorrelation[:, :2] - rates**lags)
    assert (gap < 5 * found.autocorrelation_error[:, :2] + 0.03).all()
    assert found.drifts[1].chi_square < 6 * found.drifts[1].freedom
    assert found.bare_rates[0] == pytest.approx(0.85**2, rel=0.05)


def test_a_mode_with_two_wells_breaks_the_theory() -> None:
    machine = mode_machine((120, 80), (1.5,), 0.02, np.random.default_rng(4))
    found = follow_modes(machine)
    assert found.bare_rates[0] > 1
    assert found.fit.memory[0] > found.rates[0] + 0.1
    assert found.fit.kurtosis[0] < -0.7
    assert found.drifts[0].chi_square > 20 * found.drifts[0].freedom


def test_variance_of_modes_from_coins() -> None:
    machine = mode_machine((300, 250), (0.8, 0.5), 0.01, np.random.default_rng(5))
    modes = linear_modes(machine, np.full(550, 0.25))
    generator = torch.Generator().manual_seed(0)
    found = from_coins(machine, modes.directions[:2], modes.amplitudes[:2], 15, 4000, generator)
    assert found.theory[0] == pytest.approx(1 + modes.rates[:2])  # one sweep from coins
    assert found.theory[-1] == pytest.approx(1 / (1 - modes.rates[:2]), rel=0.01)
    assert (np.abs(found.variances - found.theory) < 5 * found.errors + 0.05 * found.theory).all()
    shifted = np.abs(found.variances[1:] - found.theory[:-1])[:3, 0]
    assert (shifted > 3 * found.errors[1:4, 0]).any(), "a sweep too many must show"


def test_energy_of_correlations_is_that_of_the_couplers() -> None:
    """The sum over modes is -sum_ij W_ij cov(v_i, h_j), with a covariance written out here."""
    machine = BoltzmannMachine(bipartite_topology(4, 3))
    machine.initialise(torch.full((7,), 0.5), 1.0, torch.Generator().manual_seed(0))
    states = all_states(7)[torch.randperm(128, generator=torch.Generator().manual_seed(1))]
    parts = correlation_energy(machine, states)
    assert parts.shape == (16, 3)
    for part, rows in zip(parts, np.array_split(states.numpy(), 16), strict=True):
        expected = 0.0
        for (i, j), weight in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
            expected -= weight * float(np.cov(rows[:, i], rows[:, j])[0, 1])
        assert part.sum() == pytest.approx(expected, abs=1e-5)


def test_short_series_are_refused() -> None:
    machine = mode_machine((8, 6), (0.3,), 0.1, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(0)
    state = BlockGibbsSampler(machine).init(32, generator)
    with pytest.raises(PriorError, match="give fewer"):
        measure_dynamics(machine, state, generator, label="x", step=0, n_modes=2, n_sweeps=5, n_lags=5)
    with pytest.raises(PriorError, match="at least 16"):
        drift_curve(np.zeros((10, 4)), 0.5)
    with pytest.raises(PriorError, match="too few values"):
        drift_curve(process(0.5, 10, 16), 0.5)
