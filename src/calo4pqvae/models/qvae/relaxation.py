r"""Bits that gradients can pass.

A Bernoulli bit with logit :math:`\ell` is drawn by the Gumbel (logistic) trick,

.. math:: z = \mathbf 1[\ell + g > 0], \qquad g = \ln\frac{\rho}{1-\rho},\ \rho \sim U(0,1),

and relaxed to :math:`\zeta = \mathrm{sigmoid}((\ell + g)/\tau)`, which tends to z as the temperature-like sharpness
tau goes to 0. (tau is no inverse temperature of the Boltzmann machine; the line's older texts write
:math:`1/\tau` as beta.)

* ``gumbolt``: the relaxed value goes on in training, bits are used in evaluation (arXiv 1805.07349).
* ``straight-through``: the bit goes on, the gradient is that of the relaxed value, so that the networks behind it
  and the Boltzmann machine see bits in training as in generation (Bengio et al. 2013, arXiv 1308.3432).

The entropy of a bit, :math:`H = \mathrm{softplus}(\ell) - \ell\,\mathrm{sigmoid}(\ell)`, is exact and needs no sample.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Relaxation", "TauSchedule", "bit_entropy", "draw_bits", "relax_bits"]

Relaxation = Literal["straight-through", "gumbolt"]

_TINY = 1e-7  # keeps the logistic noise finite: |g| < 16.2


def _noisy(logits: Tensor, uniform: Tensor) -> Tensor:
    return logits + uniform.clamp(_TINY, 1 - _TINY).logit()


def draw_bits(logits: Tensor, uniform: Tensor) -> Tensor:
    """Draws hard bits with P(1) = sigmoid(logits) from uniform noise of the same shape; no gradient passes."""
    return (_noisy(logits.detach(), uniform) > 0).to(logits.dtype)


def relax_bits(logits: Tensor, uniform: Tensor, tau: float, kind: Relaxation = "straight-through") -> Tensor:
    """Draws bits through which gradients reach the logits.

    Args:
        logits: Logits of P(1), any shape.
        uniform: Noise between 0 and 1, of the same shape. The noise is given, not drawn, so that it does not depend
            on how a batch is shared among processes.
        tau: Sharpness, above 0.
        kind: ``straight-through`` gives exact bits, ``gumbolt`` values between 0 and 1.

    Returns:
        Tensor of the shape of ``logits``.

    Raises:
        ValueError: If tau is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau must be positive, not {tau}")
    noisy = _noisy(logits, uniform)
    soft = torch.sigmoid(noisy / tau)
    if kind == "gumbolt":
        return soft
    return (noisy > 0).to(soft.dtype) + (soft - soft.detach())


def bit_entropy(logits: Tensor) -> Tensor:
    r"""Entropy of each bit in nats, between 0 and ln 2, with the shape of ``logits``."""
    return functional.softplus(logits) - logits * torch.sigmoid(logits)


class TauSchedule:
    """Sharpness that falls geometrically from ``start`` to ``end`` over training.

    Args:
        start: Value at progress 0, positive.
        end: Value at progress 1, positive.
    """

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def __call__(self, progress: float) -> float:
        """Value at a progress between 0 and 1; clipped outside."""
        fraction = min(max(progress, 0.0), 1.0)
        return self.start * math.exp(fraction * math.log(self.end / self.start))
