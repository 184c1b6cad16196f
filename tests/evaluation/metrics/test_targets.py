"""The acceptance table passes for a second draw of the same law, and each planted deviation fails its own family."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import ShowerFeatures, shower_features
from calo4pqvae.evaluation.metrics.targets import (
    FAMILIES,
    TargetTable,
    check_targets,
    large_layers,
    spectrum_half_decades,
)
from calo4pqvae.showers.geometry import Geometry


def failed_families(table: TargetTable) -> set[str]:
    return {row.family for row in table.rows if not row.passed}


@pytest.fixture(scope="module")
def table(reference: ShowerFeatures, generated: ShowerFeatures) -> TargetTable:
    return check_targets(reference, generated, n_splits=40)


def test_same_law_passes(table: TargetTable) -> None:
    assert table.passed
    assert failed_families(table) == set()
    assert table.n_passed == len(table.rows)


def test_every_family_stands_in_every_third(table: TargetTable, reference: ShowerFeatures) -> None:
    here = set(FAMILIES) - {"classifiers", "layer fluctuations"}  # these come from evaluation/acceptance.py
    assert {(row.family, row.third) for row in table.rows} == {
        (family, third) for family in here for third in ("1-4.64 GeV", "4.64-21.5 GeV", "21.5-100 GeV")
    }
    spectrum = [row.name for row in table.rows if row.family == "voxel spectrum" and row.third == "1-4.64 GeV"]
    assert spectrum[:4] == ["0.0152-0.0316 MeV", "0.0316-0.1 MeV", "0.1-0.316 MeV", "0.316-1 MeV"]
    largest = max(float(name.split("-")[1].split()[0]) for name in spectrum)
    third = reference.select(reference.incident_energy < 10 ** (11 / 3))
    top = third.voxel_edges[np.flatnonzero(third.voxel_counts.sum(axis=0))[-1] + 1]
    assert largest == pytest.approx(10 ** (np.ceil(2 * np.log10(top) - 1e-6) / 2), rel=0.01)


def test_values_are_those_of_the_samples(table: TargetTable, reference_showers: tuple, tiny: Geometry) -> None:
    energies, showers = reference_showers
    third = (energies[:, 0] >= 1e3) & (energies[:, 0] < 10 ** (11 / 3))
    kept = np.where(showers[third] >= tiny.threshold_mev, showers[third], 0.0).astype(np.float64)
    response = kept.sum(axis=1) / energies[third, 0]
    rows = {row.name: row for row in table.rows if row.third == "1-4.64 GeV"}
    assert rows["response"].reference.value == pytest.approx(response.mean())
    assert rows["response width"].reference.value == pytest.approx(response.std())
    assert rows["occupancy"].reference.value == pytest.approx((kept > 0).mean())
    layer = kept[:, tiny.layer_slices[2]].sum(axis=1) / energies[third, 0]
    assert rows["layer 2"].reference.value == pytest.approx(layer.mean())
    between = ((kept >= 10**-1.5) & (kept < 10**-1)).sum(axis=1)
    assert rows["0.0316-0.1 MeV"].reference.value == pytest.approx(between.mean())
    assert rows["response"].reference.n == third.sum()
    assert rows["response"].floor.sizes == (third.sum() // 2, third.sum() // 2)


def test_floor_is_of_the_size_of_the_statistical_error(table: TargetTable) -> None:
    """Halves of the reference differ by a normal deviate of twice the reference's error: its median is 0.67 of that."""
    rows = [row for row in table.rows if row.family in ("response", "occupancy", "longitudinal profile")]
    ratios = [row.floor.median / (2 * row.reference.error / row.reference.value) for row in rows]
    assert np.mean(ratios) == pytest.approx(0.674, abs=0.12)


def scale_response(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    return 1.03 * showers * np.ones_like(energies)


def widen_response(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    response = showers.sum(axis=1, keepdims=True) / energies
    trend = np.polynomial.Polynomial.fit(np.log(energies[:, 0]), response[:, 0], 2)(np.log(energies))
    return showers * (trend + 1.3 * (response - trend)) / response


def thin_hits(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    kept = showers * (np.random.default_rng(0).random(showers.shape) < 0.9)
    return kept * showers.sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True) * np.ones_like(energies)


def lose_faint_voxels(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    return np.where((showers > 0) & (showers < 0.3), 0.3, showers) * np.ones_like(energies)


def shift_depth(showers: np.ndarray, energies: np.ndarray) -> np.ndarray:
    layers = showers.reshape(len(showers), 8, -1).copy()
    moved = 0.2 * layers[:, 2]
    layers[:, 2] -= moved
    layers[:, 3] += moved
    return layers.reshape(showers.shape) * np.ones_like(energies)


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("response", scale_response),
        ("response width", widen_response),
        ("occupancy", thin_hits),
        ("voxel spectrum", lose_faint_voxels),
        ("longitudinal profile", shift_depth),
    ],
)
def test_planted_deviation_fails_its_family(
    family: str,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray],
    tiny: Geometry,
    reference: ShowerFeatures,
    generated_showers: tuple,
) -> None:
    energies, showers = generated_showers
    changed = shower_features(change(showers.astype(np.float64), energies.astype(np.float64)), energies, tiny)
    found = check_targets(reference, changed, n_splits=3)
    failed = [row for row in found.rows if row.family == family and not row.passed]
    assert {row.third for row in failed} == {"1-4.64 GeV", "4.64-21.5 GeV", "21.5-100 GeV"}
    assert not found.passed
    if family in ("response", "response width"):
        assert failed_families(found) == {family}


def test_other_incident_energies_are_no_deviation(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    """A sample skewed towards high energies passes, although its plain mean occupancy is far off."""
    rng = np.random.default_rng(6)

    def with_steep_occupancy(sample: ShowerFeatures) -> ShowerFeatures:
        noise = rng.normal(0, 0.005, sample.n_showers)
        return replace(sample, occupancy=0.1 * np.log10(sample.incident_energy / 500) + noise)

    kept = rng.random(generated.n_showers) < (generated.incident_energy / 1e5) ** 0.5
    expected, skewed = with_steep_occupancy(reference), with_steep_occupancy(generated.select(kept))
    plain = [sample.occupancy[sample.incident_energy < 10 ** (11 / 3)].mean() for sample in (skewed, expected)]
    assert plain[0] / plain[1] > 1.05
    occupancy = [row for row in check_targets(expected, skewed, n_splits=3).rows if row.family == "occupancy"]
    assert all(row.passed for row in occupancy)


def test_profile_limit_widens_to_three_standard_errors(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    few = check_targets(reference.select(np.arange(200)), generated, n_splits=3)
    rows = [row for row in few.rows if row.family == "longitudinal profile"]
    assert any(row.allowed[1] > 0.10 for row in rows)
    for row in rows:
        assert row.allowed[1] == pytest.approx(max(0.10, 3 * row.deviation.error))
        assert row.allowed[0] == -row.allowed[1]


def test_limits_of_the_other_families(table: TargetTable) -> None:
    allowed = {
        row.family: row.allowed for row in table.rows if row.family not in ("longitudinal profile", "voxel spectrum")
    }
    assert allowed == {
        "response": (-0.015, 0.015),
        "response width": (-0.15, 0.15),
        "occupancy": (-0.03, 0.03),
    }


def test_spectrum_limit_is_ten_per_cent_or_three_errors_of_equal_samples(table: TargetTable) -> None:
    rows = [row for row in table.rows if row.family == "voxel spectrum"]
    for row in rows:
        error = np.hypot(row.generated.error, row.reference.error) / row.reference.value
        assert row.allowed == pytest.approx((-max(0.1, 3 * error), max(0.1, 3 * error)))
    assert {row.allowed[1] > 0.1 for row in rows} == {True, False}


def test_only_layers_above_one_per_cent_are_checked(table: TargetTable, reference: ShowerFeatures) -> None:
    third = reference.select(reference.incident_energy < 10 ** (11 / 3))
    profile = (third.layer_energy / third.incident_energy[:, None]).mean(axis=0)
    expected = [k for k in range(8) if profile[k] / profile.sum() > 0.01]
    assert large_layers(third) == expected
    names = [row.name for row in table.rows if row.family == "longitudinal profile" and row.third == "1-4.64 GeV"]
    assert names == [f"layer {k}" for k in expected]


@pytest.mark.parametrize(
    ("threshold", "largest", "expected"),
    [
        (0.5e-3 / 0.033, 0.9, [0.5e-3 / 0.033, 10**-1.5, 0.1, 10**-0.5, 1.0]),
        (0.1, 4.0, [0.1, 10**-0.5, 1.0, 10**0.5, 10.0]),
        (1.0, 0.5, []),
    ],
)
def test_half_decades(threshold: float, largest: float, expected: list[float]) -> None:
    grid = Geometry.regular("one", 1, 4, 2, 10.0, threshold_mev=threshold)
    sample = shower_features(np.full((2, 8), largest), np.full(2, 1e3), grid)
    np.testing.assert_allclose(spectrum_half_decades(sample), expected)


def test_table_as_cells_and_as_json(table: TargetTable) -> None:
    cells = table.target_rows()
    assert len(cells) == 15  # five families in three thirds
    assert {cell["result"] for cell in cells} == {"pass"}
    assert cells[0]["target"] == "response"
    assert len(table.target_rows(every=True)) == len(table.rows)
    text = json.dumps(table.to_dict(), allow_nan=False)
    assert json.loads(text)["n_rows"] == len(table.rows)


def test_worst_row_decides_the_mark_of_its_group(
    reference: ShowerFeatures, generated_showers: tuple, tiny: Geometry
) -> None:
    energies, showers = generated_showers
    changed = shower_features(shift_depth(showers, energies), energies, tiny)
    found = check_targets(reference, changed, n_splits=3)
    group = [cell for cell in found.target_rows() if cell["target"].startswith("longitudinal profile")]
    assert {cell["result"] for cell in group} == {"FAIL"}
    worst = [row for row in found.worst() if row.family == "longitudinal profile"]
    assert all(row.strain > 1 and not row.passed for row in worst)


def test_no_voxels_where_the_reference_has_some_is_minus_one(
    reference: ShowerFeatures, generated: ShowerFeatures
) -> None:
    emptied = generated.select(np.arange(generated.n_showers))
    emptied.voxel_counts[:, :3] = 0
    row = next(row for row in check_targets(reference, emptied, n_splits=2).rows if row.name == "0.0152-0.0316 MeV")
    assert row.deviation.value == -1.0
    assert not row.passed


def test_both_without_voxels_is_no_deviation(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    emptied = [sample.select(np.arange(sample.n_showers)) for sample in (reference, generated)]
    for sample in emptied:
        sample.voxel_counts[:, :3] = 0
    found = check_targets(*emptied, n_splits=2)
    row = next(row for row in found.rows if row.name == "0.0152-0.0316 MeV")
    assert row.passed
    assert row.deviation.value == 0.0
    assert not math.isinf(row.strain)
    json.dumps(found.to_dict(), allow_nan=False)


def test_too_few_showers_in_a_third_are_refused(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    low = generated.select(generated.incident_energy < 2e4)
    with pytest.raises(DataError, match=r"only 0 generated showers lie between 21\.5-100 GeV"):
        check_targets(reference, low)
