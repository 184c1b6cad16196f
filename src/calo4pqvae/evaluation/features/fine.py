r"""Features that show what histograms of layers hide: the spectrum of voxel energies, rings, and pairs of neighbours.

With energies e of voxels above the threshold t (hits), of every shower:

==============  ========================================================================================================
family          what
==============  ========================================================================================================
spectrum        share of the hits in bins of 0.1 in ln e, from t on; the last bin is open
ring spectrum   the same in bins of 0.4 in each of three groups of rings
hits            hits; hits in each ring and in stretches of five layers, over all hits; hits without any hit neighbour
ring energy     mean and standard deviation of ln(e/t) in each ring, and the share of the energy in it
co-hits         of the hits of a group of rings, the share whose next voxel along angle, radius or depth is hit, too
differences     mean of \|d\| and of d squared over these pairs, d the difference of ln e
pair products   correlation of ln(e/t) in these pairs
largest         logarithms of the five largest voxels over the sum of all
energy          log10 of the incident energy in MeV, and the response
==============  ========================================================================================================

The next voxel along the angle goes around; along radius and depth the last has none. Where rings of a layer differ from
those of the next, there is no pair along depth. All of it is made of the hits alone, a chunk of showers at a time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.showers.geometry import Geometry

__all__ = ["FineFeatures", "fine_features"]

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

_WIDTH, _BINS = 0.1, 120  # up to t exp(12): 2.5 GeV for a threshold of 15 keV
_RING_WIDTH, _RING_BINS = 0.4, 30
_GROUPS = ("inner", "middle", "outer")
_STRETCH = 5
_LARGEST = 5
_DIRECTIONS = ("angle", "radius", "depth")


@dataclass(frozen=True, eq=False)
class FineFeatures:
    """A matrix of features with the names of its columns.

    Args:
        matrix: (N, F); NaN where a shower has nothing to take it from.
        names: Of the columns.
        families: Names of columns by family.
    """

    matrix: NDArray[np.float32]
    names: tuple[str, ...]
    families: Mapping[str, tuple[str, ...]]


def fine_features(chunks: Iterable[tuple[FloatArray, NDArray[Any]]], geometry: Geometry) -> FineFeatures:
    """The features of showers.

    Args:
        chunks: Incident energies (rows,) and showers (rows, V) in MeV, a stretch of showers at a time.
        geometry: The grid; a threshold of zero counts as the smallest energy above 0.1 keV.
    """
    cells = _Cells(geometry)
    families: dict[str, tuple[str, ...]] = {}
    rows = []
    for energies, showers in chunks:
        blocks = cells.features(energies, showers)
        families = {family: tuple(columns) for family, columns in blocks.items()}
        rows.append(np.column_stack([column for block in blocks.values() for column in block.values()]))
    names = tuple(name for members in families.values() for name in members)
    return FineFeatures(np.concatenate(rows).astype(np.float32), names, families)


class _Cells:
    """Where every voxel is, and which is next to it."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.threshold = max(geometry.threshold_mev, 1e-4)
        self.ring = np.concatenate([np.tile(np.arange(layer.n_radial), layer.n_alpha) for layer in geometry.layers])
        self.n_rings = int(self.ring.max()) + 1
        self.group = np.minimum(3 * self.ring // self.n_rings, 2)
        self.stretch = geometry.voxel_layers() // _STRETCH
        self.next = _next_voxels(geometry)

    def features(self, energies: FloatArray, showers: NDArray[Any]) -> dict[str, dict[str, FloatArray]]:
        """Columns of a stretch of showers by family and name."""
        hit = showers >= self.threshold
        rows, voxels = np.nonzero(hit)
        logs = np.zeros(showers.shape)
        logs[rows, voxels] = np.log(showers[rows, voxels] / self.threshold)
        values = logs[rows, voxels]
        tally = _Tally(rows, len(showers))
        n_hits = np.maximum(tally.count(), 1.0)
        blocks = self._spectra(tally, values, voxels, n_hits)
        blocks |= self._rings(tally, values, voxels, n_hits)
        blocks |= self._pairs(tally, hit, logs, rows, voxels)
        order = -np.sort(-np.where(hit, showers, 0.0), axis=1)[:, :_LARGEST]
        total = np.maximum(np.where(hit, showers, 0.0).sum(axis=1), 1e-12)
        blocks["largest"] = {
            f"largest voxel {k + 1}": np.log(np.maximum(order[:, k], self.threshold) / total)
            for k in range(min(_LARGEST, order.shape[1]))
        }
        incident = np.asarray(energies, dtype=np.float64).reshape(-1)
        blocks["energy"] = {"log10 incident energy": np.log10(incident), "response": total / incident}
        return blocks

    def _spectra(
        self, tally: "_Tally", values: FloatArray, voxels: IndexArray, n_hits: FloatArray
    ) -> dict[str, dict[str, FloatArray]]:
        fine = np.minimum((values / _WIDTH).astype(np.int64), _BINS - 1)
        shares = tally.count(fine, _BINS) / n_hits[:, None]
        coarse = np.minimum((values / _RING_WIDTH).astype(np.int64), _RING_BINS - 1) + _RING_BINS * self.group[voxels]
        of_rings = tally.count(coarse, 3 * _RING_BINS) / n_hits[:, None]
        return {
            "spectrum": {f"share of hits at {self._energy(_WIDTH, k)}": shares[:, k] for k in range(_BINS)},
            "ring spectrum": {
                f"share of {group} hits at {self._energy(_RING_WIDTH, k)}": of_rings[:, g * _RING_BINS + k]
                for g, group in enumerate(_GROUPS)
                for k in range(_RING_BINS)
            },
        }

    def _rings(
        self, tally: "_Tally", values: FloatArray, voxels: IndexArray, n_hits: FloatArray
    ) -> dict[str, dict[str, FloatArray]]:
        rings, n = self.ring[voxels], self.n_rings
        counts = tally.count(rings, n)
        mean, square = (tally.mean(weights, rings, n, counts) for weights in (values, values**2))
        spread = np.sqrt(np.maximum(square - mean**2, 0.0))
        energy = tally.count(rings, n, np.exp(values))
        shares = energy / np.maximum(energy.sum(axis=1, keepdims=True), 1e-12)
        n_stretches = int(self.stretch.max()) + 1
        depth = tally.count(self.stretch[voxels], n_stretches)
        return {
            "hits": {
                "hits": n_hits,
                **{f"share of hits in ring {r}": counts[:, r] / n_hits for r in range(n)},
                **{f"share of hits from layer {_STRETCH * s}": depth[:, s] / n_hits for s in range(n_stretches)},
            },
            "ring energy": {
                **{f"mean ln e in ring {r}": mean[:, r] for r in range(n)},
                **{f"spread of ln e in ring {r}": spread[:, r] for r in range(n)},
                **{f"share of energy in ring {r}": shares[:, r] for r in range(n)},
            },
        }

    def _pairs(
        self, tally: "_Tally", hit: NDArray[np.bool_], logs: FloatArray, rows: IndexArray, voxels: IndexArray
    ) -> dict[str, dict[str, FloatArray]]:
        together: dict[str, FloatArray] = {}
        differences: dict[str, FloatArray] = {}
        products: dict[str, FloatArray] = {}
        alone = np.ones(len(rows), dtype=np.bool_)
        hits = tally.count(self.group[voxels], 3)
        for direction, ahead in zip(_DIRECTIONS, self.next, strict=True):
            if not (ahead >= 0).any():
                continue
            other = ahead[voxels]
            both = (other >= 0) & hit[rows, other]
            touched = np.zeros(hit.shape, dtype=np.bool_)
            touched[rows[both], other[both]] = True
            alone &= ~both & ~touched[rows, voxels]
            pairs = _Tally(rows[both], len(hit))
            group, one, two = self.group[voxels[both]], logs[rows, voxels][both], logs[rows[both], other[both]]
            counts = pairs.count(group, 3)
            d = one - two
            size, square = pairs.mean(np.abs(d), group, 3, counts), pairs.mean(d**2, group, 3, counts)
            correlation = pairs.correlation(one, two, group, 3, counts)
            for g, name in enumerate(_GROUPS):
                where = f"along {direction}, {name}"
                together[f"co-hits {where}"] = counts[:, g] / np.maximum(hits[:, g], 1.0)
                differences[f"mean |d ln e| {where}"] = size[:, g]
                differences[f"mean square d ln e {where}"] = square[:, g]
                products[f"correlation of ln e {where}"] = correlation[:, g]
        lonely = _Tally(rows[alone], len(hit)).count() / np.maximum(tally.count(), 1.0)
        return {
            "co-hits": {**together, "hits without a hit neighbour": lonely},
            "differences": differences,
            "pair products": products,
        }

    def _energy(self, width: float, k: int) -> str:
        low = self.threshold * np.exp(width * k)
        return f"{low:.3g}-{low * np.exp(width):.3g} MeV"


@dataclass(frozen=True, eq=False)
class _Tally:
    """Sums over the entries of every shower.

    Args:
        rows: Shower of each entry.
        n: Showers.
    """

    rows: IndexArray
    n: int

    def count(
        self, column: IndexArray | None = None, n_columns: int = 1, weights: FloatArray | None = None
    ) -> FloatArray:
        """Entries, or the sum of their weights, of every shower, (n,), or in each column, (n, columns)."""
        if column is None:
            return np.bincount(self.rows, weights, self.n).astype(np.float64)
        flat = self.rows * n_columns + column
        return np.bincount(flat, weights, self.n * n_columns).astype(np.float64).reshape(self.n, n_columns)

    def mean(self, weights: FloatArray, column: IndexArray, n_columns: int, counts: FloatArray) -> FloatArray:
        """Mean weight in each column; NaN where there is no entry."""
        total = self.count(column, n_columns, weights)
        return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)

    def correlation(
        self, one: FloatArray, two: FloatArray, column: IndexArray, n_columns: int, counts: FloatArray
    ) -> FloatArray:
        """Correlation coefficient of two numbers of an entry in each column; NaN where one of them does not vary."""
        means = [self.mean(each, column, n_columns, counts) for each in (one, two, one * two, one**2, two**2)]
        covariance = means[2] - means[0] * means[1]
        variance = (means[3] - means[0] ** 2) * (means[4] - means[1] ** 2)
        good = (counts >= 3) & (variance > 1e-12)
        return np.divide(
            covariance, np.sqrt(np.where(good, variance, 1.0)), out=np.full_like(counts, np.nan), where=good
        )


def _next_voxels(geometry: Geometry) -> tuple[IndexArray, IndexArray, IndexArray]:
    """The next voxel of each along angle, radius and depth, (V,) each; -1 where there is none."""
    angle, radius, depth = (np.full(geometry.n_voxels, -1, dtype=np.int64) for _ in range(3))
    grids = [
        np.arange(part.start, part.stop).reshape(layer.n_alpha, layer.n_radial)
        for layer, part in zip(geometry.layers, geometry.layer_slices, strict=True)
    ]
    for position, grid in enumerate(grids):
        if len(grid) > 1:
            angle[grid] = np.roll(grid, -1, axis=0)
        radius[grid[:, :-1]] = grid[:, 1:]
        following = grids[position + 1] if position + 1 < len(grids) else grid[:0]
        same = geometry.layers[position].radial_edges == geometry.layers[min(position + 1, len(grids) - 1)].radial_edges
        if following.shape == grid.shape and same:
            depth[grid] = following
    return angle, radius, depth
