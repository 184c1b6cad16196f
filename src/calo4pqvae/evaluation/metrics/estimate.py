r"""Estimates with their errors, floors, and means at equal incident energies.

**Errors** are analytic standard errors unless a function says bootstrap: of a mean, s / sqrt(n); of a standard
deviation s, sqrt((m_4 - s^4 (n - 3)/(n - 1)) / n) / (2 s), with the fourth central moment m_4; of a ratio of
independent estimates, to first order in their relative errors.

**Equal energies.** Two samples of a bin of incident energy never have the same incident energies, and most features
depend on the energy so strongly that this alone looks like a deviation. A mean is therefore taken at the incident
energies of the reference: with t = ln E and features y, the regression y = a_0 + a_1 t + a_2 t^2 within the bin is
evaluated at the average (1, t, t^2) of the reference. This is linear in y,

.. math:: \hat\mu = \sum_n w_n y_n, \qquad w = A (A^\top A)^{-1} \bar a_\mathrm{ref}, \qquad
          \mathrm{Var}\,\hat\mu = \frac{N}{N - 3} \sum_n w_n^2 (y_n - A_n \hat a)^2,

so that one vector of weights serves all features. For the reference itself w = 1/N and the mean is the plain one. The
error is the one that remains at given energies, whatever the spread of y is at each (a sandwich estimate).

**Floor.** What Geant4 shows against itself: the reference is split at random into two halves, many times, and the
same number is computed between the halves. Median and 84 % quantile are quoted, with the sizes of the halves: these
are smaller than the two samples compared, so that the floor lies higher than one at equal sizes would. Where a finite
sample biases the number itself (separation powers, distances), it is therefore also computed "matched": between a half
of the reference and as many generated showers. That is the number to hold against the floor.

References:
    Separation power: Diefenbacher et al., DCTRGAN, arXiv 2009.03796, eq. 15; error bands as in arXiv 2410.21611.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimate",
    "Means",
    "Splits",
    "energy_matched_means",
    "energy_weights",
    "mean_estimate",
    "ratio_estimate",
    "relative_deviation",
    "separation_power",
    "split_halves",
    "width_estimate",
    "width_means",
]

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error and the number of showers behind it."""

    value: float
    error: float
    n: int

    @property
    def significance(self) -> float:
        """Value in units of its standard error; zero where both vanish."""
        if self.error > 0:
            return self.value / self.error
        return 0.0 if self.value == 0 else float("nan")

    def __str__(self) -> str:
        """Value and error, both to the second significant digit of the error."""
        if not (np.isfinite(self.value) and np.isfinite(self.error) and self.error > 0):
            return f"{self.value:.4g} ± {self.error:.2g}"
        decimals = max(0, 1 - int(np.floor(np.log10(self.error))))
        return f"{self.value:.{decimals}f} ± {self.error:.{decimals}f}"

    def times(self, factor: float) -> "Estimate":
        """The estimate in another unit."""
        return Estimate(self.value * factor, self.error * factor, self.n)

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields; what is not finite becomes None, which JSON can hold."""
        return {"value": _finite(self.value), "error": _finite(self.error), "n": self.n}


@dataclass(frozen=True)
class Splits:
    """A number computed in random splits: median, 84 and 95 % quantiles, the sizes of the two parts compared."""

    median: float
    quantile84: float
    sizes: tuple[int, int]
    n_splits: int
    quantile95: float = float("nan")

    @classmethod
    def of(cls, values: FloatArray, sizes: tuple[int, int]) -> "Splits":
        """Summarises the values found in the splits, (n_splits,)."""
        with np.errstate(invalid="ignore"):  # between infinities, where a part held nothing, there is no quantile
            median, upper, high = np.quantile(values, [0.5, 0.84, 0.95])
        return cls(float(median), float(upper), sizes, len(values), float(high))

    def to_dict(self) -> dict[str, object]:
        """The fields; what is not finite becomes None."""
        quantiles = {name: _finite(getattr(self, name)) for name in ("median", "quantile84", "quantile95")}
        return asdict(self) | quantiles


@dataclass(frozen=True)
class Means:
    """Means of K features with their standard errors, (K,) each, and the number of showers."""

    values: FloatArray
    errors: FloatArray
    n: int

    def __getitem__(self, index: int) -> Estimate:
        return Estimate(float(self.values[index]), float(self.errors[index]), self.n)


def mean_estimate(values: FloatArray) -> Estimate:
    """Plain mean; analytic error."""
    n = len(values)
    error = float(np.std(values, ddof=1)) / np.sqrt(n) if n > 1 else np.nan
    return Estimate(float(np.mean(values)), float(error), n)


def width_estimate(values: FloatArray) -> Estimate:
    """Standard deviation; analytic error from the fourth moment."""
    n = len(values)
    if n < 4:
        return Estimate(float(np.std(values, ddof=1)) if n > 1 else np.nan, np.nan, n)
    width = float(np.std(values, ddof=1))
    fourth = float(np.mean((values - np.mean(values)) ** 4))
    variance = max(0.0, fourth - width**4 * (n - 3) / (n - 1)) / n
    return Estimate(width, float(np.sqrt(variance)) / (2 * width) if width > 0 else 0.0, n)


def ratio_estimate(numerator: Estimate, denominator: Estimate) -> Estimate:
    """Ratio of independent estimates; the number of showers quoted is the smaller one."""
    n = min(numerator.n, denominator.n)
    if denominator.value == 0:
        return Estimate(np.nan if numerator.value == 0 else np.inf, np.nan, n)
    value = numerator.value / denominator.value
    error = np.hypot(numerator.error, value * denominator.error) / abs(denominator.value)
    return Estimate(value, float(error), n)


def relative_deviation(generated: Estimate, reference: Estimate) -> Estimate:
    """The deviation generated / reference - 1."""
    ratio = ratio_estimate(generated, reference)
    return Estimate(ratio.value - 1.0, ratio.error, ratio.n)


def energy_weights(incident_energy: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Weights w, (N,), that carry the means of a sample to the incident energies ``at``, and the projector's root.

    Args:
        incident_energy: Energies of the sample in MeV, (N,).
        at: Energies of the reference in MeV, (M,).

    Returns:
        The weights, which sum to one, and an orthonormal basis Q, (N, rank), of the regressors: residuals are
        y - Q Q^T y. With fewer than ten showers or a single energy the regression keeps its constant only.
    """
    centre, scale = np.log(at).mean(), max(np.log(at).std(), 1e-12)
    degree = 2 if len(incident_energy) >= 10 and np.ptp(np.log(incident_energy)) > 1e-6 else 0
    design = np.vander((np.log(incident_energy) - centre) / scale, degree + 1, increasing=True)
    target = np.vander((np.log(at) - centre) / scale, degree + 1, increasing=True).mean(axis=0)
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    rank = int(np.sum(singular > 1e-9 * singular[0]))
    basis = left[:, :rank]
    return basis @ ((right[:rank] @ target) / singular[:rank]), basis


def energy_matched_means(values: FloatArray, incident_energy: FloatArray, at: FloatArray) -> Means:
    """Means of the columns of ``values`` at the incident energies ``at`` (see the module's text).

    Args:
        values: Features, (N, K).
        incident_energy: Energies of these showers in MeV, (N,).
        at: Energies of the reference in MeV, (M,).
    """
    n = len(values)
    weights, basis = energy_weights(incident_energy, at)
    residuals = values - basis @ (basis.T @ values)
    freedom = max(n - basis.shape[1], 1)
    errors = np.sqrt(n / freedom * np.square(weights) @ np.square(residuals))
    return Means(weights @ values, errors, n)


def width_means(values: FloatArray, incident_energy: FloatArray, at: FloatArray) -> Means:
    """Standard deviations about the matched mean, with the same treatment of the energies.

    The variance is the matched mean of the squared distance from the matched mean; its error is halved on the root.
    """
    centre = energy_matched_means(values, incident_energy, at).values
    squared = energy_matched_means(np.square(values - centre), incident_energy, at)
    widths = np.sqrt(np.maximum(squared.values, 0.0))
    errors = np.divide(squared.errors, 2 * widths, out=np.zeros_like(widths), where=widths > 0)
    return Means(widths, errors, squared.n)


def separation_power(first: FloatArray, second: FloatArray) -> FloatArray:
    r"""Triangular discrimination between histograms along the last axis.

    .. math:: S = \frac12 \sum_i \frac{(p_i - q_i)^2}{p_i + q_i + 10^{-16}},

    where p and q are the bin contents normalised to one: 0 for equal histograms, 1 for disjoint ones. NaN where one of
    the two is empty.
    """
    p, q = _normalised(first), _normalised(second)
    return np.asarray(0.5 * np.sum((p - q) ** 2 / (p + q + 1e-16), axis=-1))


def split_halves(n: int, n_splits: int, seed: int, size: int | None = None) -> Iterator[tuple[IndexArray, IndexArray]]:
    """Random disjoint parts of 0..n-1, as sorted indices.

    Args:
        n: Number of showers.
        n_splits: How many times.
        seed: Seed of the permutations.
        size: Size of each part; by default half of n, and at most that.
    """
    generator = np.random.default_rng(seed)
    part = n // 2 if size is None else min(size, n // 2)
    for _ in range(n_splits):
        order = generator.permutation(n)
        yield np.sort(order[:part]), np.sort(order[part : 2 * part])


def _normalised(histogram: FloatArray) -> FloatArray:
    total = np.sum(histogram, axis=-1, keepdims=True)
    return np.asarray(np.divide(histogram, total, out=np.full(np.shape(histogram), np.nan), where=total > 0))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
