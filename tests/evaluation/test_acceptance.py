"""Limits on classifiers and spectrum: what is inside and outside, and how the size of the samples enters."""

import pytest

from calo4pqvae.evaluation.acceptance import fluctuation_targets, metric_targets
from calo4pqvae.evaluation.metric import METRICS, Measured
from calo4pqvae.evaluation.metrics.correlations import PriorRow
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.evaluation.metrics.targets import TargetTable
from calo4pqvae.evaluation.result import RefereeRow


def row(key: str, value: float, error: float, size: int, floor: tuple[float, float] = (0.5, 0.01)) -> RefereeRow:
    half = size // 2
    found = Measured(
        Estimate(value, error, size), "x", matched=Estimate(value, error, half), floor=Estimate(*floor, half)
    )
    return RefereeRow(METRICS[key], found, 1, (size, size))


@pytest.mark.parametrize(
    ("key", "value", "error", "size", "passed", "limit"),
    [
        ("auc_cnn", 0.539, 0.009, 6000, True, 0.54),
        ("auc_cnn", 0.545, 0.009, 6000, False, 0.54),
        ("auc_cnn", 0.545, 0.009, 10_000, True, 0.56),
        ("auc_cnn", 0.545, 0.03, 1000, True, 0.59),  # three standard errors
        ("auc_cnn", 0.904, 0.016, 6000, False, 0.548),
        ("auc_high", 0.57, 0.011, 6000, False, 0.56),
        ("auc_low", 0.535, 0.009, 12_000, True, 0.54),
        ("auc_hard", 0.99, 0.002, 6000, False, 0.70),
        ("auc_hard", 0.69, 0.006, 6000, True, 0.70),
        ("auc_cnn", 0.40, 0.01, 6000, True, 0.54),
    ],
)
def test_limits_of_classifiers(key: str, value: float, error: float, size: int, passed: bool, limit: float) -> None:
    [found] = metric_targets([row(key, value, error, size)])
    assert found.passed is passed
    assert 0.5 + found.allowed[1] == pytest.approx(limit)
    assert f"AUC at most {limit:.3g} at {size:,} showers" in found.words
    [cells] = TargetTable((found,)).target_rows()
    assert cells["target"] == f"classifiers, {METRICS[key].short}"
    assert cells["result"] == ("pass" if passed else "FAIL")


def test_spectrum_is_held_against_three_times_its_floor() -> None:
    good, bad, rough = (
        metric_targets([row("separation_voxel", value, 1e-5, 6000, (1e-4, spread))])[0]
        for value, spread in ((2.9e-4, 1e-5), (3.1e-4, 1e-5), (3.1e-4, 8e-5))
    )
    assert (good.passed, bad.passed, rough.passed) == (True, False, True)
    assert bad.deviation.value == pytest.approx(2.1)
    assert "at most 3 times Geant4 itself at 3,000 showers a side" in bad.words
    assert metric_targets([row("fpd", 1.0, 0.1, 6000)]) == []


def prior_row(width: float, error: float, distance: float) -> PriorRow:
    sizes = (850, 850)
    floor = Splits(1.5, 1.7, sizes, 100, 1.9)
    ratio, found = Estimate(width, error, 1700), Estimate(distance, 0.1, 1700)
    return PriorRow(
        "x", "low", 20, ratio, Splits(0.01, 0.02, sizes, 100), found, Splits(distance, 9, sizes, 100), floor
    )


@pytest.mark.parametrize(
    ("width", "error", "distance", "passed"),
    [
        (0.96, 0.01, 1.8, [True, True]),
        (0.94, 0.01, 1.95, [False, False]),
        (0.94, 0.03, 1.89, [True, True]),  # three standard errors; just inside the quantile
        (1.07, 0.01, 1.2, [False, True]),
        (0.77, 0.016, 3.5, [False, False]),  # a prior that is nearly decoration
    ],
)
def test_layers_must_fluctuate_as_they_do(width: float, error: float, distance: float, passed: list[bool]) -> None:
    found = fluctuation_targets([prior_row(width, error, distance)])
    assert [row.passed for row in found] == passed
    assert [row.strain <= 1 for row in found] == passed
    assert {row.family for row in found} == {"layer fluctuations"}
