r"""What is kept of a shower once its voxels are gone: the features that every metric and figure is made of.

Every voxel below the readout threshold is set to zero first, in the reference and in the generated sample alike.
Then, in a layer with voxel energies e_k at the cell centres x_k (x one of eta, phi, r, in mm) and eps = 1e-16 MeV,

.. math::
    E_l = \sum_k e_k, \qquad
    \mathrm{EC}_x = \frac{\sum_k x_k e_k}{E_l + \epsilon}, \qquad
    \sigma_x = \sqrt{\max\Big(0, \frac{\sum_k x_k^2 e_k}{E_l + \epsilon} - \mathrm{EC}_x^2\Big)}.

The occupancy is the fraction of voxels above the threshold (the challenge's sparsity is one minus it). All moments of
a layer are one matrix product, showers x voxels times voxels x moments, in float64 whatever the file holds. Voxel
energies are kept as counts per shower on a logarithmic grid whose edges contain every half-decade, so that a spectrum,
its error and its Geant4-against-Geant4 floor can be made later for any selection of showers.

Showers are taken in chunks: memory is that of one chunk plus about 500 numbers for every shower of 45 layers.

References:
    Krause et al., CaloChallenge 2022: a community challenge for fast calorimeter simulation, arXiv 2410.21611.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = ["EnergyBins", "ShowerFeatures", "chunk_features", "file_features", "shower_features", "voxel_energy_edges"]

FloatArray = NDArray[np.float64]

_EPSILON = 1e-16
_ROUND_OFF = 1e-12
_PER_DECADE = 10
_SPECTRUM_TOP_MEV = 1e6


@dataclass(frozen=True)
class ShowerFeatures:
    """Features of N showers in a geometry of L layers; energies in MeV, lengths in mm, all float64.

    Args:
        geometry: The voxel grid.
        incident_energy: Energy of the particle, (N,).
        total_energy: Sum over the voxels, (N,).
        layer_energy: Sum over the voxels of a layer, (N, L).
        centroid_eta: Centre of energy along eta in each layer, (N, L); zero in an empty layer.
        centroid_phi: The same along phi.
        centroid_r: The same along the radius.
        width_eta: Energy-weighted standard deviation of eta in each layer, (N, L).
        width_phi: The same of phi.
        width_r: The same of the radius.
        occupancy: Fraction of all voxels above the threshold, (N,).
        layer_occupancy: Fraction of the voxels of a layer above the threshold, (N, L).
        voxel_counts: Number of voxels in each bin of ``voxel_edges``, (N, B).
        voxel_edges: Edges of the voxel-energy bins in MeV, (B + 1,).
        radial_energy: Energy in each ring, summed over layers, (N, R); None where the layers' rings differ.
        mean_shower: Mean energy of each voxel, (V,); None for a selection, because the voxels are not kept.
    """

    geometry: Geometry
    incident_energy: FloatArray
    total_energy: FloatArray
    layer_energy: FloatArray
    centroid_eta: FloatArray
    centroid_phi: FloatArray
    centroid_r: FloatArray
    width_eta: FloatArray
    width_phi: FloatArray
    width_r: FloatArray
    occupancy: FloatArray
    layer_occupancy: FloatArray
    voxel_counts: NDArray[np.int32]
    voxel_edges: FloatArray
    radial_energy: FloatArray | None
    mean_shower: FloatArray | None

    @property
    def n_showers(self) -> int:
        """Number of showers N."""
        return len(self.incident_energy)

    @property
    def response(self) -> FloatArray:
        """E_tot / E_inc, (N,)."""
        return self.total_energy / self.incident_energy

    @property
    def layer_response(self) -> FloatArray:
        """E_l / E_inc, the longitudinal profile of each shower, (N, L)."""
        return self.layer_energy / self.incident_energy[:, None]

    @property
    def layer_fractions(self) -> FloatArray:
        """E_l / E_tot, (N, L); zero for an empty shower."""
        total = self.total_energy[:, None]
        return np.divide(self.layer_energy, total, out=np.zeros_like(self.layer_energy), where=total > 0)

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> "ShowerFeatures":
        """Keeps the showers named by a mask or by indices."""
        per_shower = {
            field.name: getattr(self, field.name)[which]
            for field in fields(self)
            if field.name not in ("geometry", "voxel_edges", "mean_shower") and getattr(self, field.name) is not None
        }
        return replace(self, mean_shower=None, **per_shower)


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
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies().reshape(-1)

        def chunks() -> Iterable[tuple[FloatArray, NDArray[np.float32]]]:
            for start in range(0, file.n_showers, chunk):
                stop = min(start + chunk, file.n_showers)
                yield energies[start:stop], file.read(start, stop)
                if progress is not None:
                    progress(stop, file.n_showers)

        return chunk_features(chunks(), geometry)


def chunk_features(chunks: Iterable[tuple[ArrayLike, ArrayLike]], geometry: Geometry) -> ShowerFeatures:
    """Features of showers that come as chunks of (incident energies, showers), both in MeV.

    Raises:
        DataError: If a chunk does not fit the geometry, holds values that are not finite, or no chunk comes.
    """
    moments = _Moments(geometry)
    parts: list[dict[str, NDArray[Any]]] = []
    sum_of_showers = np.zeros(geometry.n_voxels)
    for energies, showers in chunks:
        part, sum_of_chunk = moments.of_chunk(np.asarray(energies, dtype=np.float64).reshape(-1), np.asarray(showers))
        parts.append(part)
        sum_of_showers += sum_of_chunk
    if not parts:
        raise DataError("there are no showers to evaluate; give a sample with at least one")
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    radial_energy = columns.pop("radial_energy", None)
    n_showers = len(columns["incident_energy"])
    return ShowerFeatures(
        geometry=geometry,
        voxel_edges=moments.edges,
        mean_shower=sum_of_showers / n_showers,
        radial_energy=radial_energy,
        **columns,
    )


class _Moments:
    """The matrices that turn voxels into features, made once for a geometry."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.edges = voxel_energy_edges(geometry.threshold_mev)
        eta, phi, r = (np.asarray(axis, dtype=np.float64) for axis in geometry.voxel_centres())
        columns = np.stack([np.ones_like(r), eta, phi, r, eta**2, phi**2, r**2], axis=1)
        self.per_layer = [columns[layer] for layer in geometry.layer_slices]
        self.starts = np.array([layer.start for layer in geometry.layer_slices])
        self.sizes = np.array([layer.stop - layer.start for layer in geometry.layer_slices])
        self.n_rings = geometry.grid_shape[2] if geometry.is_regular else None

    def of_chunk(self, energies: FloatArray, showers: NDArray[Any]) -> tuple[dict[str, NDArray[Any]], FloatArray]:
        """Features of one chunk, and the sum of its showers."""
        voxels = self._thresholded(energies, showers)
        filled = voxels > 0
        hits = np.add.reduceat(filled, self.starts, axis=1, dtype=np.int64)
        moments = np.stack(
            [voxels[:, s] @ m for s, m in zip(self.geometry.layer_slices, self.per_layer, strict=True)], axis=2
        )
        layer_energy, mean, second = moments[:, 0], moments[:, 1:4], moments[:, 4:7]
        scale = (layer_energy + _EPSILON)[:, None]
        mean, second = mean / scale, second / scale
        variance = second - mean**2
        width = np.sqrt(np.where(variance > _ROUND_OFF * second, variance, 0.0))
        part: dict[str, NDArray[Any]] = {
            "incident_energy": energies,
            "total_energy": layer_energy.sum(axis=1),
            "layer_energy": layer_energy,
            "occupancy": hits.sum(axis=1) / self.geometry.n_voxels,
            "layer_occupancy": hits / self.sizes,
            "voxel_counts": self._voxel_counts(voxels, filled),
        }
        for axis, name in enumerate(("eta", "phi", "r")):
            part[f"centroid_{name}"] = mean[:, axis]
            part[f"width_{name}"] = width[:, axis]
        if self.n_rings is not None:
            part["radial_energy"] = voxels.reshape(len(voxels), -1, self.n_rings).sum(axis=1)
        return part, voxels.sum(axis=0)

    def _thresholded(self, energies: FloatArray, showers: NDArray[Any]) -> FloatArray:
        n_voxels = self.geometry.n_voxels
        if showers.ndim != 2 or showers.shape[1] != n_voxels:
            raise DataError(
                f"showers have the shape {showers.shape}, but geometry {self.geometry.name} needs "
                f"(showers, {n_voxels}); choose the geometry of the file"
            )
        if len(energies) != len(showers):
            raise DataError(f"{len(showers)} showers come with {len(energies)} incident energies; give one for each")
        voxels = showers.astype(np.float64)
        if not (np.isfinite(voxels).all() and np.isfinite(energies).all() and (energies > 0).all()):
            raise DataError(
                "the sample holds NaN or infinite voxels, or incident energies that are not positive; "
                "run `calo4pqvae data validate` on it to see which"
            )
        voxels[voxels < self.geometry.threshold_mev] = 0.0
        return voxels

    def _voxel_counts(self, voxels: FloatArray, filled: NDArray[np.bool_]) -> NDArray[np.int32]:
        n_bins = len(self.edges) - 1
        rows = np.nonzero(filled)[0]
        bins = np.searchsorted(self.edges, voxels[filled], side="right") - 1
        flat = rows * n_bins + np.clip(bins, 0, n_bins - 1)
        counts = np.bincount(flat, minlength=len(voxels) * n_bins)
        return counts.reshape(len(voxels), n_bins).astype(np.int32)
