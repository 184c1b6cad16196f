"""Against numpy's coefficients and closed forms; floors and errors against repeats."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.metrics.correlation_distance import (
    bit_correlation_distance,
    correlation_distance,
    layer_correlation_distance,
    voxel_correlation_distance,
)
from calo4pqvae.showers.geometry import Geometry
from tests.evaluation.conftest import Showers


def test_equals_numpy_in_stripes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "calo4pqvae.evaluation.metrics.correlation_distance._STRIPE_ELEMENTS", 60
    )  # stripes of 5, 5 and 2
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, 12))
    first, second = 1e4 + 30 * rng.normal(size=(500, 12)) @ mixing, rng.normal(size=(500, 12))
    found = correlation_distance(reference=first, generated=second)
    expected = np.linalg.norm(np.corrcoef(first.T) - np.corrcoef(second.T))
    assert found.distance.value == pytest.approx(expected, rel=1e-4)
    assert found.per_pair.value == pytest.approx(expected / math.sqrt(12 * 11), rel=1e-4)
    assert found.distance.n == 500


def test_closed_form_of_one_correlated_pair() -> None:
    """Correlation 0.8 against none between two of three columns: distance 0.8 sqrt 2."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 20_000, 3))
    second[:, 1] = 0.8 * second[:, 0] + 0.6 * second[:, 1]
    found = correlation_distance(reference=first, generated=second)
    assert found.distance.value == pytest.approx(0.8 * math.sqrt(2), abs=4 * found.distance.error)
    assert found.distance.error < 0.02
    assert found.matched.median > 10 * found.floor.quantile84


def test_one_law_is_at_the_floor_of_its_size() -> None:
    """The squared distance of K columns of one law is K (K - 1) (1 / N + 1 / M) on average."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 600, 30))
    found = correlation_distance(reference=first, generated=second)
    assert found.distance.value == pytest.approx(math.sqrt(870 * 2 / 600), rel=0.08)
    assert found.floor.median == pytest.approx(math.sqrt(870 * 2 / 300), rel=0.08)
    assert found.matched.median == pytest.approx(found.floor.median, rel=0.08)
    assert found.floor.sizes == (300, 300)


def test_errors_cover() -> None:
    rng = np.random.default_rng(3)
    pulls = []
    for seed in range(60):
        first, second = rng.normal(size=(2, 400, 3))
        second[:, 1] = 0.6 * second[:, 0] + 0.8 * second[:, 1]
        found = correlation_distance(reference=first, generated=second, n_splits=2, seed=seed)
        pulls.append((found.distance.value - 0.6 * math.sqrt(2)) / found.distance.error)
    assert 0.7 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.4


def test_columns_that_do_not_vary_are_uncorrelated() -> None:
    rng = np.random.default_rng(4)
    first = rng.normal(size=(200, 4))
    first[:, 2:] = 0.1, 5.0
    second = first.copy()
    assert correlation_distance(reference=first, generated=second[::-1]).distance.value == pytest.approx(0, abs=1e-5)
    second[:, 2] = second[:, 0]
    assert correlation_distance(reference=first, generated=second).distance.value == pytest.approx(
        math.sqrt(2 + 2 * np.corrcoef(first[:, 0], first[:, 1])[0, 1] ** 2), rel=1e-3
    )


def test_layers_are_taken_over_the_incident_energy(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    found = layer_correlation_distance(reference=reference, generated=generated)
    assert found.n_columns == 8
    assert found.matched.median < 1.5 * found.floor.quantile84
    whole = replace(reference, layer_energy=np.outer(reference.incident_energy, np.ones(8)))
    noisy = replace(whole, layer_energy=whole.layer_energy * np.random.default_rng(0).normal(1, 0.1, (1500, 8)))
    assert layer_correlation_distance(reference=noisy, generated=noisy).distance.value == pytest.approx(0, abs=1e-5)
    assert layer_correlation_distance(reference=noisy, generated=whole).distance.value < 0.3


def test_voxels_that_are_hit(tiny: Geometry, reference_showers: Showers, generated_showers: Showers) -> None:
    energies, showers = reference_showers
    found = voxel_correlation_distance(reference=reference_showers, generated=generated_showers, geometry=tiny)
    hits = ((showers >= tiny.threshold_mev) & (showers > 0)).mean(axis=0)
    assert found.n_columns == int((hits > 0.01).sum()) > 20
    assert found.matched.median < 1.15 * found.floor.quantile84
    kept = np.flatnonzero(hits > 0.5)
    few = voxel_correlation_distance(
        reference=(energies, showers), generated=(energies, showers[:, ::-1]), geometry=tiny, least_occupancy=0.5
    )
    columns = [np.where(part >= tiny.threshold_mev, part, 0) / energies for part in (showers, showers[:, ::-1])]
    one, other = (np.corrcoef(part[:, kept].T.astype(np.float64)) for part in columns)
    assert few.distance.value == pytest.approx(np.linalg.norm(one - other), rel=1e-3)


def test_bits() -> None:
    rng = np.random.default_rng(5)
    first = rng.integers(0, 2, (3000, 5))
    second = rng.integers(0, 2, (3000, 5))
    second[:, 3] = second[:, 1]
    found = bit_correlation_distance(first, second)
    assert found.distance.value == pytest.approx(math.sqrt(2), abs=0.1)
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(DataError, match="bits_b hold values other than 0 and 1"):
        bit_correlation_distance(first, 2 * second - 1)


def test_the_seed_decides_and_unequal_samples_are_cut() -> None:
    first, second = np.random.default_rng(6).normal(size=(300, 3)), np.random.default_rng(7).normal(size=(90, 3))
    one, same, other = (correlation_distance(reference=first, generated=second, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one.distance.n == 90
    assert one.floor.sizes == (45, 45)


def test_bad_input_is_told(tiny: Geometry) -> None:
    columns = np.random.default_rng(8).normal(size=(60, 3))
    with pytest.raises(DataError, match="3 and 2 columns"):
        correlation_distance(reference=columns, generated=columns[:, :2])
    with pytest.raises(DataError, match="at least 40 rows"):
        correlation_distance(reference=columns, generated=columns[:39])
    with pytest.raises(DataError, match="NaN or infinity"):
        correlation_distance(reference=columns, generated=np.where(columns > 1, np.inf, columns))
    showers = np.zeros((60, tiny.n_voxels))
    with pytest.raises(DataError, match="do not fit"):
        voxel_correlation_distance(reference=(np.ones(60), showers), generated=(np.ones(59), showers), geometry=tiny)
    with pytest.raises(DataError, match="positive"):
        voxel_correlation_distance(reference=(np.zeros(60), showers), generated=(np.ones(60), showers), geometry=tiny)
