r"""Densities of the decoder: what bits do not decide fluctuates by these laws.

**Voxel energies.** With threshold t = 15.15 keV, :math:`v = \ln(e/t) \ge 0` of a hit voxel follows a mixture of
logistic densities cut at 0,

.. math:: p(v) = \frac{\sum_k \pi_k f(v;\mu_k, s_k)}{\sum_k \pi_k F_k},\qquad
          f = \frac{e^{-a}}{s(1+e^{-a})^2},\ a = \frac{v-\mu}{s},\qquad F_k = \mathrm{sigmoid}(\mu_k/s_k).

Why this law: partial crossings of the silicon give a flat spectrum in e at low energy, dN/dv proportional to
:math:`e^{v}`, and a logistic of width 1 has just that tail, while a normal in v has none; the single-particle peak and
the core of dense voxels are two more components. A mean alone (a squared-error activation) cannot fluctuate and leaves
no voxel below 1 MeV.

``censored`` instead of cut: the density is not cut, and an empty voxel contributes the probability of falling below
threshold. It is what "mask removed from the activation in training" means for a likelihood.

**Layer variables** are normal, cut below by the smallest layer energy that can exist.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

__all__ = ["LogisticMixture", "normal_nll", "sample_normal", "sample_truncated_normal", "truncated_normal_nll"]

_TINY = 1e-7
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class LogisticMixture(NamedTuple):
    """Mixtures of logistic densities, one a row.

    Attributes:
        log_weights: Normalised log weights with shape (rows, components).
        centres: Centres mu, same shape.
        widths: Widths s > 0, same shape.
    """

    log_weights: Tensor
    centres: Tensor
    widths: Tensor

    def log_density(self, values: Tensor) -> Tensor:
        """Log density of the uncut mixture at ``values`` (rows,), with shape (rows,)."""
        scaled = (values[:, None] - self.centres) / self.widths
        terms = self.log_weights - scaled - 2 * functional.softplus(-scaled) - self.widths.log()
        return torch.logsumexp(terms, 1)

    def log_above(self) -> Tensor:
        """Log probability of a value above 0, with shape (rows,)."""
        return torch.logsumexp(self.log_weights + functional.logsigmoid(self.centres / self.widths), 1)

    def log_below(self) -> Tensor:
        """Log probability of a value below 0, with shape (rows,)."""
        return torch.logsumexp(self.log_weights + functional.logsigmoid(-self.centres / self.widths), 1)

    def sample(self, generator: Generator | None = None, *, cut: bool = True) -> Tensor:
        """One value a row, above 0 if ``cut``, with shape (rows,)."""
        weights = self.log_weights
        if cut:
            weights = weights + functional.logsigmoid(self.centres / self.widths)
        chosen = torch.argmax(weights + _gumbel(weights, generator), 1, keepdim=True)
        centre, width = self.centres.gather(1, chosen)[:, 0], self.widths.gather(1, chosen)[:, 0]
        low = torch.sigmoid(-centre / width) if cut else torch.zeros_like(centre)
        quantile = low + (1 - low) * _uniform(low, generator)
        value = centre + width * quantile.clamp(_TINY, 1 - _TINY).logit()
        return value.clamp(min=0) if cut else value


def normal_nll(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Negative log density of a normal, elementwise, in nats."""
    return 0.5 * ((value - mean) * (-log_std).exp()) ** 2 + log_std + _HALF_LOG_2PI


def truncated_normal_nll(value: Tensor, mean: Tensor, log_std: Tensor, floor: Tensor) -> Tensor:
    """Negative log density of a normal cut below at ``floor``, elementwise, in nats."""
    above: Tensor = torch.special.log_ndtr((mean - floor) * (-log_std).exp())
    return normal_nll(value, mean, log_std) + above


def sample_normal(mean: Tensor, log_std: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws from normals, elementwise."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + log_std.exp() * noise


def sample_truncated_normal(mean: Tensor, log_std: Tensor, floor: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws from normals cut below at ``floor``, elementwise, by inversion in the upper tail."""
    std = log_std.exp()
    above: Tensor = torch.special.ndtr((mean - floor) / std)
    tail = (above * _uniform(mean, generator)).clamp(_TINY, 1 - _TINY)
    quantile: Tensor = torch.special.ndtri(tail)
    return torch.maximum(mean - std * quantile, floor)


def _uniform(like: Tensor, generator: Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _gumbel(like: Tensor, generator: Generator | None) -> Tensor:
    return -torch.log(-torch.log(_uniform(like, generator).clamp(_TINY, 1 - _TINY)))
