from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.showers.files import content_hash
from calo4pqvae.workshop.data import TrainingData, resolve_file

N = 60
FAINT, EMPTY, NEGATIVE = 7, 20, 33


def write(path: Path, *, faults: tuple[int, ...] = ()) -> Path:
    """Showers of dataset 2 that can be told apart by their incident energy; some with a fault."""
    rng = np.random.default_rng(1)
    energies = (2000.0 + 10 * np.arange(N))[:, None]
    showers = np.zeros((N, 6480))
    for row in range(N):
        hit = rng.choice(6480, 30, replace=False)
        showers[row, hit] = rng.uniform(1, 50, 30)
    if FAINT in faults:
        showers[FAINT] = 0.0
        showers[FAINT, 5] = 0.01  # below the read-out threshold of 0.015 MeV
    if EMPTY in faults:
        showers[EMPTY] = 0.0
    if NEGATIVE in faults:
        showers[NEGATIVE, 3] = -1.0
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers
    return path


def settings(path: Path, *overrides: str) -> Config:
    base = [f"data.train={path}", "data.energy_max_mev=1e5", "training.batch_size=8", "data.validation_fraction=0.2"]
    return load_config(None, [*base, *overrides])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "showers.hdf5")


def test_split_is_complete_disjoint_and_set_by_the_seed(path: Path) -> None:
    data = TrainingData(settings(path))
    assert (len(data.train), len(data.validation)) == (48, 12)
    assert sorted([*data.train, *data.validation]) == list(range(N))
    again, other = TrainingData(settings(path)), TrainingData(settings(path, "training.seed=2"))
    np.testing.assert_array_equal(again.validation, data.validation)
    assert set(other.validation) != set(data.validation)


def test_an_epoch_hands_out_each_training_shower_once(path: Path) -> None:
    data = TrainingData(settings(path))
    assert data.steps_per_epoch == 6
    epochs = [np.concatenate([data.rows_of_step(6 * epoch + batch) for batch in range(6)]) for epoch in range(3)]
    for rows in epochs:
        assert sorted(rows) == sorted(data.train)
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(TrainingData(settings(path)).rows_of_step(13), data.rows_of_step(13))


def test_showers_left_over_change_from_epoch_to_epoch(path: Path) -> None:
    data = TrainingData(settings(path, "training.batch_size=10"))
    assert data.steps_per_epoch == 4
    seen = [{int(row) for batch in range(4) for row in data.rows_of_step(4 * epoch + batch)} for epoch in range(2)]
    assert [len(rows) for rows in seen] == [40, 40]
    assert seen[0] != seen[1]


def test_chunks_are_the_showers_of_the_file_in_order(path: Path) -> None:
    data = TrainingData(settings(path))
    rows = np.array([5, 59, 0, 17, 5])
    chunks = list(data.chunks(rows, size=2))
    assert [len(showers) for showers, _ in chunks] == [2, 2, 1]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(
            torch.cat([energies for _, energies in chunks]), file["incident_energies"][:][rows]
        )
        expected = file["showers"][:][rows].astype(np.float32)
    np.testing.assert_array_equal(torch.cat([showers for showers, _ in chunks]).numpy(), expected)


def test_bad_showers_are_an_error_or_dropped_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.hdf5", faults=(FAINT, EMPTY, NEGATIVE))
    with pytest.raises(DataError, match=r"bad\.hdf5 has 1 bad showers .*drop_bad = true"):
        TrainingData(settings(path))
    data = TrainingData(settings(path, "data.drop_bad=true"))
    assert data.dropped == {"negative": 1, "empty": 2}
    kept = {round((energy - 2000) / 10) for energy in data.store.incident_energies[:, 0].tolist()}
    assert kept == set(range(N)) - {FAINT, EMPTY, NEGATIVE}


@pytest.mark.parametrize("fault", [FAINT, EMPTY])
def test_a_shower_with_nothing_above_threshold_counts_as_empty(tmp_path: Path, fault: int) -> None:
    path = write(tmp_path / "dark.hdf5", faults=(fault,))
    with pytest.raises(DataError, match=r"has 1 empty showers, which cannot be learned: set data\.drop_bad = true"):
        TrainingData(settings(path))
    assert TrainingData(settings(path, "data.drop_bad=true")).dropped == {"empty": 1}


def test_fewer_showers_can_be_used(path: Path) -> None:
    data = TrainingData(settings(path, "data.max_showers=40"))
    assert len(data.store) == 40
    energies = data.store.incident_energies[:, 0]
    assert (np.diff(energies) > 0).all()  # order of the file, no shower twice
    assert energies.max() > 2000 + 10 * 40  # chosen at random, not the first ones
    again = TrainingData(settings(path, "data.max_showers=40"))
    np.testing.assert_array_equal(again.store.incident_energies[:, 0], energies)
    other = TrainingData(settings(path, "data.max_showers=40", "training.seed=2"))
    assert not np.array_equal(other.store.incident_energies[:, 0], energies)
    assert len(TrainingData(settings(path, "data.max_showers=1000")).store) == N


@pytest.mark.parametrize(
    "overrides", [["training.batch_size=64"], ["data.validation_fraction=0.02"], ["data.max_showers=9"]]
)
def test_too_few_showers_are_an_error_that_says_what_to_do(path: Path, overrides: list[str]) -> None:
    with pytest.raises(
        ConfigError, match=r"showers are too few for batches of .* lower training\.batch_size or give more"
    ):
        TrainingData(settings(path, *overrides))


def test_energies_outside_the_range_of_the_settings_are_an_error(path: Path) -> None:
    with pytest.raises(DataError, match="incident energy 2590 MeV is outside the range 1000 to 2100 MeV"):
        TrainingData(settings(path, "data.energy_max_mev=2100"))


def test_irregular_grids_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training needs a regular"):
        TrainingData(settings(tmp_path / "absent.hdf5", "data.geometry=ds1-pions"))
    with pytest.raises(DataError, match="there is no file"):
        TrainingData(settings(tmp_path / "absent.hdf5"))


def test_provenance_says_where_the_showers_come_from(path: Path) -> None:
    provenance = TrainingData(settings(path)).provenance()
    assert provenance == {
        "origin": "showers from the file showers.hdf5",
        "file": "showers.hdf5",
        "content_hash": content_hash(path),
        "geometry": "ds2",
        "n_showers": N,
        "n_train": 48,
        "n_validation": 12,
        "dropped": {},
    }
    assert str(path.parent) not in str(provenance)  # no path of this machine


def test_bundled_files_are_two_and_a_path_stands_for_itself() -> None:
    train, origin = resolve_file("bundled", "train")
    heldout, _ = resolve_file("bundled", "heldout")
    assert train != heldout
    assert train.is_file()
    assert heldout.is_file()
    assert "Geant4" in origin
    assert resolve_file("some/file.hdf5", "train") == (Path("some/file.hdf5"), "showers from the file file.hdf5")
