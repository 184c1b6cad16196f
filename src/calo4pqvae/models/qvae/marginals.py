r"""Marginal laws: a quantity at given incident energy, mapped to a standard normal one and back.

A layer's standardised energy is skew, most of all where few particles reach it, and the more so the lower the incident
energy. Where a normal law stands for it in the decoder, spreads come out too small. It is therefore mapped by its own
quantiles: at K knots of the energy's position t the value :math:`y_k(z_j)` is tabulated for normal scores
:math:`z_j = -2.75, -2.5, \dots, 2.75`, and

.. math:: y(z \mid t) = \sum_k h_k(t)\, y_k(z), \qquad z(y \mid t) \text{ its inverse},

with hat functions h, linear between the z and straight on beyond the last ones. A sum of growing functions grows, so
that the map can be inverted at every t.
"""

import torch
from torch import Tensor, nn

from calo4pqvae.models.qvae.standardiser import Standardiser

__all__ = ["MarginalMap", "NormalScores"]

_KNOTS = 5
_STEP, _N_SCORES = 0.25, 23
_LEAST_SLOPE = 1e-2
_LEAST_EVENTS = 200.0  # weight at a knot below which a column keeps the map of the identity there


class MarginalMap(nn.Module):
    """Maps columns to normal scores and back.

    Args:
        n_columns: Number of quantities.
    """

    tables: Tensor

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        scores = _scores()
        self.register_buffer("tables", scores[:, None, None].repeat(1, _KNOTS, n_columns))

    @torch.no_grad()
    def fit(self, values: Tensor, position: Tensor, present: Tensor) -> None:
        """Tabulates the quantiles of values (N, columns) at positions (N, 1) where ``present`` (N, columns) is 1."""
        hats = _hats(position).double()
        levels = torch.special.ndtr(_scores().double())
        for column in range(values.shape[1]):
            order = torch.argsort(values[:, column])
            ordered = values[order, column].double()
            for knot in range(_KNOTS):
                weights = hats[order, knot] * present[order, column].double()
                if float(weights.sum()) >= _LEAST_EVENTS:
                    self.tables[:, knot, column] = _growing(_quantiles(ordered, weights, levels)).to(self.tables)

    def forward(self, values: Tensor, position: Tensor) -> Tensor:
        """Normal scores of values (B, columns) at positions (B, 1)."""
        table = self._at(position)
        upper = (table < values[..., None]).sum(-1, keepdim=True).clamp(1, _N_SCORES - 1)
        low, high = table.gather(-1, upper - 1)[..., 0], table.gather(-1, upper)[..., 0]
        scores: Tensor = _scores().to(values)[upper[..., 0] - 1] + _STEP * (values - low) / (high - low)
        return scores

    def inverse(self, scores: Tensor, position: Tensor) -> Tensor:
        """Values (B, columns) of normal scores at positions (B, 1)."""
        table = self._at(position)
        place = (scores / _STEP + (_N_SCORES - 1) / 2).clamp(-1e4, 1e4)
        lower = place.floor().long().clamp(0, _N_SCORES - 2)[..., None]
        low, high = table.gather(-1, lower)[..., 0], table.gather(-1, lower + 1)[..., 0]
        values: Tensor = low + (high - low) * (place - lower[..., 0])
        return values

    def _at(self, position: Tensor) -> Tensor:
        """Tables (B, columns, scores) at positions (B, 1)."""
        return torch.einsum("bk,skc->bcs", _hats(position).to(self.tables), self.tables)


class NormalScores(nn.Module):
    """Columns standardised at given energy, then mapped to normal scores.

    Args:
        n_columns: Number of quantities.
    """

    def __init__(self, n_columns: int) -> None:
        super().__init__()
        self.scales = Standardiser(n_columns)
        self.marginals = MarginalMap(n_columns)

    def fit(self, values: Tensor, position: Tensor, present: Tensor) -> None:
        """Fits both to values (N, columns) at positions (N, 1) where ``present`` (N, columns) is 1."""
        self.scales.fit(values, position, present)
        self.marginals.fit(self.scales(values, position), position, present)

    def forward(self, values: Tensor, position: Tensor) -> Tensor:
        """Scores of (B, columns) values at positions (B, 1)."""
        scores: Tensor = self.marginals(self.scales(values, position), position)
        return scores

    def inverse(self, scores: Tensor, position: Tensor) -> Tensor:
        """Undoes :meth:`forward`."""
        return self.scales.inverse(self.marginals.inverse(scores, position), position)


def _scores() -> Tensor:
    return _STEP * (torch.arange(_N_SCORES) - (_N_SCORES - 1) / 2)


def _hats(position: Tensor) -> Tensor:
    """Hat functions (B, knots) of t between -1 and 1; they sum to one."""
    place = (position.clamp(-1, 1) + 1) * (_KNOTS - 1) / 2
    return (1 - (place - torch.arange(_KNOTS).to(position)).abs()).clamp(min=0)


def _quantiles(ordered: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of ordered values with weights, linear between them."""
    heights = (weights.cumsum(0) - weights / 2) / weights.sum()
    kept = weights > 0
    heights, ordered = heights[kept].contiguous(), ordered[kept]
    upper = torch.searchsorted(heights, levels).clamp(1, len(heights) - 1)
    low, high = heights[upper - 1], heights[upper]
    inside = ((levels - low) / (high - low)).clamp(0, 1)
    return ordered[upper - 1] + inside * (ordered[upper] - ordered[upper - 1])


def _growing(table: Tensor) -> Tensor:
    """The table with each step at least a small one."""
    steps = table.diff().clamp(min=_LEAST_SLOPE * _STEP)
    middle = len(table) // 2
    rising = torch.cat([table.new_zeros(1), steps.cumsum(0)])
    return rising - rising[middle] + table[middle]
