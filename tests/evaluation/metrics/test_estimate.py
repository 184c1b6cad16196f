import math

import numpy as np
import pytest

from calo4pqvae.evaluation.metrics.estimate import (
    Estimate,
    Splits,
    energy_matched_means,
    energy_weights,
    mean_estimate,
    ratio_estimate,
    relative_deviation,
    separation_power,
    split_halves,
    width_estimate,
    width_means,
)


def test_separation_power_by_hand() -> None:
    # p = (1/4, 3/4), q = (1/2, 1/2): S = (1/16 / (3/4) + 1/16 / (5/4)) / 2 = 1/15
    assert separation_power(np.array([1.0, 3.0]), np.array([10.0, 10.0])) == pytest.approx(1 / 15)
    assert separation_power(np.array([2.0, 0.0]), np.array([0.0, 5.0])) == pytest.approx(1.0)
    assert separation_power(np.array([2.0, 1.0]), np.array([4.0, 2.0])) == 0.0
    assert math.isnan(float(separation_power(np.zeros(2), np.ones(2))))


def test_separation_power_works_along_the_last_axis() -> None:
    first, second = np.array([[1.0, 3.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(separation_power(first, second), [1 / 15, 1.0])


def test_mean_and_width_of_four_numbers() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])  # mean 3, sum of squares about it 4 + 1 + 0 + 9 = 14
    mean, width = mean_estimate(values), width_estimate(values)
    assert mean == Estimate(3.0, pytest.approx(math.sqrt(14 / 3 / 4)), 4)
    assert width.value == pytest.approx(math.sqrt(14 / 3))
    fourth = (16 + 1 + 0 + 81) / 4
    assert width.error == pytest.approx(math.sqrt((fourth - (14 / 3) ** 2 / 3) / 4) / (2 * math.sqrt(14 / 3)))


def test_width_error_of_a_gaussian_is_the_closed_form() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 100_000)
    assert width_estimate(values).error == pytest.approx(2.0 / math.sqrt(2 * 100_000), rel=0.03)


def test_ratio_adds_relative_errors_in_quadrature() -> None:
    ratio = ratio_estimate(Estimate(6.0, 0.6, 10), Estimate(2.0, 0.1, 20))
    assert ratio == Estimate(3.0, pytest.approx(3.0 * math.hypot(0.1, 0.05)), 10)
    assert relative_deviation(Estimate(6.0, 0.6, 10), Estimate(2.0, 0.1, 20)).value == pytest.approx(2.0)
    assert ratio_estimate(Estimate(1.0, 0.1, 5), Estimate(0.0, 0.0, 5)).value == math.inf


def test_weights_of_the_reference_are_those_of_the_plain_mean() -> None:
    energies = np.random.default_rng(1).uniform(1e3, 5e3, 40)
    weights, _ = energy_weights(energies, energies)
    np.testing.assert_allclose(weights, 1 / 40, rtol=1e-9)


def test_matched_means_undo_a_dependence_on_energy() -> None:
    rng = np.random.default_rng(2)
    skewed, flat = 1e3 * np.exp(rng.beta(3, 1, 300)), 1e3 * np.exp(rng.uniform(0, 1, 500))

    def features(energies: np.ndarray) -> np.ndarray:
        return np.stack([1 + 2 * np.log(energies), np.log(energies) ** 2], axis=1)

    found = energy_matched_means(features(skewed), skewed, flat)
    np.testing.assert_allclose(found.values, features(flat).mean(axis=0), rtol=1e-9)
    assert np.all(found.errors < 1e-6)
    assert abs(features(skewed)[:, 0].mean() - features(flat)[:, 0].mean()) > 0.3


def test_quoted_errors_cover_the_truth() -> None:
    """400 repeats: deviations of matched means and widths in standard errors have unit variance."""
    rng = np.random.default_rng(3)
    pulls = []
    for _ in range(400):
        reference, sample = (1e3 * np.exp(rng.uniform(0, 1.5, n)) for n in (200, 500))
        noise = [rng.normal(0, 0.1 * np.sqrt(1e3 / e))[:, None] for e in (reference, sample)]
        first = np.log(reference)[:, None] + noise[0]
        second = np.log(sample)[:, None] + noise[1]
        mean = relative_deviation(
            energy_matched_means(second, sample, reference)[0], energy_matched_means(first, reference, reference)[0]
        )
        width = relative_deviation(
            width_means(1 + noise[1], sample, reference)[0], width_means(1 + noise[0], reference, reference)[0]
        )
        pulls.append([mean.significance, width.significance])
    spread = np.std(pulls, axis=0)
    assert np.all((spread > 0.88) & (spread < 1.13))
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.2)


def test_a_single_energy_leaves_the_plain_mean() -> None:
    values = np.arange(12.0)[:, None]
    found = energy_matched_means(values, np.full(12, 1e4), np.full(5, 1e4))
    assert found[0].value == pytest.approx(5.5)
    assert found[0].error == pytest.approx(np.std(np.arange(12.0), ddof=1) / math.sqrt(12))


def test_halves_are_disjoint_and_reproducible() -> None:
    first = list(split_halves(11, 5, seed=4))
    assert len(first) == 5
    for a, b in first:
        assert len(a) == len(b) == 5
        assert not set(a) & set(b)
    again = list(split_halves(11, 5, seed=4))
    assert all(np.array_equal(x[0], y[0]) for x, y in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], first[1][0])
    assert [len(part) for part in next(split_halves(11, 1, seed=0, size=3))] == [3, 3]


def test_estimates_in_words_and_as_data() -> None:
    assert str(Estimate(0.968312, 0.00203, 5)) == "0.9683 ± 0.0020"
    assert str(Estimate(1234.5, 12.3, 5)) == "1234 ± 12"
    assert Estimate(math.nan, math.inf, 3).to_dict() == {"value": None, "error": None, "n": 3}
    assert Estimate(3.0, 0.5, 3).significance == 6.0
    assert Estimate(0.0, 0.0, 3).significance == 0.0
    assert Estimate(2.0, 0.25, 3).times(4.0) == Estimate(8.0, 1.0, 3)


def test_splits_give_median_and_upper_quantile() -> None:
    splits = Splits.of(np.arange(101.0), (7, 7))
    assert (splits.median, splits.quantile84, splits.n_splits) == (50.0, 84.0, 101)
    told = {"median": 50.0, "quantile84": 84.0, "quantile95": 95.0, "sizes": (7, 7), "n_splits": 101}
    assert splits.to_dict() == told
