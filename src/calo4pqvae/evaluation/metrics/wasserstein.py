r"""One-dimensional Wasserstein distances, feature by feature, in units of the reference's standard deviation.

.. math:: W_1 = \frac{1}{\sigma_\mathrm{ref}} \int |F_\mathrm{ref}(x) - F_\mathrm{gen}(x)| \, \mathrm{d}x ,

with the empirical distribution functions F: 0.1 means that the two laws can be carried into each other by moving every
shower by a tenth of a standard deviation on average. For a shift of one law it is the shift, for a Gaussian that is
wider by a factor s it is :math:`\sqrt{2/\pi}\,|s - 1|`.

The distance between finite samples of one law is about :math:`1/\sqrt n` and not zero: hold the matched value (half of
the reference against as many generated showers) against the floor (half of the reference against the other). The error
is a bootstrap one over showers. The pooled values of a feature are sorted once; every bootstrap draw and every split is
a set of weights on them, and all of them together are a cumulative sum.

References:
    Use for generated jets and showers: Kansal et al., arXiv 2106.11535.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits, split_halves
from calo4pqvae.evaluation.metrics.sample_pairs import checked_pair
from calo4pqvae.seeds import derive_seed

__all__ = ["FamilySummary", "WassersteinDistance", "wasserstein_distances", "wasserstein_summary"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class WassersteinDistance:
    """Distance of one feature.

    Args:
        name: The feature.
        distance: In standard deviations of the reference, with its bootstrap error; NaN if the feature does not vary
            in the reference.
        matched: Between halves of the reference and as many generated showers.
        floor: Between halves of the reference.
        seed: Seed of draws and splits.
    """

    name: str
    distance: Estimate
    matched: Splits
    floor: Splits
    seed: int

    @property
    def excess(self) -> float:
        """Matched distance above its floor, in standard deviations of the reference."""
        return self.matched.median - self.floor.median

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data."""
        return {
            "name": self.name,
            "distance": self.distance.to_dict(),
            "matched": self.matched.to_dict(),
            "geant4_against_geant4": self.floor.to_dict(),
            "seed": self.seed,
        }


@dataclass(frozen=True)
class FamilySummary:
    """The features of one family together.

    Args:
        family: Its name.
        mean: Mean of the distances; the error counts those of the features as fully correlated.
        worst: The largest distance.
        worst_name: The feature that has it.
        n_features: Features with a distance.
        constant: Features that do not vary in the reference and have none.
    """

    family: str
    mean: Estimate
    worst: Estimate
    worst_name: str
    n_features: int
    constant: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data."""
        return {
            "family": self.family,
            "mean": self.mean.to_dict(),
            "worst": self.worst.to_dict(),
            "worst_name": self.worst_name,
            "n_features": self.n_features,
            "constant": list(self.constant),
        }


def wasserstein_distances(
    *,
    reference: ArrayLike,
    generated: ArrayLike,
    names: Sequence[str] | None = None,
    n_splits: int = 20,
    seed: int = 0,
    size: int | None = None,
) -> list[WassersteinDistance]:
    """Distances of all features.

    Args:
        reference: Features of Geant4 showers, (N, F).
        generated: The same features of generated showers, (M, F).
        names: What the features are called; by default their numbers.
        n_splits: Bootstrap draws, and random splits of the reference.
        seed: Seed of both.
        size: Showers of each part that floor and matched value are between; at most, and by default, half of the
            reference, or all generated showers if these are fewer.

    Raises:
        DataError: If the samples do not fit each other or the names, are not finite, or have fewer than 4 showers.
    """
    first, second = checked_pair(reference, generated)
    n, m, width = len(first), len(second), first.shape[1]
    labels = [str(column) for column in range(width)] if names is None else list(names)
    if len(labels) != width:
        raise DataError(f"{len(labels)} names are given for {width} features; give one for each")
    if min(n, m) < 4:
        raise DataError(f"Wasserstein distances with errors need at least 4 showers a sample; there are {n} and {m}")
    size = min(n // 2, m, size or m)
    weights = _weights(n, m, n_splits, seed, size)
    found = []
    for column, name in enumerate(labels):
        values = _distances(first[:, column], second[:, column], weights)
        draws, matched, floor = np.split(values[1:], 3)
        found.append(
            WassersteinDistance(
                name,
                Estimate(float(values[0]), float(np.std(draws, ddof=1)), min(n, m)),
                Splits.of(matched, (size, size)),
                Splits.of(floor, (size, size)),
                seed,
            )
        )
    return found


def wasserstein_summary(
    distances: Sequence[WassersteinDistance], families: Mapping[str, Sequence[str]]
) -> list[FamilySummary]:
    """Mean and worst distance of each family.

    Args:
        distances: Of all features.
        families: Names of the features of each family, such as
            :func:`~calo4pqvae.evaluation.classifiers.importance.feature_families` gives them.

    Raises:
        DataError: If a family names a feature without a distance, or is empty.
    """
    by_name = {distance.name: distance for distance in distances}
    summaries = []
    for family, members in families.items():
        unknown = [name for name in members if name not in by_name]
        if unknown or not members:
            raise DataError(f"family {family!r} names {unknown or 'no feature'}; name features that have a distance")
        rows = [by_name[name] for name in members]
        varying = [row for row in rows if np.isfinite(row.distance.value)]
        constant = tuple(row.name for row in rows if row not in varying)
        number = rows[0].distance.n
        if not varying:
            nothing = Estimate(float("nan"), float("nan"), number)
            summaries.append(FamilySummary(family, nothing, nothing, "", 0, constant))
            continue
        worst = max(varying, key=lambda row: row.distance.value)
        mean = Estimate(
            float(np.mean([row.distance.value for row in varying])),
            float(np.mean([row.distance.error for row in varying])),
            number,
        )
        summaries.append(FamilySummary(family, mean, worst.distance, worst.name, len(varying), constant))
    return summaries


def _weights(n: int, m: int, n_splits: int, seed: int, size: int) -> FloatArray:
    """Signed weights of the pooled showers, (1 + 3 n_splits, n + m): all, bootstrap draws, matched, floor."""
    generator = np.random.default_rng(derive_seed(seed, "wasserstein"))
    weights = np.zeros((1 + 3 * n_splits, n + m))
    weights[0, :n], weights[0, n:] = 1 / n, -1 / m
    draws, matched, floor = (weights[1 + part * n_splits : 1 + (part + 1) * n_splits] for part in range(3))
    draws[:, :n] = generator.multinomial(n, np.full(n, 1 / n), n_splits) / n
    draws[:, n:] = -generator.multinomial(m, np.full(m, 1 / m), n_splits) / m
    for row, (one, other) in enumerate(split_halves(n, n_splits, derive_seed(seed, "wasserstein halves"), size)):
        matched[row, one] = floor[row, one] = 1 / size
        floor[row, other] = -1 / size
        matched[row, n + generator.choice(m, size, replace=False)] = -1 / size
    return weights


def _distances(first: FloatArray, second: FloatArray, weights: FloatArray) -> FloatArray:
    """Distance for each row of weights, over the standard deviation of ``first``; NaN if that is zero."""
    spread = float(first.std())
    if not spread > 1e-12 * float(np.abs(first).max()):
        return np.full(len(weights), np.nan)
    pooled = np.concatenate([first, second])
    order = np.argsort(pooled, kind="stable")
    steps = np.diff(pooled[order])
    found = [np.abs(np.cumsum(row[order])[:-1]) @ steps for row in weights]
    return np.array(found) / spread
