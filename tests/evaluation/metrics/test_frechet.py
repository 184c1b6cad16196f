"""FPD: closed forms, JetNet's values, the jackknife error, and what the quoted errors cover."""

import json
import math

import numpy as np
import pytest
from scipy import linalg

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.evaluation.metrics.frechet import (
    CHALLENGE_FPD,
    LIBRARY_FPD,
    FrechetResult,
    FrechetSettings,
    feature_contributions,
    fpd,
    frechet_distance,
)
from calo4pqvae.evaluation.metrics.sample_pairs import floor_and_value
from tests.evaluation import jetnet_reference
from tests.evaluation.jetnet_reference import jetnet_value

QUICK = FrechetSettings(min_samples=500, max_samples=4000, num_points=6, num_batches=4)


def random_covariance(width: int, seed: int) -> np.ndarray:
    mixing = np.random.default_rng(seed).normal(size=(width, width))
    return mixing @ mixing.T / width


# --- the distance between Gaussians ----------------------------------------------------------------------------------


def test_distance_of_commuting_covariances() -> None:
    """Diagonal in the same basis: squared differences of means and of standard deviations."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    mean1, mean2 = rng.normal(size=(2, 7))
    spread1, spread2 = rng.uniform(0.01, 3.0, (2, 7))
    found = frechet_distance(mean1, basis @ np.diag(spread1**2) @ basis.T, mean2, basis @ np.diag(spread2**2) @ basis.T)
    assert found == pytest.approx(np.sum((mean1 - mean2) ** 2) + np.sum((spread1 - spread2) ** 2), rel=1e-12)


def test_distance_of_two_by_two_matrices_by_hand() -> None:
    """Tr sqrt(M) = sqrt(Tr M + 2 sqrt(det M)) for a 2 x 2 matrix."""
    first, second = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.3], [-0.3, 0.5]])
    product = first @ second
    root = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    found = frechet_distance([1.0, 2.0], first, [1.5, 0.0], second)
    assert found == pytest.approx(0.25 + 4.0 + 3.0 + 1.5 - 2 * root, rel=1e-12)


def test_distance_agrees_with_the_square_root_of_the_product() -> None:
    first, second = random_covariance(20, 1), random_covariance(20, 2)
    root = linalg.sqrtm(first @ second)
    expected = np.trace(first) + np.trace(second) - 2 * np.trace(root).real
    assert frechet_distance(np.zeros(20), first, np.zeros(20), second) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_keep_their_digits() -> None:
    """Twelve features that are mixtures of five, and constant ones: exactly the distance of the five."""
    rng = np.random.default_rng(3)
    embedding, _ = np.linalg.qr(rng.normal(size=(12, 5)))
    first, second = random_covariance(5, 4), random_covariance(5, 5)
    small = frechet_distance(np.zeros(5), first, np.zeros(5), second)
    padded = [np.zeros((15, 15)), np.zeros((15, 15))]
    for matrix, core in zip(padded, (first, second), strict=True):
        matrix[:12, :12] = embedding @ core @ embedding.T
    assert frechet_distance(np.zeros(15), padded[0], np.zeros(15), padded[1]) == pytest.approx(small, rel=1e-10)
    assert frechet_distance(np.zeros(15), padded[0], np.zeros(15), padded[0]) == pytest.approx(0.0, abs=1e-14)
    nothing = np.zeros((3, 3))
    assert frechet_distance(np.ones(3), nothing, np.zeros(3), nothing) == pytest.approx(3.0)


def test_distance_is_symmetric_and_turns_with_the_axes() -> None:
    first, second = random_covariance(9, 6), random_covariance(9, 7)
    mean1, mean2 = np.random.default_rng(8).normal(size=(2, 9))
    turn, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(9, 9)))
    straight = frechet_distance(mean1, first, mean2, second)
    assert frechet_distance(mean2, second, mean1, first) == pytest.approx(straight, rel=1e-12)
    turned = frechet_distance(turn @ mean1, turn @ first @ turn.T, turn @ mean2, turn @ second @ turn.T)
    assert turned == pytest.approx(straight, rel=1e-12)


def test_shapes_of_gaussians_must_fit() -> None:
    with pytest.raises(DataError, match="do not fit"):
        frechet_distance([0.0, 1.0], np.eye(2), [0.0], np.eye(1))


# --- samples ---------------------------------------------------------------------------------------------------------


def gaussian_pair(rows: int, seed: int, shift: float = 0.1, stretch: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Samples of N(0, C) and N(shift, stretch^2 C) in four dimensions, C with correlations."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(random_covariance(4, 11))
    return rng.normal(size=(rows, 4)) @ root.T, stretch * rng.normal(size=(rows, 4)) @ root.T + shift


def test_fpd_of_gaussians_is_the_closed_form() -> None:
    shift, stretch = 0.1, 1.2
    reference, generated = gaussian_pair(40_000, 21, shift, stretch)
    largest = np.abs(reference).max(axis=0)
    covariance = random_covariance(4, 11) / np.outer(largest, largest)
    truth = np.sum((shift / largest) ** 2) + (stretch - 1) ** 2 * np.trace(covariance)
    found = fpd(reference=reference, generated=generated)
    assert found.value == pytest.approx(truth, abs=3 * found.error_total)
    assert found.error_total < 0.1 * truth
    assert (found.n_reference, found.n_generated, found.n_features) == (40_000, 40_000, 4)


def test_a_wrong_covariance_alone_is_seen() -> None:
    """Equal means and equal variances, other correlations: the closed form again, from the covariances only."""
    rng = np.random.default_rng(22)
    first, second = np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.2], [-0.2, 1.0]])
    reference = rng.normal(size=(30_000, 2)) @ np.linalg.cholesky(first).T
    generated = rng.normal(size=(30_000, 2)) @ np.linalg.cholesky(second).T
    scale = np.diag(1 / np.abs(reference).max(axis=0))
    eigen = [np.sqrt(1.9) - np.sqrt(0.8), np.sqrt(0.1) - np.sqrt(1.2)]  # both have the axes (1, 1) and (1, -1)
    found = fpd(reference=reference, generated=generated)
    expected = sum(value**2 for value in eigen) * scale[0, 0] * scale[1, 1]  # the two scales agree to a few per cent
    assert found.value == pytest.approx(expected, rel=0.1)
    parts = feature_contributions(reference=reference, generated=generated, names=("a", "b"))
    assert parts.correlation_term > 0.98 * parts.total


@pytest.mark.parametrize(
    ("name", "samples"),
    [("synthetic_fpd", "synthetic_samples"), ("synthetic_same_law_fpd", "same_law_samples")],
)
def test_fpd_is_that_of_jetnet(name: str, samples: str) -> None:
    reference, generated = getattr(jetnet_reference, samples)()
    expected = jetnet_value(name)
    found = fpd(
        reference=reference, generated=generated, settings=FrechetSettings(**expected.settings), seed=expected.seed
    )
    assert abs(found.value - expected.value) < expected.error  # as two estimates, and, the draws being the same,
    assert found.value == pytest.approx(expected.value, rel=1e-7)
    assert found.error == pytest.approx(expected.error, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundled_fpd", "bundled_library_fpd"])
def test_fpd_of_showers_is_that_of_jetnet(name: str) -> None:
    reference, generated = jetnet_reference.bundled_samples()
    expected = jetnet_value(name)
    settings = FrechetSettings(**expected.settings)
    assert settings == (LIBRARY_FPD if "library" in name else CHALLENGE_FPD)
    found = fpd(reference=reference, generated=generated, settings=settings, seed=expected.seed)
    assert found.value == pytest.approx(expected.value, rel=1e-7)
    assert found.error == pytest.approx(expected.error, rel=1e-6)
    assert found.n_features == 362


def test_the_reference_sets_the_scale() -> None:
    reference, generated = gaussian_pair(3000, 23)
    units = np.array([1.0, 1e-3, 1e6, -7.0])
    plain = fpd(reference=reference, generated=generated, settings=QUICK)
    assert fpd(reference=reference * units, generated=generated * units, settings=QUICK).value == pytest.approx(
        plain.value,
        rel=1e-6,  # the fit stops at about 1e-8
    )
    swapped = fpd(reference=generated, generated=reference, settings=QUICK)
    assert swapped.value < 0.95 * plain.value  # the generated sample is wider, so that its scale is larger


def test_a_feature_that_is_zero_in_the_reference_stays_as_it_is() -> None:
    reference, generated = gaussian_pair(2000, 24)
    without = fpd(reference=reference, generated=generated, settings=QUICK).value
    reference, generated = np.c_[reference, np.zeros(2000)], np.c_[generated, np.full(2000, 0.5)]
    assert fpd(reference=reference, generated=generated, settings=QUICK).value == pytest.approx(
        without + 0.25, rel=1e-7
    )


def test_a_seed_decides() -> None:
    reference, generated = gaussian_pair(2000, 25)
    first = fpd(reference=reference, generated=generated, settings=QUICK)
    assert fpd(reference=reference, generated=generated, settings=QUICK) == first
    assert fpd(reference=reference, generated=generated, settings=QUICK, seed=43).value != first.value


def test_batch_sizes_are_equally_spaced_in_their_inverse() -> None:
    sizes = CHALLENGE_FPD.batch_sizes
    assert (sizes[0], sizes[-1], len(sizes)) == (10_000, 49_999, 10)  # cut to whole numbers as in JetNet
    np.testing.assert_allclose(np.diff(1 / sizes), np.full(9, (1 / 50_000 - 1 / 10_000) / 9), rtol=1e-3)
    assert LIBRARY_FPD.min_samples == 20_000


def test_equal_samples_have_no_distance() -> None:
    reference, _ = gaussian_pair(4000, 26)
    found = fpd(reference=reference, generated=reference)
    assert 0.0 <= found.value < found.distances[0] < 1e-3
    assert found.error_sampling < 1e-3


# --- errors ----------------------------------------------------------------------------------------------------------


def bounded_pair(rows: int, seed: int, shift: float, stretch: float) -> tuple[np.ndarray, np.ndarray]:
    """As the Gaussian pair, but uniform, so that the largest value of the reference, the scale, hardly fluctuates."""
    rng = np.random.default_rng(seed)
    reference, generated = rng.uniform(-1, 1, (2, rows, 4))
    return reference, stretch * (generated + shift)


def repeats(n: int, rows: int, shift: float, stretch: float) -> list[FrechetResult]:
    settings = FrechetSettings(min_samples=rows // 4, max_samples=rows, num_points=10, num_batches=10)
    return [
        fpd(reference=pair[0], generated=pair[1], settings=settings, seed=seed)
        for seed in range(n)
        for pair in [bounded_pair(rows, 1000 + seed, shift, stretch)]
    ]


def coverage(values: np.ndarray, errors: np.ndarray) -> float:
    """Share of the values that lie within one error of their mean."""
    return float(np.mean(np.abs(values - values.mean()) < errors))


def test_total_error_is_the_spread_over_samples() -> None:
    found = repeats(40, 2000, 0.1, 1.2)
    spread = np.std([result.value for result in found], ddof=1)
    typical = np.mean([result.error_total for result in found])
    assert 0.75 < typical / spread < 1.35  # the spread of 40 values is known to 11 %


@pytest.mark.slow
def test_coverage_of_the_errors() -> None:
    """The total error covers; the quoted one, of the fit, does not, because it knows nothing of the samples."""
    found = repeats(200, 2000, 0.1, 1.2)
    values = np.array([result.value for result in found])
    assert 0.58 < coverage(values, np.array([result.error_total for result in found])) < 0.78
    assert coverage(values, np.array([result.error for result in found])) < 0.50


@pytest.mark.slow
def test_finite_samples_of_one_law_have_a_floor() -> None:
    """Drawing with replacement extrapolates to the samples, not to their law: the bias of order 1/n stays."""
    large, small = (np.mean([r.value for r in repeats(30, rows, 0.0, 1.0)]) for rows in (4000, 1000))
    assert small > 2 * large > 0


def test_jackknife_error_of_one_feature_by_hand() -> None:
    """One feature, groups of one: the distance is (m1 - m2)^2 + (s1 - s2)^2, left-out values by plain numpy."""
    rng = np.random.default_rng(31)
    reference, generated = rng.normal(size=(12, 1)), rng.normal(0.5, 2.0, size=(15, 1))

    def distance(first: np.ndarray, second: np.ndarray) -> float:
        return float((first.mean() - second.mean()) ** 2 + (first.std(ddof=1) - second.std(ddof=1)) ** 2)

    scale = np.abs(reference).max()
    first, second = reference[:, 0] / scale, generated[:, 0] / scale
    without = [
        np.array([distance(np.delete(first, k), second) for k in range(12)]),
        np.array([distance(first, np.delete(second, k)) for k in range(15)]),
    ]
    variance = sum((len(v) - 1) / len(v) * np.sum((v - v.mean()) ** 2) for v in without)
    found = fpd(reference=reference, generated=generated, settings=QUICK)
    assert found.error_sampling == pytest.approx(np.sqrt(variance), rel=1e-9)


# --- parts and floor -------------------------------------------------------------------------------------------------


def test_contributions_name_the_feature_that_drives_the_distance() -> None:
    rng = np.random.default_rng(41)
    reference, generated = rng.normal(size=(2, 20_000, 5))
    generated[:, 2] += 0.5
    generated[:, 4] *= 1.3
    names = [f"feature_{k}" for k in range(5)]
    found = feature_contributions(reference=reference, generated=generated, names=names)
    assert [part.name for part in found.features[:2]] == ["feature_2", "feature_4"]
    largest = np.abs(reference).max(axis=0)
    shift = (reference.mean(axis=0) - generated.mean(axis=0)) / largest
    widths = (reference.std(axis=0, ddof=1) - generated.std(axis=0, ddof=1)) / largest
    for part in found.features:
        column = names.index(part.name)
        assert part.mean_term == pytest.approx(shift[column] ** 2, rel=1e-9)
        assert part.width_term == pytest.approx(widths[column] ** 2, rel=1e-9)
    total = sum(part.total for part in found.features) + found.correlation_term
    assert total == pytest.approx(found.total, rel=1e-12)
    with pytest.raises(DataError, match="4 names for 5 features"):
        feature_contributions(reference=reference, generated=generated, names=names[:4])


def test_floor_lies_below_the_value_of_a_wrong_sample() -> None:
    reference, generated = gaussian_pair(6000, 51)
    both = floor_and_value(
        lambda **samples: fpd(settings=QUICK, **samples), reference=reference, generated=generated, seed=3
    )
    assert both.size == 3000
    assert both.floor.n_reference == both.floor.n_generated == both.value.n_reference == both.value.n_generated == 3000
    assert both.floor.value + 5 * both.floor.error_sampling < both.value.value


def test_parts_of_the_floor_are_disjoint() -> None:
    reference = np.arange(20.0)[:, None]
    seen: list[tuple[list[float], list[float]]] = []

    def note(*, reference: np.ndarray, generated: np.ndarray) -> None:
        seen.append((reference[:, 0].tolist(), generated[:, 0].tolist()))

    assert floor_and_value(note, reference=reference, generated=-reference[:7], seed=1).size == 7
    (part, other), (again, drawn) = seen
    assert len(set(part)) == len(set(other)) == 7
    assert not set(part) & set(other)
    assert again == part
    assert sorted(drawn) == [-value for value in range(6, -1, -1)]


# --- what goes with the number ---------------------------------------------------------------------------------------


def test_small_samples_are_told() -> None:
    reference, generated = gaussian_pair(1000, 61)
    found = fpd(reference=reference, generated=generated, settings=QUICK)
    assert found.is_below_recommended
    assert "fewer than the 4000" in found.note
    told = json.loads(json.dumps(found.to_dict()))
    assert told["settings"] == {"min_samples": 500, "max_samples": 4000, "num_points": 6, "num_batches": 4}
    assert told["seed"] == 42
    assert told["n_reference"] == told["n_generated"] == 1000
    assert len(told["distances"]) == 6
    enough = fpd(reference=np.tile(reference, (4, 1)), generated=np.tile(generated, (4, 1)), settings=QUICK)
    assert not enough.is_below_recommended
    assert enough.note == ""


def test_two_showers_have_no_sampling_error() -> None:
    found = fpd(reference=np.eye(2), generated=np.eye(2) + 0.1, settings=QUICK)
    assert math.isnan(found.error_sampling)
    assert found.to_dict()["error_sampling"] is found.to_dict()["error_total"] is None


@pytest.mark.parametrize(
    ("reference", "generated", "message"),
    [
        (np.ones((5, 3)), np.ones((5, 4)), "3 features a shower and the generated sample 4"),
        (np.ones((1, 3)), np.ones((5, 3)), "reference sample has 1 showers"),
        (np.ones((5, 3)), np.ones((0, 3)), "generated sample has 0 showers"),
        (np.ones(5), np.ones((5, 3)), r"shape \(5,\)"),
        (np.ones((5, 3)), np.array([[1, 2, np.nan]] * 4), "generated sample holds NaN .* column 2"),
        (np.array([[1, np.inf, 0]] * 4), np.ones((5, 3)), "reference sample holds NaN .* column 1"),
    ],
)
def test_bad_samples_are_refused(reference: np.ndarray, generated: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fpd(reference=reference, generated=generated)


@pytest.mark.parametrize(
    "changes", [{"min_samples": 1}, {"min_samples": 50_000}, {"num_points": 2}, {"num_batches": 0}]
)
def test_settings_that_cannot_be_fitted_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="FPD"):
        FrechetSettings(**changes)


def test_a_floor_needs_four_showers() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        floor_and_value(fpd, reference=np.ones((3, 2)), generated=np.ones((3, 2)))
