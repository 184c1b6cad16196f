import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from calo4pqvae.errors import DataError, OutputError
from calo4pqvae.prior.bits.file import BitsFile

BITS = np.random.default_rng(0).integers(0, 2, (9, 6)).astype(np.uint8)
GREYS = np.array([[0, 127, 128, 255], [255, 0, 1, 200]], dtype=np.uint8)


def idx(values: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def hdf5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values)
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    labels, condition = np.arange(9), np.linspace(0, 1, 18, dtype=np.float32).reshape(9, 2)
    written = BitsFile(BITS, labels, condition, (2, 3))
    written.write(tmp_path / "new" / "bits.hdf5", {"seed": 3})
    read = BitsFile.read(tmp_path / "new" / "bits.hdf5")
    np.testing.assert_array_equal(read.bits, BITS)
    np.testing.assert_array_equal(read.labels, labels)
    np.testing.assert_array_equal(read.condition, condition)
    assert read.shape == (2, 3)
    assert read.content_hash == written.content_hash
    with h5py.File(tmp_path / "new" / "bits.hdf5") as file:
        assert file["bits"].dtype == np.uint8
        assert file.attrs["seed"] == 3


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.bool_])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_bits_of_any_type_and_file(tmp_path: Path, ending: str, dtype: type) -> None:
    path = tmp_path / f"states{ending}"
    values = BITS.reshape(9, 3, 2).astype(dtype)
    if ending == ".npy":
        np.save(path, values)
    elif ending == ".npz":
        np.savez(path, anything=values, labels=np.arange(9))
    else:
        hdf5(path, anything=values, labels=np.arange(9))
    read = BitsFile.read(path)
    np.testing.assert_array_equal(read.bits, BITS)
    assert read.bits.dtype == np.uint8
    assert read.shape == (3, 2)
    assert (read.labels is not None) == (ending != ".npy")


@pytest.mark.parametrize("is_zipped", [False, True])
def test_images_of_the_idx_format(tmp_path: Path, is_zipped: bool) -> None:
    images, labels = GREYS.reshape(2, 2, 2), np.array([7, 3], dtype=np.uint8)
    pack: Callable[[bytes], bytes] = gzip.compress if is_zipped else bytes
    (tmp_path / "images-idx3-ubyte").write_bytes(pack(idx(images)))
    (tmp_path / "labels-idx1-ubyte").write_bytes(pack(idx(labels)))
    read = BitsFile.read(tmp_path / "images-idx3-ubyte", threshold=0.5, labels=str(tmp_path / "labels-idx1-ubyte"))
    assert read.bits.tolist() == [[0, 0, 1, 1], [1, 0, 0, 1]]
    assert read.labels.tolist() == [7, 3]
    assert read.shape == (2, 2)


def test_greys_of_floats_are_compared_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0.1, 0.5, 0.51]]))
    assert BitsFile.read(tmp_path / "x.npy", threshold=0.5).bits.tolist() == [[0, 0, 1]]


def test_a_split_is_reproducible_and_loses_nothing() -> None:
    states = np.unpackbits(np.arange(100, dtype=np.uint8)[:, None], axis=1)
    whole = BitsFile(states, np.arange(100), np.arange(100, dtype=np.float32)[:, None])
    rest, out = whole.split(0.3, seed=5)
    again, _ = whole.split(0.3, seed=5)
    other, _ = whole.split(0.3, seed=6)
    assert (rest.n_states, out.n_states) == (70, 30)
    assert sorted([*rest.labels, *out.labels]) == list(range(100))
    np.testing.assert_array_equal(np.packbits(out.bits, axis=1)[:, 0], out.labels)
    np.testing.assert_array_equal(out.condition[:, 0], out.labels)
    np.testing.assert_array_equal(rest.bits, again.bits)
    assert rest.labels.tolist() != other.labels.tolist()


def test_the_hash_sees_bits_shape_and_condition() -> None:
    condition = np.zeros((9, 1), dtype=np.float32)
    flipped = BITS.copy()
    flipped[3, 4] ^= 1
    files = [
        BitsFile(BITS),
        BitsFile(flipped),
        BitsFile(BITS.reshape(6, 9)),
        BitsFile(BITS, None, condition),
        BitsFile(BITS, None, condition + 1),
    ]
    assert len({file.content_hash for file in files}) == 5
    assert BitsFile(BITS).content_hash == BitsFile(BITS.copy(), np.arange(9)).content_hash


def test_the_bits_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        BitsFile(BITS.copy()).bits[0, 0] = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GREYS, r"values from 0 to 255, not only 0 and 1; if they are grey values, give a threshold"),
        (np.array([[0, -1]]), "values from -1 to 0"),
        (np.array([[0.0, 1.0], [np.nan, 1.0]]), "NaN or infinity, first in state 1"),
        (np.array([[0.0, np.inf]]), "NaN or infinity, first in state 0"),
        (np.array([["0", "1"]]), "not numbers"),
        (np.array([0, 1, 1]), r"shape \(3,\): give states of bits"),
        (np.zeros((0, 5)), r"shape \(0, 5\)"),
        (np.zeros((5, 0)), r"shape \(5, 0\)"),
    ],
)
def test_what_is_no_bits_is_told(tmp_path: Path, values: NDArray[np.generic], message: str) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=message):
        BitsFile.read(tmp_path / "x.npy", dataset="bits")


@pytest.mark.parametrize("threshold", [float("nan"), float("inf")])
def test_senseless_thresholds_are_refused(tmp_path: Path, threshold: float) -> None:
    np.save(tmp_path / "x.npy", GREYS)
    with pytest.raises(DataError, match="makes no bits"):
        BitsFile.read(tmp_path / "x.npy", threshold=threshold)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".hdf5", ".gz", "-ubyte"])
@pytest.mark.parametrize("share", [0.0, 0.6, 0.95])
def test_truncated_files_are_told(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"states{ending}"
    states = np.random.default_rng(1).integers(0, 2, (400, 50)).astype(np.uint8)
    if ending == ".npy":
        np.save(path, states)
    elif ending == ".npz":
        np.savez_compressed(path, bits=states)
    elif ending == ".hdf5":
        BitsFile(states).write(path)
    else:
        path.write_bytes(gzip.compress(idx(states)) if ending == ".gz" else idx(states))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"states.* cannot be read .*is it whole"):
        BitsFile.read(path)


def test_absent_files_and_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        BitsFile.read(tmp_path / "none.hdf5")
    path = hdf5(tmp_path / "x.h5", one=BITS, two=BITS)
    with pytest.raises(DataError, match=r"not just one that could be it \(one, two\); name one"):
        BitsFile.read(path)
    with pytest.raises(DataError, match="no data set 'three'; it has one, two"):
        BitsFile.read(path, dataset="three")
    with pytest.raises(DataError, match="no data set 'digits'"):
        BitsFile.read(path, dataset="one", labels="digits")


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"labels": np.arange(8)}, "8 labels for 9 states"),
        ({"labels": np.linspace(0, 1, 9)}, "whole number a state"),
        ({"condition": np.zeros((8, 2))}, "8 conditions for 9 states"),
        ({"condition": np.full((9, 2), np.nan)}, "must be finite"),
        ({"condition": np.zeros(9)}, "a row of numbers a state"),
    ],
)
def test_what_stands_beside_the_bits_must_fit(tmp_path: Path, datasets: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        BitsFile.read(hdf5(tmp_path / "x.h5", bits=BITS, **datasets))


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.99])
def test_splits_into_nothing_are_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="leaves a part empty"):
        BitsFile(BITS).split(fraction, 1)


def test_unwritable_places_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot write"):
        BitsFile(BITS).write(tmp_path / "file" / "bits.hdf5")
