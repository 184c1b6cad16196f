r"""What is kept of a shower once its voxels are gone: the features that every metric and figure is made of.

These are the high-level features of the challenge (:mod:`calo4pqvae.evaluation.features.highlevel` defines them), and
with them what needs the voxels one by one: the mean shower, the energy in each ring, and the spectrum of voxel
energies. The occupancy is the fraction of voxels above the threshold (the challenge's sparsity is one minus it). Voxel
energies are kept as counts per shower on a logarithmic grid whose edges contain every half-decade, so that a spectrum,
its error and its Geant4-against-Geant4 floor can be made later for any selection of showers.

Showers are taken in chunks: memory is that of one chunk plus about 500 numbers for every shower of 45 layers.

References:
    Krause et al., CaloChallenge 2022: a community challenge for fast calorimeter simulation, arXiv 2410.21611.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.highlevel import HighLevelFeatures, LayerMoments, file_chunks
from calo4pqvae.showers.geometry import Geometry

__all__ = ["EnergyBins", "ShowerFeatures", "chunk_features", "file_features", "shower_features", "voxel_energy_edges"]

FloatArray = NDArray[np.float64]

_PER_DECADE = 10
_SPECTRUM_TOP_MEV = 1e6


@dataclass(frozen=True)
class ShowerFeatures(HighLevelFeatures):
    """High-level features of N showers, and what needs their voxels.

    Args:
        voxel_counts: Number of voxels in each bin of ``voxel_edges``, (N, B).
        voxel_edges: Edges of the voxel-energy bins in MeV, (B + 1,).
        radial_energy: Energy in each ring, summed over layers, (N, R); None where the layers' rings differ.
        mean_shower: Mean energy of each voxel, (V,); None for a selection, because the voxels are not kept.
    """

    voxel_counts: NDArray[np.int32]
    voxel_edges: FloatArray
    radial_energy: FloatArray | None
    mean_shower: FloatArray | None

    _COMMON: ClassVar[tuple[str, ...]] = ("geometry", "voxel_edges", "mean_shower")

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> Self:
        """Keeps the showers named by a mask or by indices."""
        return replace(super().select(which), mean_shower=None)


@dataclass(frozen=True)
class EnergyBins:
    """Adjacent bins of incident energy.

    Args:
        edges: Increasing edges in MeV; the last bin contains its upper edge.
    """

    edges: tuple[float, ...]

    @classmethod
    def logarithmic(cls, low: float, high: float, n_bins: int = 3) -> "EnergyBins":
        """Divides (low, high), in MeV, into bins of equal width in log E.

        Raises:
            DataError: If the range is empty or not positive.
        """
        if not 0 < low < high:
            raise DataError(f"energy bins need 0 < low < high, but the range is {low:g} to {high:g} MeV")
        return cls(tuple(float(edge) for edge in np.geomspace(low, high, n_bins + 1)))

    @classmethod
    def thirds_of(cls, incident_energy: FloatArray) -> "EnergyBins":
        """Thirds of log E over the range of a sample, its ends moved outwards to the next 1/20 of a decade."""
        logs = np.log10(incident_energy)
        low = np.floor(20 * logs.min() + 1e-3) / 20
        high = np.ceil(20 * logs.max() - 1e-3) / 20
        return cls.logarithmic(float(10**low), float(10 ** max(high, low + 0.05)))

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def labels(self) -> tuple[str, ...]:
        """The bins in words, in GeV."""
        gev = [edge / 1e3 for edge in self.edges]
        return tuple(f"{low:.3g}-{high:.3g} GeV" for low, high in itertools.pairwise(gev))

    def masks(self, incident_energy: FloatArray) -> list[NDArray[np.bool_]]:
        """For each bin, which showers lie in it."""
        index = np.digitize(incident_energy, self.edges[1:-1])
        slack = 1 + 1e-6
        inside = (incident_energy >= self.edges[0] / slack) & (incident_energy <= self.edges[-1] * slack)
        return [inside & (index == position) for position in range(len(self))]

    def split(self, features: ShowerFeatures) -> list[ShowerFeatures]:
        """For each bin, the features of its showers."""
        return [features.select(mask) for mask in self.masks(features.incident_energy)]


def voxel_energy_edges(threshold_mev: float) -> FloatArray:
    """Edges of the voxel-energy bins in MeV: the threshold, then ten a decade up to 1 TeV.

    Every half-decade above the threshold is an edge. A first bin narrower than half of the others is joined to
    the next.
    """
    low = max(threshold_mev, 1e-4)
    steps = np.arange(np.ceil(_PER_DECADE * np.log10(low)), _PER_DECADE * np.log10(_SPECTRUM_TOP_MEV) + 1)
    half_decades = steps % (_PER_DECADE // 2) == 0
    distance = steps - _PER_DECADE * np.log10(low)
    keep = (distance > 0.5) | (half_decades & (distance > 1e-6))
    return np.concatenate([[low], 10.0 ** (steps[keep] / _PER_DECADE)])


def shower_features(showers: ArrayLike, incident_energies: ArrayLike, geometry: Geometry) -> ShowerFeatures:
    """Features of showers that are in memory.

    Args:
        showers: Voxel energies in MeV, (N, V).
        incident_energies: Energies of the particles in MeV, (N, 1) or (N,).
        geometry: The voxel grid.

    Raises:
        DataError: If the arrays do not fit the geometry or each other, or hold values that are not finite.
    """
    voxels = np.asarray(showers)
    energies = np.asarray(incident_energies, dtype=np.float64).reshape(-1)
    return chunk_features(
        [(energies[i : i + 1000], voxels[i : i + 1000]) for i in range(0, len(voxels), 1000)], geometry
    )


def file_features(
    path: Path,
    geometry: Geometry,
    chunk: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> ShowerFeatures:
    """Features of all showers of a CaloChallenge file, streamed.

    Args:
        path: The file.
        geometry: The voxel grid; its width must be that of the file.
        chunk: Showers read at a time.
        progress: Called with (showers done, showers in all) after each chunk.

    Raises:
        DataError: If the file cannot be read, is empty, or does not fit the geometry.
    """
    return chunk_features(file_chunks(path, geometry, chunk, progress), geometry)


def chunk_features(chunks: Iterable[tuple[ArrayLike, ArrayLike]], geometry: Geometry) -> ShowerFeatures:
    """Features of showers that come as chunks of (incident energies, showers), both in MeV.

    Raises:
        DataError: If a chunk does not fit the geometry, holds values that are not finite, or no chunk comes.
    """
    sums = _VoxelSums(geometry)
    parts: list[dict[str, NDArray[Any]]] = []
    sum_of_showers = np.zeros(geometry.n_voxels)
    for energies, showers in chunks:
        part, sum_of_chunk = sums.of_chunk(np.asarray(energies, dtype=np.float64).reshape(-1), np.asarray(showers))
        parts.append(part)
        sum_of_showers += sum_of_chunk
    if not parts:
        raise DataError("there are no showers to evaluate; give a sample with at least one")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    radial_energy = columns.pop("radial_energy", None)
    n_showers = len(columns["incident_energy"])
    return ShowerFeatures(
        geometry=geometry,
        voxel_edges=sums.edges,
        mean_shower=sum_of_showers / n_showers,
        radial_energy=radial_energy,
        **columns,
    )


class _VoxelSums:
    """What is added up over voxels, with the features of their layers."""

    def __init__(self, geometry: Geometry) -> None:
        self.edges = voxel_energy_edges(geometry.threshold_mev)
        self.moments = LayerMoments(geometry)
        self.n_rings = geometry.grid_shape[2] if geometry.is_regular else None

    def of_chunk(self, energies: FloatArray, showers: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], FloatArray]:
        """Features of one chunk, and the sum of its showers."""
        self.moments.check(energies, showers)
        voxels = self.moments.thresholded(showers)
        part: dict[str, NDArray[Any]] = {**self.moments.columns(energies, voxels)}
        part["voxel_counts"] = self._voxel_counts(voxels, voxels > 0)
        if self.n_rings is not None:
            part["radial_energy"] = voxels.reshape(len(voxels), -1, self.n_rings).sum(axis=1)
        return part, voxels.sum(axis=0)

    def _voxel_counts(self, voxels: FloatArray, filled: NDArray[np.bool_]) -> NDArray[np.int32]:
        n_bins = len(self.edges) - 1
        rows = np.nonzero(filled)[0]
        bins = np.searchsorted(self.edges, voxels[filled], side="right") - 1
        flat = rows * n_bins + np.clip(bins, 0, n_bins - 1)
        counts = np.bincount(flat, minlength=len(voxels) * n_bins)
        return counts.reshape(len(voxels), n_bins).astype(np.int32)
