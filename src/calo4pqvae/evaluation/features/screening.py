"""What can make a comparison of two shower files meaningless, found while their features are read.

Layout, width and NaN are refused where the files are read. Here the files are held against each other: energies in GeV
in one of them (a factor near 1000), showers that do not belong to their incident energies, showers of one file that are
bit for bit in the other, copies, negative and overfull voxels. What certainly spoils every number is an error; what
leaves a number with a meaning is a warning, which stands on the page and in the JSON file.

Copies are recognised by a hash of all voxels. Showers with fewer than five hits are left out of this, since two of them
can be alike by chance.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.highlevel import file_chunks
from calo4pqvae.evaluation.features.showers import ShowerFeatures, chunk_features
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry

__all__ = ["Sample", "Screening", "check_units", "find_warnings", "screened_sample"]

FloatArray = NDArray[np.float64]

_CHUNK = 1000
_LEAST_HITS = 5
_UNIT_FACTOR = 1e3
_UNIT_SLACK = 3.0  # a factor this near to 1000 is one of units
_PAIRED, _UNPAIRED = 0.8, 0.5  # rank correlations of deposited with incident energy


@dataclass(frozen=True, eq=False)
class Screening:
    """What was seen of a file beside its features.

    Args:
        file: Its name, without the folder.
        content_sha256: Hash of its numbers, as :func:`~calo4pqvae.showers.files.content_hash` gives it.
        attributes: Its root attributes.
        incident_energy: In MeV, (N,).
        deposited: Sum over all voxels without a threshold, in MeV, (N,).
        largest_voxel_mev: Largest voxel.
        smallest_voxel_mev: Smallest voxel; negative ones are a fault.
        n_negative: Showers with a negative voxel.
        n_overfull: Showers with a voxel above the incident energy.
        n_empty: Showers without a voxel above zero.
        digests: Hash of each shower that has enough hits, (n,).
    """

    file: str
    content_sha256: str
    attributes: Mapping[str, Any]
    incident_energy: FloatArray
    deposited: FloatArray
    largest_voxel_mev: float
    smallest_voxel_mev: float
    n_negative: int
    n_overfull: int
    n_empty: int
    digests: NDArray[np.uint64]

    @property
    def n_copies(self) -> int:
        """Showers that are copies of earlier ones in the file."""
        return len(self.digests) - len(np.unique(self.digests))

    def n_shared(self, other: "Screening") -> int:
        """Showers that are bit for bit in the other file, too."""
        return int(np.isin(self.digests, other.digests).sum())

    def to_dict(self) -> dict[str, object]:
        """The counts as plain data."""
        return {
            "file": self.file,
            "content_sha256": self.content_sha256,
            "n_showers": len(self.incident_energy),
            "incident_energy_mev": [float(self.incident_energy.min()), float(self.incident_energy.max())],
            "largest_voxel_mev": self.largest_voxel_mev,
            "smallest_voxel_mev": self.smallest_voxel_mev,
            "showers_with_negative_voxels": self.n_negative,
            "showers_with_a_voxel_above_the_incident_energy": self.n_overfull,
            "empty_showers": self.n_empty,
            "copies_within_the_file": self.n_copies,
        }


@dataclass(frozen=True, eq=False)
class Sample:
    """A shower file that has been read once.

    Args:
        path: The file.
        features: Its features.
        screening: What else was seen of it.
    """

    path: Path
    features: ShowerFeatures
    screening: Screening


def screened_sample(path: Path, geometry: Geometry, progress: Callable[[int, int], None] | None = None) -> Sample:
    """Features of a file and what else is seen of it, in one reading.

    Args:
        path: The file.
        geometry: The voxel grid.
        progress: Called with (showers done, showers in all).

    Raises:
        DataError: If the file cannot be used, as :func:`~calo4pqvae.evaluation.features.showers.file_features` says.
    """
    watch = _Watch()
    with ShowerFile(path, geometry) as file:
        attributes = file.attributes
        energies = file.incident_energies()
    watch.digest.update(f"{len(energies)},{geometry.n_voxels};".encode())
    watch.digest.update(energies.astype("<f8").tobytes())
    features = chunk_features(watch.over(file_chunks(path, geometry, _CHUNK, progress)), geometry)
    screening = Screening(
        file=Path(path).name,
        content_sha256=watch.digest.hexdigest(),
        attributes=attributes,
        incident_energy=features.incident_energy,
        deposited=np.concatenate(watch.deposited),
        largest_voxel_mev=watch.largest,
        smallest_voxel_mev=watch.smallest,
        n_negative=watch.n_negative,
        n_overfull=watch.n_overfull,
        n_empty=watch.n_empty,
        digests=np.concatenate(watch.digests),
    )
    return Sample(Path(path), features, screening)


def check_units(reference: Screening, generated: Mapping[str, Screening], geometry: Geometry) -> None:
    """Looks for energies in GeV, where files hold MeV.

    Raises:
        DataError: If incident energies or voxels of a file are near a factor 1000 away from what they should be.
    """
    known = GEOMETRIES.get(geometry.name)
    low = known.energy_range[0] if known is not None and known.energy_range else 0.0
    highest, response = float(reference.incident_energy.max()), _response(reference)
    if highest <= low * (1 + 1e-6):
        raise DataError(
            f"the incident energies of the reference ({reference.file}) go up to {highest:.6g} only, but those of "
            f"{geometry.name} begin at {low:g} MeV: they look like GeV; multiply them by 1000"
        )
    if known is not None and _looks_like_gev(response):
        raise DataError(
            f"the voxels of the reference ({reference.file}) sum to {response:.2g} of the incident energy: voxels look "
            "like GeV and incident energies like MeV; give both in MeV"
        )
    for name, sample in generated.items():
        _check_ratio(name, sample, "incident energies", _middle(sample) / _middle(reference))
        if response > 0 and _response(sample) > 0:
            _check_ratio(name, sample, "voxels over incident energies", _response(sample) / response)


def find_warnings(reference: Screening, generated: Mapping[str, Screening]) -> list[str]:
    """Sentences on what makes a comparison doubtful, the gravest first."""
    warnings = []
    for name, sample in generated.items():
        warnings += _shared_warnings(name, sample, reference)
    expected = _pairing(reference)
    for name, sample in generated.items():
        found = _pairing(sample)
        if expected > _PAIRED and found < _UNPAIRED:
            warnings.append(
                f"The showers of {name} do not follow their incident energies (rank correlation {found:.2f}, Geant4 "
                f"{expected:.2f}): incident_energies and showers are probably not in the same order."
            )
    for name, sample in {"the reference": reference, **generated}.items():
        warnings += _own_warnings(name, sample)
    return warnings


@dataclass(eq=False)
class _Watch:
    """Looks at chunks of showers that pass by."""

    deposited: list[FloatArray] = field(default_factory=list)
    digests: list[NDArray[np.uint64]] = field(default_factory=list)
    largest: float = 0.0
    smallest: float = 0.0
    n_negative: int = 0
    n_overfull: int = 0
    n_empty: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def over(
        self, chunks: Iterator[tuple[FloatArray, NDArray[np.float32]]]
    ) -> Iterator[tuple[FloatArray, NDArray[np.float32]]]:
        """Gives the chunks on as they are."""
        for energies, showers in chunks:
            self._see(energies, showers)
            yield energies, showers

    def _see(self, energies: FloatArray, showers: NDArray[np.float32]) -> None:
        self.digest.update(np.ascontiguousarray(showers, dtype="<f4").data)
        highest, lowest = showers.max(axis=1), showers.min(axis=1)
        self.largest = max(self.largest, float(highest.max()))
        self.smallest = min(self.smallest, float(lowest.min()))
        self.n_negative += int((lowest < 0).sum())
        self.n_overfull += int((highest > energies * (1 + 1e-6)).sum())
        self.n_empty += int((highest <= 0).sum())
        with np.errstate(invalid="ignore"):  # infinite voxels are refused when the features are made
            self.deposited.append(showers.sum(axis=1, dtype=np.float64))
        told = np.count_nonzero(showers, axis=1) >= _LEAST_HITS
        hashes = [hashlib.blake2b(row.data, digest_size=8).digest() for row in np.ascontiguousarray(showers[told])]
        self.digests.append(np.frombuffer(b"".join(hashes), dtype=np.uint64))


def _shared_warnings(name: str, sample: Screening, reference: Screening) -> list[str]:
    if sample.content_sha256 == reference.content_sha256:
        told = "is the same file as the reference, shower for shower: no number says anything about a model."
        return [f"{name} {told}"]
    shared, n = sample.n_shared(reference), len(sample.incident_energy)
    if not shared:
        return []
    better = "are bit for bit showers of the reference: the numbers are better than the model."
    return [f"{shared:,} of {n:,} showers of {name} {better}"]


def _own_warnings(name: str, sample: Screening) -> list[str]:
    found = []
    if sample.n_copies:
        found.append(
            f"{sample.n_copies:,} showers of {name} are copies of others in it: errors are larger than quoted, and "
            "classifiers meet the same shower in training and validation."
        )
    if sample.n_negative:
        found.append(
            f"{sample.n_negative:,} showers of {name} hold negative voxels (down to {sample.smallest_voxel_mev:.3g} "
            "MeV): they count as empty voxels."
        )
    if sample.n_overfull:
        found.append(
            f"{sample.n_overfull:,} showers of {name} hold a voxel above the incident energy, which no calorimeter of "
            "this kind shows."
        )
    if sample.n_empty:
        found.append(f"{sample.n_empty:,} showers of {name} are empty.")
    return found


def _check_ratio(name: str, sample: Screening, what: str, ratio: float) -> None:
    if _looks_like_gev(ratio) or _looks_like_gev(1 / ratio):
        unit, factor = ("GeV", 1 / ratio) if ratio < 1 else ("keV, or the reference in GeV", ratio)
        size = "smaller" if ratio < 1 else "larger"
        raise DataError(
            f"the {what} of {name} ({sample.file}) are {factor:.0f} times {size} than those of the reference: they "
            f"look like {unit}; give all energies in MeV"
        )


def _looks_like_gev(ratio: float) -> bool:
    return 1 / _UNIT_SLACK < ratio * _UNIT_FACTOR < _UNIT_SLACK


def _middle(sample: Screening) -> float:
    return float(np.median(sample.incident_energy))


def _response(sample: Screening) -> float:
    return float(np.median(sample.deposited / sample.incident_energy))


def _pairing(sample: Screening) -> float:
    """Rank correlation of deposited with incident energy; 1 where one of them does not vary."""
    if np.ptp(sample.incident_energy) == 0 or np.ptp(sample.deposited) == 0:
        return 1.0
    return float(spearmanr(sample.incident_energy, sample.deposited).statistic)
