import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae.errors import ConfigError, DataError, OutputError
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.files import (
    ShowerFile,
    ShowerWriter,
    content_hash,
    describe_file,
    split_indices,
    write_virtual,
)
from calo4pqvae.showers.geometry import Geometry, geometry

GRID = Geometry.regular("small", 2, 3, 2, radial_width_mm=10.0)


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    energies = generator.uniform(1e3, 1e5, (n, 1)).astype(np.float32)
    showers = generator.exponential(20.0, (n, 12)) * (generator.random((n, 12)) < 0.4)
    return energies, showers.astype(np.float32)


def write_plain(path: Path, **fields: object) -> Path:
    """Writes fields as h5py does by itself, so that nothing here leans on the writer under test."""
    with h5py.File(path, "w") as file:
        for name, values in fields.items():
            file[name] = values
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    energies, showers = sample(25)
    return write_plain(tmp_path / "plain.hdf5", incident_energies=energies, showers=showers)


def test_file_is_read_in_stretches(plain: Path) -> None:
    energies, showers = sample(25)
    with ShowerFile(plain, GRID) as file:
        assert (file.n_showers, file.n_voxels) == (25, 12)
        assert file.incident_energies().dtype == np.float64
        assert file.read(3, 5).dtype == np.float32
        np.testing.assert_array_equal(file.incident_energies(), energies)
        np.testing.assert_array_equal(file.read(3, 5), showers[3:5])
        parts = list(file.chunks(10))
    assert [len(part) for part, _ in parts] == [10, 10, 5]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in parts]), energies)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), showers)


def test_stretches_end_where_stored_chunks_end(tmp_path: Path) -> None:
    energies, showers = sample(25)
    with h5py.File(tmp_path / "chunked.hdf5", "w") as file:
        file["incident_energies"] = energies
        file.create_dataset("showers", data=showers, chunks=(4, 12))
    with ShowerFile(tmp_path / "chunked.hdf5") as shower_file:
        assert [len(part) for part, _ in shower_file.chunks(10)] == [8, 8, 8, 1]
        assert [len(part) for part, _ in shower_file.chunks(3)] == [3, 3, 3, 3, 3, 3, 3, 3, 1]


def test_flat_energies_and_double_precision_are_taken(tmp_path: Path) -> None:
    energies, showers = sample(5)
    path = write_plain(
        tmp_path / "flat.hdf5", incident_energies=energies[:, 0].astype(np.float64), showers=showers.astype(np.float64)
    )
    with ShowerFile(path) as file:
        np.testing.assert_array_equal(file.incident_energies(), energies)
        np.testing.assert_array_equal(file.read(0, 5), showers)


def bad_missing_file(_path: Path) -> None:
    return


def bad_text(path: Path) -> None:
    path.write_text("incident_energies,showers\n", encoding="utf-8")


def bad_truncated(path: Path) -> None:
    energies, showers = sample(200)
    write_plain(path, incident_energies=energies, showers=showers)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def bad_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["showers"] = np.zeros((2, 12))
        file.create_group("incident_energies")


def bad_fields(**fields: object) -> Callable[[Path], object]:
    return lambda path: write_plain(path, **fields)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (bad_missing_file, "there is no file .*bad.hdf5"),
    "folder": (Path.mkdir, "is a folder"),
    "text": (bad_text, "is not an HDF5 file"),
    "empty bytes": (Path.touch, "is not an HDF5 file"),
    "cut off": (bad_truncated, "is a damaged or cut-off HDF5 file"),
    "misnamed energies": (
        bad_fields(**{"incidence energy": np.ones((2, 1)), "showers": np.ones((2, 12))}),
        r"no array 'incident_energies' but \['incidence energy', 'showers'\]",
    ),
    "no showers field": (bad_fields(incident_energies=np.ones((2, 1))), r"no array 'showers' but \['incident_ene"),
    "group": (bad_group, "no array 'incident_energies'"),
    "other geometry": (
        bad_fields(incident_energies=np.ones((2, 1)), showers=np.ones((2, 368))),
        "368 voxels a shower but geometry small has 12; try geometry ds1-photons",
    ),
    "other width": (
        bad_fields(incident_energies=np.ones((2, 1)), showers=np.ones((2, 11))),
        "11 voxels a shower but geometry small has 12; give the binning",
    ),
    "folded showers": (
        bad_fields(incident_energies=np.ones((2, 1)), showers=np.ones((2, 3, 4))),
        r"showers of shape \(2, 3, 4\)",
    ),
    "wide energies": (
        bad_fields(incident_energies=np.ones((2, 2)), showers=np.ones((2, 12))),
        r"incident_energies of shape \(2, 2\)",
    ),
    "scalar energy": (bad_fields(incident_energies=1.0, showers=np.ones((2, 12))), r"incident_energies of shape \(\)"),
    "lengths differ": (
        bad_fields(incident_energies=np.ones((3, 1)), showers=np.ones((2, 12))),
        "3 incident energies for 2 showers",
    ),
    "strings": (
        bad_fields(incident_energies=np.ones((2, 1)), showers=np.full((2, 12), b"x")),
        "showers of type .*; they must be real",
    ),
    "complex": (
        bad_fields(incident_energies=np.ones((2, 1), dtype=complex), showers=np.ones((2, 12))),
        "incident_energies of type complex128",
    ),
    "no rows": (bad_fields(incident_energies=np.ones((0, 1)), showers=np.ones((0, 12))), "holds no showers"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_gets_one_clear_sentence(name: str, tmp_path: Path) -> None:
    make, message = BAD_FILES[name]
    path = tmp_path / "bad.hdf5"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        ShowerFile(path, GRID)
    assert "\n" not in str(caught.value)
    assert "bad.hdf5" in str(caught.value)


def test_damaged_chunk_is_told(tmp_path: Path) -> None:
    energies, showers = sample(50)
    path = tmp_path / "damaged.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = energies
        stored = file.create_dataset("showers", data=showers, chunks=(50, 12), compression="gzip")
        where = stored.id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset : where.byte_offset + where.size] = b"\xff" * where.size
    path.write_bytes(content)
    with ShowerFile(path) as shower_file, pytest.raises(DataError, match="is damaged: its /showers"):
        shower_file.read(0, 50)


def test_description_tells_what_the_file_is() -> None:
    told = describe_file(bundled_path("heldout"))
    assert told["n_showers"] == 1700
    assert told["n_voxels"] == 6480
    assert told["geometries"] == ["ds2"]
    assert 1000 <= told["energy_min_mev"] < 1100
    assert 90_000 < told["energy_max_mev"] <= 100_000
    assert told["attributes"]["generator"].startswith("Geant4 11.4.1")
    assert told["storage"]["compression"] == "gzip"
    assert describe_file(bundled_path("heldout"), geometry("ds2"))["geometries"] == ["ds2"]


def test_description_of_useless_energies(tmp_path: Path) -> None:
    path = write_plain(tmp_path / "nan.hdf5", incident_energies=np.full((2, 1), np.nan), showers=np.ones((2, 12)))
    assert describe_file(path)["energy_min_mev"] is None


def test_hash_sees_numbers_and_nothing_else(tmp_path: Path) -> None:
    energies, showers = sample(30)
    first = write_plain(tmp_path / "first.hdf5", incident_energies=energies, showers=showers)
    with h5py.File(tmp_path / "second.hdf5", "w") as file:
        file.attrs["note"] = "the same numbers"
        file["incident_energies"] = energies[:, 0].astype(np.float64)
        file.create_dataset("showers", data=showers.astype(np.float64), chunks=(7, 5), compression="gzip")
    assert content_hash(first) == content_hash(tmp_path / "second.hdf5")
    showers[17, 4] += 1.0
    assert content_hash(write_plain(tmp_path / "a.hdf5", incident_energies=energies, showers=showers)) != content_hash(
        first
    )
    energies[3] += 1.0
    showers[17, 4] -= 1.0
    assert content_hash(write_plain(tmp_path / "b.hdf5", incident_energies=energies, showers=showers)) != content_hash(
        first
    )


def test_written_file_is_read_by_plain_h5py(tmp_path: Path) -> None:
    energies, showers = sample(25)
    path = tmp_path / "new" / "written.hdf5"
    with ShowerWriter(path, 12, {"seed": 7, "generator": "test"}, expected=25) as writer:
        writer.append(energies[:10], showers[:10])
        writer.append(energies[10:10], showers[10:10])
        assert not path.exists()
        writer.append(energies[10:, 0].astype(np.float64), showers[10:].astype(np.float64))
        assert writer.n_written == 25
    assert [item.name for item in path.parent.iterdir()] == ["written.hdf5"]
    with h5py.File(path) as file:
        assert sorted(file) == ["incident_energies", "showers"]
        assert file["incident_energies"].shape == (25, 1)
        assert file["incident_energies"].dtype == file["showers"].dtype == np.float32
        assert file["showers"].compression == "gzip"
        np.testing.assert_array_equal(file["incident_energies"][:], energies)
        np.testing.assert_array_equal(file["showers"][:], showers)
        assert dict(file.attrs) == {"seed": 7, "generator": "test"}


def test_failed_writing_leaves_what_was_there(plain: Path) -> None:
    before = plain.read_bytes()
    energies, showers = sample(4)

    def interrupted() -> None:
        with ShowerWriter(plain, 12, {}) as writer:
            writer.append(energies, showers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(OutputError, match="4 of 5 showers came"), ShowerWriter(plain, 12, {}, expected=5) as writer:
        writer.append(energies, showers)
    assert plain.read_bytes() == before
    assert [item.name for item in plain.parent.iterdir()] == [plain.name]


@pytest.mark.parametrize(
    ("energies", "showers"),
    [
        (np.ones((2, 1)), np.ones((2, 11))),
        (np.ones((2, 1)), np.ones((3, 12))),
        (np.ones((2, 2)), np.ones((2, 12))),
        (1.0, np.ones((1, 12))),
    ],
)
def test_writer_refuses_wrong_shapes(energies: np.ndarray, showers: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"), ShowerWriter(tmp_path / "no.hdf5", 12, {}) as writer:
        writer.append(energies, showers)
    assert list(tmp_path.iterdir()) == []


def test_output_where_a_file_is_in_the_way_of_its_folder(plain: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), ShowerWriter(plain / "out.hdf5", 12, {}):
        pass


# A process of its own, since HDF5 keeps a file that it could not flush until the process ends.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from calo4pqvae.errors import OutputError
from calo4pqvae.showers.files import ShowerWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).random((200, 1000))
try:
    with ShowerWriter(Path(sys.argv[1]), 1000, {}) as writer:
        for _ in range(int(sys.argv[2])):
            writer.append(np.ones((200, 1)), noise)
except OutputError as error:
    print("told:", error)
"""


@pytest.mark.parametrize("appends", [1, 20])
def test_full_disk_is_told_and_leaves_the_old_file(appends: int, plain: Path) -> None:
    before = plain.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(plain), str(appends)], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"told: cannot write {plain}"), done.stderr
    assert done.stdout.count("\n") == 1
    assert plain.read_bytes() == before
    assert [item.name for item in plain.parent.iterdir()] == [plain.name]


def write_parts(folder: Path, lengths: list[int]) -> list[Path]:
    energies, showers = sample(sum(lengths))
    paths, start = [], 0
    for rank, length in enumerate(lengths):
        paths.append(folder / f"part-{rank}.hdf5")
        with ShowerWriter(paths[-1], 12, {"seed": 3, "rank": rank}) as writer:
            writer.append(energies[start : start + length], showers[start : start + length])
        start += length
    return paths


def test_parts_read_as_one_file_wherever_the_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    parts = write_parts(folder / "parts", [4, 0, 7])
    write_virtual(folder / "showers.hdf5", parts)
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    monkeypatch.chdir(tmp_path)
    for path in (moved / "showers.hdf5", Path("elsewhere/moved/showers.hdf5")):
        with ShowerFile(path, GRID) as file:
            np.testing.assert_array_equal(file.incident_energies(), sample(11)[0])
            np.testing.assert_array_equal(file.read(0, 11), sample(11)[1])
            assert file.attributes == {"seed": 3}
            assert file.storage["is_virtual"]


def test_lost_part_is_told_and_not_read_as_zeros(tmp_path: Path) -> None:
    parts = write_parts(tmp_path, [4, 7])
    write_virtual(tmp_path / "showers.hdf5", parts)
    os.remove(parts[1])  # noqa: PTH107
    with pytest.raises(DataError, match=r"parts that are not there \(part-1.hdf5\)"):
        ShowerFile(tmp_path / "showers.hdf5")


def test_parts_must_fit_each_other(tmp_path: Path) -> None:
    first = write_parts(tmp_path, [2])[0]
    wide = write_plain(tmp_path / "wide.hdf5", incident_energies=np.ones((2, 1)), showers=np.ones((2, 13)))
    flat = write_plain(tmp_path / "flat.hdf5", incident_energies=np.ones(2), showers=np.ones((2, 12)))
    out = tmp_path / "out.hdf5"
    for parts, message in (
        ([first, wide], r"\[12, 13\] voxels"),
        ([first, flat], "cannot be a part"),
        ([], "no showers"),
        ([tmp_path / "absent"], "no file"),
    ):
        with pytest.raises(DataError, match=message):
            write_virtual(out, parts)
    assert not out.exists()


@pytest.mark.parametrize("n", [10, 997])
def test_split_is_complete_disjoint_and_repeatable(n: int) -> None:
    shares = {"train": 0.7, "validation": 0.2, "test": 0.1}
    split = split_indices(n, shares, seed=4)
    assert list(split) == list(shares)
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(n))
    assert all(abs(len(split[name]) - share * n) <= 1 for name, share in shares.items())
    again = split_indices(n, shares, seed=4)
    other = split_indices(n, shares, seed=5)
    assert all(np.array_equal(split[name], again[name]) for name in shares)
    assert not np.array_equal(split["train"], other["train"])


def test_part_of_no_share_gets_nothing() -> None:
    assert len(split_indices(10, {"train": 1.0, "test": 0.0}, seed=0)["test"]) == 0


@pytest.mark.parametrize("fractions", [{"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan")}, {}])
def test_shares_must_be_a_split(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        split_indices(10, fractions, seed=0)


def test_starved_part_is_told() -> None:
    with pytest.raises(DataError, match="test gets none"):
        split_indices(5, {"train": 0.98, "test": 0.02}, seed=0)
