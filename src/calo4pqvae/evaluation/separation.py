r"""Separation powers of the challenge's histograms, with errors and the Geant4-against-Geant4 floor.

Binning as the challenge has it for data sets 2 and 3, the lengths scaled with the outer radius for other grids:
E_tot / E_inc in 100 bins from 0.5 to 1.5; the energy of each layer in 39 logarithmic bins from the threshold to
the reference's maximum of that layer; centres of energy along eta and phi in 100 bins within 30 mm, their widths in
100 bins up to 30 mm, centre and width along r in 100 bins up to 42 and 20 mm; the sparsity of each layer in 20 bins.
Layered observables are averaged over the layers. Entries outside a range are lost, as in the challenge, so that an
empty layer does not enter the energy of that layer. The voxel spectrum uses this package's own bins, ten a decade.
Layers made of whole rings have no eta and phi.

The error is a bootstrap one over showers of both samples. A separation power is never negative and its expectation
grows with 1/n, so it must be read beside its floor and not beside zero, and at the floor's sample sizes.

References:
    Krause et al., arXiv 2410.21611; Diefenbacher et al., arXiv 2009.03796, eq. 15.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.evaluation.features import ShowerFeatures
from calo4pqvae.evaluation.metrics import Estimate, Splits, separation_power, split_halves

__all__ = ["SeparationPower", "separation_powers"]

FloatArray = NDArray[np.float64]

_OUTER_RADIUS_MM = 41.85


@dataclass(frozen=True)
class SeparationPower:
    """Separation power of one observable.

    Args:
        name: The observable.
        value: Mean over the layers where there are several, with its bootstrap error.
        matched: Between random halves of the reference and as many generated showers, to hold against the floor.
        floor: Between random halves of the reference.
        per_layer: The value of each layer that has the observable; one entry if it is not layered.
    """

    name: str
    value: Estimate
    matched: Splits
    floor: Splits
    per_layer: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        """The fields as plain data; layers whose histogram is empty give None."""
        return {
            "name": self.name,
            "value": self.value.to_dict(),
            "matched": self.matched.to_dict(),
            "geant4_against_geant4": self.floor.to_dict(),
            "per_layer": [value if np.isfinite(value) else None for value in self.per_layer],
        }


@dataclass(frozen=True)
class _Histogrammed:
    """One observable of one sample, binned shower by shower.

    Args:
        counts: From weights of the showers, (N,), to histograms, (layers, bins).
        n_showers: N.
    """

    counts: Callable[[FloatArray], FloatArray]
    n_showers: int


def separation_powers(
    reference: ShowerFeatures, generated: ShowerFeatures, *, n_splits: int = 20, seed: int = 0
) -> list[SeparationPower]:
    """Separation powers between two samples.

    Args:
        reference: Geant4 showers; they set the upper ends of the logarithmic histograms.
        generated: Generated showers of the same geometry.
        n_splits: Bootstrap repetitions, and random splits of the reference for the floor.
        seed: Seed of both.
    """
    binned = {name: (_binned(name, reference, reference), _binned(name, reference, generated)) for name in _NAMES}
    return [_separate(name, first, second, n_splits, seed) for name, (first, second) in binned.items()]


def _separate(
    name: str, reference: _Histogrammed, generated: _Histogrammed, n_splits: int, seed: int
) -> SeparationPower:
    n, m = reference.n_showers, generated.n_showers
    per_layer = separation_power(reference.counts(np.ones(n)), generated.counts(np.ones(m)))
    generator = np.random.default_rng(seed)
    repeats = [
        _mean(separation_power(reference.counts(_resample(n, generator)), generated.counts(_resample(m, generator))))
        for _ in range(n_splits)
    ]
    size = min(n // 2, m)
    halves, matched = [], []
    for first, second in split_halves(n, n_splits, seed, size):
        half = reference.counts(_mask(n, first))
        halves.append(_mean(separation_power(half, reference.counts(_mask(n, second)))))
        subset = generator.choice(m, size, replace=False)
        matched.append(_mean(separation_power(half, generated.counts(_mask(m, subset)))))
    return SeparationPower(
        name,
        Estimate(_mean(per_layer), float(np.std(repeats, ddof=1)), min(n, m)),
        Splits.of(np.array(matched), (size, size)),
        Splits.of(np.array(halves), (size, size)),
        tuple(per_layer.tolist()),
    )


def _mean(per_layer: FloatArray) -> float:
    finite = per_layer[np.isfinite(per_layer)]
    return float(finite.mean()) if len(finite) else float("nan")


def _resample(n: int, generator: np.random.Generator) -> FloatArray:
    return np.bincount(generator.integers(n, size=n), minlength=n).astype(np.float64)


def _mask(n: int, indices: NDArray[np.int64]) -> FloatArray:
    mask = np.zeros(n)
    mask[indices] = 1.0
    return mask


_NAMES = (
    "E_tot / E_inc",
    "layer energy",
    "voxel energy",
    "centre of energy eta",
    "centre of energy phi",
    "centre of energy r",
    "width eta",
    "width phi",
    "width r",
    "layer sparsity",
)


def _binned(name: str, reference: ShowerFeatures, sample: ShowerFeatures) -> _Histogrammed:
    """Bins one observable of a sample, with ranges that depend on the reference only."""
    if name == "voxel energy":
        counts = sample.voxel_counts.astype(np.float64)
        return _Histogrammed(lambda weights: (weights @ counts)[None, :], sample.n_showers)
    if name == "layer energy":
        low = np.log(max(reference.geometry.threshold_mev, 1e-4))
        high = np.log(np.maximum(reference.layer_energy.max(axis=0), np.exp(low) * 1.001))
        with np.errstate(divide="ignore"):
            return _uniform(np.log(sample.layer_energy), np.full_like(high, low), high, 39)
    values, low, high, n_bins = _linear(name, sample)
    return _uniform(values, np.full(values.shape[1], low), np.full(values.shape[1], high), n_bins)


def _linear(name: str, sample: ShowerFeatures) -> tuple[FloatArray, float, float, int]:
    """Values (N, layers), range and number of bins of an observable with linear bins."""
    if name == "E_tot / E_inc":
        return sample.response[:, None], 0.5, 1.5, 100
    if name == "layer sparsity":
        return 1.0 - sample.layer_occupancy, 0.0, 1.0, 20
    layers = sample.geometry.layers
    scale = max(layer.radial_edges[-1] for layer in layers) / _OUTER_RADIUS_MM
    segmented = np.array([layer.n_alpha > 1 for layer in layers])
    tables = {
        "centre of energy eta": (sample.centroid_eta, -30.0, 30.0),
        "centre of energy phi": (sample.centroid_phi, -30.0, 30.0),
        "centre of energy r": (sample.centroid_r, 0.0, 42.0),
        "width eta": (sample.width_eta, 0.0, 30.0),
        "width phi": (sample.width_phi, 0.0, 30.0),
        "width r": (sample.width_r, 0.0, 20.0),
    }
    values, low, high = tables[name]
    kept = values if name.endswith(" r") else values[:, segmented]
    return kept, scale * low, scale * high, 100


def _uniform(values: FloatArray, low: FloatArray, high: FloatArray, n_bins: int) -> _Histogrammed:
    """Bins columns uniformly between their limits; the last bin contains its upper edge, entries outside are lost."""
    n_columns = values.shape[1]
    position = (values - low) / (high - low)
    inside = (position >= 0) & (position <= 1)
    index = np.minimum((np.where(inside, position, 0.0) * n_bins).astype(np.int64), n_bins - 1)
    flat = (np.where(inside, index, n_bins) + np.arange(n_columns) * (n_bins + 1)).ravel()
    size = n_columns * (n_bins + 1)

    def counts(weights: FloatArray) -> FloatArray:
        histogram = np.bincount(flat, weights=np.repeat(weights, n_columns), minlength=size)
        return np.asarray(histogram, dtype=np.float64).reshape(n_columns, n_bins + 1)[:, :n_bins]

    return _Histogrammed(counts, len(values))
