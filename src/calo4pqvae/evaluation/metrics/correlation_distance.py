r"""How far apart the correlations of two samples are: layers, voxels, latent bits, or any columns.

.. math:: d = \lVert C^\mathrm{gen} - C^\mathrm{ref} \rVert_F , \qquad
          d_\mathrm{pair} = \frac{d}{\sqrt{K (K - 1)}} ,

with the matrices C of correlation coefficients of K columns; the second is the root mean square over pairs, which may
be compared between different K. A column that does not vary in a sample counts as uncorrelated there.

* Layers: E_l / E_inc, so that the incident energy does not correlate everything.
* Voxels: E_v / E_inc of those voxels that are hit in more than 1 % of the reference showers.
* Bits: latent bits of two sources, for example the encoder's and the prior's.

The distance between finite samples of one law is about :math:`K \sqrt{1/N + 1/M}` and not zero: hold the matched value
(half of the reference against as many generated showers) against the floor (half of the reference against the other
half). All of it comes out of one pass. The larger sample is cut to the size of the smaller at random and both are dealt
into ten blocks; sums and products of columns are kept by block, so that every half is a sum of five blocks, and
leaving out one block at a time gives a jackknife error. Products are made in float32 of standardised columns, a stripe
of columns at a time: six thousand voxels need no matrix of all pairs.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.highlevel import HighLevelFeatures
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.geometry import Geometry

__all__ = [
    "FEWEST_ROWS",
    "CorrelationDistance",
    "bit_correlation_distance",
    "correlation_distance",
    "layer_correlation_distance",
    "voxel_correlation_distance",
]

FloatArray = NDArray[np.float64]
SinglesArray = NDArray[np.float32]

_N_BLOCKS = 10
FEWEST_ROWS = 4 * _N_BLOCKS
"""Rows that correlations need."""
_CHUNK = 500
_STRIPE_ELEMENTS = 1_000_000
_ROUND_OFF = 1e-6  # of the mean, below which the spread of a column is rounding
_LEAST_VARIANCE = 1e-7  # of a standardised column: float32 sums cannot tell less from none


@dataclass(frozen=True)
class CorrelationDistance:
    """Distance of two matrices of correlation coefficients.

    Args:
        distance: Frobenius norm of their difference, with a jackknife error.
        per_pair: Root mean square difference of a coefficient.
        matched: Frobenius norm between halves of the reference and as many generated showers.
        floor: Frobenius norm between halves of the reference.
        n_columns: Number of columns K.
        seed: Seed of the blocks.
    """

    distance: Estimate
    per_pair: Estimate
    matched: Splits
    floor: Splits
    n_columns: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data."""
        return {
            "distance": self.distance.to_dict(),
            "per_pair": self.per_pair.to_dict(),
            "matched": self.matched.to_dict(),
            "geant4_against_geant4": self.floor.to_dict(),
            "n_columns": self.n_columns,
            "seed": self.seed,
        }


def correlation_distance(
    *, reference: ArrayLike, generated: ArrayLike, n_splits: int = 10, seed: int = 0
) -> CorrelationDistance:
    """Distance of the correlations of columns.

    Args:
        reference: Columns of the reference, (N, K).
        generated: The same columns of the generated sample, (M, K).
        n_splits: Choices of five of the ten blocks, for floor and matched value.
        seed: Seed of blocks and choices.

    Raises:
        DataError: If the samples do not fit each other, are not finite, or have fewer than 40 rows or 2 columns.
    """
    first, second = _singles("reference", reference), _singles("generated", generated)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"the samples have {first.shape[1]} and {second.shape[1]} columns; make both with the same")
    generator = np.random.default_rng(derive_seed(seed, "correlation blocks"))
    n, width = min(len(first), len(second)), first.shape[1]
    samples = []
    for part, wanted in zip((first, second), _selections(n_splits, generator), strict=True):
        rows = generator.permutation(len(part))[:n]
        samples.append(_Sample(_standardised(part[rows]), wanted))
    distances = np.sqrt(_squared_distances(samples[0], samples[1], n_splits))
    whole, matched = distances[: 1 + 2 * _N_BLOCKS], distances[1 + 2 * _N_BLOCKS :]
    distance = Estimate(float(whole[0]), _jackknife(whole[1:]), n)
    return CorrelationDistance(
        distance,
        distance.times(1 / math.sqrt(width * (width - 1))),
        Splits.of(matched[:n_splits], (n // 2, n // 2)),
        Splits.of(matched[n_splits:], (n // 2, n // 2)),
        width,
        seed,
    )


def layer_correlation_distance(
    *, reference: HighLevelFeatures, generated: HighLevelFeatures, n_splits: int = 10, seed: int = 0
) -> CorrelationDistance:
    """Distance of the correlations of layer energies over incident energy.

    Raises:
        DataError: As :func:`correlation_distance`.
    """
    return correlation_distance(
        reference=reference.layer_response, generated=generated.layer_response, n_splits=n_splits, seed=seed
    )


def voxel_correlation_distance(
    *,
    reference: tuple[ArrayLike, ArrayLike],
    generated: tuple[ArrayLike, ArrayLike],
    geometry: Geometry,
    least_occupancy: float = 0.01,
    n_splits: int = 10,
    seed: int = 0,
) -> CorrelationDistance:
    """Distance of the correlations of voxel energies over incident energy.

    Args:
        reference: Incident energies, (N, 1) or (N,), and showers, (N, V), of the reference in MeV.
        generated: The same of the generated sample.
        geometry: The grid, for its threshold.
        least_occupancy: Voxels hit in no more than this share of the reference showers are left out.
        n_splits: As in :func:`correlation_distance`.
        seed: Seed of blocks and choices.

    Raises:
        DataError: As :func:`correlation_distance`, or if the showers do not fit the geometry or their energies.
    """
    showers = [_checked_showers(*pair, geometry) for pair in (reference, generated)]
    threshold = np.float64(geometry.threshold_mev)
    hits = np.zeros(geometry.n_voxels)
    for block in np.array_split(showers[0][1], max(1, len(showers[0][1]) // 1000)):
        hits += np.sum((block >= threshold) & (block > 0), axis=0)
    kept = np.flatnonzero(hits > least_occupancy * len(showers[0][1]))
    columns = []
    for energies, voxels in showers:
        chosen = voxels[:, kept].astype(np.float32)
        chosen[chosen < threshold] = 0.0
        columns.append(chosen / energies[:, None].astype(np.float32))
    return correlation_distance(reference=columns[0], generated=columns[1], n_splits=n_splits, seed=seed)


def bit_correlation_distance(
    bits_a: ArrayLike, bits_b: ArrayLike, *, n_splits: int = 10, seed: int = 0
) -> CorrelationDistance:
    """Distance of the correlations of latent bits of two sources.

    Args:
        bits_a: Bits of the source that counts as the reference, (N, K), 0 or 1.
        bits_b: Bits of the other source, (M, K).
        n_splits: As in :func:`correlation_distance`.
        seed: Seed of blocks and choices.

    Raises:
        DataError: As :func:`correlation_distance`, or if a value is neither 0 nor 1.
    """
    for name, bits in (("bits_a", bits_a), ("bits_b", bits_b)):
        values = np.asarray(bits)
        if not np.all((values == 0) | (values == 1)):
            raise DataError(f"{name} hold values other than 0 and 1; give bits, not spins or probabilities")
    return correlation_distance(reference=bits_a, generated=bits_b, n_splits=n_splits, seed=seed)


def _selections(n_splits: int, generator: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Blocks of each matrix wanted of the reference and of the generated sample, (matrices, blocks) of 0 and 1.

    All blocks, all but one, halves; and of the reference the other halves.
    """
    whole = np.concatenate([np.ones((1, _N_BLOCKS)), 1.0 - np.eye(_N_BLOCKS)])
    halves = np.zeros((2, n_splits, _N_BLOCKS))
    for half in halves.reshape(-1, _N_BLOCKS):
        half[generator.permutation(_N_BLOCKS)[: _N_BLOCKS // 2]] = 1.0
    return np.concatenate([whole, halves[0], 1.0 - halves[0]]), np.concatenate([whole, halves[1]])


class _Sample:
    """Columns dealt into blocks of rows, with their sums and sums of squares by block.

    Args:
        columns: Standardised columns, (N, K), the rows in random order.
        selections: Blocks of each matrix wanted, (matrices, blocks).
    """

    def __init__(self, columns: SinglesArray, selections: FloatArray) -> None:
        self.blocks = np.array_split(columns, _N_BLOCKS)
        number = selections @ np.array([len(block) for block in self.blocks], dtype=np.float64)
        shares = selections / number[:, None]
        mean = shares @ np.stack([block.sum(axis=0, dtype=np.float64) for block in self.blocks])
        squares = np.stack([np.einsum("nk,nk->k", block, block, dtype=np.float64) for block in self.blocks])
        variance = shares @ squares - mean**2
        varies = variance > _LEAST_VARIANCE
        scale = np.divide(1.0, np.sqrt(np.where(varies, variance, 1.0)), out=np.zeros_like(variance), where=varies)
        self._weights, self._shift, self._scale = (part.astype(np.float32) for part in (shares, mean, scale))
        self._mean = (mean * scale).astype(np.float32)

    def products(self, start: int, stop: int) -> SinglesArray:
        """Products of the columns from ``start`` to ``stop`` with those from ``start`` on, (blocks, rows, columns)."""
        return np.stack([block[:, start:stop].T @ block[:, start:] for block in self.blocks])

    def coefficients(self, products: SinglesArray, column: int) -> SinglesArray:
        """Coefficients of one column with those after it, (matrices, columns), from their products by block."""
        after = slice(column + 1, None)
        rows: SinglesArray = self._weights @ products
        rows *= self._scale[:, after]
        rows -= self._shift[:, column, None] * self._mean[:, after]
        rows *= self._scale[:, column, None]
        return rows


def _squared_distances(first: _Sample, second: _Sample, n_splits: int) -> FloatArray:
    """Squared Frobenius distances: whole, without each block of either sample, halves, halves of the reference.

    Products of a stripe of columns are one large matrix product; what follows is done for one column at a time, so that
    it stays in the cache.
    """
    width = first.blocks[0].shape[1]
    stripe = max(1, _STRIPE_ELEMENTS // width)
    start = 1 + _N_BLOCKS
    stop = start + n_splits
    total = np.zeros(1 + 2 * _N_BLOCKS + 2 * n_splits)
    buffer = np.empty((len(total), width), dtype=np.float32)
    for begin in range(0, width, stripe):
        end = min(begin + stripe, width)
        products = first.products(begin, end), second.products(begin, end)
        for column in range(begin, end):
            part = (slice(None), column - begin, slice(column + 1 - begin, None))
            one, two = first.coefficients(products[0][part], column), second.coefficients(products[1][part], column)
            difference = buffer[:, column + 1 :]
            np.subtract(one[:start], two[0], out=difference[:start])
            np.subtract(one[0], two[1:start], out=difference[start : 2 * start - 1])
            np.subtract(one[start:stop], two[start:], out=difference[-2 * n_splits : -n_splits])
            np.subtract(one[start:stop], one[stop:], out=difference[-n_splits:])
            total += 2.0 * np.einsum("pk,pk->p", difference, difference)
    return total


def _jackknife(values: FloatArray) -> float:
    """Standard error from the values without one block of either sample, (2 x blocks,)."""
    sides = values.reshape(2, _N_BLOCKS)
    return float(np.sqrt((_N_BLOCKS - 1) * sides.var(axis=1).sum()))


def _singles(name: str, sample: ArrayLike) -> SinglesArray | FloatArray:
    values = np.asarray(sample)
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or len(values) < FEWEST_ROWS:
        raise DataError(
            f"the {name} sample has the shape {values.shape}; correlations need at least {FEWEST_ROWS} rows "
            "and 2 columns"
        )
    if not np.isfinite(values).all():
        raise DataError(f"the {name} sample holds NaN or infinity; leave these rows out")
    return values


def _standardised(values: SinglesArray | FloatArray) -> SinglesArray:
    """Columns of mean 0 and standard deviation 1; those that do not vary are 0."""
    centre = values.mean(axis=0, dtype=np.float64)
    centred = np.empty(values.shape, dtype=np.float32)
    squares = np.zeros(values.shape[1])
    for start in range(0, len(values), _CHUNK):
        exact = values[start : start + _CHUNK] - centre
        squares += np.einsum("nk,nk->k", exact, exact)
        centred[start : start + _CHUNK] = exact
    spread = np.sqrt(squares / len(values))
    varies = spread > _ROUND_OFF * np.abs(centre)
    centred *= np.divide(1.0, spread, out=np.zeros_like(spread), where=varies).astype(np.float32)
    return centred


def _checked_showers(energies: ArrayLike, showers: ArrayLike, geometry: Geometry) -> tuple[FloatArray, NDArray[Any]]:
    incident, voxels = np.asarray(energies, dtype=np.float64).reshape(-1), np.asarray(showers)
    if voxels.shape != (len(incident), geometry.n_voxels):
        raise DataError(
            f"showers of shape {voxels.shape} and {len(incident)} incident energies do not fit: {geometry.name} has "
            f"{geometry.n_voxels} voxels and every shower one energy"
        )
    if not (np.isfinite(incident).all() and (incident > 0).all()):
        raise DataError("incident energies must be finite and positive; run `calo4pqvae data validate` on the sample")
    return incident, voxels
