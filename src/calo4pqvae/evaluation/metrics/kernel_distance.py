r"""The kernel physics distance (KPD) between samples of features, as the CaloChallenge and JetNet set it.

With the kernel k(x, y) = (x.y / F + 1)^4 of F features, the unbiased estimate of the squared maximum mean discrepancy
of two batches of B showers each is

.. math::
    \frac{1}{B(B-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{B(B-1)} \sum_{i \ne j} k(y_i, y_j)
    - \frac{2}{B^2} \sum_{i, j} k(x_i, y_j) .

It is computed for several pairs of batches drawn with replacement; the KPD is the median over the pairs, its quoted
error half of the range that holds the middle 67.45 %. It can be negative. Each feature is divided by its largest
absolute value in the reference first. The quoted error is the spread of a single pair of batches, at a given pair of
samples.

**Computation.** A constant column sqrt(F) makes the kernel a pure fourth power of a scalar product, and a row drawn c
times is one row scaled by c^(1/4): weights and kernel become one matrix product. Blocks of it are squared in place and
summed as the scalar product of the block with itself, and of symmetric matrices only one triangle of blocks is made;
all in float64, because the KPD is a difference of sums that agree to about five digits. The draws are those of JetNet
for the same seed, and so are the values.

References:
    Kansal et al., evaluating generative models in high energy physics, arXiv 2211.10295; the settings of the challenge
    are those of arXiv 2410.21611; JetNet 0.2.5 is what the values are compared with.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import ConfigError
from calo4pqvae.evaluation.metrics.sample_pairs import checked_pair, scaled_pair

__all__ = ["CHALLENGE_KPD", "LIBRARY_KPD", "KernelResult", "KernelSettings", "kpd", "squared_discrepancy"]

FloatArray = NDArray[np.float64]

_BLOCK = 1024
_SEED_STEP = 1000
_RECOMMENDED = 50_000
_RANGE = (16.275, 83.725)


@dataclass(frozen=True)
class KernelSettings:
    """How a KPD is estimated. Values of different settings are not comparable.

    Args:
        batch_size: Showers of each batch.
        num_batches: Pairs of batches.

    Raises:
        ConfigError: If there is nothing to draw.
    """

    batch_size: int = 10_000
    num_batches: int = 10

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.num_batches < 1:
            raise ConfigError(
                f"KPD needs batches of at least 2 showers and at least 1 pair of them, not {self.num_batches} pairs "
                f"of {self.batch_size}"
            )


CHALLENGE_KPD = KernelSettings()
"""As the CaloChallenge computes it."""
LIBRARY_KPD = KernelSettings(batch_size=5_000)
"""JetNet's defaults, which the public notebooks of Calo4pQVAE use with their 226 features."""


@dataclass(frozen=True)
class KernelResult:
    """A KPD with everything that it depends on.

    Args:
        value: Median over the pairs of batches, dimensionless.
        error: Half of the range that holds the middle 67.45 %: the quoted one.
        distances: The estimate of each pair, (num_batches,).
        settings: How it was estimated.
        seed: Seed of the batches.
        n_features: Width of the feature vectors.
        n_reference: Showers of the reference.
        n_generated: Generated showers.
    """

    value: float
    error: float
    distances: tuple[float, ...]
    settings: KernelSettings
    seed: int
    n_features: int
    n_reference: int
    n_generated: int

    @property
    def is_below_recommended(self) -> bool:
        """Whether a sample has fewer than the 50,000 showers that are recommended, or than a batch."""
        return min(self.n_reference, self.n_generated) < max(_RECOMMENDED, self.settings.batch_size)

    @property
    def note(self) -> str:
        """What makes the number doubtful, in a sentence; empty if nothing does."""
        if not self.is_below_recommended:
            return ""
        fewest = min(self.n_reference, self.n_generated)
        repeated = (
            f"fewer than the {self.settings.batch_size} of a batch, so that showers are repeated and the value lies "
            "too high"
            if fewest < self.settings.batch_size
            else f"fewer than the recommended {_RECOMMENDED}"
        )
        return (
            f"KPD from {self.n_reference} reference and {self.n_generated} generated showers, {repeated}; hold it "
            "against a floor at the same sizes, not against published values."
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields and the note as plain data."""
        told = {"is_below_recommended": self.is_below_recommended, "note": self.note}
        return asdict(self) | {"distances": list(self.distances)} | told


def kpd(
    *, reference: ArrayLike, generated: ArrayLike, settings: KernelSettings = CHALLENGE_KPD, seed: int = 42
) -> KernelResult:
    """The kernel physics distance between features of Geant4 showers and of generated ones.

    Args:
        reference: Features of the Geant4 showers, (N, F); they set the scale of each feature.
        generated: Features of the generated showers, (M, F).
        settings: Batches; by default those of the challenge.
        seed: Seed of the batches; 42 in the challenge.

    Raises:
        DataError: If a sample is too small, holds values that are not finite, or the widths differ.
    """
    first, second = scaled_pair(*checked_pair(reference, generated))
    distances = []
    for batch in range(settings.num_batches):
        generator = np.random.default_rng(seed + _SEED_STEP * batch)
        counts = [
            np.bincount(generator.choice(len(sample), size=settings.batch_size), minlength=len(sample))
            for sample in (first, second)
        ]
        distances.append(squared_discrepancy(first, second, counts[0], counts[1]))
    low, high = np.percentile(distances, _RANGE)
    return KernelResult(
        value=float(np.median(distances)),
        error=float(high - low) / 2,
        distances=tuple(distances),
        settings=settings,
        seed=seed,
        n_features=first.shape[1],
        n_reference=len(first),
        n_generated=len(second),
    )


def squared_discrepancy(
    first: FloatArray, second: FloatArray, counts1: NDArray[np.int64], counts2: NDArray[np.int64]
) -> float:
    """The unbiased squared discrepancy between samples that hold row i ``counts[i]`` times.

    Args:
        first: Features, (N, F).
        second: Features, (M, F).
        counts1: Multiplicities of the rows of the first, (N,); at least two in all.
        counts2: The same of the second, (M,).
    """
    n, m = int(counts1.sum()), int(counts2.sum())
    x, y = _embedded(first, counts1), _embedded(second, counts2)
    within_x = (_symmetric_sum(x) - _trace(first, counts1)) / (n * (n - 1))
    within_y = (_symmetric_sum(y) - _trace(second, counts2)) / (m * (m - 1))
    across = sum(_sum_of_powers(x[i : i + _BLOCK], y) for i in range(0, len(x), _BLOCK)) / (n * m)
    return float(within_x + within_y - 2 * across)


def _embedded(sample: FloatArray, counts: NDArray[np.int64]) -> FloatArray:
    """Distinct rows r with (r_i . r_j)^4 = c_i c_j k(x_i, x_j)."""
    rows = np.flatnonzero(counts)
    width = sample.shape[1]
    embedded = np.empty((len(rows), width + 1))
    embedded[:, :width] = sample[rows] / np.sqrt(width)
    embedded[:, width] = 1.0
    embedded *= (counts[rows] ** 0.25)[:, None]
    return embedded


def _sum_of_powers(x: FloatArray, y: FloatArray) -> float:
    """Sum of (x_i . y_j)^4 over all pairs."""
    total = 0.0
    for start in range(0, len(y), _BLOCK):
        block = x @ y[start : start + _BLOCK].T
        np.square(block, out=block)
        total += float(np.vdot(block, block))
    return total


def _symmetric_sum(x: FloatArray) -> float:
    """Sum of (x_i . x_j)^4 over all pairs, from the upper triangle of blocks."""
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        rows, rest = x[start : start + _BLOCK], x[start + _BLOCK :]
        total += _sum_of_powers(rows, rows) + 2 * _sum_of_powers(rows, rest)
    return total


def _trace(sample: FloatArray, counts: NDArray[np.int64]) -> float:
    """Sum of k(x_i, x_i) over the rows that were drawn."""
    norms = np.einsum("ij,ij->i", sample, sample) / sample.shape[1]
    return float(counts @ (norms + 1.0) ** 4)
