from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from calo4pqvae.errors import DataError
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.showers.store import ShowerStore

GRID = Geometry.regular("small", 2, 3, 2, radial_width_mm=10.0)


def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    showers = generator.exponential(5.0, (n, 12)) * (generator.random((n, 12)) < 0.3)
    showers[2] = 0.0
    return showers.astype(np.float32), generator.uniform(1e3, 1e4, (n, 1)).astype(np.float32)


def test_any_batch_comes_back_exactly() -> None:
    showers, energies = sample(40)
    store = ShowerStore.from_arrays(showers, energies)
    assert len(store) == 40
    for indices in ([5], [2], [7, 2, 39, 0, 7], list(range(40)), []):
        found, incident = store.batch(indices)
        assert found.dtype == incident.dtype == torch.float32
        assert found.shape == (len(indices), 12)
        np.testing.assert_array_equal(found.numpy(), showers[indices])
        np.testing.assert_array_equal(incident.numpy(), energies[indices])


def test_indices_may_be_a_tensor() -> None:
    showers, energies = sample(5)
    found, _ = ShowerStore.from_arrays(showers, energies[:, 0]).batch(torch.tensor([4, 1]))
    np.testing.assert_array_equal(found.numpy(), showers[[4, 1]])


def test_subset_is_a_store_of_its_own() -> None:
    showers, energies = sample(20)
    part = ShowerStore.from_arrays(showers, energies).subset([9, 2, 4])
    assert len(part) == 3
    assert part.offsets[-1] == len(part.values) == np.count_nonzero(showers[[9, 2, 4]])
    np.testing.assert_array_equal(part.batch([0, 1, 2])[0].numpy(), showers[[9, 2, 4]])


@pytest.mark.parametrize("indices", [[-1], [5], [0, 17]])
def test_absent_shower_is_an_index_error(indices: list[int]) -> None:
    store = ShowerStore.from_arrays(*sample(5))
    with pytest.raises(IndexError, match="0 to 4"):
        store.batch(indices)


def test_arrays_must_fit() -> None:
    with pytest.raises(DataError, match="cannot be stored"):
        ShowerStore.from_arrays(np.zeros((3, 12)), np.ones(2))


@pytest.mark.parametrize(("n_voxels", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_last_voxel_of_a_large_grid_has_its_number(n_voxels: int, dtype: type) -> None:
    showers = np.zeros((2, n_voxels), dtype=np.float32)
    showers[1, -1] = 3.0
    store = ShowerStore.from_arrays(showers, np.ones(2))
    assert store.voxels.dtype == dtype
    np.testing.assert_array_equal(store.batch([0, 1])[0].numpy(), showers)


def write(path: Path, showers: np.ndarray, energies: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies
        file["showers"] = showers
    return path


def test_bad_showers_are_refused_or_dropped_and_counted(tmp_path: Path) -> None:
    showers, energies = sample(30)
    showers[4, 3] = np.nan
    showers[11, 0] = -2.0
    showers[12, 5] = 2e4
    showers[20, :2] = (-1.0, np.nan)  # two faults, one shower
    path = write(tmp_path / "bad.hdf5", showers, energies)
    with pytest.raises(
        DataError, match=r"4 bad showers \(2 nonfinite, 2 negative, 1 voxel_above.*data.drop_bad = true"
    ):
        ShowerStore.from_file(path, GRID)
    store = ShowerStore.from_file(path, GRID, drop_bad=True, chunk=7)
    assert store.n_dropped == 4
    assert store.dropped == {
        "nonfinite": 2,
        "negative": 2,
        "bad_incident_energy": 0,
        "voxel_above_incident_energy": 1,
    }
    kept = [row for row in range(30) if row not in (4, 11, 12, 20)]
    np.testing.assert_array_equal(store.batch(range(26))[0].numpy(), showers[kept])
    np.testing.assert_array_equal(store.batch(range(26))[1].numpy(), energies[kept])


def test_file_of_bad_showers_only_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.hdf5", np.full((3, 12), -1.0), np.ones((3, 1)))
    with pytest.raises(DataError, match="no good shower left of 3"):
        ShowerStore.from_file(path, GRID, drop_bad=True)


def test_genuine_showers_take_six_bytes_a_hit() -> None:
    store = ShowerStore.from_file(bundled_path("heldout"), geometry("ds2"))
    with ShowerFile(bundled_path("heldout")) as file:
        dense = file.read(0, 1700)
    np.testing.assert_array_equal(store.batch([0, 813, 1699])[0].numpy(), dense[[0, 813, 1699]])
    assert store.nbytes == 6 * np.count_nonzero(dense) + 1700 * (4 + 8) + 8
    assert store.nbytes / len(store) < 5_000
