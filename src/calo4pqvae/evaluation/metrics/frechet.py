r"""The Fréchet physics distance (FPD) between samples of features, as the CaloChallenge and JetNet set it.

The Fréchet distance between Gaussians of means mu and covariances C,

.. math:: d^2 = |\mu_1 - \mu_2|^2 + \mathrm{Tr}\big(C_1 + C_2 - 2 (C_1 C_2)^{1/2}\big),

is taken between samples through their means and covariances. Finite samples make it too large by about a / N, so it
is computed for batches drawn with replacement at several sizes N, equally spaced in 1/N, averaged over pairs of batches
of each size, and a line in 1/N is fitted, intercept and slope at least 0. The intercept is the FPD. Each feature is
divided by its largest absolute value in the reference first.

**Errors.** ``error`` is the one that is quoted in the literature: that of the fitted intercept. It tells how well the
line fits and shrinks with more draws, not with more showers. ``error_sampling`` tells how much the distance would move
with other showers: each sample is divided into groups at random, and the distance without one group g gives

.. math:: \mathrm{Var} = \sum_{\text{samples}} \frac{G-1}{G} \sum_g \big(d^2_{(g)} - \overline{d^2}\big)^2

(delete-a-group jackknife, at the scale of the features that this reference sets). Neither covers the bias that remains
because the batches come from finite samples: of order a / n of each sample, it is what the floor shows. ``error_total``
adds both in quadrature.

**Computation.** A batch is a vector of counts c, so that its second moments are X^T diag(c) X over the distinct rows,
summed block by block. With factors C_i = L_i L_i^T (pivoted Cholesky, which takes singular matrices as well),
Tr (C_1 C_2)^{1/2} is the sum of the singular values of L_1^T L_2: no square root of a matrix is needed, and small
eigenvalues keep their digits. The draws are those of JetNet for the same seed, and so are the values.

References:
    Kansal et al., evaluating generative models in high energy physics, arXiv 2211.10295; the settings of the challenge
    are those of arXiv 2410.21611; JetNet 0.2.5 is what the values are compared with.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack
from scipy.optimize import curve_fit

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.evaluation.metrics.sample_pairs import checked_pair, scaled_pair
from calo4pqvae.evaluation.metrics.workers import in_threads
from calo4pqvae.seeds import derive_seed

__all__ = [
    "CHALLENGE_FPD",
    "LIBRARY_FPD",
    "FeatureContribution",
    "FrechetContributions",
    "FrechetResult",
    "FrechetSettings",
    "feature_contributions",
    "fpd",
    "frechet_distance",
]

FloatArray = NDArray[np.float64]

_CACHED_ROWS = 2048
_JACKKNIFE_GROUPS = 20


@dataclass(frozen=True)
class FrechetSettings:
    """How an FPD is estimated. Values of different settings are not comparable.

    Args:
        min_samples: Smallest batch.
        max_samples: Largest batch; also the number of showers that each sample should have.
        num_points: Number of batch sizes.
        num_batches: Pairs of batches of each size.

    Raises:
        ConfigError: If there is nothing to draw or to fit.
    """

    min_samples: int = 10_000
    max_samples: int = 50_000
    num_points: int = 10
    num_batches: int = 20

    def __post_init__(self) -> None:
        if not 2 <= self.min_samples < self.max_samples:
            raise ConfigError(
                f"FPD needs batches of 2 <= min_samples < max_samples, not of {self.min_samples} to {self.max_samples}"
            )
        if self.num_points < 3 or self.num_batches < 1:
            raise ConfigError(
                f"FPD fits a line and its error to the means of batches: give num_points of 3 or more and num_batches "
                f"of 1 or more, not {self.num_points} and {self.num_batches}"
            )

    @property
    def batch_sizes(self) -> NDArray[np.int64]:
        """Sizes of the batches, equally spaced in 1/N and cut to whole numbers as in JetNet, (num_points,)."""
        inverse = np.linspace(1.0 / self.min_samples, 1.0 / self.max_samples, self.num_points)
        return (1 / inverse).astype(np.int64)


CHALLENGE_FPD = FrechetSettings()
"""As the CaloChallenge computes it."""
LIBRARY_FPD = FrechetSettings(min_samples=20_000)
"""JetNet's defaults, which the public notebooks of Calo4pQVAE use with their 226 features."""


@dataclass(frozen=True)
class FrechetResult:
    """An FPD with everything that it depends on.

    Args:
        value: Intercept of the line, dimensionless.
        error: Error of the intercept from the fit: the quoted one.
        error_sampling: Standard error from the finite samples; NaN for fewer than three showers.
        distances: Mean distance at each batch size, (num_points,).
        settings: How it was estimated; with the batch sizes.
        seed: Seed of the batches.
        n_features: Width of the feature vectors.
        n_reference: Showers of the reference.
        n_generated: Generated showers.
    """

    value: float
    error: float
    error_sampling: float
    distances: tuple[float, ...]
    settings: FrechetSettings
    seed: int
    n_features: int
    n_reference: int
    n_generated: int

    @property
    def error_total(self) -> float:
        """Error of the draws and of the samples together."""
        return float(np.hypot(self.error, self.error_sampling))

    @property
    def is_below_recommended(self) -> bool:
        """Whether a sample is smaller than the largest batch, so that the batches repeat its showers."""
        return min(self.n_reference, self.n_generated) < self.settings.max_samples

    @property
    def note(self) -> str:
        """What makes the number doubtful, in a sentence; empty if nothing does."""
        if not self.is_below_recommended:
            return ""
        return (
            f"FPD from {self.n_reference} reference and {self.n_generated} generated showers, fewer than the "
            f"{self.settings.max_samples} of its largest batch: showers are repeated and the value lies too high; hold "
            "it against a floor at the same sizes, not against published values."
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields and the note as plain data; what is not finite becomes None."""
        finite = np.isfinite(self.error_sampling)
        told = {
            "error_sampling": self.error_sampling if finite else None,
            "error_total": self.error_total if finite else None,
            "distances": list(self.distances),
        }
        return asdict(self) | told | {"is_below_recommended": self.is_below_recommended, "note": self.note}


@dataclass(frozen=True)
class FeatureContribution:
    """What one feature adds to a Fréchet distance.

    Args:
        name: The feature.
        mean_term: Squared difference of the means.
        width_term: Squared difference of the standard deviations.
    """

    name: str
    mean_term: float
    width_term: float

    @property
    def total(self) -> float:
        """Both terms: the Fréchet distance of this feature alone."""
        return self.mean_term + self.width_term


@dataclass(frozen=True)
class FrechetContributions:
    """A Fréchet distance in parts.

    Args:
        features: Contribution of each feature, the largest first.
        correlation_term: What is left of the total, never negative: correlations between features that differ.
        total: The distance between the whole samples, without extrapolation.
    """

    features: tuple[FeatureContribution, ...]
    correlation_term: float
    total: float


@dataclass(frozen=True)
class _Moments:
    """Sums over rows: their number, the sum of x and the sum of x x^T."""

    n: int
    first: FloatArray
    second: FloatArray

    def __sub__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.n - other.n, self.first - other.first, self.second - other.second)

    @property
    def mean(self) -> FloatArray:
        return self.first / self.n

    @property
    def covariance(self) -> FloatArray:
        return (self.second - np.outer(self.first, self.mean)) / (self.n - 1)


class _Sample:
    """A sample about its own mean, which keeps second moments free of cancellation."""

    def __init__(self, values: FloatArray) -> None:
        self.centre = values.mean(axis=0)
        self._values = values - self.centre

    def __len__(self) -> int:
        return len(self._values)

    def counted(self, counts: NDArray[np.int64]) -> _Moments:
        """Moments of a sample that holds row i ``counts[i]`` times."""
        drawn = np.flatnonzero(counts)
        width = self._values.shape[1]
        first, second = np.zeros(width), np.zeros((width, width))
        buffer = np.empty((min(_CACHED_ROWS, len(drawn)), width))
        for start in range(0, len(drawn), _CACHED_ROWS):
            rows = drawn[start : start + _CACHED_ROWS]
            block = buffer[: len(rows)]
            root = np.sqrt(counts[rows])
            np.take(self._values, rows, axis=0, out=block, mode="clip")
            block *= root[:, None]
            first += root @ block
            second += block.T @ block
        return _Moments(int(counts.sum()), first, second)

    def drawn(self, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """How often each row is among ``size`` rows drawn with replacement, (N,)."""
        return np.bincount(generator.choice(len(self), size=size), minlength=len(self))


def frechet_distance(mean1: ArrayLike, covariance1: ArrayLike, mean2: ArrayLike, covariance2: ArrayLike) -> float:
    """The Fréchet distance between two Gaussians, also of singular covariance; the formula is in the module's text.

    Args:
        mean1: Mean of the first, (F,).
        covariance1: Its covariance, (F, F).
        mean2: Mean of the second, (F,).
        covariance2: Its covariance, (F, F).

    Raises:
        DataError: If the shapes do not fit each other.

    Example:
        >>> frechet_distance([0.0], [[1.0]], [3.0], [[4.0]])
        10.0
    """
    means = [np.asarray(mean, dtype=np.float64) for mean in (mean1, mean2)]
    covariances = [np.asarray(covariance, dtype=np.float64) for covariance in (covariance1, covariance2)]
    shapes = [array.shape for array in (*means, *covariances)]
    width = means[0].size
    if shapes != [(width,), (width,), (width, width), (width, width)]:
        raise DataError(f"means and covariances of shapes {shapes} do not fit; give (F,) and (F, F), twice")
    overlap = _factor(covariances[0]).T @ _factor(covariances[1])
    shared = np.linalg.svd(overlap, compute_uv=False).sum() if overlap.size else 0.0
    shift = means[0] - means[1]
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)


def fpd(
    *, reference: ArrayLike, generated: ArrayLike, settings: FrechetSettings = CHALLENGE_FPD, seed: int = 42
) -> FrechetResult:
    """The Fréchet physics distance between features of Geant4 showers and of generated ones.

    Args:
        reference: Features of the Geant4 showers, (N, F); they set the scale of each feature.
        generated: Features of the generated showers, (M, F).
        settings: Batches; by default those of the challenge.
        seed: Seed of the batches; 42 in the challenge.

    Raises:
        DataError: If a sample is too small, holds values that are not finite, or the widths differ.
    """
    first, second = (_Sample(values) for values in scaled_pair(*checked_pair(reference, generated)))
    shift = first.centre - second.centre
    sizes = settings.batch_sizes
    generator = np.random.default_rng(seed)

    def between(counts: tuple[NDArray[np.int64], NDArray[np.int64]]) -> float:
        return _distance(first.counted(counts[0]), second.counted(counts[1]), shift)

    distances = [
        np.mean(
            in_threads(
                between,
                [(first.drawn(size, generator), second.drawn(size, generator)) for _ in range(settings.num_batches)],
            )
        )
        for size in sizes
    ]
    value, error = _intercept(1 / sizes, np.array(distances))
    return FrechetResult(
        value=value,
        error=error,
        error_sampling=_jackknife_error(first, second, shift, seed),
        distances=tuple(float(distance) for distance in distances),
        settings=settings,
        seed=seed,
        n_features=len(shift),
        n_reference=len(first),
        n_generated=len(second),
    )


def feature_contributions(*, reference: ArrayLike, generated: ArrayLike, names: Sequence[str]) -> FrechetContributions:
    r"""Which features drive a Fréchet distance, on the scale of the FPD.

    Feature i alone has the distance (mu_1i - mu_2i)^2 + (s_1i - s_2i)^2, with the standard deviations s. The sum over
    features never exceeds the whole distance; what is left comes from correlations.

    Args:
        reference: Features of the Geant4 showers, (N, F).
        generated: Features of the generated showers, (M, F).
        names: Names of the features, F of them.

    Raises:
        DataError: As :func:`fpd`, or if the names are not as many as the features.
    """
    first, second = (_Sample(values) for values in scaled_pair(*checked_pair(reference, generated)))
    shift = first.centre - second.centre
    if len(names) != len(shift):
        raise DataError(f"there are {len(names)} names for {len(shift)} features; give one for each")
    moments = [sample.counted(np.ones(len(sample), dtype=np.int64)) for sample in (first, second)]
    spreads = [np.sqrt(np.maximum(np.diag(moment.covariance), 0.0)) for moment in moments]
    total = _distance(moments[0], moments[1], shift)
    parts = [
        FeatureContribution(name, float(mean), float(spread))
        for name, mean, spread in zip(names, shift**2, (spreads[0] - spreads[1]) ** 2, strict=True)
    ]
    parts.sort(key=lambda part: part.total, reverse=True)
    left = total - sum(part.total for part in parts)
    return FrechetContributions(tuple(parts), max(0.0, left), total)


def _distance(first: _Moments, second: _Moments, shift: FloatArray) -> float:
    """Between moments of centred samples whose centres differ by ``shift``."""
    return frechet_distance(first.mean + shift, first.covariance, second.mean, second.covariance)


def _factor(covariance: FloatArray) -> FloatArray:
    """L with C = L L^T, (F, rank)."""
    packed, pivots, rank, _ = lapack.dpstrf(covariance, lower=1)
    factor = np.zeros((len(covariance), rank))
    factor[pivots - 1] = np.tril(packed)[:, :rank]
    return factor


def _intercept(inverse_sizes: FloatArray, distances: FloatArray) -> tuple[float, float]:
    """Intercept at 1/N = 0 and its error; both parameters of the line are bounded below by 0."""

    def line(x: FloatArray, intercept: float, slope: float) -> FloatArray:
        return intercept + slope * x

    found, covariance = curve_fit(line, inverse_sizes, distances, bounds=([0, 0], [np.inf, np.inf]))
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def _jackknife_error(first: _Sample, second: _Sample, shift: FloatArray, seed: int) -> float:
    """Standard error of the distance between the whole samples."""
    if min(len(first), len(second)) < 3:
        return float("nan")
    groups = [_groups(sample, derive_seed(seed, "jackknife", k)) for k, sample in enumerate((first, second))]
    whole = [_total(parts) for parts in groups]
    pairs = ([(whole[0] - part, whole[1]) for part in groups[0]], [(whole[0], whole[1] - part) for part in groups[1]])
    left_out = (in_threads(lambda pair: _distance(*pair, shift), some) for some in pairs)
    return float(np.sqrt(sum((len(values) - 1) * np.var(values) for values in left_out)))


def _groups(sample: _Sample, seed: int) -> list[_Moments]:
    """Moments of random disjoint groups of the rows."""
    labels = np.random.default_rng(seed).permutation(len(sample)) % min(_JACKKNIFE_GROUPS, len(sample))
    return in_threads(lambda group: sample.counted((labels == group).astype(np.int64)), range(labels.max() + 1))


def _total(parts: list[_Moments]) -> _Moments:
    return _Moments(
        sum(part.n for part in parts),
        np.sum([part.first for part in parts], axis=0),
        np.sum([part.second for part in parts], axis=0),
    )
