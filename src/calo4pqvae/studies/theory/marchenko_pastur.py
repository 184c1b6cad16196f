r"""Singular values of random couplings: the law of Marchenko and Pastur, and a test that is exact at finite size.

A block W of :math:`n \times m` independent entries of variance :math:`s^2`, :math:`n \ge m`, :math:`c = m/n`, has
singular values :math:`\sigma = \sqrt{n \lambda}` where :math:`\lambda` has the density

.. math:: \rho(\lambda) = \frac{\sqrt{(\lambda_+ - \lambda)(\lambda - \lambda_-)}}{2 \pi s^2 c \lambda}, \qquad
    \lambda_\pm = s^2 (1 \pm \sqrt c)^2

for large sizes, so that all singular values lie between :math:`s (\sqrt n - \sqrt m)` and :math:`s (\sqrt n + \sqrt
m)`. A machine at the start of training has such couplings; what leaves the bulk has been learned.

**The test.** Singular values repel each other, so their distance from the law is far smaller than that of independent
numbers: the usual p-value of Kolmogorov and Smirnov would pass almost anything. Here the distance is compared with
that of Gaussian blocks of the same shape, whose scale is estimated in the same way, or stated if that of the law is.
They are drawn through the bidiagonal model of Dumitriu and Edelman, which has exactly their singular values and costs
n random numbers. The same draws say how far beyond the edge the largest one of a pure bulk may lie.

Marchenko and Pastur, Math. USSR Sb. 1 (1967) 457; Dumitriu and Edelman, J. Math. Phys. 43 (2002) 5830.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh_tridiagonal

from calo4pqvae.errors import PriorError

__all__ = [
    "BulkFit",
    "RandomBlocks",
    "bulk_edges",
    "fit_bulk",
    "random_blocks",
    "singular_value_cdf",
    "singular_value_density",
]

FloatArray = NDArray[np.float64]

_N_ANGLES = 20_000
_EDGE_QUANTILE = 0.99  # of the largest singular value of random blocks


@dataclass(frozen=True)
class RandomBlocks:
    """What Gaussian blocks of one shape show; the null law of :func:`fit_bulk`.

    Args:
        shape: Rows and columns.
        distances: Distance of every draw from the law at its own fitted scale, shape (draws,).
        stated_distances: Distance of every draw from the law at the true scale, shape (draws,).
        reach: Largest singular value over the upper edge that one draw in a hundred exceeds.
    """

    shape: tuple[int, int]
    distances: FloatArray
    stated_distances: FloatArray
    reach: float


@dataclass(frozen=True)
class BulkFit:
    """Singular values against the law.

    Args:
        scale: Standard deviation s of the entries, stated or from the mean square of the singular values.
        lower: Lower edge of the bulk.
        upper: Upper edge.
        distance: Largest distance of the two distribution functions.
        p_value: Share of random blocks with a larger distance, counting the block itself.
        n_outside: Singular values above the largest that a random block of the scale of the others may have.
        rest_scale: Standard deviation of the entries without those modes.
        n_values: Singular values.
        n_draws: Random blocks behind the p-value.
    """

    scale: float
    lower: float
    upper: float
    distance: float
    p_value: float
    n_outside: int
    rest_scale: float
    n_values: int
    n_draws: int


def bulk_edges(shape: tuple[int, int], scale: float) -> tuple[float, float]:
    """Singular values between which the bulk lies.

    Args:
        shape: Rows and columns of the block.
        scale: Standard deviation of the entries.
    """
    large, small = math.sqrt(max(shape)), math.sqrt(min(shape))
    return scale * (large - small), scale * (large + small)


def singular_value_density(values: ArrayLike, shape: tuple[int, int], scale: float) -> FloatArray:
    """Density of the singular values of a large block.

    Args:
        values: Singular values.
        shape: Rows and columns of the block.
        scale: Standard deviation of the entries.
    """
    sigma = np.asarray(values, dtype=np.float64)
    lower, upper = bulk_edges(shape, scale)
    inside = (sigma > lower) & (sigma < upper)
    root = np.sqrt(np.where(inside, (upper**2 - sigma**2) * (sigma**2 - lower**2), 0.0))
    return np.divide(root, math.pi * scale**2 * min(shape) * sigma, out=np.zeros_like(root), where=inside)


def singular_value_cdf(values: ArrayLike, shape: tuple[int, int], scale: float) -> FloatArray:
    r"""Distribution function of the singular values of a large block.

    The substitution :math:`\sigma^2 = \tfrac12 (\sigma_+^2 + \sigma_-^2) - \tfrac12 (\sigma_+^2 - \sigma_-^2)
    \cos\theta` takes the square roots out of the integral, which the midpoint rule then gives to rounding.

    Args:
        values: Singular values.
        shape: Rows and columns of the block.
        scale: Standard deviation of the entries.
    """
    lower, upper = bulk_edges(shape, scale)
    middle, half = (upper**2 + lower**2) / 2, (upper**2 - lower**2) / 2
    step = math.pi / _N_ANGLES
    angles = (np.arange(_N_ANGLES) + 0.5) * step
    density = half**2 * np.sin(angles) ** 2 / (middle - half * np.cos(angles))
    cumulative = np.concatenate([[0.0], np.cumsum(density) * step / (2 * math.pi * scale**2 * min(shape))])
    cosine = np.clip((middle - np.asarray(values, dtype=np.float64) ** 2) / half, -1, 1)
    return np.asarray(np.interp(np.arccos(cosine), np.arange(_N_ANGLES + 1) * step, cumulative))


def random_blocks(shape: tuple[int, int], n_draws: int, rng: np.random.Generator) -> RandomBlocks:
    """Draws Gaussian blocks of a shape and keeps their distances from the law.

    Args:
        shape: Rows and columns, two or more each.
        n_draws: Blocks, at least 19 for a test at five per cent.
        rng: Source of randomness.

    Raises:
        PriorError: If the shape or the number of draws is too small.
    """
    if min(shape) < 2 or n_draws < 19:
        raise PriorError(f"{n_draws} blocks of shape {shape} are no basis for a test; give at least 19, and 2 x 2")
    distances, stated, largest = [], [], []
    for _ in range(n_draws):
        values = _gaussian_singular_values(shape, rng)
        scale = _scale(values, shape)
        distances.append(_distance(values, shape, scale))
        stated.append(_distance(values, shape, 1.0))
        largest.append(values[-1] / bulk_edges(shape, scale)[1])
    return RandomBlocks(shape, np.array(distances), np.array(stated), float(np.quantile(largest, _EDGE_QUANTILE)))


def fit_bulk(values: FloatArray, blocks: RandomBlocks, scale: float | None = None) -> BulkFit:
    """Tests the law on singular values, at a fitted or a stated scale.

    Args:
        values: All singular values of a block in any order, one for each row or column, whichever are fewer.
        blocks: Random blocks of the same shape.
        scale: Standard deviation of the entries that is to be tested; None fits it.

    Raises:
        PriorError: If their number does not fit the shape.
    """
    shape = blocks.shape
    if values.shape != (min(shape),):
        raise PriorError(f"{values.shape} singular values do not belong to a block of shape {shape}; give them all")
    ordered = np.sort(values)
    null = blocks.distances if scale is None else blocks.stated_distances
    used = _scale(ordered, shape) if scale is None else scale
    lower, upper = bulk_edges(shape, used)
    n_outside, rest_scale = _outside(ordered, blocks)
    distance = _distance(ordered, shape, used)
    return BulkFit(
        scale=used,
        lower=lower,
        upper=upper,
        distance=distance,
        p_value=(1 + int((null >= distance).sum())) / (1 + len(null)),
        n_outside=n_outside,
        rest_scale=rest_scale,
        n_values=len(values),
        n_draws=len(null),
    )


def _outside(ordered: FloatArray, blocks: RandomBlocks) -> tuple[int, float]:
    """Values beyond the bulk of what is left when they are taken out, one after the other, and its scale."""
    shape, scale = blocks.shape, 0.0
    for n_out in range(len(ordered)):
        rest = ordered[: len(ordered) - n_out]
        scale = math.sqrt(float((rest**2).sum()) / (max(shape) * (min(shape) - n_out)))
        if rest[-1] <= blocks.reach * bulk_edges(shape, scale)[1]:
            return n_out, scale
    return len(ordered), scale


def _scale(values: FloatArray, shape: tuple[int, int]) -> float:
    """Root mean square of the entries: the sum of squared singular values is that of squared entries."""
    return math.sqrt(float((values**2).sum()) / (shape[0] * shape[1]))


def _distance(ordered: FloatArray, shape: tuple[int, int], scale: float) -> float:
    law, n = singular_value_cdf(ordered, shape, scale), len(ordered)
    above = np.arange(1, n + 1) / n - law
    below = law - np.arange(n) / n
    return float(max(above.max(), below.max()))


def _gaussian_singular_values(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Singular values, rising, of a block of standard normal numbers, by its bidiagonal model."""
    n, m = max(shape), min(shape)
    diagonal = np.sqrt(rng.chisquare(np.arange(n, n - m, -1)))
    beside = np.sqrt(rng.chisquare(np.arange(m - 1, 0, -1)))
    squares = diagonal**2
    squares[1:] += beside**2
    eigenvalues = eigvalsh_tridiagonal(squares, diagonal[:-1] * beside)
    return np.asarray(np.sqrt(np.maximum(eigenvalues, 0.0)))
