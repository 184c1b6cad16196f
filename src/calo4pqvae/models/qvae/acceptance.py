r"""Is a checkpoint better as a source of showers, and not only by its loss?

Showers decoded from the posterior bits of validation showers are compared with those showers themselves, event by event
paired in energy, in the three things that users see first:

* response: relative deviation of the mean of E_tot / E_inc;
* occupancy: relative deviation of the mean number of hits;
* profile: root mean square over layers of the deviation of E_l / E_tot, relative to the largest layer.

The score is their root mean square. A later checkpoint is accepted unless its score is clearly worse than the best
one so far (factor :data:`TOLERANCE`, about the noise of some hundred showers).
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.transforms import LayerSplit, apply_threshold

__all__ = ["TOLERANCE", "Quality", "QualitySums", "is_accepted"]

TOLERANCE = 1.5


@dataclass(frozen=True)
class Quality:
    """Deviations of decoded showers from the true ones, all relative."""

    response: float
    occupancy: float
    profile: float

    @property
    def score(self) -> float:
        """Root mean square of the three deviations; lower is better."""
        return float(((self.response**2 + self.occupancy**2 + self.profile**2) / 3) ** 0.5)

    def to_dict(self) -> dict[str, float]:
        """Deviations and score, for the metrics."""
        return {**asdict(self), "score": self.score}


class QualitySums:
    """Compares decoded showers with true ones chunk by chunk, and keeps sums only.

    Args:
        geometry: The grid of both.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._split, self._threshold = LayerSplit(geometry), geometry.threshold_mev
        self._responses = torch.zeros(2, dtype=torch.float64)
        self._hits = torch.zeros(2, dtype=torch.float64)
        self._profiles = torch.zeros(2, geometry.n_layers, dtype=torch.float64)
        self._n = 0

    def add(self, true: Tensor, decoded: Tensor, incident_energies: Tensor) -> None:
        """Takes true and decoded showers (B, V) of the same incident energies (B, 1), all in MeV."""
        for index, showers in enumerate((apply_threshold(true, self._threshold), decoded)):
            parts = self._split.forward(showers, incident_energies)
            self._responses[index] += parts.response.double().sum()
            self._hits[index] += (showers > 0).sum()
            self._profiles[index] += parts.layer_fractions.double().sum(0)
        self._n += len(true)

    def quality(self) -> Quality:
        """Deviations of all decoded showers so far."""
        profile, drawn = self._profiles / self._n
        return Quality(
            response=float(self._responses[1] / self._responses[0] - 1),
            occupancy=float(self._hits[1] / self._hits[0] - 1),
            profile=float(torch.sqrt(((drawn - profile) ** 2).mean()) / profile.max()),
        )


def is_accepted(quality: Quality, best: float | None) -> bool:
    """Whether a checkpoint replaces the accepted one, given the best score so far; one without a score never does."""
    return math.isfinite(quality.score) and (best is None or quality.score <= TOLERANCE * best)
