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

__all__ = ["TOLERANCE", "Quality", "compare_showers", "is_accepted"]

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


def compare_showers(true: Tensor, decoded: Tensor, incident_energies: Tensor, geometry: Geometry) -> Quality:
    """Compares decoded showers (B, V) with true ones (B, V) of the same incident energies (B, 1), in MeV."""
    split = LayerSplit(geometry)
    reference = apply_threshold(true, geometry.threshold_mev)
    before, after = (split.forward(showers, incident_energies) for showers in (reference, decoded))
    profile, drawn = before.layer_fractions.mean(0), after.layer_fractions.mean(0)
    hits = (reference > 0).sum()
    return Quality(
        response=float(after.response.mean() / before.response.mean() - 1),
        occupancy=float((decoded > 0).sum() / hits - 1),
        profile=float(torch.sqrt(((drawn - profile) ** 2).mean()) / profile.max()),
    )


def is_accepted(quality: Quality, best: float | None) -> bool:
    """Whether a checkpoint replaces the accepted one, given the best score so far; one without a score never does."""
    return math.isfinite(quality.score) and (best is None or quality.score <= TOLERANCE * best)
