"""Every planted fault of a file is found, and nothing is found in a sound one."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.features.screening import Sample, check_units, find_warnings, screened_sample
from calo4pqvae.evaluation.features.showers import file_features
from calo4pqvae.showers.files import content_hash
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import synthetic_showers

Array = NDArray[np.floating[Any]]
Arrays = tuple[Array, Array]

N = 400


@pytest.fixture
def arrays(tiny: Geometry) -> Arrays:
    energies, showers = synthetic_showers(tiny, N, 11)
    return energies.copy(), showers.copy()


@pytest.fixture
def reference(tiny: Geometry, tmp_path: Path) -> Sample:
    return read(tiny, tmp_path, "reference", *synthetic_showers(tiny, N, 12))


def read(grid: Geometry, folder: Path, name: str, energies: Array, showers: Array) -> Sample:
    path = folder / f"{name}.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers
        file.attrs["note"] = "made in a test"
    return screened_sample(path, grid)


def warnings_of(reference: Sample, generated: Sample) -> list[str]:
    return find_warnings(reference.screening, {"model": generated.screening})


def test_sound_files_give_no_warning(tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays) -> None:
    generated = read(tiny, tmp_path, "model", *arrays)
    assert warnings_of(reference, generated) == []
    check_units(reference.screening, {"model": generated.screening}, tiny)
    assert generated.screening.attributes == {"note": "made in a test"}
    assert generated.screening.file == "model.hdf5"


def test_features_and_hash_are_those_of_one_plain_reading(tiny: Geometry, reference: Sample) -> None:
    plain = file_features(reference.path, tiny)
    np.testing.assert_array_equal(reference.features.layer_energy, plain.layer_energy)
    np.testing.assert_array_equal(reference.features.voxel_counts, plain.voxel_counts)
    assert reference.screening.content_sha256 == content_hash(reference.path)
    with h5py.File(reference.path) as file:
        showers = file["showers"][:].astype(np.float64)
    np.testing.assert_allclose(reference.screening.deposited, showers.sum(axis=1), rtol=1e-6)
    assert reference.screening.largest_voxel_mev == showers.max()


def test_same_file_twice(reference: Sample) -> None:
    [first, *_] = warnings_of(reference, reference)
    assert first.startswith("model is the same file as the reference")


def test_showers_of_the_reference_among_the_generated(
    tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays
) -> None:
    energies, showers = arrays
    with h5py.File(reference.path) as file:
        energies[:7], showers[:7] = file["incident_energies"][20:27], file["showers"][20:27]
    [found] = warnings_of(reference, read(tiny, tmp_path, "model", energies, showers))
    assert found.startswith("7 of 400 showers of model are bit for bit showers of the reference")


def test_copies_within_a_file(tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays) -> None:
    energies, showers = arrays
    showers[100:105] = showers[0]
    [found] = warnings_of(reference, read(tiny, tmp_path, "model", energies, showers))
    assert found.startswith("5 showers of model are copies")


def test_empty_and_sparse_showers_are_no_copies(
    tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays
) -> None:
    energies, showers = arrays
    showers[:3] = 0
    showers[3:6] = 0
    showers[3:6, 7] = 1.0
    [found] = warnings_of(reference, read(tiny, tmp_path, "model", energies, showers))
    assert found == "3 showers of model are empty."


def test_negative_and_overfull_voxels(tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays) -> None:
    energies, showers = arrays
    showers[4, 5] = -2.5
    showers[8, 5] = 2 * energies[8, 0]
    negative, overfull = warnings_of(reference, read(tiny, tmp_path, "model", energies, showers))
    assert negative.startswith("1 showers of model hold negative voxels (down to -2.5 MeV)")
    assert overfull.startswith("1 showers of model hold a voxel above the incident energy")


def test_showers_that_lost_their_energies(tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays) -> None:
    energies, showers = arrays
    shuffled = showers[np.random.default_rng(1).permutation(N)]
    [found, *_] = warnings_of(reference, read(tiny, tmp_path, "model", energies, shuffled))
    assert found.startswith("The showers of model do not follow their incident energies (rank correlation")


@pytest.mark.parametrize(
    ("energy_factor", "voxel_factor", "told"),
    [
        (1e-3, 1e-3, r"incident energies of model .* times smaller .* look like GeV"),
        (1.0, 1e-3, r"voxels over incident energies of model .* times smaller .* look like GeV"),
        (1e3, 1e3, r"incident energies of model .* times larger .* the reference in GeV"),
        (1.0, 1e3, r"voxels over incident energies of model .* times larger"),
    ],
)
def test_units(
    tiny: Geometry,
    tmp_path: Path,
    reference: Sample,
    arrays: Arrays,
    energy_factor: float,
    voxel_factor: float,
    told: str,
) -> None:
    energies, showers = arrays
    wrong = read(tiny, tmp_path, "model", energies * energy_factor, showers * voxel_factor)
    with pytest.raises(DataError, match=told):
        check_units(reference.screening, {"model": wrong.screening}, tiny)


@pytest.mark.parametrize(
    ("energy_factor", "voxel_factor", "told"),
    [(1e-3, 1e-3, "begin at 1000 MeV: they look like GeV"), (1.0, 1e-3, "voxels look like GeV")],
)
def test_units_of_both_files_of_a_known_data_set(
    tmp_path: Path, energy_factor: float, voxel_factor: float, told: str
) -> None:
    grid = geometry("ds2")
    energies, showers = synthetic_showers(grid, 120, 3)
    energies = np.minimum(energies, 9e5)
    sample = read(grid, tmp_path, "both", energies * energy_factor, showers * voxel_factor)
    with pytest.raises(DataError, match=told):
        check_units(sample.screening, {"model": sample.screening}, grid)


def test_a_model_that_is_merely_bad_is_no_error(
    tiny: Geometry, tmp_path: Path, reference: Sample, arrays: Arrays
) -> None:
    energies, showers = arrays
    bad = read(tiny, tmp_path, "model", energies, 20 * showers)
    check_units(reference.screening, {"model": bad.screening}, tiny)
