r"""A running estimate of the inverse temperature across programmings: a Kalman filter of a random walk in ln beta.

The effective temperature of an annealer drifts from programming to programming. With a prior knowledge of
:math:`x = \ln\beta` of mean m and variance v, and a drift per programming of standard deviation q,

.. math::
    v \leftarrow v + q^2 \quad (a\ programming), \qquad
    k = \frac{v}{v + r^2}, \quad m \leftarrow m + k (y - m), \quad v \leftarrow (1 - k) v \quad (an\ estimate),

where an estimate y has the error r in ln beta. Few reads then cost no accuracy where beta is steady, and many follow it
where it moves. No drift of a chip is published in numbers; q is an assumption of the caller, and
:attr:`RunningBeta.surprise`, the last innovation in units of its expected size, shows whether it is a fair one.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

from calo4pqvae.annealer.beta.pseudo_likelihood import BetaEstimate
from calo4pqvae.errors import AnnealerError

__all__ = ["RunningBeta"]

_DRIFT = 0.01


@dataclass(frozen=True)
class RunningBeta:
    """What is known of beta now; a value that each step replaces.

    Args:
        log_value: ln beta.
        variance: Of ln beta.
        drift: Standard deviation of the change of ln beta from one programming to the next (assumed).
        n_estimates: Estimates that entered.
        surprise: Last innovation in units of its standard deviation; NaN before the first.
    """

    log_value: float
    variance: float
    drift: float = _DRIFT
    n_estimates: int = 0
    surprise: float = math.nan

    @classmethod
    def start(cls, value: float, relative_error: float, drift: float = _DRIFT) -> Self:
        """A first guess.

        Args:
            value: Guess of beta.
            relative_error: Its relative standard error.
            drift: Relative change from one programming to the next.

        Raises:
            AnnealerError: If a number is not positive (a drift of zero is allowed).
        """
        if not (
            value > 0 and relative_error > 0 and drift >= 0 and math.isfinite(value * relative_error * (1 + drift))
        ):
            raise AnnealerError(
                f"beta {value:g}, error {relative_error:g} and drift {drift:g} are no start; give positive numbers"
            )
        return cls(math.log(value), relative_error**2, drift)

    @property
    def value(self) -> float:
        """Beta."""
        return math.exp(self.log_value)

    @property
    def error(self) -> float:
        """Standard error of beta."""
        return self.value * math.sqrt(self.variance)

    def predict(self, n_programmings: int = 1) -> Self:
        """What is known when the chip has been programmed again."""
        return replace(self, variance=self.variance + n_programmings * self.drift**2)

    def update(self, estimate: BetaEstimate) -> Self:
        """What is known with one more estimate.

        Raises:
            AnnealerError: If the estimate or its error is not positive.
        """
        if not (estimate.value > 0 and estimate.error > 0 and math.isfinite(estimate.value + estimate.error)):
            raise AnnealerError(f"{estimate.value:g} +- {estimate.error:g} tells nothing about beta; estimate it again")
        noise = (estimate.error / estimate.value) ** 2
        innovation = math.log(estimate.value) - self.log_value
        gain = self.variance / (self.variance + noise)
        return replace(
            self,
            log_value=self.log_value + gain * innovation,
            variance=(1 - gain) * self.variance,
            n_estimates=self.n_estimates + 1,
            surprise=innovation / math.sqrt(self.variance + noise),
        )
