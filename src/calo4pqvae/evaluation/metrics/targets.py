r"""The acceptance table: where a generated sample must agree with Geant4, third by third of log incident energy.

==========================  ===================================================================================
family                      what is compared, and how far it may be off
==========================  ===================================================================================
response                    mean of E_tot / E_inc, within 1.5 %
response width              standard deviation of E_tot / E_inc, within 15 %
occupancy                   mean fraction of voxels above the threshold, within 3 %
longitudinal profile        mean of E_l / E_inc in every layer that holds more than 1 % of the reference's energy:
                            within 10 %, or within three standard errors where these are larger
voxel spectrum              mean number of voxels a shower in every half-decade of voxel energy from the threshold
                            to the largest voxel of the reference: within 10 %, or within three standard errors
                            where these are larger
==========================  ===================================================================================

Classifiers and the separation power of the spectrum add rows of their own
(:mod:`calo4pqvae.evaluation.acceptance`).

Deviations are generated / reference - 1, taken at equal incident energies, with analytic standard errors
(:mod:`calo4pqvae.evaluation.metrics.estimate`). Beside each stands what Geant4 shows against itself between random
halves of the reference. A row passes or fails by its limit alone; errors and floor say what that is worth.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.estimate import (
    Estimate,
    Means,
    Splits,
    energy_matched_means,
    relative_deviation,
    split_halves,
    width_means,
)

__all__ = [
    "ALL_ENERGIES",
    "FAMILIES",
    "TargetRow",
    "TargetTable",
    "check_targets",
    "large_layers",
    "spectrum_half_decades",
]

FloatArray = NDArray[np.float64]

FAMILIES = (
    "classifiers",
    "response",
    "response width",
    "occupancy",
    "longitudinal profile",
    "layer fluctuations",
    "voxel spectrum",
)
ALL_ENERGIES = "all energies"
"""What stands in place of a third where all showers are compared together."""

_RESPONSE, _WIDTH, _OCCUPANCY, _PROFILE = 0.015, 0.15, 0.03, 0.10
_STANDARD_ERRORS = 3.0
_PROFILES = ("longitudinal profile", "voxel spectrum")
_LAYER_SHARE = 0.01
_LEAST_SHOWERS = 20


@dataclass(frozen=True)
class TargetRow:
    """One comparison.

    Args:
        family: One of ``FAMILIES``.
        name: What is compared, for example "layer 12".
        third: The bin of incident energy in words.
        generated: Value in the generated sample, at the reference's incident energies.
        reference: Value in the reference.
        deviation: generated / reference - 1, with its statistical error.
        allowed: Least and greatest deviation that pass.
        floor: Size of the deviation between random halves of the reference.
        passed: Whether the deviation is within ``allowed``.
        words: What is allowed, in words; by default made of ``allowed``.
    """

    family: str
    name: str
    third: str
    generated: Estimate
    reference: Estimate
    deviation: Estimate
    allowed: tuple[float, float]
    floor: Splits
    passed: bool
    words: str = ""

    @property
    def strain(self) -> float:
        """Deviation as a fraction of the limit on its side: above 1 the row fails."""
        value = self.deviation.value
        strain = value / self.allowed[1] if value >= 0 else value / self.allowed[0]
        return strain if np.isfinite(strain) else np.inf

    def to_dict(self) -> dict[str, object]:
        """The row as plain data."""
        return {
            "family": self.family,
            "name": self.name,
            "third": self.third,
            "generated": self.generated.to_dict(),
            "reference": self.reference.to_dict(),
            "deviation": self.deviation.to_dict(),
            "deviation_in_standard_errors": _finite(self.deviation.significance),
            "allowed": list(self.allowed),
            "geant4_against_geant4": self.floor.to_dict(),
            "passed": self.passed,
        }


@dataclass(frozen=True)
class TargetTable:
    """All comparisons of one generated sample."""

    rows: tuple[TargetRow, ...]

    @property
    def passed(self) -> bool:
        """Whether every row passes."""
        return all(row.passed for row in self.rows)

    @property
    def n_passed(self) -> int:
        """Number of rows that pass."""
        return sum(row.passed for row in self.rows)

    def worst(self) -> list[TargetRow]:
        """For each family and third, the row that comes nearest to its limit or goes farthest beyond it."""
        groups: dict[tuple[str, str], list[TargetRow]] = {}
        for row in self.rows:
            groups.setdefault((row.family, row.third), []).append(row)
        return [max(rows, key=lambda row: row.strain) for rows in groups.values()]

    def target_rows(self, every: bool = False) -> list[dict[str, str]]:
        """Cells of a table to print, one dictionary a row, in words and per cent.

        Args:
            every: All rows; otherwise for each family and third the worst one, with the number of rows behind it.
        """
        rows = self.rows if every else self.worst()
        return [self._cells(row, every) for row in rows]

    def to_dict(self) -> dict[str, object]:
        """The table as plain data."""
        return {
            "passed": self.passed,
            "n_passed": self.n_passed,
            "n_rows": len(self.rows),
            "rows": [row.to_dict() for row in self.rows],
        }

    def _cells(self, row: TargetRow, every: bool) -> dict[str, str]:
        group = [row] if every else [r for r in self.rows if (r.family, r.third) == (row.family, row.third)]
        name = row.family if row.family == row.name else f"{row.family}, {row.name}"
        return {
            "result": "pass" if all(other.passed for other in group) else "FAIL",
            "target": name if len(group) == 1 else f"{name} (worst of {len(group)})",
            "third": row.third,
            "generated": str(row.generated),
            "Geant4": str(row.reference),
            "deviation": f"{row.deviation.value:+.1%} ± {row.deviation.error:.1%}",
            "allowed": row.words or _allowed_in_words(row),
            "Geant4 itself": f"{row.floor.median:.1%} ({row.floor.quantile84:.1%})",
        }


def check_targets(
    reference: ShowerFeatures,
    generated: ShowerFeatures,
    thirds: EnergyBins | None = None,
    *,
    n_splits: int = 200,
    seed: int = 0,
) -> TargetTable:
    """Compares a generated sample with the reference.

    Args:
        reference: Geant4 showers that the model never saw.
        generated: Generated showers of the same geometry.
        thirds: Bins of incident energy; by default thirds of log E over the range of the reference.
        n_splits: Random splits of the reference for the Geant4-against-Geant4 values.
        seed: Seed of these splits.

    Raises:
        DataError: If a bin holds fewer than 20 showers of either sample.
    """
    bins = thirds or EnergyBins.thirds_of(reference.incident_energy)
    rows: list[TargetRow] = []
    samples = zip(bins.labels, bins.split(reference), bins.split(generated), strict=True)
    for position, (label, expected, found) in enumerate(samples):
        for name, sample in (("reference", expected), ("generated", found)):
            if sample.n_showers < _LEAST_SHOWERS:
                raise DataError(
                    f"only {sample.n_showers} {name} showers lie between {label}; "
                    f"at least {_LEAST_SHOWERS} in each third are needed, so give more showers or another energy range"
                )
        rows += _rows_of_bin(label, expected, found, n_splits, seed + position)
    order = {family: position for position, family in enumerate(FAMILIES)}
    return TargetTable(tuple(sorted(rows, key=lambda row: order[row.family])))


def spectrum_half_decades(reference: ShowerFeatures) -> list[float]:
    """Edges in MeV of the half-decades from the threshold to beyond the largest voxel; empty if no voxel is hit."""
    filled = np.flatnonzero(reference.voxel_counts.sum(axis=0))
    if not len(filled):
        return []
    low, high = float(reference.voxel_edges[0]), float(reference.voxel_edges[filled[-1] + 1])
    steps = np.arange(np.floor(2 * np.log10(low)) + 1, np.ceil(2 * np.log10(high) - 1e-6) + 1)
    return [low, *(float(10 ** (step / 2)) for step in steps if 10 ** (step / 2) > low * (1 + 1e-6))]


def large_layers(reference: ShowerFeatures) -> list[int]:
    """Layers that hold more than 1 % of the energy, each shower weighing the same."""
    profile = reference.layer_response.mean(axis=0)
    return [int(layer) for layer in np.flatnonzero(profile > _LAYER_SHARE * profile.sum())]


def _rows_of_bin(
    label: str, reference: ShowerFeatures, generated: ShowerFeatures, n_splits: int, seed: int
) -> list[TargetRow]:
    layers = large_layers(reference)
    edges = spectrum_half_decades(reference)
    headings = [*_headings(layers, edges), ("response width", "response width")]
    expected, found = _columns(reference, layers, edges), _columns(generated, layers, edges)
    energies = reference.incident_energy
    pairs = _compare(expected, energies, found, generated.incident_energy)
    floors = _floors(expected, energies, n_splits, seed)
    return [
        _row(family, name, label, pair, floor)
        for (family, name), pair, floor in zip(headings, pairs, floors, strict=True)
    ]


def _headings(layers: list[int], edges: list[float]) -> list[tuple[str, str]]:
    """Family and name of each column of ``_columns``."""
    spectrum = [("voxel spectrum", f"{low:.3g}-{high:.3g} MeV") for low, high in itertools.pairwise(edges)]
    profile = [("longitudinal profile", f"layer {layer}") for layer in layers]
    return [("response", "response"), ("occupancy", "occupancy"), *profile, *spectrum]


def _columns(features: ShowerFeatures, layers: list[int], edges: list[float]) -> FloatArray:
    """The features whose means are compared, (N, K); column 0 is the response."""
    starts = np.searchsorted(features.voxel_edges, np.array(edges) * (1 - 1e-9))
    counts = [features.voxel_counts[:, low:high].sum(axis=1) for low, high in itertools.pairwise(starts)]
    profile = features.layer_response[:, layers]
    return np.column_stack([features.response, features.occupancy, profile, *counts])


def _compare(
    reference: FloatArray, reference_energy: FloatArray, generated: FloatArray, generated_energy: FloatArray
) -> list[tuple[Estimate, Estimate]]:
    """(generated, reference) for the mean of each column, then for the width of column 0."""
    pairs: list[tuple[Estimate, Estimate]] = []
    for estimate, columns in ((energy_matched_means, slice(None)), (width_means, slice(0, 1))):
        found: Means = estimate(generated[:, columns], generated_energy, reference_energy)
        expected: Means = estimate(reference[:, columns], reference_energy, reference_energy)
        pairs += [(found[k], expected[k]) for k in range(len(expected.values))]
    return pairs


def _floors(values: FloatArray, energies: FloatArray, n_splits: int, seed: int) -> list[Splits]:
    """Size of the deviation between random halves of the reference, for each comparison."""
    deviations = []
    for first, second in split_halves(len(values), n_splits, seed):
        pairs = _compare(values[first], energies[first], values[second], energies[second])
        deviations.append([abs(relative_deviation(found, expected).value) for found, expected in pairs])
    size = len(values) // 2
    return [Splits.of(column, (size, size)) for column in np.array(deviations).T]


def _row(family: str, name: str, third: str, pair: tuple[Estimate, Estimate], floor: Splits) -> TargetRow:
    generated, reference = pair
    deviation = relative_deviation(generated, reference)
    if generated.value == reference.value:  # both may be zero
        deviation = Estimate(0.0, deviation.error, deviation.n)
    error = float(np.hypot(generated.error, reference.error)) / reference.value if reference.value > 0 else np.nan
    allowed = _allowed(family, deviation.error if family == _PROFILES[0] else error)
    passed = bool(allowed[0] <= deviation.value <= allowed[1])
    return TargetRow(family, name, third, generated, reference, deviation, allowed, floor, passed)


def _allowed(family: str, error: float) -> tuple[float, float]:
    """Least and greatest deviation, of which the error is one if the two samples agree."""
    if family in _PROFILES:
        limit = max(_PROFILE, _STANDARD_ERRORS * np.nan_to_num(error))
        return -float(limit), float(limit)
    limit = {"response": _RESPONSE, "response width": _WIDTH, "occupancy": _OCCUPANCY}[family]
    return -limit, limit


def _allowed_in_words(row: TargetRow) -> str:
    return f"± {row.allowed[1]:.1%}" + (" (3 s.e.)" if row.allowed[1] > _PROFILE and row.family in _PROFILES else "")


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
