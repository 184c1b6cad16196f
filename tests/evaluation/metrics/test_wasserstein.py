"""Closed forms of shifted and widened laws, scipy's distance, coverage of the errors."""

import json
import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.metrics.wasserstein import wasserstein_distances, wasserstein_summary


def test_equals_scipy_with_ties_and_unequal_sizes() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 9, (50, 3)).astype(float), rng.integers(0, 12, (70, 3)).astype(float)
    for column, row in enumerate(wasserstein_distances(reference=first, generated=second, n_splits=2)):
        expected = wasserstein_distance(first[:, column], second[:, column]) / first[:, column].std()
        assert row.distance.value == pytest.approx(expected, rel=1e-12)


def test_closed_forms() -> None:
    """A shift by 0.3 standard deviations; a Gaussian widened by 1.5: sqrt(2 / pi) / 2; a uniform law moved by 2."""
    rng = np.random.default_rng(1)
    first = np.stack([rng.normal(3, 2, 20_000), rng.normal(0, 0.1, 20_000), rng.uniform(0, 12, 20_000)], axis=1)
    second = np.stack([rng.normal(3.6, 2, 20_000), rng.normal(0, 0.15, 20_000), rng.uniform(2, 14, 20_000)], axis=1)
    rows = wasserstein_distances(reference=first, generated=second, names=["shift", "width", "uniform"])
    exact = [0.3, 0.5 * math.sqrt(2 / math.pi), 2 / (12 / math.sqrt(12))]
    for row, value in zip(rows, exact, strict=True):
        assert row.distance.value == pytest.approx(value, abs=4 * row.distance.error)
        assert row.distance.error < 0.02
        assert row.matched.median > 5 * row.floor.quantile84
        assert row.floor.sizes == (10_000, 10_000)


def test_errors_cover_and_one_law_is_at_the_floor() -> None:
    rng = np.random.default_rng(2)
    pulls, ratios = [], []
    for seed in range(60):
        rows = wasserstein_distances(
            reference=rng.normal(size=(300, 2)), generated=rng.normal(size=(300, 2)) + np.array([0.5, 0.0]), seed=seed
        )
        pulls.append((rows[0].distance.value - 0.5) / rows[0].distance.error)
        ratios.append(rows[1].matched.median / rows[1].floor.median)
    assert 0.75 < np.std(pulls) < 1.3
    assert np.median(ratios) == pytest.approx(1.0, abs=0.2)


def test_summary_of_families() -> None:
    rng = np.random.default_rng(3)
    first = np.concatenate([rng.normal(size=(400, 3)), np.ones((400, 1))], axis=1)
    second = first + np.array([0.0, 1.0, 0.2, 0.5])
    names = ("a_0", "a_1", "b_0", "b_1")
    rows = wasserstein_distances(reference=first, generated=second, names=names)
    assert math.isnan(rows[3].distance.value)  # a constant has no standard deviation to measure by
    a, b, c = wasserstein_summary(rows, {"a": names[:2], "b": names[2:], "c": names[3:]})
    assert (a.worst_name, a.n_features, a.constant) == ("a_1", 2, ())
    assert a.worst == rows[1].distance
    assert a.mean.value == pytest.approx((rows[0].distance.value + rows[1].distance.value) / 2)
    assert a.mean.error == pytest.approx((rows[0].distance.error + rows[1].distance.error) / 2)
    assert (b.n_features, b.constant, c.n_features) == (1, ("b_1",), 0)
    json.dumps([row.to_dict() for row in (*rows, a, b, c)], allow_nan=False)


def test_the_seed_decides() -> None:
    first, second = np.random.default_rng(4).normal(size=(2, 50, 1))
    one, same, other = (wasserstein_distances(reference=first, generated=second, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one[0].distance.value == other[0].distance.value
    assert one[0].distance.error != other[0].distance.error


def test_bad_input_is_told() -> None:
    points = np.random.default_rng(5).normal(size=(20, 3))
    with pytest.raises(DataError, match="3 features a shower and the generated sample 2"):
        wasserstein_distances(reference=points, generated=points[:, :2])
    with pytest.raises(DataError, match="NaN"):
        wasserstein_distances(reference=points, generated=np.where(points > 1, np.nan, points))
    with pytest.raises(DataError, match="2 names are given for 3 features"):
        wasserstein_distances(reference=points, generated=points, names=["a", "b"])
    with pytest.raises(DataError, match="at least 4 showers"):
        wasserstein_distances(reference=points, generated=points[:3])
    with pytest.raises(DataError, match="names \\['x'\\]"):
        wasserstein_summary(wasserstein_distances(reference=points, generated=points), {"f": ["x"]})
