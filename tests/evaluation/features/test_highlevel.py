"""The challenge's features against the definitions, layer by layer, in extended precision."""

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.highlevel import (
    FeatureKind,
    HighLevelFeatures,
    feature_names,
    feature_samples,
    feature_vector,
    file_highlevel_features,
    highlevel_features,
)
from calo4pqvae.evaluation.features.showers import file_features
from calo4pqvae.models.qvae.family import untrained_model
from calo4pqvae.runs.generation import generate, parse_energies
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.files import ShowerWriter
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry, LayerGeometry, geometry
from tests.small_runs import tiny_config, tiny_file

OFFICIAL = ("ds1-photons", "ds1-pions", "ds2", "ds3")
WIDTHS = {"ds1-photons": 368, "ds1-pions": 533, "ds2": 6480, "ds3": 40500}
ANGULAR_LAYERS = {"ds1-photons": [1, 2], "ds1-pions": [1, 2, 12, 13]}
THRESHOLDS = {"ds1-photons": 1.0, "ds1-pions": 1.0, "ds2": 0.5e-3 / 0.033, "ds3": 0.5e-3 / 0.033}

Exact = np.longdouble


def layer_of_definitions(layer: LayerGeometry, voxels: np.ndarray, threshold: float) -> dict[str, float]:
    """Energy, sparsity, centres and widths of one layer; the variance about the centre, so that nothing cancels."""
    edges, n_alpha = layer.radial_edges, layer.n_alpha
    energy = np.where(voxels.astype(np.float64) >= threshold, voxels, 0).astype(Exact).reshape(n_alpha, len(edges) - 1)
    total = energy.sum()
    found = {"energy": float(total), "sparsity": 1 - np.count_nonzero(energy) / energy.size}
    radius = np.array([(low + high) / 2 for low, high in itertools.pairwise(edges)])[None, :]
    alpha = np.array([-math.pi + (2 * a + 1) * math.pi / n_alpha for a in range(n_alpha)])[:, None]
    positions = {"r": radius + 0 * alpha, "eta": radius * np.cos(alpha), "phi": radius * np.sin(alpha)}
    for name, position in positions.items():
        if total == 0:
            found[f"centroid_{name}"] = found[f"width_{name}"] = 0.0
            continue
        centre = (position * energy).sum() / total
        found[f"centroid_{name}"] = float(centre)
        found[f"width_{name}"] = float(np.sqrt((energy * (position - centre) ** 2).sum() / total))
    return found


def vector_of_definitions(name: str, shower: np.ndarray, incident_energy: float) -> tuple[list[float], list[str]]:
    """The challenge's vector and its names, block by block."""
    grid = geometry(name)
    angular = ANGULAR_LAYERS.get(name, list(range(45)))
    sizes = [layer.n_voxels for layer in grid.layers]
    parts = np.split(shower, np.cumsum(sizes)[:-1])
    layers = {
        layer.layer_id: layer_of_definitions(layer, part, THRESHOLDS[name])
        for layer, part in zip(grid.layers, parts, strict=True)
    }
    values, names = [math.log10(incident_energy)], ["log10_incident_energy"]

    def add(title: str, key: str, which: list[int]) -> None:
        for number in which:
            value = layers[number][key]
            values.append(math.log10(value + 1e-8) if key == "energy" else value if key == "sparsity" else value / 100)
            names.append(f"{title}_{number}")

    add("log10_layer_energy", "energy", list(layers))
    for key in ("centroid_eta", "centroid_phi", "width_eta", "width_phi"):
        add(key, key, angular)
    values.append(math.log10(sum(layer["energy"] for layer in layers.values()) + 1e-8))
    names.append("log10_total_energy")
    for key in ("sparsity", "centroid_r", "width_r"):
        add(key, key, list(layers))
    return values, names


def awkward_showers(name: str) -> np.ndarray:
    """Empty showers and layers, single voxels, hits in one ring, a faint voxel beside a hot one, values at the cut."""
    grid, threshold = geometry(name), THRESHOLDS[name]
    rng = np.random.default_rng(5)
    showers = rng.exponential(20 * threshold, (9, grid.n_voxels)) * (rng.random((9, grid.n_voxels)) < 0.4)
    showers[1:4] *= 10.0 ** rng.uniform(-1, 4, (3, grid.n_voxels))
    showers[0] = 0.0
    first, second, third = grid.layer_slices[:3]
    showers[1, first] = 0.0
    showers[2, second] = 0.0
    showers[2, second.start + 1] = 7.0
    showers[3, third] = 0.0
    showers[3, third.start : third.stop : grid.layers[2].n_radial] = 3.3
    showers[4, second] = 0.0
    showers[4, second.stop - 1], showers[4, second.stop - 2] = 1e5, 1.01 * threshold
    showers[5, ::3] = 0.9 * threshold
    showers[6, ::2] = threshold
    showers[7] = 0.0
    showers[7, [layer.stop - 1 for layer in grid.layer_slices]] = 1e4 * rng.random(grid.n_layers) + threshold
    showers[8] *= -1.0
    return showers.astype(np.float32)


@pytest.mark.parametrize("name", OFFICIAL)
def test_vector_equals_the_definitions(name: str) -> None:
    showers = awkward_showers(name)
    energies = np.geomspace(1e3, 9e5, len(showers))
    features = highlevel_features(showers, energies[:, None], geometry(name))
    found = feature_vector(features)
    assert found.dtype == np.float64
    for row, shower, energy in zip(found, showers, energies, strict=True):
        expected, names = vector_of_definitions(name, shower, energy)
        assert feature_names(geometry(name)) == tuple(names)
        # relative to each number, but to 1e-12 of 100 mm where a centre cancels between opposite cells
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", OFFICIAL)
def test_widths_that_are_zero_come_out_as_zero(name: str) -> None:
    """One voxel, or hits in one ring, whatever their energies: no noise of the cancellation is left."""
    grid = geometry(name)
    rng = np.random.default_rng(8)
    showers = np.zeros((400, grid.n_voxels), dtype=np.float32)
    for position, layer in enumerate(grid.layer_slices):
        hit = rng.integers(layer.start, layer.stop, 200)
        showers[np.arange(200), hit] = THRESHOLDS[name] * 10.0 ** rng.uniform(0.1, 6.0, 200)
        ring = np.arange(layer.start + grid.layers[position].n_radial - 1, layer.stop, grid.layers[position].n_radial)
        showers[200:, ring] = THRESHOLDS[name] * 10.0 ** rng.uniform(0.1, 6.0, (200, len(ring)))
    found = highlevel_features(showers, np.full(400, 1e6), grid)
    assert np.all(found.width_eta[:200] == 0.0)
    assert np.all(found.width_phi[:200] == 0.0)
    assert np.all(found.width_r == 0.0)
    sizes = np.array([layer.n_voxels for layer in grid.layers])
    np.testing.assert_allclose(found.layer_occupancy[:200] * sizes, np.ones((200, grid.n_layers)))


def hot_and_faint(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """In each shower a hot voxel and a faint one in another ring of one layer, with the exact width along r."""
    grid, threshold = geometry(name), THRESHOLDS[name]
    position = max(range(grid.n_layers), key=lambda n: grid.layers[n].n_radial)
    layer, start = grid.layers[position], grid.layer_slices[position].start
    middles = [(low + high) / 2 for low, high in itertools.pairwise(layer.radial_edges)]
    pairs = [(hot, faint) for hot in range(layer.n_radial) for faint in range(layer.n_radial) if hot != faint]
    showers = np.zeros((len(pairs), grid.n_voxels), dtype=np.float32)
    widths = []
    for shower, (hot, faint) in zip(showers, pairs, strict=True):
        shower[start + hot], shower[start + faint] = 2e5, 1.01 * threshold
        share = Exact(shower[start + faint]) / (Exact(shower[start + faint]) + Exact(shower[start + hot]))
        widths.append(float(abs(middles[hot] - middles[faint]) * np.sqrt(share * (1 - share))))
    return showers, np.array(widths), position


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_smallest_widths_are_exact(name: str) -> None:
    """The case that cancels most: 200 GeV in one voxel, a voxel at the threshold in another ring."""
    showers, widths, layer = hot_and_faint(name)
    found = highlevel_features(showers, np.full(len(showers), 1e6), geometry(name)).width_r[:, layer]
    assert found.min() > 0.0
    np.testing.assert_allclose(found, widths, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "width"),
    [
        ("ds2", "challenge", 362),
        ("ds3", "challenge", 362),
        ("ds1-photons", "challenge", 1 + 5 + 4 * 2 + 1 + 5 + 2 * 5),
        ("ds1-pions", "challenge", 1 + 7 + 4 * 4 + 1 + 7 + 2 * 7),
        ("ds2", "calo4pqvae-226", 226),
        ("ds3", "calo4pqvae-226", 226),
    ],
)
def test_number_of_features(name: str, kind: FeatureKind, width: int) -> None:
    names = feature_names(geometry(name), kind)
    showers = np.zeros((2, geometry(name).n_voxels))
    assert len(names) == len(set(names)) == width
    assert feature_vector(highlevel_features(showers, [1e3, 1e4], geometry(name)), kind).shape == (2, width)


def test_the_226_are_columns_of_the_362() -> None:
    grid = geometry("ds2")
    features = highlevel_features(awkward_showers("ds2"), np.full(9, 1e4), grid)
    columns = dict(zip(feature_names(grid), feature_vector(features).T, strict=True))
    names = feature_names(grid, "calo4pqvae-226")
    assert names[0] == "log10_incident_energy"
    assert names[1:46] == tuple(f"log10_layer_energy_{layer}" for layer in range(45))
    assert names[46::45] == ("centroid_eta_0", "centroid_phi_0", "width_eta_0", "width_phi_0")
    expected = np.stack([columns[name] for name in names], axis=1)
    np.testing.assert_array_equal(feature_vector(features, "calo4pqvae-226"), expected)


def test_an_empty_shower() -> None:
    row = feature_vector(highlevel_features(np.zeros((1, 6480)), [1e3], geometry("ds2")))[0]
    expected = dict.fromkeys(feature_names(geometry("ds2")), 0.0) | {"log10_incident_energy": 3.0}
    for name in expected:
        if "energy" in name and "incident" not in name:
            expected[name] = -8.0
        elif "sparsity" in name:
            expected[name] = 1.0
    np.testing.assert_allclose(row, list(expected.values()), rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_the_threshold_does_not_depend_on_the_number_type(dtype: type) -> None:
    grid = Geometry.regular("cut", 1, 1, 4, 10.0, threshold_mev=2.0)
    showers = np.array([[1, 2, 3, 0]], dtype=dtype)
    assert highlevel_features(showers, [10.0], grid).layer_energy[0, 0] == 5.0


@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.5e-3 / 0.033, 0.3])
def test_the_cut_is_made_in_double_precision(threshold: float) -> None:
    """A float32 voxel counts if and only if the same number in double precision is not below the threshold."""
    grid = Geometry.regular("cut", 1, 1, 3, 10.0, threshold_mev=threshold)
    nearest = np.float32(threshold)
    below, above = np.nextafter(nearest, np.float32(0)), np.nextafter(nearest, np.float32(1))
    showers = np.array([[below, nearest, above]])
    found = highlevel_features(showers, [10.0], grid)
    assert found.layer_occupancy[0, 0] == pytest.approx(np.mean(showers.astype(np.float64) >= threshold))


def test_a_file_in_chunks_gives_what_memory_gives() -> None:
    path, grid = bundled_path("heldout"), geometry("ds2")
    with h5py.File(path, "r") as file:
        energies, showers = file["incident_energies"][:300], file["showers"][:300]
    seen: list[tuple[int, int]] = []
    streamed = file_highlevel_features(path, grid, chunk=700, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(
        feature_vector(streamed)[:300], feature_vector(highlevel_features(showers, energies, grid))
    )
    assert seen == [(700, 1700), (1400, 1700), (1700, 1700)]
    one_shower = streamed.select(np.array([17]))
    expected, _ = vector_of_definitions("ds2", showers[17], float(energies[17, 0]))
    np.testing.assert_allclose(feature_vector(one_shower)[0], expected, rtol=1e-6, atol=1e-12)


def test_features_of_the_report_are_the_same_numbers() -> None:
    path, grid = bundled_path("heldout"), geometry("ds2")
    np.testing.assert_allclose(
        feature_vector(file_features(path, grid)), feature_vector(file_highlevel_features(path, grid)), rtol=1e-12
    )


def two_showers(grid: Geometry) -> HighLevelFeatures:
    return highlevel_features(np.ones((2, grid.n_voxels)), [1e3, 1e3], grid)


def test_samples_of_different_grids_are_not_compared() -> None:
    with pytest.raises(DataError, match="geometry ds2 and the generated sample of ds3"):
        feature_samples(reference=two_showers(geometry("ds2")), generated=two_showers(geometry("ds3")))
    small = Geometry.regular("small", 2, 3, 2, 5.0, threshold_mev=0.1)
    other = Geometry.regular("small-too", 2, 3, 2, 5.0, threshold_mev=0.2)
    with pytest.raises(DataError, match="one threshold"):
        feature_samples(reference=two_showers(small), generated=two_showers(other))
    first, second = feature_samples(reference=two_showers(small), generated=two_showers(small))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("showers", "energies", "message"),
    [
        (np.zeros((3, 5)), np.ones(3), "geometry ds2 needs"),
        (np.zeros(6480), np.ones(1), "geometry ds2 needs"),
        (np.zeros((300, 6480)), np.ones(299), "300 showers come with 299"),
        (np.full((2, 6480), np.nan), np.ones(2), "NaN"),
        (np.full((2, 6480), -np.inf), np.ones(2), "NaN or infinite"),
        (np.zeros((2, 6480)), np.array([1.0, 0.0]), "not positive"),
        (np.zeros((0, 6480)), np.zeros(0), "no showers"),
    ],
)
def test_bad_showers_are_refused(showers: np.ndarray, energies: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        highlevel_features(showers, energies, geometry("ds2"))


def test_unknown_or_unfit_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="choose among challenge, calo4pqvae-226"):
        feature_names(geometry("ds2"), "all")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="45 layers"):
        feature_names(geometry("ds1-pions"), "calo4pqvae-226")
    with pytest.raises(DataError, match="geometry ds3 has"):
        file_highlevel_features(bundled_path("heldout"), geometry("ds3"))


# --- what the challenge's evaluation asks of a file ------------------------------------------------------------------


def read_as_the_challenge_does(path: Path, n_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """The checks of the challenge's evaluate.py and what it does first with the arrays."""
    with h5py.File(path, "r") as file:
        n_events = file["incident_energies"].shape[0]
        assert file["showers"].shape[0] == n_events
        assert file["showers"].shape[1] == n_voxels
        showers, energies = file["showers"][:], file["incident_energies"][:]
    assert showers.dtype.kind == energies.dtype.kind == "f"
    assert energies.shape == (n_events, 1)
    table = np.concatenate([np.log10(energies), showers / energies, np.ones_like(energies)], axis=1)
    assert table.shape == (n_events, n_voxels + 2)
    assert np.isfinite(table).all()
    assert showers[((energies >= 1e3) & (energies < 1e6)).squeeze()].ndim == 2
    return energies, showers


def test_the_challenge_reads_generated_files(tmp_path: Path) -> None:
    model = untrained_model(tiny_config(tiny_file(tmp_path)))
    out = tmp_path / "generated.hdf5"
    generate(model, parse_energies("1000:100000:log", 25, 1, (1e3, 1e5)), out, seed=1)
    energies, showers = read_as_the_challenge_does(out, 6480)
    assert len(showers) == 25
    assert showers.min() >= 0.0
    assert 1e3 <= energies.min() <= energies.max() <= 1e5


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_the_challenge_reads_files_of_every_data_set(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.hdf5"
    with ShowerWriter(path, GEOMETRIES[name].n_voxels, {}) as writer:
        writer.append([[2e3], [3e3]], awkward_showers(name)[:2])
    _, showers = read_as_the_challenge_does(path, WIDTHS[name])
    np.testing.assert_array_equal(showers, awkward_showers(name)[:2])
