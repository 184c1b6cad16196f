import json

import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import ShowerFeatures, shower_features
from calo4pqvae.evaluation.metrics.separation import SeparationPower, VoxelSpectra, separation_powers
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import synthetic_showers
from tests.evaluation.conftest import Showers


@pytest.fixture(scope="module")
def powers(reference: ShowerFeatures, generated: ShowerFeatures) -> dict[str, SeparationPower]:
    return {power.name: power for power in separation_powers(reference, generated, n_splits=30)}


def by_numpy(first: np.ndarray, second: np.ndarray, edges: np.ndarray) -> float:
    p, q = (np.histogram(values, edges)[0].astype(float) for values in (first, second))
    p, q = p / p.sum(), q / q.sum()
    return float(0.5 * np.sum((p - q) ** 2 / (p + q + 1e-16)))


def test_values_equal_numpy_histograms(
    powers: dict[str, SeparationPower], reference: ShowerFeatures, generated: ShowerFeatures
) -> None:
    expected = by_numpy(reference.response, generated.response, np.linspace(0.5, 1.5, 101))
    assert powers["E_tot / E_inc"].value.value == pytest.approx(expected, rel=1e-9)
    sparsity = [
        by_numpy(1 - reference.layer_occupancy[:, k], 1 - generated.layer_occupancy[:, k], np.linspace(0, 1, 21))
        for k in range(8)
    ]
    assert powers["layer sparsity"].value.value == pytest.approx(np.mean(sparsity), rel=1e-6)
    limit = 20 * 40 / 41.85  # the challenge's range, scaled to the outer radius of 40 mm
    widths = [by_numpy(reference.width_r[:, k], generated.width_r[:, k], np.linspace(0, limit, 101)) for k in range(8)]
    np.testing.assert_allclose(powers["width r"].per_layer, widths, rtol=1e-6)
    layer = [
        by_numpy(
            reference.layer_energy[:, k],
            generated.layer_energy[:, k],
            np.geomspace(0.5e-3 / 0.033, reference.layer_energy[:, k].max(), 40),
        )
        for k in range(8)
    ]
    # the top bin ends exactly at the reference's maximum, where rounding may move one entry
    np.testing.assert_allclose(powers["layer energy"].per_layer, layer, rtol=0.02)


def test_same_law_stays_at_the_floor(powers: dict[str, SeparationPower]) -> None:
    for power in powers.values():
        assert power.floor.sizes == (750, 750)
        assert power.matched.sizes == (750, 750)
        assert power.matched.median < 1.35 * power.floor.median + 1e-4, power.name
        assert power.value.value < power.matched.median + 3 * power.value.error


def test_another_law_stands_out(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    shifted = generated.select(np.arange(generated.n_showers))
    shifted.width_r[:] *= 1.2
    found = {power.name: power for power in separation_powers(reference, shifted, n_splits=5)}
    assert found["width r"].matched.median > 1.5 * found["width r"].floor.quantile84
    assert found["width eta"].matched.median < 1.5 * found["width eta"].floor.quantile84


def test_seed_decides(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    one, same, other = (separation_powers(reference, generated, n_splits=3, seed=seed)[0] for seed in (1, 1, 2))
    assert one == same
    assert one.floor != other.floor


def test_rings_have_no_eta_and_phi() -> None:
    grid = geometry("ds1-photons")
    samples = [shower_features(*reversed(synthetic_showers(grid, 120, seed)), grid) for seed in (1, 2)]
    found = {power.name: power for power in separation_powers(*samples, n_splits=3)}
    assert len(found["width eta"].per_layer) == 2  # layers 1 and 2 are cut in angle
    assert len(found["width r"].per_layer) == 5
    json.dumps([power.to_dict() for power in found.values()], allow_nan=False)


def test_voxels_in_the_bins_of_the_challenge(
    tiny: Geometry,
    reference: ShowerFeatures,
    generated: ShowerFeatures,
    reference_showers: Showers,
    generated_showers: Showers,
) -> None:
    first, second = reference_showers[1], generated_showers[1]
    spectra = VoxelSpectra.of_arrays(first, second, tiny)
    edges = np.geomspace(tiny.threshold_mev, first.max(), 50)
    for showers, counts in ((first, spectra.reference), (second, spectra.generated)):
        kept = showers[(showers > 0) & (showers >= tiny.threshold_mev)].astype(float)
        np.testing.assert_array_equal(counts.sum(axis=0), np.histogram(kept, edges)[0])
        assert counts.shape == (len(showers), 49)
    own, of_challenge = (
        {power.name: power for power in separation_powers(reference, generated, n_splits=4, spectra=given)}
        for given in (None, {"voxel energy": spectra})
    )
    expected = by_numpy(first[first > 0], second[second > 0], edges)
    assert of_challenge["voxel energy"].value.value == pytest.approx(expected, rel=1e-6)
    assert own["voxel energy"].value != of_challenge["voxel energy"].value
    assert own["width r"] == of_challenge["width r"]


def test_chi_square_of_one_law_and_of_another(
    powers: dict[str, SeparationPower], reference: ShowerFeatures, generated: ShowerFeatures
) -> None:
    for power in powers.values():
        low, high = (0.05, 4.0) if power.name == "voxel energy" else (0.7, 1.3)  # voxel bins move together
        assert low < power.chi_square.per_freedom < high, power.name
        assert len(power.chi_square.values) == len(power.per_layer) == len(power.per_layer_errors)
    assert powers["voxel energy"].chi_square.p_values is None
    assert powers["E_tot / E_inc"].chi_square.p_values is not None
    assert powers["E_tot / E_inc"].chi_square.p_values[0] > 1e-3
    moved = generated.select(np.arange(generated.n_showers))
    moved.width_eta[:, 3] *= 1.3
    found = {power.name: power for power in separation_powers(reference, moved, n_splits=3)}["width eta"]
    assert found.chi_square.p_values is not None
    assert int(np.argmin(found.chi_square.p_values)) == 3
    assert found.chi_square.p_values[3] < 1e-6


def test_errors_of_layers_cover() -> None:
    """A law of few bins against another: the spread over repeats is the quoted bootstrap error."""
    grid = Geometry.regular("two", 2, 4, 3, 10.0, threshold_mev=0.01, energy_range=(1e3, 1e4))
    values, errors = [], []
    for repeat in range(25):
        samples = [shower_features(*reversed(synthetic_showers(grid, 400, 2 * repeat + side)), grid) for side in (0, 1)]
        samples[1].layer_occupancy[:] *= 0.9
        power = {power.name: power for power in separation_powers(*samples, n_splits=20, seed=repeat)}["layer sparsity"]
        values.append([*power.per_layer, power.value.value])
        errors.append([*power.per_layer_errors, power.value.error])
    ratio = np.mean(errors, axis=0) / np.std(values, axis=0, ddof=1)
    assert np.all((ratio > 0.65) & (ratio < 1.5))


def test_ranges_of_data_set_1() -> None:
    """Centres within 100 mm, in layers 12 and 13 within 500 mm: what lies between is kept there and lost elsewhere."""
    grid = geometry("ds1-pions")
    first, second = (shower_features(*reversed(synthetic_showers(grid, 100, seed)), grid) for seed in (1, 2))
    for sample, place in ((first, 300.0), (second, 400.0)):
        sample.centroid_eta[:] = place
    found = {power.name: power for power in separation_powers(first, second, n_splits=2)}["centre of energy eta"]
    segmented = [layer.layer_id for layer in grid.layers if layer.n_alpha > 1]
    assert segmented == [1, 2, 12, 13]
    np.testing.assert_allclose(found.per_layer, [np.nan, np.nan, 1.0, 1.0])
    json.dumps(found.to_dict(), allow_nan=False)


def test_samples_must_fit(tiny: Geometry, reference: ShowerFeatures, reference_showers: Showers) -> None:
    other = Geometry.regular("other", 8, 6, 4, 20.0)
    wrong = shower_features(reference_showers[1], reference_showers[0], other)
    with pytest.raises(DataError, match="grids tiny and other"):
        separation_powers(reference, wrong)
    with pytest.raises(DataError, match="at least two reference showers"):
        separation_powers(reference.select(np.arange(1)), reference)
    spectra = VoxelSpectra.of_arrays(reference_showers[1], reference_showers[1][:10], tiny)
    with pytest.raises(DataError, match="voxel spectra are of 1500 and 10 showers"):
        separation_powers(reference, reference, spectra={"voxel energy": spectra})
    with pytest.raises(DataError, match="no voxel of the reference is above"):
        VoxelSpectra.of_arrays(np.zeros((3, tiny.n_voxels)), np.zeros((3, tiny.n_voxels)), tiny)
    with pytest.raises(DataError, match="do not fit tiny: 192 voxels"):
        VoxelSpectra.of_arrays(np.ones((3, 5)), np.ones((3, 5)), tiny)
