"""Files of bits that a stand-alone machine is trained on, and that it writes.

A file holds states of n bits, one a row, as zeros and ones: HDF5 (data set ``bits``, or the only one that fits), NPZ,
NPY, or the IDX format of the MNIST images, plain or compressed by gzip. What holds grey values instead becomes bits
above a threshold, if one is given; without one it is an error, since a file of grey values is otherwise a mistake.
Values of uint8 are divided by 255 before they are compared, so that a threshold of 0.5 means half of the full range
whatever the type. Rows with more than one axis (images) are flattened in C order and their shape is remembered.

Labels and conditions may stand beside the bits: data sets ``labels`` (whole numbers, one a state) and ``condition``
(real numbers, a row a state).
"""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from calo4pqvae.atomic import atomic_path
from calo4pqvae.errors import DataError

__all__ = ["BitsFile"]

_IDX_TYPES: Mapping[int, str] = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_HDF5_ENDINGS = (".h5", ".hdf5")
_GREYS = 255.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class BitsFile:
    """States of bits with what stands beside them.

    Args:
        bits: Zeros and ones (N, n), uint8, read-only.
        labels: A whole number a state (N,), or None.
        condition: Real numbers (N, n_c), float32, or None.
        shape: Shape of a state before it was flattened, for pictures.
        source: Where the bits came from, for people.

    Raises:
        DataError: If there is no state, a value is not a bit, or lengths do not fit.
    """

    bits: NDArray[np.uint8]
    labels: NDArray[np.int64] | None = None
    condition: NDArray[np.float32] | None = None
    shape: tuple[int, ...] = ()
    source: str = "memory"

    def __post_init__(self) -> None:
        bits = np.ascontiguousarray(self.bits)
        if bits.ndim != 2 or bits.size == 0:
            raise DataError(f"{self.source} holds no states: its bits have shape {bits.shape}; give at least one")
        if bits.dtype != np.uint8 or bits.max() > 1:
            raise DataError(f"{self.source} holds values other than 0 and 1; give a threshold that makes bits of them")
        for name, values in (("labels", self.labels), ("conditions", self.condition)):
            if values is not None and len(values) != len(bits):
                raise DataError(f"{self.source} has {len(values)} {name} for {len(bits)} states; give one for each")
        if self.condition is not None and not (self.condition.ndim == 2 and np.isfinite(self.condition).all()):
            raise DataError(f"the conditions in {self.source} must be finite numbers, a row for each state")
        bits = bits.view()
        bits.setflags(write=False)
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "shape", self.shape or (bits.shape[1],))

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.bits)

    @property
    def n_bits(self) -> int:
        """Bits of a state."""
        return int(self.bits.shape[1])

    @property
    def content_hash(self) -> str:
        """SHA-256 over bits and conditions, in hexadecimal digits."""
        digest = hashlib.sha256(np.array(self.bits.shape, dtype="<i8").tobytes())
        digest.update(np.packbits(self.bits).tobytes())
        if self.condition is not None:
            digest.update(self.condition.astype("<f4").tobytes())
        return digest.hexdigest()

    def take(self, rows: NDArray[np.int64]) -> "BitsFile":
        """Some of the states, in the given order."""
        return BitsFile(
            self.bits[rows],
            None if self.labels is None else self.labels[rows],
            None if self.condition is None else self.condition[rows],
            self.shape,
            self.source,
        )

    def split(self, fraction: float, seed: int) -> tuple["BitsFile", "BitsFile"]:
        """A random share that is held out, and the rest.

        Args:
            fraction: The share to hold out.
            seed: Seed of the permutation.

        Returns:
            The rest, and the states held out, each in the order of the file.

        Raises:
            DataError: If one of the two would be empty.
        """
        n_out = round(fraction * self.n_states)
        if not 0 < n_out < self.n_states:
            raise DataError(
                f"a share of {fraction:g} of {self.n_states} states leaves a part empty; give another share"
            )
        order = np.random.default_rng(seed).permutation(self.n_states)
        return self.take(np.sort(order[n_out:])), self.take(np.sort(order[:n_out]))

    @classmethod
    def read(
        cls, path: Path, dataset: str | None = None, threshold: float | None = None, labels: str | None = None
    ) -> Self:
        """Reads a file, told apart by its ending: ``.hdf5`` or ``.h5``, ``.npz``, ``.npy``; anything else is IDX.

        Args:
            path: The file.
            dataset: Name of the data set or array of bits; ``bits`` or the only one that fits if None.
            threshold: Value above which a bit is one; None for files of zeros and ones.
            labels: Name of the labels, or for IDX the file of labels; ``labels`` is taken if it is there.

        Raises:
            DataError: If the file cannot be read or does not hold bits.
        """
        path = Path(path)
        arrays = _read_arrays(path, labels)
        name = dataset or _only_states(arrays, path)
        if name not in arrays:
            raise DataError(f"{path} has no data set '{name}'; it has {', '.join(sorted(arrays)) or 'none'}")
        raw = arrays[name]
        if raw.ndim < 2 or raw.size == 0:
            raise DataError(f"'{name}' of {path} has shape {raw.shape}: give states of bits, one a row")
        if labels is not None and (labels if path.suffix in (*_HDF5_ENDINGS, ".npz") else "labels") not in arrays:
            raise DataError(f"{path} has no data set '{labels}'; it has {', '.join(sorted(arrays))}")
        numbers = arrays.get(labels or "labels", arrays.get("labels"))
        condition = arrays.get("condition")
        return cls(
            _as_bits(raw.reshape(len(raw), -1), threshold, path),
            None if numbers is None else _as_labels(numbers, path),
            None if condition is None else _as_condition(condition, path),
            tuple(raw.shape[1:]),
            path.name,
        )

    def write(self, path: Path, attributes: Mapping[str, str | int | float] | None = None) -> None:
        """Writes the states as HDF5, whole or not at all.

        Args:
            path: The file.
            attributes: What shall be known about them, as root attributes.

        Raises:
            OutputError: If the file cannot be written.
        """
        shape = (self.n_states, *self.shape)
        rows = max(1, min(self.n_states, _CHUNK_BYTES // self.n_bits))
        with atomic_path(path) as partial, h5py.File(partial, "w") as file:
            file.create_dataset(
                "bits", data=self.bits.reshape(shape), chunks=(rows, *self.shape), compression="gzip", shuffle=True
            )
            if self.labels is not None:
                file.create_dataset("labels", data=self.labels)
            if self.condition is not None:
                file.create_dataset("condition", data=self.condition)
            file.attrs.update(dict(attributes or {}))


def _read_arrays(path: Path, labels: str | None) -> dict[str, NDArray[Any]]:
    """All arrays of a file by name."""
    if not path.is_file():
        raise DataError(f"there is no file {path}; give a file of bits (HDF5, NPZ, NPY or IDX)")
    try:
        if path.suffix in _HDF5_ENDINGS:
            with h5py.File(path) as file:
                return {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}
        if path.suffix in (".npz", ".npy"):
            with path.open("rb") as opened:  # numpy would leave the file open if it is damaged
                loaded = np.load(opened)
                return {"bits": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        arrays = {"bits": _read_idx(path)}
        if labels is not None:
            arrays["labels"] = _read_idx(Path(labels))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise DataError(
            f"{path} cannot be read ({error}); is it whole, and of the format that its name says?"
        ) from error
    return arrays


def _read_idx(path: Path) -> NDArray[Any]:
    """An array of the IDX format: two zero bytes, the type, the number of axes, their lengths, the values."""
    with path.open("rb") as file:
        is_zipped = file.read(2) == b"\x1f\x8b"
    content = gzip.decompress(path.read_bytes()) if is_zipped else path.read_bytes()
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError("it does not begin like an IDX file")
    dtype, n_axes = np.dtype(_IDX_TYPES[content[2]]), content[3]
    lengths = struct.unpack_from(f">{n_axes}I", content, 4)
    start = 4 + 4 * n_axes
    expected = start + dtype.itemsize * int(np.prod(lengths, dtype=np.int64))
    if len(content) != expected:
        raise ValueError(f"it has {len(content)} bytes and announces {expected}")
    values = np.frombuffer(content, dtype, offset=start)
    return values.astype(dtype.newbyteorder("=")).reshape(lengths)


def _only_states(arrays: Mapping[str, NDArray[Any]], path: Path) -> str:
    if "bits" in arrays:
        return "bits"
    fitting = [name for name, array in arrays.items() if array.ndim > 1 and name != "condition"]
    if len(fitting) != 1:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{path} has no data set 'bits' and not just one that could be it ({found}); name one")
    return fitting[0]


def _as_bits(values: NDArray[Any], threshold: float | None, path: Path) -> NDArray[np.uint8]:
    if values.dtype.kind not in "buif":
        raise DataError(f"{path} holds {values.dtype} values, not numbers; give bits")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise DataError(f"{path} holds NaN or infinity, first in state {row}; remove such states")
    if threshold is not None:
        if not np.isfinite(threshold):
            raise DataError(f"a threshold of {threshold} makes no bits; give a number, for example 0.5")
        scale = _GREYS if values.dtype == np.uint8 else 1.0
        return (values > threshold * scale).astype(np.uint8)
    if not ((values == 0) | (values == 1)).all():
        low, high = values.min(), values.max()
        raise DataError(
            f"{path} holds values from {low} to {high}, not only 0 and 1; if they are grey values, give a threshold, "
            "for example 0.5"
        )
    return values.astype(np.uint8)


def _as_labels(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if values.ndim != 1 or values.dtype.kind not in "bui":
        raise DataError(f"the labels of {path} are {values.dtype} of shape {values.shape}; give a whole number a state")
    return values.astype(np.int64)


def _as_condition(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DataError(
            f"the conditions of {path} are {values.dtype} of shape {values.shape}; give a row of numbers a state"
        )
    return values.astype(np.float32)
