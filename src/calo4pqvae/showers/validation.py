"""What can be wrong with the numbers in a shower file, and how often it is.

Some faults make a shower useless: an entry that is NaN or infinite, a negative voxel, an incident energy that
is not finite and positive, a voxel that holds more than the incident energy (the published data set 2 has at
least one such shower). Such showers are *bad*: training refuses them unless told to drop them. Other oddities
are only reported: an empty shower, which a low energy and a threshold can bring about, and an incident energy
outside the range of the data set.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calo4pqvae.showers.files import READ_ROWS, ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = ["BAD_KINDS", "NOTED_KINDS", "Finding", "ValidationReport", "find_faults", "validate_file"]

BAD_KINDS = ("nonfinite", "negative", "bad_incident_energy", "voxel_above_incident_energy")
NOTED_KINDS = ("empty", "outside_energy_range")
N_LISTED = 20

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Finding:
    """How many showers have a fault, and the rows of the first twenty."""

    count: int
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ValidationReport:
    """The state of a shower file.

    Args:
        n_showers: Number of showers.
        geometry: Name of the geometry against which the file was checked.
        energy_min_mev: Lowest finite incident energy, ``None`` if there is none.
        energy_max_mev: Highest finite incident energy, ``None`` if there is none.
        findings: For each kind of :data:`BAD_KINDS` and :data:`NOTED_KINDS` what was found.
        good: Which showers have no bad fault, shape (n_showers,).
        response_mean: Mean of total over incident energy of the good showers, ``None`` if there is none.
        response_std: Its standard deviation from shower to shower.
        occupancy: Mean share of voxels at or above the threshold of the geometry, of the good showers.
    """

    n_showers: int
    geometry: str
    energy_min_mev: float | None
    energy_max_mev: float | None
    findings: Mapping[str, Finding]
    good: BoolArray
    response_mean: float | None
    response_std: float | None
    occupancy: float | None

    @property
    def n_bad(self) -> int:
        """Number of showers with at least one bad fault."""
        return self.n_showers - int(self.good.sum())

    @property
    def is_clean(self) -> bool:
        """Whether no shower is bad."""
        return self.n_bad == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; the mask is left out."""
        return {
            "n_showers": self.n_showers,
            "n_bad": self.n_bad,
            "geometry": self.geometry,
            "energy_min_mev": self.energy_min_mev,
            "energy_max_mev": self.energy_max_mev,
            "findings": {
                kind: {"count": finding.count, "rows": list(finding.rows)} for kind, finding in self.findings.items()
            },
            "response_mean": self.response_mean,
            "response_std": self.response_std,
            "occupancy": self.occupancy,
        }


def find_faults(
    incident_energies: npt.NDArray[np.float64], showers: npt.NDArray[np.float32], geometry: Geometry
) -> dict[str, BoolArray]:
    """Marks the showers that have each kind of fault.

    Args:
        incident_energies: In MeV, shape (n, 1).
        showers: In MeV, shape (n, voxels).
        geometry: Gives the range of incident energies.

    Returns:
        For each kind of :data:`BAD_KINDS` and :data:`NOTED_KINDS` an array of shape (n,).
    """
    energies = incident_energies[:, 0]
    sound = (energies > 0) & (energies <= np.finfo(np.float32).max)  # false for NaN, too
    finite = np.isfinite(showers).all(axis=1)
    low, high = geometry.energy_range or (0.0, np.inf)
    above = showers.max(axis=1) > energies * (1 + 1e-6)  # float32 rounding of a voxel is no fault
    return {
        "nonfinite": ~finite,
        "negative": (showers < 0).any(axis=1),
        "bad_incident_energy": ~sound,
        "voxel_above_incident_energy": finite & sound & above,
        "empty": ~showers.any(axis=1),
        "outside_energy_range": sound & ((energies < low) | (energies > high)),
    }


def validate_file(path: Path, geometry: Geometry, chunk: int = READ_ROWS) -> ValidationReport:
    """Reads a whole file, a stretch at a time, and reports what is in it.

    Args:
        path: The file.
        geometry: The grid that it shall fit.
        chunk: Showers in memory at a time.

    Raises:
        DataError: If the layout is wrong, as :class:`~calo4pqvae.showers.files.ShowerFile` says; faults of
        single
            showers are reported, not raised.
    """
    marks: dict[str, list[BoolArray]] = {kind: [] for kind in (*BAD_KINDS, *NOTED_KINDS)}
    good: list[BoolArray] = []
    responses: list[npt.NDArray[np.float64]] = []
    n_occupied = 0
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies()
        for chunk_energies, showers in file.chunks(chunk):
            faults = find_faults(chunk_energies, showers, geometry)
            for kind, mark in faults.items():
                marks[kind].append(mark)
            kept = ~np.any([faults[kind] for kind in BAD_KINDS], axis=0)
            good.append(kept)
            responses.append(showers[kept].sum(axis=1, dtype=np.float64) / chunk_energies[kept, 0])
            n_occupied += int(((showers[kept] >= geometry.threshold_mev) & (showers[kept] > 0)).sum())
    finite = energies[np.isfinite(energies)]
    response = np.concatenate(responses)
    has_good = len(response) > 0
    return ValidationReport(
        n_showers=len(energies),
        geometry=geometry.name,
        energy_min_mev=float(finite.min()) if finite.size else None,
        energy_max_mev=float(finite.max()) if finite.size else None,
        findings={kind: _finding(parts) for kind, parts in marks.items()},
        good=np.concatenate(good),
        response_mean=float(response.mean()) if has_good else None,
        response_std=float(response.std()) if has_good else None,
        occupancy=n_occupied / (len(response) * geometry.n_voxels) if has_good else None,
    )


def _finding(parts: Iterable[BoolArray]) -> Finding:
    rows = np.flatnonzero(np.concatenate(list(parts)))
    return Finding(len(rows), tuple(rows[:N_LISTED].tolist()))
