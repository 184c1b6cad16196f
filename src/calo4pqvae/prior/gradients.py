r"""The contrastive gradient of the log-likelihood, plain and centred.

The log-likelihood :math:`L = \langle \ln p(z | c) \rangle_d` of data (d) under the model (m) has the gradient

.. math::
    \partial_{b_i} L = \langle z_i \rangle_d - \langle z_i \rangle_m, \quad
    \partial_{W_{ij}} L = \langle z_i z_j \rangle_d - \langle z_i z_j \rangle_m, \quad
    \partial_{A_{ai}} L = \langle c_a z_i \rangle_d - \langle c_a z_i \rangle_m .

**Centred form.** Write the same machine with bits :math:`z_i - \mu_i` and conditions :math:`c_a - \nu_a`, follow
the gradient there and go back. With :math:`\Delta[x] = \langle x \rangle_d - \langle x \rangle_m`,

.. math::
    \delta W_{ij} = \Delta[(z_i - \mu_i)(z_j - \mu_j)], \quad \delta A_{ai} = \Delta[(c_a - \nu_a)(z_i - \mu_i)], \\
    \delta b_i = \Delta[z_i] - \sum_{j \sim i} \delta W_{ij} \mu_j - \sum_a \delta A_{ai} \nu_a ,

which vanishes where the plain gradient does, does not depend on which state of a bit is called one, and
learns faster. The offsets are moving averages of the data's means: offsets that follow the model as well can
diverge.

**Clamped bits** (the condition's partition) have the same values in data and model. They are given, not
learned: their biases and the couplers between two of them do not move, while couplers from them to free bits
follow the conditional likelihood.

Products of means are not means of products: everything here starts from second moments of bits. Relaxed bits
have other second moments and do not belong here.

Melchior, Fischer and Wiskott, "How to center deep Boltzmann machines", JMLR 17(99) (2016).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from calo4pqvae.prior.machine import Moments
from calo4pqvae.prior.pairs import Neighbours

__all__ = ["Gradient", "Offsets", "contrastive_gradient"]


@dataclass(frozen=True)
class Gradient:
    """A direction of ascent, shaped like the parameters of the machine."""

    biases: Tensor
    couplings: Tensor
    condition_weights: Tensor | None = None

    def hold(self, clamped: Tensor, ends: Tensor) -> "Gradient":
        """Stops what conditional data cannot determine: biases of clamped bits, couplers between two of them.

        Args:
            clamped: Mask (N,).
            ends: Couplers (M, 2).
        """
        weights = self.condition_weights
        return Gradient(
            self.biases.masked_fill(clamped, 0.0),
            self.couplings.masked_fill(clamped[ends].all(dim=1), 0.0),
            None if weights is None else weights.masked_fill(clamped, 0.0),
        )

    @property
    def norm(self) -> float:
        """Euclidean length over all parameters."""
        parts = [self.biases, self.couplings]
        parts += [] if self.condition_weights is None else [self.condition_weights]
        return float(torch.stack([part.square().sum() for part in parts]).sum().sqrt())


@dataclass(frozen=True)
class Offsets:
    """What the centred gradient subtracts: of the bits (N,), and of the condition (n_c,) if there is one."""

    bits: Tensor
    condition: Tensor | None = None

    def moved(self, data: Moments, rate: float) -> "Offsets":
        """The moving average after another batch."""
        condition = self.condition
        if condition is not None and data.condition is not None:
            condition = torch.lerp(condition, data.condition, rate)
        return Offsets(torch.lerp(self.bits, data.first, rate), condition)


def contrastive_gradient(
    data: Moments,
    model: Moments,
    neighbours: Neighbours,
    form: Literal["plain", "centred"] = "plain",
    offsets: Offsets | None = None,
) -> Gradient:
    """Direction of ascent of the log-likelihood, from second moments of bits; formulas in the module docstring.

    Args:
        data: Moments of the data.
        model: Moments of the model's samples.
        neighbours: The graph, on the device of the moments.
        form: ``"plain"`` or ``"centred"``.
        offsets: Offsets of the centred form; the data's own means if None.
    """
    biases = data.first - model.first
    couplings = data.second - model.second
    weights = _difference(data.cross, model.cross)
    if form == "plain":
        return Gradient(biases, couplings, weights)
    offsets = offsets or Offsets(data.first, data.condition)
    mu, nu = offsets.bits, offsets.condition
    first, second = neighbours.ends.unbind(1)
    couplings = couplings - mu[first] * biases[second] - mu[second] * biases[first]
    shift = torch.zeros_like(biases)
    shift.index_add_(0, first, couplings * mu[second])
    shift.index_add_(0, second, couplings * mu[first])
    drift = _difference(data.condition, model.condition)
    if weights is not None and drift is not None and nu is not None:
        weights = weights - nu[:, None] * biases - drift[:, None] * mu
        shift += nu @ weights
    return Gradient(biases - shift, couplings, weights)


def _difference(data: Tensor | None, model: Tensor | None) -> Tensor | None:
    return None if data is None or model is None else data - model
