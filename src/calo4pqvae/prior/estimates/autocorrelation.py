r"""How long chains remember, and whether they agree: autocorrelation times, relaxation, R-hat, effective sizes.

A series :math:`a_{sc}` of step s and chain c has, in equilibrium, the normalised autocorrelation and the integrated
time

.. math:: \rho(t) = \frac{\langle (a_s - \mu)(a_{s+t} - \mu) \rangle}{\langle (a_s - \mu)^2 \rangle}, \qquad
    \tau_{int} = 1 + 2 \sum_{t=1}^{W} \rho(t) ,

so that n steps are worth :math:`n / \tau_{int}` independent ones; independent steps have :math:`\tau_{int} = 1`. The
window W is the smallest with :math:`W \ge c\, \tau_{int}(W) / 2`, which balances the bias of stopping, about
:math:`e^{-c}`, with the noise of the tail, and :math:`\mathrm{var}(\tau_{int}) \approx 2 (2W + 1) \tau_{int}^2 / n`
(Madras and Sokal). The mean is that of all chains of one law, so that chains stuck in different modes show as memory
that does not end.

Another time is how fast memory of a start fades: :math:`\rho(t) \propto e^{-t/\tau}` for large t, where
:math:`\tau = -1/\ln |\lambda_2|` is the longest that the series shows. It is fitted to the tail of :math:`\rho`, or
to the mean over chains that began at one state (:func:`equilibrium_relaxation`). A chain needs several :math:`\tau`
to reach the law, and a series can only show modes that it is not blind to: besides the energy, the projections of the
bits on the leading eigenvectors of the coupling matrix are followed (:func:`leading_modes`), because those are what
slows down first.

R-hat compares the variance between halves of chains with that within; it needs chains with different starts.

Madras and Sokal, J. Stat. Phys. 50 (1988); Sokal, Monte Carlo methods in statistical mechanics (1997); Vehtari, Gelman,
Simpson, Carpenter and Buerkner, Bayesian Analysis 16 (2021), arXiv 1903.08008.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.fft import irfft, next_fast_len, rfft
from scipy.sparse import coo_array
from scipy.sparse.linalg import eigsh

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = [
    "IntegratedTime",
    "RelaxationTime",
    "autocorrelation",
    "effective_sample_size",
    "equilibrium_relaxation",
    "integrated_time",
    "leading_modes",
    "relaxation_time",
    "split_r_hat",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

WINDOW = 5.0
_N_BLOCKS = 20  # of chains, for jackknife errors
_LEAST_BLOCKS = 8
_TAIL_FROM = 0.3  # value of the autocorrelation below which its tail is taken to be one exponential
_NOISE = 3.0  # standard errors above which a lag is used
_LEAST_LAGS = 3
_EXACT = 1e-9  # standard error below which rounding rules
_DENSE_BELOW = 400  # free bits up to which a full diagonalisation is quicker and safer


@dataclass(frozen=True)
class IntegratedTime:
    """Integrated autocorrelation time in steps of a series.

    Args:
        value: tau_int; 1 for independent steps.
        error: Standard error of Madras and Sokal.
        window: Lags summed.
        n_steps: Steps of the series.
        n_chains: Chains.
        is_converged: Whether the window closed within half of the series. If not, the value is a lower limit.
    """

    value: float
    error: float
    window: int
    n_steps: int
    n_chains: int
    is_converged: bool


@dataclass(frozen=True)
class RelaxationTime:
    """Exponential relaxation time in steps of a series.

    Args:
        value: Time in which the tail falls by e.
        error: Jackknife error over blocks of chains.
        first_lag: First lag of the fit; 0 if the fit runs through the start of the curve.
        last_lag: Last lag of the fit, beyond which noise takes over or the series ends.
        is_bound: Whether memory was gone within a step, so that the value is an upper limit.
        is_converged: Whether the tail was reached. If not, the value is a lower limit.
    """

    value: float
    error: float
    first_lag: int
    last_lag: int
    is_bound: bool
    is_converged: bool


class _Curve(NamedTuple):
    """A normalised curve (L,) and the same without each block of chains (blocks, L)."""

    values: FloatArray
    replicas: FloatArray

    @property
    def errors(self) -> FloatArray:
        return _jackknife(self.replicas)


def autocorrelation(series: FloatArray, groups: IntArray | None = None) -> FloatArray:
    """Normalised autocorrelation of chains in equilibrium.

    Args:
        series: Values (steps, chains).
        groups: Law that each chain samples, shape (chains,), for chains with different conditions; every group has a
            mean of its own. One law if None.

    Returns:
        rho at lags 0 to steps - 1, shape (steps,); the later half rests on few pairs of steps.

    Raises:
        PriorError: If the series is constant, not finite, or shorter than four steps.
    """
    covariance = _covariances(_centred(series, groups)).mean(axis=1)
    rho: FloatArray = covariance / covariance[0]
    return rho


def integrated_time(series: FloatArray, groups: IntArray | None = None, c: float = WINDOW) -> IntegratedTime:
    """Integrated autocorrelation time with automatic window.

    Args:
        series: Values (steps, chains) in equilibrium.
        groups: As for :func:`autocorrelation`.
        c: Window in units of tau_int / 2.

    Raises:
        PriorError: If the series is constant, not finite, or shorter than four steps, or c is not positive.
    """
    if c <= 0:
        raise PriorError(f"a window of {c} autocorrelation times sums nothing; give about 5")
    rho = autocorrelation(series, groups)
    times = 2 * np.cumsum(rho) - 1
    n_steps, n_chains = series.shape
    longest = max(1, n_steps // 2)
    closed = np.flatnonzero(np.arange(1, longest + 1) >= c * times[1 : longest + 1] / 2)
    window = int(closed[0]) + 1 if len(closed) else longest
    value = float(times[window])
    return IntegratedTime(
        value=value,
        error=abs(value) * math.sqrt(2 * (2 * window + 1) / (n_steps * n_chains)),
        window=window,
        n_steps=n_steps,
        n_chains=n_chains,
        is_converged=len(closed) > 0,
    )


def effective_sample_size(series: FloatArray, groups: IntArray | None = None) -> float:
    """Number of independent steps that a series (steps, chains) is worth, n / tau_int.

    Raises:
        PriorError: As for :func:`integrated_time`.
    """
    return series.size / integrated_time(series, groups).value


def relaxation_time(series: FloatArray, groups: IntArray | None = None) -> RelaxationTime:
    """Exponential time of the tail of the autocorrelation, by a weighted log-linear fit.

    The fit begins where the autocorrelation has fallen to 0.3, so that faster modes have gone, and ends at the first
    lag less than three standard errors above zero; with fewer than three such lags it runs from lag 0.

    Args:
        series: Values (steps, chains) in equilibrium.
        groups: As for :func:`autocorrelation`.

    Raises:
        PriorError: As for :func:`autocorrelation`, or if there are fewer than eight steps times chains / 4.
    """
    covariances = _blocks_of(_covariances(_segments(_centred(series, groups))))
    sums = covariances.sum(axis=0) - covariances
    whole = covariances.sum(axis=0)
    return _fit_tail(_Curve(whole / whole[0], sums / sums[:, :1]))


def equilibrium_relaxation(series: FloatArray, equilibrium: float | None = None) -> RelaxationTime:
    """Exponential time in which the mean over chains goes from a common start to equilibrium.

    Args:
        series: Values (steps, chains), the start as step 0; at least eight chains.
        equilibrium: Mean in equilibrium; that of the second half of the series if None.

    Raises:
        PriorError: If the series cannot be used, or its mean does not move beyond noise.
    """
    _check(series)
    if series.shape[1] < _LEAST_BLOCKS:
        raise PriorError(f"{series.shape[1]} chains are too few to average over; give at least {_LEAST_BLOCKS}")
    blocks = _blocks_of(series) / series.shape[1]
    share = np.array([len(part) for part in _parts(series.shape[1])])[:, None] / series.shape[1]

    def decay(means: FloatArray) -> FloatArray:
        end = means[..., len(series) // 2 :].mean(axis=-1, keepdims=True) if equilibrium is None else equilibrium
        curve: FloatArray = (means - end) / (means[..., :1] - end)
        return curve

    whole = blocks.sum(axis=0)
    without = (whole - blocks) / (1 - share)
    end = float(whole[len(series) // 2 :].mean()) if equilibrium is None else equilibrium
    if abs(float(whole[0]) - end) <= _NOISE * float(_jackknife(without[:, :1])[0]):
        raise PriorError("the mean of the chains does not move; start them all at one state that is far from typical")
    return _fit_tail(_Curve(decay(whole), decay(without)))


def split_r_hat(series: FloatArray, groups: IntArray | None = None, is_ranked: bool = False) -> float:
    r"""Potential scale reduction of halved chains, :math:`\sqrt{\hat V / W}`; 1 if they agree, infinite if none moves.

    A series of n steps with memory gives about :math:`1 + \tau_{int}/n` even in equilibrium.

    Args:
        series: Values (steps, chains).
        groups: As for :func:`autocorrelation`.
        is_ranked: Whether to replace values by normal scores of their ranks, for heavy tails.

    Raises:
        PriorError: If the series is constant, not finite, or shorter than four steps.
    """
    centred = _centred(series, groups)
    if is_ranked:
        ranks = stats.rankdata(centred).reshape(centred.shape)
        centred = stats.norm.ppf((ranks - 0.375) / (centred.size + 0.25))
    half = len(centred) // 2
    halves = np.concatenate([centred[:half], centred[-half:]], axis=1)
    label = _labels(series.shape[1], groups)
    means, label = halves.mean(axis=0), np.concatenate([label, label])
    counts = np.bincount(label)
    off = means - (np.bincount(label, means) / counts)[label]
    between = float((off**2).sum()) / (len(means) - len(counts))
    within = float(halves.var(axis=0, ddof=1).mean())
    if within == 0:
        return math.inf
    return math.sqrt((half - 1) / half + between / within)


def leading_modes(machine: BoltzmannMachine, k: int, clamped: NDArray[np.bool_] | None = None) -> FloatArray:
    """Eigenvectors of the coupling matrix with the largest eigenvalues: what slows down first.

    For two partitions they are pairs of left and right singular vectors of the block between them.

    Args:
        machine: The machine.
        k: Number of modes, at most the number of free bits.
        clamped: Mask (N,) of bits that are held; couplers at them do not count.

    Returns:
        Unit vectors (k, N), zero on held bits, the largest component of each positive.

    Raises:
        PriorError: If k is out of range or a parameter is not finite.
    """
    machine.check_finite()
    free = np.flatnonzero(np.ones(machine.n_nodes, dtype=bool) if clamped is None else ~clamped)
    if not 1 <= k <= len(free):
        raise PriorError(f"{k} modes of {len(free)} free bits do not exist; ask for 1 to {len(free)}")
    first, second = machine.topology.edges.T
    strengths = machine.couplings.detach().cpu().double().numpy()
    upper = coo_array((strengths, (first, second)), shape=(machine.n_nodes, machine.n_nodes)).tocsr()
    matrix = (upper + upper.T)[free][:, free]
    if len(free) <= _DENSE_BELOW or 2 * k >= len(free):
        vectors = np.linalg.eigh(matrix.toarray())[1][:, ::-1][:, :k]
    else:
        start = np.random.default_rng(0).standard_normal(len(free))
        values, found = eigsh(matrix, k=k, which="LA", v0=start)
        vectors = found[:, np.argsort(-values)]
    modes = np.zeros((k, machine.n_nodes))
    modes[:, free] = vectors.T
    largest = np.take_along_axis(modes, np.abs(modes).argmax(axis=1, keepdims=True), axis=1)
    return modes * np.sign(largest)


def _check(series: FloatArray) -> None:
    if series.ndim != 2 or len(series) < 4 or series.shape[1] < 1:
        raise PriorError(f"a series of shape {series.shape} is too short; give (steps, chains) with at least 4 steps")
    if not np.isfinite(series).all():
        raise PriorError("the series holds NaN or infinity; look for parameters that are not finite")


def _labels(n_chains: int, groups: IntArray | None) -> IntArray:
    if groups is None:
        return np.zeros(n_chains, dtype=np.int64)
    if groups.shape != (n_chains,):
        raise PriorError(f"{len(groups)} groups for {n_chains} chains; give one for each")
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _centred(series: FloatArray, groups: IntArray | None) -> FloatArray:
    """The series in float64 minus the mean of its group."""
    _check(series)
    label = _labels(series.shape[1], groups)
    values = series.astype(np.float64)
    means = np.bincount(label, values.mean(axis=0)) / np.bincount(label)
    centred: FloatArray = values - means[label]
    if np.abs(centred).max() <= 1e-9 * np.abs(values).max():
        raise PriorError("the series is constant, so that it has no autocorrelation; follow something that moves")
    return centred


def _covariances(centred: FloatArray) -> FloatArray:
    """Mean of products at every lag in every chain, shape (steps, chains)."""
    n_steps = len(centred)
    length = next_fast_len(2 * n_steps, real=True)
    sums = irfft(np.abs(rfft(centred, length, axis=0)) ** 2, length, axis=0)[:n_steps]
    products: FloatArray = sums / np.arange(n_steps, 0, -1)[:, None]
    return products


def _segments(centred: FloatArray) -> FloatArray:
    """Few long chains cut into pieces, so that there are enough blocks for a jackknife."""
    n_steps, n_chains = centred.shape
    n_pieces = math.ceil(_LEAST_BLOCKS / n_chains)
    length = n_steps // n_pieces
    if length < 4:
        raise PriorError(f"{n_chains} chains of {n_steps} steps are too short for an error; make more sweeps")
    pieces = centred[: n_pieces * length].reshape(n_pieces, length, n_chains)
    return pieces.transpose(1, 0, 2).reshape(length, -1)


def _parts(n_chains: int) -> list[IntArray]:
    return np.array_split(np.arange(n_chains), min(_N_BLOCKS, n_chains))


def _blocks_of(values: FloatArray) -> FloatArray:
    """Sums over blocks of chains, (steps, chains) to (blocks, steps)."""
    return np.stack([values[:, part].sum(axis=1) for part in _parts(values.shape[1])])


def _jackknife(replicas: FloatArray) -> FloatArray:
    n = len(replicas)
    spread: FloatArray = np.sqrt((n - 1) / n * ((replicas - replicas.mean(axis=0)) ** 2).sum(axis=0))
    return spread


def _fit_tail(curve: _Curve) -> RelaxationTime:
    """Weighted log-linear fit between the place where the tail begins and the noise."""
    values, errors = curve.values, curve.errors
    longest = max(1, len(values) // 2)
    drowned = np.flatnonzero(values[1 : longest + 1] <= _NOISE * errors[1 : longest + 1])
    last = int(drowned[0]) if len(drowned) else longest
    if last == 0:
        bound = -1 / math.log(min(max(_NOISE * float(errors[1]), _EXACT), 1 - _EXACT))
        return RelaxationTime(bound, bound, 0, 1, is_bound=True, is_converged=True)
    low = np.flatnonzero(values[: last + 1] <= _TAIL_FROM)
    first = int(low[0]) if len(low) else last
    if last - first + 1 < _LEAST_LAGS:
        first = 0 if last < 2 * _LEAST_LAGS else last // 2
    lags = np.arange(first, last + 1)
    weights = np.ones(len(lags)) if first == 0 else (values[lags] / errors[lags].clip(_EXACT)) ** 2
    rates = np.array([_rate(lags, row[lags], weights) for row in (values, *curve.replicas)])
    value = math.inf if rates[0] <= 0 else float(1 / rates[0])
    error = math.inf if rates[0] <= 0 else float(_jackknife(rates[1:, None])[0] / rates[0] ** 2)
    return RelaxationTime(value, error, first, last, is_bound=False, is_converged=bool(len(low) > 0 and rates[0] > 0))


def _rate(lags: IntArray, values: FloatArray, weights: FloatArray) -> float:
    """Minus the slope of the log; through the start of the curve if that is among the lags."""
    logs = np.log(values.clip(np.finfo(np.float64).tiny))
    if lags[0] == 0:
        return -float((weights * lags * logs).sum() / (weights * lags**2).sum())
    off = lags - (weights * lags).sum() / weights.sum()
    return -float((weights * off * logs).sum() / (weights * off**2).sum())
