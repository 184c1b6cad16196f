"""Features against a plain loop over voxels, written from the definitions of the challenge."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.showers import (
    EnergyBins,
    ShowerFeatures,
    file_features,
    shower_features,
    voxel_energy_edges,
)
from calo4pqvae.showers.geometry import Geometry, geometry


def loop_over_voxels(grid: Geometry, shower: np.ndarray) -> list[dict[str, float]]:
    """The definitions, one voxel at a time: a list over layers."""
    layers, position = [], 0
    for layer in grid.layers:
        sums = dict.fromkeys(("e", "eta", "phi", "r", "eta2", "phi2", "r2", "hits"), 0.0)
        for a in range(layer.n_alpha):
            for k in range(len(layer.radial_edges) - 1):
                energy = float(shower[position])
                position += 1
                if energy < grid.threshold_mev:
                    continue
                r = (layer.radial_edges[k] + layer.radial_edges[k + 1]) / 2
                alpha = -math.pi + (a + 0.5) * 2 * math.pi / layer.n_alpha
                eta, phi = (r * math.cos(alpha), r * math.sin(alpha)) if layer.n_alpha > 1 else (0.0, 0.0)
                sums["hits"] += energy > 0
                sums["e"] += energy
                for name, value in (("eta", eta), ("phi", phi), ("r", r)):
                    sums[name] += value * energy
                    sums[f"{name}2"] += value**2 * energy
        found = {"energy": sums["e"], "occupancy": sums["hits"] / (layer.n_alpha * (len(layer.radial_edges) - 1))}
        for name in ("eta", "phi", "r"):
            mean = sums[name] / (sums["e"] + 1e-16)
            found[f"centroid_{name}"] = mean
            found[f"width_{name}"] = math.sqrt(max(0.0, sums[f"{name}2"] / (sums["e"] + 1e-16) - mean**2))
        layers.append(found)
    assert position == len(shower)
    return layers


def awkward_showers(grid: Geometry) -> np.ndarray:
    """Sparse showers with an empty one, empty layers, a layer with one voxel, and voxels below the threshold."""
    rng = np.random.default_rng(5)
    showers = rng.exponential(20 * grid.threshold_mev, (6, grid.n_voxels)) * (rng.random((6, grid.n_voxels)) < 0.4)
    showers[0] = 0.0
    showers[1, grid.layer_slices[0]] = 0.0
    showers[2, grid.layer_slices[1]] = 0.0
    showers[2, grid.layer_slices[1].start + 1] = 7.0
    showers[3, ::3] = 0.9 * grid.threshold_mev
    return showers.astype(np.float32)


@pytest.mark.parametrize("name", ["ds1-photons", "ds1-pions", "ds2"])
def test_features_equal_a_loop_over_voxels(name: str) -> None:
    grid = geometry(name)
    showers = awkward_showers(grid)
    energies = np.linspace(1e3, 5e4, len(showers))[:, None]
    found = shower_features(showers, energies, grid)
    for n, shower in enumerate(showers):
        layers = loop_over_voxels(grid, shower)
        for key in ("eta", "phi", "r"):
            for kind in ("centroid", "width"):
                column = f"{kind}_{key}"
                expected = [layer[column] for layer in layers]
                # a width that is zero comes out of the loop as the root of a rounding error
                np.testing.assert_allclose(getattr(found, column)[n], expected, rtol=1e-6, atol=2e-4)
        np.testing.assert_allclose(found.layer_energy[n], [layer["energy"] for layer in layers], rtol=1e-12)
        np.testing.assert_allclose(found.layer_occupancy[n], [layer["occupancy"] for layer in layers], rtol=1e-12)
        kept = np.where(shower.astype(np.float64) >= grid.threshold_mev, shower.astype(np.float64), 0.0)
        assert found.total_energy[n] == pytest.approx(kept.sum(), rel=1e-12)
        assert found.occupancy[n] == pytest.approx((kept > 0).mean())
        assert found.voxel_counts[n].sum() == (kept > 0).sum()
    assert found.total_energy[0] == 0.0
    assert found.width_r[2, 1] == 0.0  # a single voxel has no width
    np.testing.assert_allclose(found.response, found.total_energy / energies[:, 0])
    assert np.all(found.layer_fractions[0] == 0.0)


def test_radial_energy_and_mean_shower(tiny: Geometry) -> None:
    showers = np.random.default_rng(0).exponential(1.0, (5, tiny.n_voxels)) + 1.0
    found = shower_features(showers, np.full(5, 1e4), tiny)
    assert found.radial_energy is not None
    assert found.mean_shower is not None
    for ring in range(4):
        voxels = [v for v in range(tiny.n_voxels) if v % 4 == ring]
        np.testing.assert_allclose(found.radial_energy[:, ring], showers[:, voxels].sum(axis=1))
    np.testing.assert_allclose(found.mean_shower, showers.mean(axis=0))
    assert (
        shower_features(awkward_showers(geometry("ds1-pions")), np.ones(6), geometry("ds1-pions")).radial_energy is None
    )


def test_voxel_counts_fall_into_their_bins(tiny: Geometry) -> None:
    showers = np.zeros((1, tiny.n_voxels))
    showers[0, :4] = [0.0149, 0.02, 0.5, 3e7]  # below the threshold, two inside, one beyond the last edge
    found = shower_features(showers, [1e8], tiny)
    edges = found.voxel_edges
    where = np.flatnonzero(found.voxel_counts[0])
    assert len(where) == 3
    assert edges[where[0]] <= 0.02 < edges[where[0] + 1]
    assert edges[where[1]] <= 0.5 < edges[where[1] + 1]
    assert where[2] == len(edges) - 2


@pytest.mark.parametrize("threshold", [0.5e-3 / 0.033, 1.0, 0.0, 0.03, 0.0999])
def test_spectrum_edges_hold_every_half_decade(threshold: float) -> None:
    edges = voxel_energy_edges(threshold)
    assert edges[0] == max(threshold, 1e-4)
    assert edges[-1] == pytest.approx(1e6)
    assert np.all(np.diff(edges) > 0)
    for half_decade in 10.0 ** (np.arange(-8, 13) / 2):
        if half_decade > edges[0]:
            assert np.min(np.abs(edges / half_decade - 1)) < 1e-9


def test_chunks_do_not_change_the_features(tmp_path: Path, tiny: Geometry, generated_showers: tuple) -> None:
    energies, showers = (array[:57] for array in generated_showers)
    path = tmp_path / "showers.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers
    seen: list[tuple[int, int]] = []
    streamed = file_features(path, tiny, chunk=10, progress=lambda done, total: seen.append((done, total)))
    whole = shower_features(showers, energies, tiny)
    for name in ("layer_energy", "width_eta", "voxel_counts", "mean_shower", "radial_energy"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-12)
    assert seen[0] == (10, 57)
    assert seen[-1] == (57, 57)


def test_selection_keeps_rows_and_forgets_the_mean_shower(generated: ShowerFeatures) -> None:
    picked = generated.select(np.array([3, 1]))
    np.testing.assert_array_equal(picked.layer_energy, generated.layer_energy[[3, 1]])
    np.testing.assert_array_equal(picked.incident_energy, generated.incident_energy[[3, 1]])
    assert picked.mean_shower is None
    assert picked.n_showers == 2


def test_thirds_are_equal_in_log_energy_and_hold_every_shower(generated: ShowerFeatures) -> None:
    bins = EnergyBins.thirds_of(generated.incident_energy)
    np.testing.assert_allclose(bins.edges, [1e3, 10 ** (11 / 3), 10 ** (13 / 3), 1e5], rtol=1e-9)
    assert np.all(np.sum(bins.masks(generated.incident_energy), axis=0) == 1)
    assert sum(part.n_showers for part in bins.split(generated)) == generated.n_showers
    assert bins.labels[0] == "1-4.64 GeV"


def test_bins_contain_their_ends_and_nothing_beyond() -> None:
    bins = EnergyBins((1.0, 2.0, 4.0))
    masks = bins.masks(np.array([0.5, 1.0, 2.0, 4.0, 4.1]))
    assert [mask.tolist() for mask in masks] == [
        [False, True, False, False, False],
        [False, False, True, True, False],
    ]


@pytest.mark.parametrize(
    ("energies", "change", "message"),
    [
        ([1e4, 1e4], lambda s: s[:, :-1], "choose the geometry"),
        ([1e4], lambda s: s, "incident energies"),
        ([1e4, 1e4], lambda s: s * np.nan, "NaN"),
        ([1e4, -1.0], lambda s: s, "not positive"),
        ([], lambda s: s[:0], "no showers"),
    ],
)
def test_unusable_showers_are_refused(tiny: Geometry, energies: list, change: object, message: str) -> None:
    showers = change(np.ones((2, tiny.n_voxels)))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        shower_features(showers, energies, tiny)


def test_empty_energy_range_is_refused() -> None:
    with pytest.raises(DataError, match="0 < low < high"):
        EnergyBins.logarithmic(5.0, 5.0)
