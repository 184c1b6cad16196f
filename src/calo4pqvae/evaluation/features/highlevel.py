r"""High-level features of showers as the CaloChallenge defines them, and the vectors for FPD, KPD and classifiers.

Every voxel below the readout threshold (0.5 keV / 0.033 for data sets 2 and 3, 1 MeV for data set 1) is set to zero
first, in the reference and in the generated sample alike. Then, in a layer with voxel energies e_k at the cell centres
x_k (x one of eta, phi, r, in mm) and eps = 1e-16 MeV,

.. math::
    E_l = \sum_k e_k, \qquad
    \mathrm{EC}_x = \frac{\sum_k x_k e_k}{E_l + \epsilon}, \qquad
    \sigma_x = \sqrt{\max\Big(0, \frac{\sum_k x_k^2 e_k}{E_l + \epsilon} - \mathrm{EC}_x^2\Big)} ,

and the sparsity is the share of the layer's voxels that are empty. Layers of whole rings have no eta and phi.

**Vectors.** ``challenge``: log10 E_inc; log10(E_l + 1e-8); EC_eta, EC_phi, sigma_eta, sigma_phi, each / 100;
log10(E_tot + 1e-8); sparsity; EC_r, sigma_r, each / 100; blocks in this order, layers in the order of the voxels, eta
and phi only for layers that have several angular cells. That makes 362 numbers for data sets 2 and 3, 30 for the
photons and 46 for the pions of data set 1. ``calo4pqvae-226``: the first six blocks only, the challenge's earlier
vector, with which the public notebooks of Calo4pQVAE compute FPD and KPD. Values of different vectors are not
comparable.

**Precision.** The seven moments of a layer (of 1, x and x^2) are one matrix product, in float64 whatever the file
holds. A width is a small difference of large numbers: its variance comes out with an error of about 1e-16 of the second
moment. Two voxels above the threshold give a variance of at least 1e-10 of the second moment in the four official
grids, so that a variance below 1e-12 of it is rounding noise around zero (a single voxel, or hits in one ring) and the
width is exactly zero. All other widths are right to 1e-6 of themselves.

References:
    Krause et al., CaloChallenge 2022: a community challenge for fast calorimeter simulation, arXiv 2410.21611; the
    definitions are those of HighLevelFeatures.py and evaluate.py in the repository CaloChallenge/homepage.
    The 226 numbers: HEPMetrics.ipynb of the repository CaloQVAE, the code of arXiv 2410.22870.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "FeatureKind",
    "HighLevelFeatures",
    "LayerMoments",
    "chunk_highlevel_features",
    "feature_names",
    "feature_samples",
    "feature_vector",
    "file_chunks",
    "file_highlevel_features",
    "highlevel_features",
]

FloatArray = NDArray[np.float64]
FeatureKind = Literal["challenge", "calo4pqvae-226"]
"""Which vector of features: all of the challenge's, or the 226 of the published Calo4pQVAE numbers."""

_EPSILON = 1e-16
_ROUND_OFF = 1e-12
_LOG_OFFSET_MEV = 1e-8
_LENGTH_UNIT_MM = 100.0
_CACHED_ROWS = 128
_PUBLISHED_LAYERS = 45

_FIRST_BLOCKS = (
    "log10_incident_energy",
    "log10_layer_energy",
    "centroid_eta",
    "centroid_phi",
    "width_eta",
    "width_phi",
)
_BLOCKS: dict[str, tuple[str, ...]] = {
    "challenge": (*_FIRST_BLOCKS, "log10_total_energy", "sparsity", "centroid_r", "width_r"),
    "calo4pqvae-226": _FIRST_BLOCKS,
}
_OF_A_SHOWER = ("log10_incident_energy", "log10_total_energy")
_OF_ANGLES = ("centroid_eta", "centroid_phi", "width_eta", "width_phi")


@dataclass(frozen=True)
class HighLevelFeatures:
    """High-level features of N showers in a geometry of L layers; energies in MeV, lengths in mm, all float64.

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

    _COMMON: ClassVar[tuple[str, ...]] = ("geometry",)

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

    def select(self, which: NDArray[np.bool_] | NDArray[np.integer]) -> Self:
        """Keeps the showers named by a mask or by indices."""
        names = [field.name for field in fields(self) if field.name not in self._COMMON]
        kept = {name: getattr(self, name)[which] for name in names if getattr(self, name) is not None}
        return replace(self, **kept)


class LayerMoments:
    """The matrices that turn voxels into features, made once for a geometry.

    Args:
        geometry: The voxel grid.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        eta, phi, r = (np.asarray(axis, dtype=np.float64) for axis in geometry.voxel_centres())
        columns = np.stack([np.ones_like(r), eta, phi, r, eta**2, phi**2, r**2], axis=1)
        self._per_layer = [columns[layer] for layer in geometry.layer_slices]
        self._sizes = np.array([layer.n_voxels for layer in geometry.layers])

    def check(self, energies: FloatArray, showers: NDArray[Any]) -> None:
        """Looks whether showers, (N, V) in MeV, and their incident energies, (N,) in MeV, can be used.

        Raises:
            DataError: If the arrays do not fit the geometry or each other, or hold values that are not finite.
        """
        n_voxels = self.geometry.n_voxels
        if showers.ndim != 2 or showers.shape[1] != n_voxels:
            raise DataError(
                f"showers have the shape {showers.shape}, but geometry {self.geometry.name} needs "
                f"(showers, {n_voxels}); choose the geometry of the file"
            )
        if len(energies) != len(showers):
            raise DataError(f"{len(showers)} showers come with {len(energies)} incident energies; give one for each")
        if not (np.isfinite(showers).all() and np.isfinite(energies).all() and (energies > 0).all()):
            raise DataError(
                "the sample holds NaN or infinite voxels, or incident energies that are not positive; "
                "run `calo4pqvae data validate` on it to see which"
            )

    def thresholded(self, showers: NDArray[Any]) -> FloatArray:
        """Voxels in float64 with those below the threshold set to zero, (N, V); finite showers only."""
        kept = showers * (showers >= _rounded_up(self.geometry.threshold_mev, showers.dtype))
        return np.asarray(kept, dtype=np.float64)

    def columns(self, energies: FloatArray, voxels: FloatArray) -> dict[str, FloatArray]:
        """The fields of :class:`HighLevelFeatures` but the geometry, from voxels that are :meth:`thresholded`."""
        n_showers, n_layers = len(voxels), self.geometry.n_layers
        filled = voxels > 0
        hits = np.empty((n_showers, n_layers))
        moments = np.empty((n_showers, n_layers, 7))
        for position, (layer, matrix) in enumerate(zip(self.geometry.layer_slices, self._per_layer, strict=True)):
            hits[:, position] = np.count_nonzero(filled[:, layer], axis=1)
            moments[:, position] = voxels[:, layer] @ matrix
        layer_energy = moments[..., 0]
        scale = (layer_energy + _EPSILON)[..., None]
        mean, second = moments[..., 1:4] / scale, moments[..., 4:7] / scale
        variance = second - mean**2
        width = np.sqrt(np.where(variance > _ROUND_OFF * second, variance, 0.0))
        found = {
            "incident_energy": energies,
            "total_energy": layer_energy.sum(axis=1),
            "layer_energy": layer_energy.copy(),
            "occupancy": hits.sum(axis=1) / self.geometry.n_voxels,
            "layer_occupancy": hits / self._sizes,
        }
        for axis, name in enumerate(("eta", "phi", "r")):
            found[f"centroid_{name}"] = mean[..., axis].copy()
            found[f"width_{name}"] = width[..., axis].copy()
        return found


def highlevel_features(showers: ArrayLike, incident_energies: ArrayLike, geometry: Geometry) -> HighLevelFeatures:
    """Features of showers that are in memory.

    Args:
        showers: Voxel energies in MeV, (N, V).
        incident_energies: Energies of the particles in MeV, (N, 1) or (N,).
        geometry: The voxel grid.

    Raises:
        DataError: If the arrays do not fit the geometry or each other, hold values that are not finite, or are empty.
    """
    return chunk_highlevel_features([(incident_energies, showers)], geometry)


def file_highlevel_features(
    path: Path, geometry: Geometry, chunk: int = 1000, progress: Callable[[int, int], None] | None = None
) -> HighLevelFeatures:
    """Features of all showers of a CaloChallenge file, streamed.

    Args:
        path: The file.
        geometry: The voxel grid; its width must be that of the file.
        chunk: Showers read at a time.
        progress: Called with (showers done, showers in all) after each chunk.

    Raises:
        DataError: If the file cannot be read, is empty, or does not fit the geometry.
    """
    return chunk_highlevel_features(file_chunks(path, geometry, chunk, progress), geometry)


def chunk_highlevel_features(chunks: Iterable[tuple[ArrayLike, ArrayLike]], geometry: Geometry) -> HighLevelFeatures:
    """Features of showers that come as chunks of (incident energies, showers), both in MeV.

    Raises:
        DataError: If a chunk does not fit the geometry, holds values that are not finite, or no shower comes.
    """
    moments = LayerMoments(geometry)
    parts = []
    for energies, showers in chunks:
        column, voxels = np.asarray(energies, dtype=np.float64).reshape(-1), np.asarray(showers)
        moments.check(column, voxels)
        for start in range(0, len(voxels), _CACHED_ROWS):
            rows = slice(start, start + _CACHED_ROWS)
            parts.append(moments.columns(column[rows], moments.thresholded(voxels[rows])))
    if not parts:
        raise DataError("there are no showers to evaluate; give a sample with at least one")
    return HighLevelFeatures(geometry=geometry, **{name: np.concatenate([p[name] for p in parts]) for name in parts[0]})


def file_chunks(
    path: Path, geometry: Geometry, chunk: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[FloatArray, NDArray[np.float32]]]:
    """Goes through a shower file in order.

    Args:
        path: The file.
        geometry: The voxel grid.
        chunk: Showers read at a time.
        progress: Called with (showers done, showers in all) when the next chunk is asked for.

    Yields:
        Incident energies (rows,) and showers (rows, voxels), in MeV.

    Raises:
        DataError: If the file cannot be read, is empty, or does not fit the geometry.
    """
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies().reshape(-1)
        for start in range(0, file.n_showers, chunk):
            stop = min(start + chunk, file.n_showers)
            yield energies[start:stop], file.read(start, stop)
            if progress is not None:
                progress(stop, file.n_showers)


def feature_names(geometry: Geometry, kind: FeatureKind = "challenge") -> tuple[str, ...]:
    """What each column of :func:`feature_vector` is, such as ``width_eta_12``: the layer by its number in the detector.

    Args:
        geometry: The voxel grid.
        kind: Which vector.

    Raises:
        DataError: If there is no such vector, or not for this geometry.

    Example:
        >>> from calo4pqvae.showers.geometry import geometry
        >>> len(feature_names(geometry("ds2"))), len(feature_names(geometry("ds2"), "calo4pqvae-226"))
        (362, 226)
    """
    names: list[str] = []
    for block in _blocks(geometry, kind):
        if block in _OF_A_SHOWER:
            names.append(block)
        else:
            names.extend(f"{block}_{geometry.layers[layer].layer_id}" for layer in _layers_of(block, geometry))
    return tuple(names)


def feature_vector(features: HighLevelFeatures, kind: FeatureKind = "challenge") -> FloatArray:
    """The vector of features of each shower, (N, number of features); energies as log10 of MeV, lengths in 100 mm.

    Args:
        features: Features of the showers.
        kind: Which vector; see the module's text.

    Raises:
        DataError: If there is no such vector, or not for this geometry.
    """
    geometry = features.geometry
    columns = [_block_values(features, block) for block in _blocks(geometry, kind)]
    return np.concatenate(columns, axis=1)


def feature_samples(
    *, reference: HighLevelFeatures, generated: HighLevelFeatures, kind: FeatureKind = "challenge"
) -> tuple[FloatArray, FloatArray]:
    """The vectors of two samples that are to be compared: (N, F) of the reference and (M, F) of the generated one.

    Raises:
        DataError: If the samples are of different grids or thresholds.
    """
    first, second = reference.geometry, generated.geometry
    if first.layers != second.layers or first.threshold_mev != second.threshold_mev:
        raise DataError(
            f"the reference is of geometry {first.name} and the generated sample of {second.name}; "
            "compare samples of one grid and one threshold"
        )
    return feature_vector(reference, kind), feature_vector(generated, kind)


def _blocks(geometry: Geometry, kind: FeatureKind) -> tuple[str, ...]:
    if kind not in _BLOCKS:
        raise DataError(f"there is no feature vector {kind!r}; choose among {', '.join(get_args(FeatureKind))}")
    if kind == "calo4pqvae-226" and not (geometry.is_regular and geometry.n_layers == _PUBLISHED_LAYERS):
        raise DataError(
            f"the vector {kind} needs {_PUBLISHED_LAYERS} layers that are alike, which {geometry.name} does not have; "
            "choose the vector 'challenge'"
        )
    return _BLOCKS[kind]


def _layers_of(block: str, geometry: Geometry) -> list[int]:
    """Positions of the layers that have a feature."""
    return [n for n, layer in enumerate(geometry.layers) if block not in _OF_ANGLES or layer.n_alpha > 1]


def _block_values(features: HighLevelFeatures, block: str) -> FloatArray:
    layers = _layers_of(block, features.geometry)
    if block == "log10_incident_energy":
        return np.log10(features.incident_energy)[:, None]
    if block == "log10_total_energy":
        return np.log10(features.total_energy + _LOG_OFFSET_MEV)[:, None]
    if block == "log10_layer_energy":
        return np.log10(features.layer_energy + _LOG_OFFSET_MEV)
    if block == "sparsity":
        return 1.0 - features.layer_occupancy
    lengths: FloatArray = getattr(features, block)
    return lengths[:, layers] / _LENGTH_UNIT_MM


def _rounded_up(value: float, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401  # a scalar of the array's own type
    """The smallest number of ``dtype`` that is not below ``value``, so that no wider copy is needed to compare."""
    if dtype.kind != "f":
        return value
    nearest = dtype.type(value)
    return nearest if float(nearest) >= value else np.nextafter(nearest, dtype.type(np.inf))
