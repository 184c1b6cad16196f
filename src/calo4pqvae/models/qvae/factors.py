r"""Factors: the few quantities that the latent bits say about a shower, uniform and independent at every energy.

Standardised layers at given incident energy have few directions of variance above the noise of a layer by itself. Their
scores are made into factors one after the other, each *given the energy and the factors before it*,

.. math:: g_k = \frac{s_k - m_k(t, g_1, \dots, g_{k-1})}{w_k(t, g_1, \dots, g_{k-1})}, \qquad v_k = F_k(g_k),

with polynomials for the mean m and for ln w, t the position of the energy, and F the distribution function of the
training showers. The map is triangular and can be inverted by anyone who has the factors before. It makes factors of
law uniform between 0 and 1 that do not follow the energy and, to the order of the polynomials, do not follow each
other: what is left to a Boltzmann machine is one wall in each band of nodes, and a machine whose couplers are few can
carry that.

**How many.** Scores of pure noise have eigenvalues about those of layers that are independent. The number of factors
that the data support is the number of eigenvalues above those of showers whose layers are permuted independently
among showers of like energy (parallel analysis, Horn, Psychometrika 30, 179 (1965)).
"""

import torch
from torch import Generator, Tensor, nn

from calo4pqvae.models.qvae.standardiser import MEAN_LOG_CHI2

__all__ = ["LayerFactors", "supported_factors"]

_QUANTILES = 257
_LOG_WIDTH_RANGE = 1.5
_RIDGE = 1e-6


class LayerFactors(nn.Module):
    """Factors of standardised layers; all of it is fitted once to training showers and then fixed.

    Args:
        n_layers: Number of layers L.
        n_factors: Number of factors F.
    """

    directions: Tensor
    means: Tensor
    log_widths: Tensor
    log_width_range: Tensor
    quantiles: Tensor

    def __init__(self, n_layers: int, n_factors: int) -> None:
        super().__init__()
        self.n_factors = n_factors
        n_terms = _terms(torch.zeros(1, 1), torch.zeros(1, n_factors - 1)).shape[1]
        self.register_buffer("directions", torch.zeros(n_layers, n_factors))
        self.register_buffer("means", torch.zeros(n_terms, n_factors))
        self.register_buffer("log_widths", torch.zeros(n_terms, n_factors))
        self.register_buffer("log_width_range", torch.zeros(2, n_factors))
        self.register_buffer("quantiles", torch.linspace(-3, 3, _QUANTILES)[:, None].repeat(1, n_factors))

    @torch.no_grad()
    def fit(self, layers: Tensor, position: Tensor) -> None:
        """Fits directions, scales and distributions, in float64.

        Args:
            layers: Standardised layers of training showers, (N, L).
            position: Places of ln E in its range, (N, 1).
        """
        layers, position = layers.double(), position.double()
        vectors = torch.linalg.eigh(torch.cov(layers.T))[1].flip(1)[:, : self.n_factors]
        signs = torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))
        self.directions[:, : vectors.shape[1]] = (vectors * signs).to(self.directions)
        scores = layers @ self.directions.double()
        before = scores.new_zeros(len(scores), 0)
        levels = torch.linspace(0, 1, _QUANTILES, dtype=torch.float64)
        for k in range(self.n_factors):
            terms = _terms(position, before)
            mean = _ridge(terms, scores[:, k])
            log_square = ((scores[:, k] - terms @ mean) ** 2 + 1e-12).log() - MEAN_LOG_CHI2
            log_width = _ridge(terms, log_square) / 2
            level = float(log_square.mean() / 2)
            self.means[: len(mean), k] = mean.to(self.means)
            self.log_widths[: len(mean), k] = log_width.to(self.means)
            self.log_width_range[:, k] = torch.tensor([level - _LOG_WIDTH_RANGE, level + _LOG_WIDTH_RANGE])
            normed = self._normed(scores[:, k], k, terms)
            self.quantiles[:, k] = torch.quantile(normed, levels).to(self.quantiles)
            before = torch.cat([before, normed[:, None].clamp(-4, 4)], dim=1)

    def forward(self, layers: Tensor, position: Tensor) -> Tensor:
        """Factors (B, F) between 0 and 1 of standardised layers (B, L) at positions (B, 1)."""
        scores = layers @ self.directions
        before, ranks = scores.new_zeros(len(scores), 0), []
        for k in range(self.n_factors):
            normed = self._normed(scores[:, k], k, _terms(position, before))
            ranks.append(_rank(normed, self.quantiles[:, k]))
            before = torch.cat([before, normed[:, None].clamp(-4, 4)], dim=1)
        return torch.stack(ranks, dim=1)

    def _normed(self, score: Tensor, k: int, terms: Tensor) -> Tensor:
        n_terms = terms.shape[1]
        mean = terms @ self.means[:n_terms, k].to(terms)
        low, high = self.log_width_range[:, k].tolist()
        normed: Tensor = (score - mean) / (terms @ self.log_widths[:n_terms, k].to(terms)).clamp(low, high).exp()
        return normed


def supported_factors(layers: Tensor, position: Tensor, generator: Generator) -> int:
    """Number of eigenvalues of the layers' covariance above those of layers permuted independently.

    Args:
        layers: Standardised layers of training showers, (N, L).
        position: Places of ln E in its range, (N, 1); layers are permuted among neighbours in energy.
        generator: Source of the permutations, on the CPU.
    """
    order = torch.argsort(position[:, 0])
    mixed = layers[order].double()
    for start in range(0, len(mixed), _NEIGHBOURS):
        block = mixed[start : start + _NEIGHBOURS]
        ranks = torch.rand(block.shape, generator=generator).argsort(0)
        mixed[start : start + _NEIGHBOURS] = block.gather(0, ranks)
    found = torch.linalg.eigvalsh(torch.cov(layers.double().T)).flip(0)
    noise = torch.linalg.eigvalsh(torch.cov(mixed.T)).flip(0)
    above = found > noise
    return int(above.long().cumprod(0).sum())


_NEIGHBOURS = 200  # showers of like energy


def _terms(position: Tensor, before: Tensor) -> Tensor:
    """Polynomial terms (B, n) of t (B, 1) and of the factors before; terms of fewer factors come first."""
    terms = [position**power for power in range(5)]
    for j in range(before.shape[1]):
        own = before[:, j : j + 1]
        terms += [own, own**2, own**3, own * position, own**2 * position, own * position**2]
        terms += [own * before[:, i : i + 1] for i in range(j)]
    return torch.cat(terms, dim=1)


def _ridge(basis: Tensor, target: Tensor) -> Tensor:
    gram = basis.T @ basis
    weight = _RIDGE * len(basis) * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram + weight, basis.T @ target)
    return solution


def _rank(values: Tensor, quantiles: Tensor) -> Tensor:
    """Place of values (B,) in a distribution given by its quantiles, between 0 and 1, linear between them."""
    upper = torch.searchsorted(quantiles.contiguous(), values.contiguous()).clamp(1, len(quantiles) - 1)
    low, high = quantiles[upper - 1], quantiles[upper]
    inside = ((values - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    return (upper - 1 + inside) / (len(quantiles) - 1)
