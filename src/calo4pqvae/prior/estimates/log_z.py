r"""Estimates of log partition functions with their errors, from one direction or from two.

Each of n chains carries a weight whose mean is Z (or 1/Z for reverse annealing), so that

.. math:: \ln \hat Z = \ln \frac{1}{n} \sum_k w_k .

The error is the bootstrap error of the log mean over chains; a jackknife stands beside it. The effective sample size
:math:`(\sum w)^2 / \sum w^2` counts the chains that carry the mean: where it is a few, the error is not to be
believed, and even where it is large it cannot see a mode that no chain has found. Only two directions that agree show
that (:class:`Bracket`).
"""

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import PriorError

__all__ = ["Bracket", "LogZ"]

FloatArray = NDArray[np.float64]
Direction = Literal["ais", "reverse", "trajectory", "exact"]

LEAST_ESS = 20.0
_N_BOOTSTRAP = 200


@dataclass(frozen=True)
class LogZ:
    r"""Estimates of :math:`\ln Z` in nats for C cases.

    Args:
        value: Estimates, shape (C,).
        error: Standard errors, bootstrap over chains, shape (C,); zero for exact sums.
        ess: Effective sample sizes, shape (C,).
        log_weights: What each chain says :math:`\ln Z` is, shape (C, chains); (C, 0) for exact sums.
        n_temperatures: Places on the path, both ends included; updates for a trajectory, 0 for exact sums.
        base: Biases of the independent bits at the start of the path: ``"fields"`` of the machine, ``"given"``, or
            ``"none"`` for exact sums.
        direction: ``"ais"`` (tends to be low), ``"reverse"`` (tends to be high), ``"trajectory"`` or ``"exact"``.
        seed: Seed of the chains.
        n_resampled: How often the chains of each case were resampled, shape (C,).
    """

    value: FloatArray
    error: FloatArray
    ess: FloatArray
    log_weights: FloatArray
    n_temperatures: int
    base: str
    direction: Direction
    seed: int
    n_resampled: NDArray[np.int64]

    @classmethod
    def from_weights(
        cls, log_weights: FloatArray, *, n_temperatures: int, base: str, direction: Direction, seed: int
    ) -> Self:
        """The estimate that chains give together.

        Args:
            log_weights: What each chain says log Z is, shape (C, chains).
            n_temperatures: Places on the path.
            base: Start of the path.
            direction: Direction of the path; reverse weights are averaged as 1/Z.
            seed: Seed of chains and bootstrap.

        Raises:
            PriorError: If a weight is not finite.
        """
        if not np.isfinite(log_weights).all():
            raise PriorError("log weights are not finite; look for parameters that are far too large")
        sign = -1.0 if direction == "reverse" else 1.0
        return cls(
            value=sign * _log_mean(sign * log_weights),
            error=_bootstrap_error(sign * log_weights, seed),
            ess=_effective_size(sign * log_weights),
            log_weights=log_weights,
            n_temperatures=n_temperatures,
            base=base,
            direction=direction,
            seed=seed,
            n_resampled=np.zeros(len(log_weights), dtype=np.int64),
        )

    def with_history(self, error: FloatArray, least_ess: FloatArray, n_resampled: NDArray[np.int64]) -> Self:
        """The same estimate with what happened before chains were resampled.

        Args:
            error: Standard errors of the log means that resampling has absorbed, shape (C,).
            least_ess: Smallest effective sample sizes so far, shape (C,).
            n_resampled: Number of resamplings, shape (C,).
        """
        return replace(
            self,
            error=np.hypot(self.error, error),
            ess=np.minimum(self.ess, least_ess),
            n_resampled=n_resampled.copy(),
        )

    @classmethod
    def exact(cls, value: FloatArray) -> Self:
        """Log Z that is known without chains, for example from a sum over all states.

        Args:
            value: One number a case, shape (C,).
        """
        nothing = np.zeros(len(value))
        return cls(
            value=value,
            error=nothing,
            ess=nothing,
            log_weights=np.zeros((len(value), 0)),
            n_temperatures=0,
            base="none",
            direction="exact",
            seed=0,
            n_resampled=np.zeros(len(value), dtype=np.int64),
        )

    @property
    def n_chains(self) -> int:
        """Chains a case; 0 for exact sums."""
        return int(self.log_weights.shape[1])

    @property
    def is_reliable(self) -> NDArray[np.bool_]:
        """Whether 20 chains or more carry each estimate, shape (C,). False means: do not believe value or error."""
        reliable: NDArray[np.bool_] = (self.ess >= LEAST_ESS) | (self.direction == "exact")
        return reliable

    @property
    def jackknife_error(self) -> FloatArray:
        """Standard errors from leaving out one chain at a time, shape (C,), to compare with the bootstrap."""
        return _jackknife_error(-self.log_weights if self.direction == "reverse" else self.log_weights)


@dataclass(frozen=True)
class Bracket:
    """Both directions together.

    Args:
        forward: AIS, which tends to be low.
        reverse: Reverse AIS, which tends to be high if its samples follow the law.
    """

    forward: LogZ
    reverse: LogZ

    @property
    def gap(self) -> FloatArray:
        """Reverse minus forward in nats, shape (C,); near zero where both have converged."""
        return self.reverse.value - self.forward.value

    @property
    def gap_error(self) -> FloatArray:
        """Standard error of the gap, shape (C,)."""
        return np.hypot(self.forward.error, self.reverse.error)

    @property
    def is_closed(self) -> NDArray[np.bool_]:
        """Whether both are reliable and agree within three errors, shape (C,)."""
        agree = np.abs(self.gap) <= 3 * self.gap_error
        closed: NDArray[np.bool_] = agree & self.forward.is_reliable & self.reverse.is_reliable
        return closed


def _log_mean(log_weights: FloatArray) -> FloatArray:
    largest = log_weights.max(axis=1, keepdims=True)
    mean: FloatArray = largest[:, 0] + np.log(np.exp(log_weights - largest).mean(axis=1))
    return mean


def _effective_size(log_weights: FloatArray) -> FloatArray:
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    size: FloatArray = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    return size


def _bootstrap_error(log_weights: FloatArray, seed: int) -> FloatArray:
    """Spread of the log mean when chains are drawn again with replacement."""
    n_chains = log_weights.shape[1]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_chains, np.full(n_chains, 1 / n_chains), _N_BOOTSTRAP)
    means = counts @ weights.T / n_chains
    error: FloatArray = np.log(means.clip(np.finfo(np.float64).tiny)).std(axis=0, ddof=1)
    return error


def _jackknife_error(log_weights: FloatArray) -> FloatArray:
    n_chains = log_weights.shape[1]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    rest = (weights.sum(axis=1, keepdims=True) - weights).clip(np.finfo(np.float64).tiny)
    without = np.log(rest / (n_chains - 1))
    spread = ((without - without.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    error: FloatArray = np.sqrt((n_chains - 1) / n_chains * spread)
    return error
