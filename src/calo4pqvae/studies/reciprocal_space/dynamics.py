r"""Dynamics of modes under block Gibbs: fitted drift and noise against the linear theory, mode by mode.

With :math:`\xi' = \rho\, \xi + \sqrt{q}\, \eta` from sweep to sweep (:mod:`~calo4pqvae.studies.theory.modes`) four
things can be measured, each of which may fail on its own:

- the slope of the next value on this one, :math:`\rho = \alpha^2`, and the variance of what is left, q;
- the autocorrelation at later sweeps, :math:`\rho^t` if the process is one of Markov in this mode alone;
- the drift :math:`\langle \xi' - \xi \mid \xi \rangle` as a function, a straight line :math:`-(1 - \rho) \xi` for
  Ornstein and Uhlenbeck, with a noise that does not depend on :math:`\xi`; a mode with two wells has a drift with
  three zeros;
- the way from noise to the law: from fair coins, the variance of a mode grows as

.. math:: \langle \xi^2 \rangle_t = \frac{1 - \alpha^{4t}}{1 - \alpha^2} ,

  mode after mode, fast ones first. This is the denoising of a diffusion model with the sweep in the place of its time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.studies.theory.modes import (
    OrnsteinUhlenbeck,
    fit_ornstein_uhlenbeck,
    follow,
    linear_modes,
    mean_gains,
    rotate,
    sweep_modes,
)

__all__ = [
    "DriftCurve",
    "ModeDynamics",
    "Transient",
    "correlation_energy",
    "drift_curve",
    "from_coins",
    "measure_dynamics",
]

FloatArray = NDArray[np.float64]

_N_PARTS = 16  # of chains, for errors
_LEAST_IN_BIN = 200


@dataclass(frozen=True)
class ModeDynamics:
    """The slowest modes of a machine, as they are and as the linear theory has them; K modes.

    Args:
        label: Name of the machine.
        step: Learning step; 0 for machines that are not trained.
        rates: Memory per sweep of the theory with measured gains, shape (K,).
        bare_rates: The same with gains of a quarter, falling, the largest ones, shape (K,).
        fit: What is fitted to the chains.
        autocorrelation: At lags 0, 1, ..., shape (lags, K).
        autocorrelation_error: Its standard error.
        drifts: Drift and noise as functions, one a mode.
    """

    label: str
    step: int
    rates: FloatArray
    bare_rates: FloatArray
    fit: OrnsteinUhlenbeck
    autocorrelation: FloatArray
    autocorrelation_error: FloatArray
    drifts: tuple["DriftCurve", ...]


@dataclass(frozen=True)
class DriftCurve:
    """Mean and variance of the change of a mode in one sweep, in bins of its value; B bins.

    Args:
        values: Mean value in the bin, in standard deviations of the mode, shape (B,).
        drift: Mean change, in standard deviations, shape (B,).
        drift_error: Its standard error.
        noise: Variance of the next value about a line within the bin, in units of the variance, shape (B,).
        noise_error: Its standard error.
        chi_square: Of the drift against the straight line of the fitted memory.
        freedom: Its degrees of freedom.
        noise_spread: Largest over smallest noise.
    """

    values: FloatArray
    drift: FloatArray
    drift_error: FloatArray
    noise: FloatArray
    noise_error: FloatArray
    chi_square: float
    freedom: int
    noise_spread: float


@dataclass(frozen=True)
class Transient:
    """Variance of modes from fair coins on.

    Args:
        variances: After every sweep, from the first on, shape (sweeps, K).
        errors: Their standard errors.
        theory: What the linear theory says.
        n_chains: Chains.
    """

    variances: FloatArray
    errors: FloatArray
    theory: FloatArray
    n_chains: int


def measure_dynamics(
    machine: BoltzmannMachine,
    state: GibbsState,
    generator: torch.Generator,
    *,
    label: str,
    step: int,
    n_modes: int,
    n_sweeps: int,
    n_lags: int,
) -> tuple[ModeDynamics, GibbsState]:
    """Follows the slowest modes of a machine from chains in equilibrium.

    Args:
        machine: The machine.
        state: Chains in equilibrium.
        generator: Source of randomness.
        label: Name of the machine.
        step: Its learning step.
        n_modes: Modes to follow, or fewer if there are fewer.
        n_sweeps: Sweeps to follow.
        n_lags: Lags of the autocorrelation, below the number of sweeps.

    Returns:
        What was measured, and where the chains are.

    Raises:
        PriorError: If the lags do not fit the sweeps, or as the fit.
    """
    if not 1 <= n_lags < n_sweeps:
        raise PriorError(f"{n_lags} lags cannot be had from {n_sweeps} sweeps; give fewer")
    n_gain = max(1, 4096 // state.n_chains)  # chains at several sweeps, so that the mean is good
    gains, sampler = np.zeros(machine.n_nodes), BlockGibbsSampler(machine)
    for _ in range(n_gain):
        state = sampler.sample(state, 1, generator)
        gains += mean_gains(machine, state.states) / n_gain
    rates, directions = _modes(machine, gains, n_modes)
    bare, _ = _modes(machine, np.full(machine.n_nodes, 0.25), n_modes)
    series, state = follow(machine, state, directions, n_sweeps, generator)
    fit = fit_ornstein_uhlenbeck(series)
    correlation, error = _autocorrelation(series, n_lags)
    drifts = tuple(drift_curve(series[:, :, k], float(fit.memory[k])) for k in range(len(rates)))
    return ModeDynamics(label, step, rates, bare, fit, correlation, error, drifts), state


def drift_curve(series: FloatArray, memory: float, n_bins: int = 16) -> DriftCurve:
    """Drift and noise of one mode as functions of its value.

    Args:
        series: Values in equilibrium, shape (sweeps, chains), chains at least 16.
        memory: Slope of the straight line that the drift is compared with.
        n_bins: Bins of equal width over four standard deviations either way; poor ones are left out.

    Raises:
        PriorError: If there are too few values for a bin, or too few chains.
    """
    if series.shape[1] < _N_PARTS:
        raise PriorError(f"{series.shape[1]} chains give no errors; follow at least {_N_PARTS}")
    standard = (series - series.mean()) / series.std()
    now, then = standard[:-1], standard[1:]
    part = np.broadcast_to(np.arange(series.shape[1]) * _N_PARTS // series.shape[1], now.shape)
    place = np.clip(((now + 4) * n_bins / 8).astype(np.int64), 0, n_bins - 1)
    rows = []
    for index in range(n_bins):
        inside = place == index
        counts = np.bincount(part[inside], minlength=_N_PARTS)
        if counts.sum() >= _LEAST_IN_BIN and (counts >= 4).all():
            rows.append(_bin(now[inside], then[inside], part[inside], memory))
    if len(rows) < 3:
        raise PriorError("too few values for a drift; follow more sweeps or chains")
    values, drift, drift_error, noise, noise_error, pull = np.array(rows).T
    return DriftCurve(
        values, drift, drift_error, noise, noise_error, float((pull**2).sum()), len(rows),
        float(noise.max() / noise.min()),
    )  # fmt: skip


def _bin(now: FloatArray, then: FloatArray, part: NDArray[np.int64], memory: float) -> tuple[float, ...]:
    """Value, drift and noise in one bin with errors over parts of the chains, and the pull of the drift."""
    slope = float(np.cov(now, then)[0, 1] / now.var(ddof=1))
    residual = (then - then.mean() - slope * (now - now.mean())) ** 2

    def error(values: FloatArray) -> float:
        means = np.bincount(part, values, _N_PARTS) / np.bincount(part, minlength=_N_PARTS)
        return float(means.std(ddof=1) / np.sqrt(_N_PARTS))

    off_line = then - memory * now
    return (
        float(now.mean()), float((then - now).mean()), error(off_line), float(residual.mean()), error(residual),
        float(off_line.mean()) / error(off_line),
    )  # fmt: skip


def from_coins(
    machine: BoltzmannMachine,
    directions: FloatArray,
    amplitudes: FloatArray,
    n_sweeps: int,
    n_chains: int,
    generator: torch.Generator,
) -> Transient:
    """Variance of modes of a zero-field machine of two partitions after every sweep from fair coins.

    Args:
        machine: The machine; its bits are fair.
        directions: Rows that give the modes, shape (K, N).
        amplitudes: alpha of the modes, shape (K,).
        n_sweeps: Sweeps.
        n_chains: Independent chains.
        generator: Source of randomness.
    """
    state = BlockGibbsSampler(machine).init(n_chains, generator)
    series, _ = follow(machine, state, directions, n_sweeps, generator)
    squares = (series - directions.sum(axis=1) / 2) ** 2  # the mean of every bit is a half
    errors = squares.std(axis=1, ddof=1) / np.sqrt(n_chains)
    sweeps = np.arange(1, n_sweeps + 1)[:, None]
    theory = (1 - amplitudes ** (4 * sweeps)) / (1 - amplitudes**2)
    return Transient(squares.mean(axis=1), errors, theory, n_chains)


def correlation_energy(machine: BoltzmannMachine, states: Tensor) -> FloatArray:
    r"""Energy that every mode owes to correlations, :math:`-\sigma_k \mathrm{cov}(x_k, y_k)`, in parts of the chains.

    Their sum over modes is :math:`-\sum_{ij} W_{ij} \mathrm{cov}(v_i, h_j)`.

    Args:
        machine: A machine of two partitions.
        states: Draws of its law, 32 or more, shape (B, N).

    Returns:
        Nats, shape (16 parts, K).

    Raises:
        PriorError: If it has not two partitions.
    """
    rotated = rotate(machine)
    parts = []
    for part in np.array_split(states.double().cpu().numpy(), _N_PARTS):
        x, y = rotated.variables(part)
        centred = (x - x.mean(axis=0)) * (y - y.mean(axis=0))
        parts.append(-rotated.values * centred.sum(axis=0) / (len(part) - 1))
    return np.array(parts)


def _modes(machine: BoltzmannMachine, gains: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Rates and directions of the slowest modes: of the first partition for two, of the sweep for more."""
    if machine.topology.n_partitions == 2:
        modes = linear_modes(machine, gains)
        return modes.rates[:n], modes.directions[:n]
    slow = sweep_modes(machine, gains, n)
    return slow.rates, slow.directions


def _autocorrelation(series: FloatArray, n_lags: int) -> tuple[FloatArray, FloatArray]:
    """Normalised autocorrelation of every mode, shape (lags + 1, K), and its error over parts of the chains."""
    centred = series - series.mean(axis=(0, 1))
    n_steps = len(series)
    products = np.stack([(centred[: n_steps - lag] * centred[lag:]).mean(axis=0) for lag in range(n_lags + 1)])
    parts = np.array_split(np.arange(series.shape[1]), _N_PARTS)
    blocks = np.stack([products[:, part].mean(axis=1) for part in parts])
    whole = products.mean(axis=1)
    ratios = blocks / whole[0]
    own = blocks[:, :1] / whole[0]
    error = (ratios - own * (whole / whole[0])).std(axis=0, ddof=1) / np.sqrt(_N_PARTS)
    return whole / whole[0], error
