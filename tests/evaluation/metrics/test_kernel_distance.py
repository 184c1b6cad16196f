"""KPD: the double sum of its definition, JetNet's values, and samples whose discrepancy is known."""

import itertools
import json

import numpy as np
import pytest

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.evaluation.metrics.kernel_distance import (
    CHALLENGE_KPD,
    LIBRARY_KPD,
    KernelSettings,
    kpd,
    squared_discrepancy,
)
from calo4pqvae.evaluation.metrics.sample_pairs import floor_and_value
from tests.evaluation import jetnet_reference
from tests.evaluation.jetnet_reference import jetnet_value

QUICK = KernelSettings(batch_size=400, num_batches=5)


def double_sum(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared discrepancy as it is defined: one pair of showers after the other."""

    def kernel(first: np.ndarray, second: np.ndarray) -> float:
        return (sum(a * b for a, b in zip(first, second, strict=True)) / len(first) + 1) ** 4

    def within(sample: np.ndarray) -> float:
        pairs = itertools.permutations(range(len(sample)), 2)
        return sum(kernel(sample[i], sample[j]) for i, j in pairs) / (len(sample) * (len(sample) - 1))

    across = sum(kernel(first, second) for first in x for second in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * across


def test_counted_rows_are_rows_drawn_again() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 4)), rng.normal(0.5, 1.0, size=(7, 4))
    counts_x, counts_y = np.array([0, 3, 1, 0, 2, 1, 1, 0, 5]), np.array([1, 1, 0, 4, 0, 2, 1])
    expected = double_sum(np.repeat(x, counts_x, axis=0), np.repeat(y, counts_y, axis=0))
    assert squared_discrepancy(x, y, counts_x, counts_y) == pytest.approx(expected, rel=1e-12)


def test_blocks_make_no_difference() -> None:
    """More rows than a block: against the full matrices."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-1, 1, (2500, 3)), rng.uniform(-1, 1.1, (1500, 3))
    grams = [(first @ second.T / 3 + 1) ** 4 for first, second in ((x, x), (y, y), (x, y))]
    within = [(g.sum() - np.trace(g)) / (len(g) * (len(g) - 1)) for g in grams[:2]]
    found = squared_discrepancy(x, y, np.ones(2500, dtype=np.int64), np.ones(1500, dtype=np.int64))
    assert found == pytest.approx(sum(within) - 2 * grams[2].mean(), abs=1e-12)


def test_discrepancy_of_one_feature_is_a_sum_of_moments() -> None:
    """(xy + 1)^4 = sum_p C(4, p) x^p y^p, so that the discrepancy is sum_p C(4, p) (m_p - m'_p)^2 of raw moments."""
    truth = 4 * 0.2**2 + 6 * (1.04 - 1.0) ** 2 + 4 * (0.2**3 + 3 * 0.2) ** 2 + (0.2**4 + 6 * 0.04 + 3 - 3) ** 2
    rng = np.random.default_rng(3)
    ones = np.ones(1500, dtype=np.int64)
    found = [
        squared_discrepancy(rng.normal(size=(1500, 1)), rng.normal(0.2, 1.0, (1500, 1)), ones, ones) for _ in range(40)
    ]
    assert np.mean(found) == pytest.approx(truth, abs=4 * np.std(found) / np.sqrt(40))
    assert np.std(found) / np.sqrt(40) < 0.2 * truth


def test_unbiased_for_samples_of_one_law() -> None:
    rng = np.random.default_rng(4)
    ones = np.ones(300, dtype=np.int64)
    found = [squared_discrepancy(*rng.uniform(-1, 1, (2, 300, 6)), ones, ones) for _ in range(60)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(60)
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize(
    ("name", "samples"),
    [("synthetic_kpd", "synthetic_samples"), ("synthetic_same_law_kpd", "same_law_samples")],
)
def test_kpd_is_that_of_jetnet(name: str, samples: str) -> None:
    reference, generated = getattr(jetnet_reference, samples)()
    expected = jetnet_value(name)
    found = kpd(
        reference=reference, generated=generated, settings=KernelSettings(**expected.settings), seed=expected.seed
    )
    assert abs(found.value - expected.value) < expected.error  # as two estimates, and, the draws being the same,
    assert found.value == pytest.approx(expected.value, rel=1e-8, abs=1e-12)
    assert found.error == pytest.approx(expected.error, rel=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundled_kpd", "bundled_library_kpd"])
def test_kpd_of_showers_is_that_of_jetnet(name: str) -> None:
    reference, generated = jetnet_reference.bundled_samples()
    expected = jetnet_value(name)
    settings = KernelSettings(**expected.settings)
    assert settings == (LIBRARY_KPD if "library" in name else CHALLENGE_KPD)
    found = kpd(reference=reference, generated=generated, settings=settings, seed=expected.seed)
    assert found.value == pytest.approx(expected.value, rel=1e-7)
    assert found.error == pytest.approx(expected.error, rel=1e-7)


def test_kpd_sees_a_wrong_sample_and_only_that() -> None:
    rng = np.random.default_rng(5)
    reference, generated = rng.normal(size=(2, 5000, 4))
    both = floor_and_value(
        lambda **samples: kpd(settings=QUICK, **samples), reference=reference, generated=generated + 0.5, seed=1
    )
    assert abs(both.floor.value) < 3 * both.floor.error
    assert both.value.value > 10 * both.floor.error


def test_the_reference_sets_the_scale() -> None:
    rng = np.random.default_rng(6)
    reference, generated = rng.normal(size=(800, 3)), rng.normal(0.2, 2.0, size=(900, 3))
    plain = kpd(reference=reference, generated=generated, settings=QUICK)
    scaled = kpd(reference=reference * [1e4, -1, 1e-3], generated=generated * [1e4, -1, 1e-3], settings=QUICK)
    assert scaled.value == pytest.approx(plain.value, rel=1e-9)
    assert kpd(reference=generated, generated=reference, settings=QUICK).value < 0.5 * plain.value


def test_value_and_error_summarise_the_batches() -> None:
    rng = np.random.default_rng(7)
    reference, generated = rng.normal(size=(2, 700, 3))
    found = kpd(reference=reference, generated=generated, settings=QUICK)
    ordered = sorted(found.distances)
    assert len(ordered) == 5
    assert found.value == ordered[2]
    low, high = (np.interp(share * 4, np.arange(5), ordered) for share in (0.16275, 0.83725))
    assert found.error == pytest.approx((high - low) / 2, rel=1e-12)
    assert kpd(reference=reference, generated=generated, settings=QUICK) == found
    assert kpd(reference=reference, generated=generated, settings=QUICK, seed=1).value != found.value


def test_small_samples_are_told() -> None:
    sample = np.random.default_rng(8).normal(size=(300, 2))
    found = kpd(reference=sample, generated=sample, settings=QUICK)
    assert found.is_below_recommended
    assert "fewer than the 400 of a batch" in found.note
    told = json.loads(json.dumps(found.to_dict()))
    assert told["settings"] == {"batch_size": 400, "num_batches": 5}
    assert (told["n_reference"], told["n_generated"], told["n_features"], told["seed"]) == (300, 300, 2, 42)
    more = kpd(reference=np.tile(sample, (2, 1)), generated=np.tile(sample, (2, 1)), settings=QUICK)
    assert "fewer than the recommended 50000" in more.note
    enough = kpd(reference=np.tile(sample, (200, 1)), generated=np.tile(sample, (200, 1)), settings=QUICK)
    assert not enough.is_below_recommended
    assert enough.note == ""


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"num_batches": 0}])
def test_settings_without_draws_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="KPD"):
        KernelSettings(**changes)


def test_bad_samples_are_refused() -> None:
    with pytest.raises(DataError, match="features a shower"):
        kpd(reference=np.ones((5, 3)), generated=np.ones((5, 4)))
    with pytest.raises(DataError, match="NaN"):
        kpd(reference=np.ones((5, 3)), generated=np.full((5, 3), np.nan))
    with pytest.raises(DataError, match="at least 2"):
        kpd(reference=np.ones((1, 3)), generated=np.ones((5, 3)))
