"""Rows of the acceptance table beyond means: what classifiers may see, the spectrum, and how layers fluctuate.

==================  ===================================================================================================
row                 how far it may be off
==================  ===================================================================================================
AUC of a network    0.54, 0.56, 0.53 for CNN, high- and low-level classifier below 10,000 showers a side, and 0.56,
                    0.57, 0.54 from there on: larger samples see more
AUC of the trees    0.70
voxel spectrum      separation power at most three times that of Geant4 against itself, at the floor's size
layer widths        5 %, at given incident energy
layer correlations  the 95 % quantile of the distance of Geant4 from itself, at its size
==================  ===================================================================================================

or three standard errors above the floor, where these are larger. The limits are set where a good decoder comes to lie
and one that draws its voxels independently does not; the rows of the layers are those that a prior without couplings
fails.
"""

from collections.abc import Sequence

import numpy as np

from calo4pqvae.evaluation.metrics.correlations import PriorRow
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.evaluation.metrics.targets import ALL_ENERGIES, TargetRow
from calo4pqvae.evaluation.result import RefereeRow

__all__ = ["fluctuation_targets", "metric_targets"]

_MANY_SHOWERS = 10_000
_AUC = {
    "auc_cnn": (0.54, 0.56),
    "auc_high": (0.56, 0.57),
    "auc_low": (0.53, 0.54),
    "auc_hard": (0.70, 0.70),
}
_SPECTRUM, _SPECTRUM_TIMES = "separation_voxel", 3.0
_WIDTH = 0.05
_STANDARD_ERRORS = 3.0


def metric_targets(rows: Sequence[RefereeRow]) -> list[TargetRow]:
    """Rows of the acceptance table for the metrics that have a limit, in the order of the metrics."""
    found = []
    for row in rows:
        if row.key in _AUC and row.floor is not None:
            found.append(_auc(row, row.floor))
        elif row.key == _SPECTRUM and row.floor is not None and row.matched is not None and row.floor.value > 0:
            found.append(_spectrum(row.matched, row.floor))
    return found


def fluctuation_targets(rows: Sequence[PriorRow]) -> list[TargetRow]:
    """Rows of the acceptance table for widths and correlations of layer energies in each bin of incident energy."""
    return [target for row in rows for target in (_width(row), _correlation(row))]


def _width(row: PriorRow) -> TargetRow:
    limit = float(max(_WIDTH, _STANDARD_ERRORS * np.nan_to_num(row.width_ratio.error)))
    deviation = Estimate(row.width_ratio.value - 1, row.width_ratio.error, row.width_ratio.n)
    return TargetRow(
        "layer fluctuations",
        "width",
        row.third,
        row.width_ratio,
        Estimate(1.0, 0.0, row.width_ratio.n),
        deviation,
        (-limit, limit),
        row.width_floor,
        bool(abs(deviation.value) <= limit),
        words=f"width within {limit:.1%} of Geant4's",
    )


def _correlation(row: PriorRow) -> TargetRow:
    floor, found = row.correlation_floor, row.correlation_matched
    size = min(floor.sizes)
    above = max(floor.quantile95 / floor.median - 1, 1e-9)
    deviation = Estimate(found.median / floor.median - 1, row.correlation_distance.error / floor.median, size)
    return TargetRow(
        "layer fluctuations",
        "correlations",
        row.third,
        Estimate(found.median, row.correlation_distance.error, size),
        Estimate(floor.median, 0.0, size),
        deviation,
        (-1.0, above),
        floor,
        bool(deviation.value <= above),
        words=f"distance at most {floor.quantile95:.3g}, that of Geant4 from itself in 95 of 100 splits",
    )


def _auc(row: RefereeRow, floor: Estimate) -> TargetRow:
    few, many = _AUC[row.key]
    size = min(row.sizes)
    limit = few if size < _MANY_SHOWERS else many
    above = max(limit - 0.5, _STANDARD_ERRORS * np.nan_to_num(row.value.error))
    deviation = Estimate(row.value.value - 0.5, row.value.error, row.value.n)
    return TargetRow(
        "classifiers",
        row.metric.short,
        ALL_ENERGIES,
        row.value,
        Estimate(0.5, 0.0, size),
        deviation,
        (-0.5, float(above)),
        Splits(floor.value - 0.5, floor.value - 0.5 + floor.error, (floor.n, floor.n), 1),
        bool(deviation.value <= above),
        words=f"AUC at most {0.5 + above:.3g} at {size:,} showers a side",
    )


def _spectrum(matched: Estimate, floor: Estimate) -> TargetRow:
    excess, spread = matched.value / floor.value, floor.error / floor.value
    above = max(_SPECTRUM_TIMES - 1, _STANDARD_ERRORS * np.nan_to_num(spread))
    deviation = Estimate(excess - 1, matched.error / floor.value, matched.n)
    return TargetRow(
        "voxel spectrum",
        "separation power",
        ALL_ENERGIES,
        matched,
        floor,
        deviation,
        (-1.0, float(above)),
        Splits(0.0, spread, (floor.n, floor.n), 1),
        bool(deviation.value <= above),
        words=f"at most {1 + above:.3g} times Geant4 itself at {floor.n:,} showers a side",
    )
