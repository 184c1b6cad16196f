r"""The law of one split: what of a block's energy goes to its first child, and what to its second.

Energies are in units of the read-out threshold. A block of energy :math:`e` has three outcomes: all goes left, all
goes right, or both children get some; two hits need an energy of two, so that *both* is out of the question below.
Given both, :math:`y = \ln(e_L/e_R)` lies between :math:`-b` and :math:`b = \ln(e - 1)`, where either child has at least
the threshold. Its density is a mixture, cut to that interval as a whole,

.. math:: p(y) = \frac{\sum_k \pi_k f_k(y)}{\sum_k \pi_k Z_k}, \qquad Z_k = \int_{-b}^{b} f_k ,

of two kinds of components:

* **logistic** in y, with centre and width from the network: shares. No width is above one, so that no tail falls more
  slowly than :math:`e^{-|y|}`: towards the threshold that is a spectrum flat in energy, as partial crossings of thin
  silicon give it, while wider ones would pile up hits there;
* **spectra**: one child is a voxel (or a group of them) from a spectrum :math:`q_j(\ln e)` that is learned once for the
  whole detector, as a histogram. With :math:`u_L = \ln e_L` and :math:`\partial u_L / \partial y = e_R / e` the density
  is
  :math:`q_j(u_L)\, e_R / e` for the left child, likewise for the right one, and :math:`Z` is the cumulative
  :math:`C_j(b)`. The single-particle peak of thin silicon is a feature of absolute energies, which no share knows.

So every voxel is 0 or at least the threshold, and the energy of the block is conserved exactly. The log-likelihood is
exact, in nats; a density in y becomes one in the energy of the left child by adding :math:`\ln (e / e_L e_R)`.

**Draws** take three uniform numbers a split: outcome, component and value, each by inversion.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from calo4pqvae.models.qvae.cascade.kernels.scalars import (
    LARGEST_CENTRE,
    LARGEST_LOG_WIDTH,
    LARGEST_LOGIT,
    LEAST_LOG_WIDTH,
)

__all__ = ["BIN_WIDTH", "N_BINS", "Spectra", "SplitLaw", "n_outputs"]

N_BINS = 240
BIN_WIDTH = 0.05
"""Bins of ln e of the spectra, from the threshold up."""

_FORBIDDEN = -1e4
_TINY = 1e-9


def n_outputs(n_logistic: int, n_spectra: int) -> int:
    """Numbers that the network gives for a split: outcomes, weights, centres and widths."""
    return 3 + 3 * n_logistic + 2 * n_spectra


class Spectra(NamedTuple):
    """Spectra in ln e, piecewise constant.

    Attributes:
        log_density: (spectra, bins).
        cumulative: At the edges, (spectra, bins + 1), from 0 to 1.
    """

    log_density: Tensor
    cumulative: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Spectra":
        """From free logits (spectra, bins)."""
        shares = logits.log_softmax(1)
        return cls(shares - torch.log(torch.tensor(BIN_WIDTH)), functional.pad(shares.exp().cumsum(1), (1, 0)))

    def log_density_at(self, logs: Tensor) -> Tensor:
        """Ln q_j at ln e (n,), as (n, spectra)."""
        return functional.embedding((logs / BIN_WIDTH).long().clamp(0, N_BINS - 1), self.log_density.t())

    def log_cumulative_at(self, logs: Tensor) -> Tensor:
        """Ln C_j at ln e (n,), as (n, spectra)."""
        place = (logs / BIN_WIDTH).clamp(0, N_BINS - 1e-3)
        bins = place.long()
        below, above = (functional.embedding(edge, self.cumulative.t()) for edge in (bins, bins + 1))
        return (below + (above - below) * (place - bins)[:, None]).clamp(min=_TINY).log()


@dataclass(frozen=True, eq=False)
class SplitLaw:
    """The laws of n splits.

    Args:
        raw: Output of the network, (n, :func:`n_outputs`).
        spectra: The learned spectra.
        n_logistic: Number of logistic components.
    """

    raw: Tensor
    spectra: Spectra
    n_logistic: int

    def log_likelihood(self, energy: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Log-likelihood of the children's energies (n,) of blocks (n,), with a density in y where both have some."""
        both = (left > 0) & (right > 0)
        outcome = torch.where(both, 2, torch.where(left > 0, 0, 1))
        told = self._outcomes(energy).log_softmax(1).gather(1, outcome[:, None])[:, 0]
        rows = both.nonzero()[:, 0]
        shared = SplitLaw(self.raw.index_select(0, rows), self.spectra, self.n_logistic)
        return told.index_add(0, rows, shared._log_density(energy[rows], left[rows], right[rows]))

    def draw(self, energy: Tensor, uniform: Tensor) -> Tensor:
        """Energy of the left child, (n,), from uniform numbers (n, 3); what is left is the right child's.

        All sums are in double precision.
        """
        exact = SplitLaw(self.raw.double(), Spectra(*(table.double() for table in self.spectra)), self.n_logistic)
        value, uniform = energy.double(), uniform.double()
        outcome = _invert(exact._outcomes(value).softmax(1), uniform[:, 0])
        bound = _bound(value)
        masses = exact._log_masses(bound)
        component = _invert((exact._log_weights() + masses).softmax(1), uniform[:, 1])
        shared = exact._value(value, bound, masses, component, uniform[:, 2])
        shared = torch.minimum(shared.clamp(min=1), value - 1)
        left = torch.where(outcome == 0, value, torch.where(outcome == 1, torch.zeros_like(value), shared))
        return left.to(energy.dtype)

    def _outcomes(self, energy: Tensor) -> Tensor:
        logits = self.raw[:, :3].clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        both = torch.where(energy >= 2, logits[:, 2], torch.full_like(logits[:, 2], _FORBIDDEN))
        return torch.cat([logits[:, :2], both[:, None]], dim=1)

    def _log_weights(self) -> Tensor:
        k = self.n_logistic
        return (
            torch.cat([self.raw[:, 3 : 3 + k], self.raw[:, 3 + 3 * k :]], 1)
            .clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
            .log_softmax(1)
        )

    def _logistic(self) -> tuple[Tensor, Tensor]:
        """Centres and log widths, (n, components)."""
        k = self.n_logistic
        centres = (2 * self.raw[:, 3 + k : 3 + 2 * k]).clamp(-LARGEST_CENTRE, LARGEST_CENTRE)
        return centres, self.raw[:, 3 + 2 * k : 3 + 3 * k].clamp(LEAST_LOG_WIDTH, LARGEST_LOG_WIDTH)

    def _log_masses(self, bound: Tensor) -> Tensor:
        """Ln Z_k of all components, (n, components): logistic, spectra of the left child, of the right one."""
        centres, log_widths = self._logistic()
        high, low = ((edge[:, None] - centres) * (-log_widths).exp() for edge in (bound, -bound))
        inside = torch.log(-torch.expm1((low - high).clamp(max=-1e-6)))
        logistic = functional.logsigmoid(high) + functional.logsigmoid(-low) + inside
        spectra = self.spectra.log_cumulative_at(bound)
        return torch.cat([logistic, spectra, spectra], 1)

    def _log_density(self, energy: Tensor, left: Tensor, right: Tensor) -> Tensor:
        centres, log_widths = self._logistic()
        log_left, log_right = left.log(), right.log()
        scaled = ((log_left - log_right)[:, None] - centres) * (-log_widths).exp()
        logistic = -scaled - 2 * functional.softplus(-scaled) - log_widths
        from_left = self.spectra.log_density_at(log_left) + (log_right - energy.log())[:, None]
        from_right = self.spectra.log_density_at(log_right) + (log_left - energy.log())[:, None]
        weights, masses = self._log_weights(), self._log_masses(_bound(energy))
        density = torch.logsumexp(weights + torch.cat([logistic, from_left, from_right], 1), 1)
        return density - torch.logsumexp(weights + masses, 1)

    def _value(self, energy: Tensor, bound: Tensor, masses: Tensor, component: Tensor, uniform: Tensor) -> Tensor:
        """Energy of the left child given the component, by inversion of its cut distribution."""
        k, n_spectra = self.n_logistic, len(self.spectra.cumulative)
        centres, log_widths = self._logistic()
        own = component.clamp(max=k - 1)[:, None]
        centre, width = centres.gather(1, own)[:, 0], log_widths.gather(1, own)[:, 0].exp()
        low, high = (torch.sigmoid((edge - centre) / width) for edge in (-bound, bound))
        y = centre + width * (low + (high - low) * uniform).clamp(1e-12, 1 - 1e-12).logit()
        value = energy * torch.sigmoid(torch.minimum(torch.maximum(y, -bound), bound))
        for spectrum in range(n_spectra):
            wanted = uniform * masses[:, k + spectrum].exp()
            child = torch.minimum(_inverse(self.spectra.cumulative[spectrum], wanted), bound).exp()
            value = torch.where(component == k + spectrum, child, value)
            value = torch.where(component == k + n_spectra + spectrum, energy - child, value)
        return value


def _bound(energy: Tensor) -> Tensor:
    """B = ln(e - 1), kept above 0 where no energy is left to share."""
    return (energy - 1).clamp(min=1e-3).log().clamp(min=1e-3)


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The first class at which the cumulative exceeds the uniform number, (n,)."""
    passed = probabilities.cumsum(1) <= uniform[:, None]
    return passed.sum(1).clamp(max=probabilities.shape[1] - 1)


def _inverse(cumulative: Tensor, wanted: Tensor) -> Tensor:
    """Ln e at which a cumulative (bins + 1,) reaches wanted shares (n,)."""
    bins = torch.searchsorted(cumulative.contiguous(), wanted.contiguous(), right=True).clamp(1, N_BINS) - 1
    below, above = cumulative[bins], cumulative[bins + 1]
    return (bins + ((wanted - below) / (above - below).clamp(min=1e-12)).clamp(0, 1)) * BIN_WIDTH
