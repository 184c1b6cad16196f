r"""The inverse temperature of an annealer by matching mean energies: the loop, and Newton's rule in ln beta.

The machine is divided by a trial :math:`\beta` and read. Reads follow :math:`e^{-(\beta_\mathrm{eff} / \beta) E}`, and
:math:`\beta` is right when their mean energy :math:`E_Q` is the classical one :math:`E_R` of the machine at inverse
temperature one. Since :math:`d E_Q / d \ln\beta = (\beta_\mathrm{eff} / \beta) \mathrm{Var}_Q`, the step of Newton
near the fixed point is

.. math:: \Delta \ln\beta = -\frac{E_Q - E_R}{\mathrm{Var}_Q}, \qquad
    \sigma_{\ln\beta} = \frac{\sqrt{\mathrm{Var}_Q / n_Q + \mathrm{Var}_R / n_R}}{\mathrm{Var}_Q},

cut at a longest step (damping): far away the variance of one end is no guide. It uses differences of energies alone, so
that constants do not matter. Every programming is one more measurement of :math:`\beta_\mathrm{eff}`; those near the
answer are pooled (:attr:`EnergyMatch.value`).

Energy matching needs a classical sample of the machine, which pseudo-likelihood
(:mod:`~calo4pqvae.annealer.beta.pseudo_likelihood`) does not; and it takes several programmings. What it matches is the
mean energy, so that it also absorbs what is no temperature.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike

from calo4pqvae.annealer.beta.pseudo_likelihood import BetaEstimate
from calo4pqvae.errors import AnnealerError

__all__ = ["EnergyMatch", "EnergyRule", "EnergySample", "NewtonRule", "match_energy"]

_NEAR = 0.1  # distance in ln beta up to which a programming tells about the answer


@dataclass(frozen=True)
class EnergySample:
    """Mean and variance of machine energies.

    Args:
        mean: In nats.
        variance: Of one energy, in nats squared.
        n: Effective number of independent energies; infinite for an exact mean.
    """

    mean: float
    variance: float
    n: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and self.variance > 0 and self.n > 0):
            raise AnnealerError(
                f"energies of mean {self.mean:g} and variance {self.variance:g} over {self.n:g} reads match nothing; "
                "take more reads of a machine that is not frozen"
            )

    @classmethod
    def of(cls, energies: ArrayLike, n_effective: float | None = None) -> Self:
        """Mean and variance of energies.

        Args:
            energies: At least two, in nats.
            n_effective: Effective number if they are correlated.

        Raises:
            AnnealerError: If there are fewer than two, or all are equal.
        """
        values = np.asarray(energies, dtype=np.float64).ravel()
        if len(values) < 2:
            raise AnnealerError(f"{len(values)} energies have no variance; take two reads or more")
        n = len(values) if n_effective is None else n_effective
        return cls(float(values.mean()), float(values.var(ddof=1)), float(n))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return math.sqrt(self.variance / self.n)


class EnergyRule(Protocol):
    """How beta is changed after a programming."""

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        """The next beta."""
        ...

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        """Whether the rule stops here."""
        ...

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        """What a small error of beta is multiplied by in a step at the fixed point; beyond minus one it grows."""
        ...


@dataclass(frozen=True)
class NewtonRule:
    """Newton's steps in ln beta.

    Args:
        longest_step: Of ln beta.
        n_errors: Stop when the means differ by less than so many standard errors of their difference.
    """

    longest_step: float = 0.3
    n_errors: float = 1.0

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        """The next beta."""
        step = -(seen.mean - wanted.mean) / seen.variance
        return beta * math.exp(min(max(step, -self.longest_step), self.longest_step))

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        """Whether the means agree within their errors."""
        return abs(seen.mean - wanted.mean) <= self.n_errors * math.hypot(seen.error, wanted.error)

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        """Zero: convergence is quadratic."""
        del beta, mean, variance
        return 0.0


@dataclass(frozen=True)
class EnergyMatch:
    """Course of an energy matching.

    Args:
        betas: What the machine was divided by, one a programming.
        seen: Energies of the reads, one a programming.
        wanted: Classical energies.
        last_beta: Where the rule ended; it was programmed if ``is_converged``.
        is_converged: Whether the rule stopped by itself.
        has_diverged: Whether beta left the positive numbers.
    """

    betas: tuple[float, ...]
    seen: tuple[EnergySample, ...]
    wanted: EnergySample
    last_beta: float
    is_converged: bool
    has_diverged: bool

    @property
    def value(self) -> float:
        """Effective inverse temperature by all programmings within 0.1 of the last one in ln beta."""
        return self._pooled()[0]

    @property
    def error(self) -> float:
        """Standard error of :attr:`value`, with that of the classical mean."""
        return self._pooled()[1]

    @property
    def is_extrapolated(self) -> bool:
        """Whether :attr:`value` is more than its error away from every beta that was programmed."""
        return min(abs(self.value - beta) for beta in self.betas) > self.error

    def _pooled(self) -> tuple[float, float]:
        logs = np.log(self.betas)
        near = np.abs(logs - logs[-1]) <= _NEAR
        variances = np.array([sample.variance for sample in self.seen])[near]
        means = np.array([sample.mean for sample in self.seen])[near]
        counts = np.array([sample.n for sample in self.seen])[near]
        estimates = logs[near] - (means - self.wanted.mean) / variances
        if not np.isfinite(counts).all():  # exact energies: the last programming is the nearest
            return float(np.exp(estimates[-1])), float(self.wanted.error / variances[-1] * np.exp(estimates[-1]))
        weights = variances * counts  # inverse squared errors of the logs
        log_value = float(weights @ estimates / weights.sum())
        shared = float(weights @ (self.wanted.error / variances) / weights.sum())
        value = math.exp(log_value)
        return value, value * math.hypot(1 / math.sqrt(weights.sum()), shared)

    def estimate(self, n_spins: int, n_excluded: int = 0, seed: int = 0) -> BetaEstimate:
        """The same as a :class:`~calo4pqvae.annealer.beta.pseudo_likelihood.BetaEstimate`.

        Args:
            n_spins: Free spins of a read.
            n_excluded: Held spins.
            seed: That the classical sample was made with.
        """
        return BetaEstimate(
            value=self.value,
            error=self.error,
            error_source="energies",
            n_reads=round(sum(sample.n for sample in self.seen if math.isfinite(sample.n))),
            n_programmings=len(self.betas),
            n_spins=n_spins,
            n_excluded=n_excluded,
            n_steps=len(self.betas),
            is_converged=self.is_converged,
            misfit=math.nan,
            curvature_error=math.nan,
            seed=seed,
            programmed_beta=self.betas[-1],
        )


def match_energy(
    read: Callable[[float], EnergySample],
    wanted: EnergySample,
    rule: EnergyRule | None = None,
    *,
    start: float,
    max_programmings: int = 10,
) -> EnergyMatch:
    """Changes beta by a rule until the mean energies agree.

    Args:
        read: Programs the machine divided by a beta and gives the energies of the reads.
        wanted: Classical energies of the machine at inverse temperature one.
        rule: Newton's rule if None.
        start: First beta.
        max_programmings: Most calls of ``read``.

    Returns:
        The course; ``is_converged`` and ``has_diverged`` say how it ended.

    Raises:
        AnnealerError: If the start is not positive, no programming is allowed, or the rule has no meaning here.
    """
    if not (math.isfinite(start) and start > 0) or max_programmings < 1:
        raise AnnealerError(f"start {start:g} and {max_programmings} programmings lead nowhere; give positive numbers")
    steps = NewtonRule() if rule is None else rule
    beta, betas, seen = start, [], []
    for _ in range(max_programmings):
        betas.append(beta)
        seen.append(read(beta))
        if steps.is_settled(seen[-1], wanted):
            return EnergyMatch(tuple(betas), tuple(seen), wanted, beta, is_converged=True, has_diverged=False)
        beta = float(steps.step(beta, seen[-1], wanted))
        if not math.isfinite(beta) or beta <= 0:
            return EnergyMatch(tuple(betas), tuple(seen), wanted, beta, is_converged=False, has_diverged=True)
    return EnergyMatch(tuple(betas), tuple(seen), wanted, beta, is_converged=False, has_diverged=False)
