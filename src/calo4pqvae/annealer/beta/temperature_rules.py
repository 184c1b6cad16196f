r"""The mean-energy rules of the published codes, exactly as published, and when they are stable.

Both take reads at a trial :math:`\beta`, compare their mean machine energy :math:`E_Q` with the classical
:math:`E_R`, and change :math:`\beta`:

.. math::
    \beta \leftarrow \beta - \eta (E_Q - E_R), \qquad
    \beta \leftarrow \max\big(2, \beta (E_Q / E_R)^\delta\big) .

Fixed gains are :math:`\eta_0 = 0.01` and :math:`\delta_0 = 4`; adaptive ones are
:math:`\eta = \max(\eta_0, \beta^2 / \mathrm{Var}_Q)`, later capped at 0.5 with a floor of 0.01 under beta, and
:math:`\delta = \max(\delta_0, |E_Q| / \mathrm{Var}_Q)`. They stop when

.. math:: |E_R - E_Q| < 1.5 \cdot \frac{2 s_Q s_R}{\sqrt{n} (s_Q + s_R)} .

**Stability.** The reads follow :math:`e^{-(\beta_\mathrm{eff} / \beta) E}`, so that at the fixed point
:math:`d E_Q / d\beta = \mathrm{Var} / \beta`, and a small error of beta is multiplied in each step by

.. math::
    1 - \eta\, \mathrm{Var} / \beta \quad (additive), \qquad
    1 - \delta\, \mathrm{Var} / |E| \quad (multiplicative).

Beyond minus one it grows. The published :math:`\beta^2 / \mathrm{Var}` gives :math:`1 - \beta`, which diverges for
beta > 2; :math:`\max(\delta_0, \cdot)` can only raise :math:`\delta` above the best value :math:`|E| / \mathrm{Var}`,
and a fixed :math:`\delta_0 = 4` swings in a two-cycle where :math:`|E| / \mathrm{Var} < 2`. The multiplicative rule has
no meaning when the two means differ in sign, and depends on the constant of the energy. The rule to use is
:class:`~calo4pqvae.annealer.beta.energy_matching.NewtonRule`; these are here to be compared with.

CaloQVAE, arXiv 2312.03179, and its public code; Calo4pQVAE, arXiv 2410.22870.
"""

import math
from dataclasses import dataclass

from calo4pqvae.annealer.beta.energy_matching import EnergySample
from calo4pqvae.errors import AnnealerError

__all__ = ["AdditiveRule", "MultiplicativeRule"]

_STOP = 1.5  # of the published stop


@dataclass(frozen=True)
class AdditiveRule:
    """beta <- beta - eta (E_Q - E_R).

    Args:
        gain: eta, or its least value if adaptive.
        is_adaptive: Whether eta is max(gain, beta^2 / Var_Q).
        cap: Largest eta; None for none, 0.5 in later codes.
        lowest: Floor under beta; None for none, 0.01 in later codes.
        tolerance: Stop at this difference of the means in nats; None takes the published stop, 0.5 in later codes.
    """

    gain: float = 0.01
    is_adaptive: bool = False
    cap: float | None = None
    lowest: float | None = None
    tolerance: float | None = None

    def eta(self, beta: float, variance: float) -> float:
        """Gain at a beta and a variance of the energy."""
        eta = max(self.gain, beta**2 / variance) if self.is_adaptive else self.gain
        return eta if self.cap is None else min(self.cap, eta)

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        """The next beta, which may be negative: the loop then says that the rule diverged."""
        following = beta - self.eta(beta, seen.variance) * (seen.mean - wanted.mean)
        return following if self.lowest is None else max(self.lowest, following)

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        """Whether the means agree as far as the rule asks."""
        difference = abs(seen.mean - wanted.mean)
        return difference < (_published_stop(seen, wanted) if self.tolerance is None else self.tolerance)

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        """What a small error of beta is multiplied by in a step at the fixed point; the mean does not matter here.

        Args:
            beta: The fixed point.
            mean: Mean energy there.
            variance: Variance of the energy there.
        """
        del mean
        return 1 - self.eta(beta, variance) * variance / beta


@dataclass(frozen=True)
class MultiplicativeRule:
    """beta <- max(lowest, beta (E_Q / E_R)^delta).

    Args:
        power: delta, or its least value if adaptive.
        is_adaptive: Whether delta is max(power, abs(E_Q) / Var_Q).
        lowest: Floor under beta; 2 as published.
    """

    power: float = 4.0
    is_adaptive: bool = False
    lowest: float = 2.0

    def delta(self, mean: float, variance: float) -> float:
        """Power at a mean and a variance of the energy."""
        return max(self.power, abs(mean) / variance) if self.is_adaptive else self.power

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        """The next beta.

        Raises:
            AnnealerError: If the means differ in sign.
        """
        if seen.mean * wanted.mean <= 0:
            raise AnnealerError(
                f"the multiplicative rule has no meaning for mean energies of {seen.mean:.4g} and {wanted.mean:.4g}; "
                "use the Newton rule"
            )
        growth = self.delta(seen.mean, seen.variance) * math.log(seen.mean / wanted.mean)
        return max(self.lowest, beta * math.exp(min(growth, math.log(1e6))))

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        """Whether the means agree by the published stop."""
        return abs(seen.mean - wanted.mean) < _published_stop(seen, wanted)

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        """What a small error of beta is multiplied by in a step at the fixed point, where the floor does not act.

        Args:
            beta: The fixed point; it does not matter here.
            mean: Mean energy there.
            variance: Variance of the energy there.
        """
        del beta
        return 1 - self.delta(mean, variance) * variance / abs(mean)


def _published_stop(seen: EnergySample, wanted: EnergySample) -> float:
    spreads = math.sqrt(seen.variance), math.sqrt(wanted.variance)
    return _STOP * 2 * spreads[0] * spreads[1] / (math.sqrt(seen.n) * (spreads[0] + spreads[1]))
