r"""Separation powers and chi-squares of the challenge's histograms, with errors and the Geant4-against-Geant4 floor.

Binning as the challenge has it for data sets 2 and 3:

==========================  =====================================================================================
histogram                   bins
==========================  =====================================================================================
E_tot / E_inc               100 from 0.5 to 1.5
layer energy                39 logarithmic, from the threshold to the reference's maximum of that layer
voxel energy                49 logarithmic, from the threshold to the reference's maximum, all layers together
centre of energy eta, phi   100 within 30 mm
width eta, phi              100 up to 30 mm
centre of energy r          100 up to 42 mm
width r                     100 up to 20 mm
layer sparsity              20 from 0 to 1
==========================  =====================================================================================

On other grids the lengths are scaled with the outer radius, except that the layers of data set 1 have the challenge's
ranges for eta and phi: centres within 100 mm (500 mm in layers 12 and 13), widths up to 100 mm (400 mm). Layered
observables are averaged over the layers. Entries outside a range are lost, as in the challenge, so that an empty layer
does not enter the energy of that layer. Layers made of whole rings have no eta and phi. The challenge's voxel bins need
the voxels a second time, once the largest is known (:class:`VoxelSpectra`); without them the voxel spectrum uses this
package's own bins, ten a decade. Bins of 0.1 in ln e show what the 49 hide, such as a smeared single-particle peak.

The error is a bootstrap one over showers of both samples, the same draws for all observables. A separation power is
never negative and its expectation grows with 1/n, so it must be read beside its floor and not beside zero, and at the
floor's sample sizes. All histograms of all bootstrap draws are one product, weights x showers times showers x bins,
the second factor sparse with a single one for each shower and layer.

References:
    Krause et al., arXiv 2410.21611; Diefenbacher et al., arXiv 2009.03796, eq. 15.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.metrics.chi_square import ChiSquare, bunched_chi_square, chi_square
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits, separation_power, split_halves
from calo4pqvae.showers.geometry import Geometry

__all__ = ["SeparationPower", "VoxelSpectra", "separation_powers", "voxel_spectra"]

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int32]

_OUTER_RADIUS_MM = 41.85
_DATASET_1_OUTER_LAYERS = (12, 13)
_VOXEL_BINS = 49
_FINE_WIDTH = 0.1
_CHUNK = 1000


@dataclass(frozen=True)
class SeparationPower:
    """Separation power and chi-square of one observable.

    Args:
        name: The observable.
        value: Mean over the layers where there are several, with its bootstrap error.
        matched: Between random halves of the reference and as many generated showers, to hold against the floor.
        floor: Between random halves of the reference.
        per_layer: The value of each layer that has the observable; one entry if it is not layered.
        per_layer_errors: Bootstrap error of each of them.
        chi_square: Of the same histograms.
    """

    name: str
    value: Estimate
    matched: Splits
    floor: Splits
    per_layer: tuple[float, ...]
    per_layer_errors: tuple[float, ...]
    chi_square: ChiSquare

    def to_dict(self) -> dict[str, object]:
        """The fields as plain data; layers whose histogram is empty give None."""
        return {
            "name": self.name,
            "value": self.value.to_dict(),
            "matched": self.matched.to_dict(),
            "geant4_against_geant4": self.floor.to_dict(),
            "per_layer": [value if np.isfinite(value) else None for value in self.per_layer],
            "per_layer_errors": [value if np.isfinite(value) else None for value in self.per_layer_errors],
            "chi_square": self.chi_square.to_dict(),
        }


@dataclass(frozen=True, eq=False)
class VoxelSpectra:
    """Voxel energies of two samples on one set of bins, shower by shower.

    Args:
        edges: Edges of the bins in MeV, (B + 1,).
        reference: Voxels of each reference shower in each bin, (N, B).
        generated: The same of the generated sample, (M, B).
    """

    edges: FloatArray
    reference: CountArray
    generated: CountArray

    @classmethod
    def of_arrays(cls, reference: ArrayLike, generated: ArrayLike, geometry: Geometry) -> "VoxelSpectra":
        """The challenge's bins, up to the largest voxel of the reference, of showers in MeV, (N, V) and (M, V).

        Raises:
            DataError: If a sample does not fit the geometry, or no reference voxel is above the threshold.
        """
        first, second = np.asarray(reference), np.asarray(generated)
        edges = cls.edges_of(float(np.max(first, initial=0.0)), geometry)
        counts = [voxel_spectra(_slices(part), (edges,), geometry)[0] for part in (first, second)]
        return cls(edges, counts[0], counts[1])

    @staticmethod
    def edges_of(maximum_mev: float, geometry: Geometry) -> FloatArray:
        """Edges of the challenge's 49 bins, from the threshold to the largest voxel of the reference, in MeV.

        Raises:
            DataError: If that voxel is not above the threshold.
        """
        low = max(geometry.threshold_mev, 1e-4)
        if not maximum_mev > low:
            raise DataError(f"no voxel of the reference is above {low:g} MeV; check that its energies are in MeV")
        return np.geomspace(low, maximum_mev, _VOXEL_BINS + 1)

    @staticmethod
    def fine_edges_of(maximum_mev: float, geometry: Geometry) -> FloatArray:
        """Edges of bins of 0.1 in ln e, from the threshold to beyond the largest voxel of the reference, in MeV."""
        low = max(geometry.threshold_mev, 1e-4)
        n_bins = max(1, math.ceil(math.log(maximum_mev / low) / _FINE_WIDTH))
        return np.asarray(low * np.exp(_FINE_WIDTH * np.arange(n_bins + 1)))

    def select(self, reference: NDArray[np.bool_], generated: NDArray[np.bool_]) -> "VoxelSpectra":
        """The spectra of some showers."""
        return VoxelSpectra(self.edges, self.reference[reference], self.generated[generated])


def voxel_spectra(
    chunks: Iterable[NDArray[Any]], edges: Sequence[FloatArray], geometry: Geometry
) -> tuple[CountArray, ...]:
    """Number of voxels of each shower in each bin of voxel energy, (N, bins) for each set of edges; others are lost.

    Args:
        chunks: Showers in MeV, (rows, V) at a time.
        edges: Sets of edges in MeV, increasing; a last bin contains its upper edge.
        geometry: The grid, for its width and threshold.

    Raises:
        DataError: If a chunk has another width.
    """
    parts: list[list[CountArray]] = [[np.zeros((0, len(each) - 1), dtype=np.int32)] for each in edges]
    for showers in chunks:
        if showers.ndim != 2 or showers.shape[1] != geometry.n_voxels:
            raise DataError(f"showers of shape {showers.shape} do not fit {geometry.name}: {geometry.n_voxels} voxels")
        rows, columns = np.nonzero(showers >= np.float64(geometry.threshold_mev))
        values = showers[rows, columns].astype(np.float64)
        for each, found in zip(edges, parts, strict=True):
            n_bins = len(each) - 1
            bins = np.searchsorted(each, values, side="right") - 1
            bins[values == each[-1]] = n_bins - 1
            inside = (bins >= 0) & (bins < n_bins) & (values > 0)
            counts = np.bincount(rows[inside] * n_bins + bins[inside], minlength=len(showers) * n_bins)
            found.append(counts.reshape(len(showers), n_bins).astype(np.int32))
    return tuple(np.concatenate(found) for found in parts)


def separation_powers(
    reference: ShowerFeatures,
    generated: ShowerFeatures,
    *,
    n_splits: int = 20,
    seed: int = 0,
    spectra: Mapping[str, VoxelSpectra] | None = None,
    size: int | None = None,
) -> list[SeparationPower]:
    """Separation powers and chi-squares between two samples.

    Args:
        reference: Geant4 showers; they set the upper ends of the logarithmic histograms.
        generated: Generated showers of the same geometry.
        n_splits: Bootstrap repetitions, and random splits of the reference for the floor.
        seed: Seed of both.
        spectra: Spectra of voxel energies by the name of the observable; by default "voxel energy" in the bins of the
            features.
        size: Showers of each part that floor and matched value are between; at most, and by default, half of the
            reference, or all generated showers if these are fewer.

    Raises:
        DataError: If the samples are of different grids, too small to split, or ``spectra`` is of other showers.
    """
    if spectra is None:
        own = VoxelSpectra(reference.voxel_edges, reference.voxel_counts, generated.voxel_counts)
        spectra = {"voxel energy": own}
    _check(reference, generated, spectra)
    draws = _Draws.make(reference.n_showers, generated.n_showers, n_splits, seed, size)
    powers = []
    for name in (*_NAMES[:2], *spectra, *_NAMES[2:]):
        if name in spectra:
            counts = spectra[name]
            pair = _Binned.of_counts(counts.reference), _Binned.of_counts(counts.generated)
        else:
            pair = _binned(name, reference, reference), _binned(name, reference, generated)
        powers.append(_separate(name, *pair, draws))
    return powers


@dataclass(frozen=True, eq=False)
class _Binned:
    """One observable of one sample, binned shower by shower.

    Args:
        entries: Entries of each shower in the bins of all layers, (N, layers x bins).
        shape: Layers and bins.
        is_bunched: Whether one shower makes many entries in a histogram.
    """

    entries: Any
    shape: tuple[int, int]
    is_bunched: bool = False

    @classmethod
    def of_counts(cls, counts: CountArray) -> "_Binned":
        return cls(counts.astype(np.float64), (1, counts.shape[1]), is_bunched=True)

    def counts(self, weights: FloatArray) -> FloatArray:
        """Histograms (draws, layers, bins) of weights of the showers, (draws, N)."""
        return np.asarray((self.entries.T @ weights.T).T).reshape(len(weights), *self.shape)


@dataclass(frozen=True, eq=False)
class _Draws:
    """Weights of the showers for every histogram that is needed, (draws, N) or (draws, M).

    Args:
        bootstrap: How often each shower is drawn, of both samples.
        halves: Two disjoint random parts of the reference.
        matched: As many generated showers.
        size: Size of these parts.
    """

    bootstrap: tuple[FloatArray, FloatArray]
    halves: tuple[FloatArray, FloatArray]
    matched: FloatArray
    size: int = field(default=0)

    @classmethod
    def make(cls, n: int, m: int, n_draws: int, seed: int, most: int | None) -> "_Draws":
        generator = np.random.default_rng(seed)
        size = min(n // 2, m, most or m)
        splits = list(split_halves(n, n_draws, seed, size))
        first, second = (
            generator.multinomial(length, np.full(length, 1 / length), n_draws).astype(np.float64) for length in (n, m)
        )
        subsets = [generator.choice(m, size, replace=False) for _ in range(n_draws)]
        halves = tuple(np.stack([_mask(n, split[side]) for split in splits]) for side in (0, 1))
        return cls((first, second), (halves[0], halves[1]), np.stack([_mask(m, part) for part in subsets]), size)


def _separate(name: str, reference: _Binned, generated: _Binned, draws: _Draws) -> SeparationPower:
    n, m = draws.bootstrap[0].shape[1], draws.bootstrap[1].shape[1]
    whole = (reference.counts(np.ones((1, n)))[0], generated.counts(np.ones((1, m)))[0])
    per_layer = separation_power(*whole)
    repeats = separation_power(reference.counts(draws.bootstrap[0]), generated.counts(draws.bootstrap[1]))
    half = reference.counts(draws.halves[0])
    floor = _layer_means(separation_power(half, reference.counts(draws.halves[1])))
    matched = _layer_means(separation_power(half, generated.counts(draws.matched)))
    errors = np.std(repeats, axis=0, ddof=1)
    is_bunched = reference.is_bunched
    distance = bunched_chi_square(reference.entries, generated.entries) if is_bunched else chi_square(*whole)
    value, error = float(_layer_means(per_layer[None])[0]), float(np.std(_layer_means(repeats), ddof=1))
    sizes = (draws.size, draws.size)
    return SeparationPower(
        name,
        Estimate(value, error, min(n, m)),
        Splits.of(matched, sizes),
        Splits.of(floor, sizes),
        tuple(per_layer.tolist()),
        tuple(errors.tolist()),
        distance,
    )


def _layer_means(powers: FloatArray) -> FloatArray:
    """Means over the layers that have entries, (draws,)."""
    finite = np.isfinite(powers)
    number = finite.sum(axis=1)
    total = np.where(finite, powers, 0.0).sum(axis=1)
    return np.asarray(np.divide(total, number, out=np.full(len(powers), np.nan), where=number > 0))


def _mask(n: int, indices: NDArray[np.int64]) -> FloatArray:
    mask = np.zeros(n)
    mask[indices] = 1.0
    return mask


def _slices(showers: NDArray[Any]) -> Iterable[NDArray[Any]]:
    return (showers[start : start + _CHUNK] for start in range(0, len(showers), _CHUNK))


def _check(reference: ShowerFeatures, generated: ShowerFeatures, spectra: Mapping[str, VoxelSpectra]) -> None:
    if reference.geometry.layers != generated.geometry.layers:
        raise DataError(
            f"the samples are on the grids {reference.geometry.name} and {generated.geometry.name}; "
            "compare samples of one geometry"
        )
    if min(reference.n_showers // 2, generated.n_showers) < 1:
        raise DataError("separation powers need at least two reference showers and a generated one; add some")
    sizes = (reference.n_showers, generated.n_showers)
    for spectrum in spectra.values():
        if (len(spectrum.reference), len(spectrum.generated)) != sizes:
            raise DataError(
                f"the voxel spectra are of {len(spectrum.reference)} and {len(spectrum.generated)} showers, the "
                f"features of {sizes[0]} and {sizes[1]}; make both of the same showers"
            )


_NAMES = (
    "E_tot / E_inc",
    "layer energy",
    "centre of energy eta",
    "centre of energy phi",
    "centre of energy r",
    "width eta",
    "width phi",
    "width r",
    "layer sparsity",
)


def _binned(name: str, reference: ShowerFeatures, sample: ShowerFeatures) -> _Binned:
    """Bins one observable of a sample, with ranges that depend on the reference only."""
    if name == "layer energy":
        low = np.log(max(reference.geometry.threshold_mev, 1e-4))
        high = np.log(np.maximum(reference.layer_energy.max(axis=0), np.exp(low) * 1.001))
        with np.errstate(divide="ignore"):
            return _uniform(np.log(sample.layer_energy), np.full_like(high, low), high, 39)
    if name == "E_tot / E_inc":
        return _uniform(sample.response[:, None], np.array([0.5]), np.array([1.5]), 100)
    if name == "layer sparsity":
        n_layers = sample.geometry.n_layers
        return _uniform(1.0 - sample.layer_occupancy, np.zeros(n_layers), np.ones(n_layers), 20)
    values, low, high = _lengths(name, sample)
    return _uniform(values, low, high, 100)


def _lengths(name: str, sample: ShowerFeatures) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values (N, layers) of a centre or width in mm, and its range in each of these layers."""
    layers = sample.geometry.layers
    scale = max(layer.radial_edges[-1] for layer in layers) / _OUTER_RADIUS_MM
    everywhere = np.ones(len(layers))
    if name == "centre of energy r":
        return sample.centroid_r, 0.0 * everywhere, 42.0 * scale * everywhere
    if name == "width r":
        return sample.width_r, 0.0 * everywhere, 20.0 * scale * everywhere
    is_centre, is_eta = name.startswith("centre"), name.endswith("eta")
    if is_centre:
        values = sample.centroid_eta if is_eta else sample.centroid_phi
    else:
        values = sample.width_eta if is_eta else sample.width_phi
    high = 30.0 * scale * everywhere
    if sample.geometry.name.startswith("ds1"):
        outer = np.isin([layer.layer_id for layer in layers], _DATASET_1_OUTER_LAYERS)
        high = np.where(outer, 500.0 if is_centre else 400.0, 100.0)
    segmented = np.array([layer.n_alpha > 1 for layer in layers])
    low = -high if is_centre else 0.0 * high
    return values[:, segmented], low[segmented], high[segmented]


def _uniform(values: FloatArray, low: FloatArray, high: FloatArray, n_bins: int) -> _Binned:
    """Bins columns uniformly between their limits; the last bin contains its upper edge, entries outside are lost."""
    n, n_columns = values.shape
    position = (values - low) / (high - low)
    inside = (position >= 0) & (position <= 1)
    index = np.minimum((np.where(inside, position, 0.0) * n_bins).astype(np.int64), n_bins - 1)
    columns = (index + np.arange(n_columns) * n_bins)[inside]
    pointers = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    entries = csr_array((np.ones(len(columns)), columns, pointers), shape=(n, n_columns * n_bins))
    return _Binned(entries, (n_columns, n_bins))
