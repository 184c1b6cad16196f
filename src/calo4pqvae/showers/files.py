"""Shower files in the layout of the CaloChallenge, in and out.

A file is HDF5 with two arrays, ``incident_energies`` of shape (showers, 1) and ``showers`` of shape (showers,
voxels), both in MeV, voxels in the order (layer, angle, radius) with the radius fastest. Nothing else is
needed; files written here carry root attributes that tell how they were made.

Files are read in stretches of rows, since a hundred thousand showers of data set 2 take 2.6 GB in float32. A
file is written under a temporary name and renamed when whole. Parts written by several processes are read as
one through an HDF5 virtual data set, which names them relative to its own folder, so that the folder can be
moved.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt

from calo4pqvae.atomic import atomic_path
from calo4pqvae.errors import ConfigError, DataError, OutputError
from calo4pqvae.showers.geometry import GEOMETRIES, Geometry

__all__ = [
    "ShowerFile",
    "ShowerWriter",
    "content_hash",
    "describe_file",
    "split_indices",
    "write_virtual",
]

ENERGIES_FIELD = "incident_energies"
SHOWERS_FIELD = "showers"
READ_ROWS = 2000
WRITE_ROWS = 100

Attributes = Mapping[str, str | int | float | bool]


class ShowerFile:
    """A shower file open for reading; used as a context manager.

    Opening checks the layout but not the numbers, which :func:`~calo4pqvae.showers.validation.validate_file`
    does.

    Args:
        path: The file.
        geometry: The grid that the voxels shall fit, or ``None`` to take any width.

    Raises:
        DataError: If the file is missing, damaged, empty, lacks a field or does not fit the geometry.

    Example:
        >>> from calo4pqvae.showers.bundled import bundled_path
        >>> with ShowerFile(bundled_path("heldout")) as file:
        ...     (file.n_showers, file.n_voxels)
        (1700, 6480)
    """

    def __init__(self, path: Path, geometry: Geometry | None = None) -> None:
        self.path = Path(path)
        with ExitStack() as stack:
            self._file = stack.enter_context(_open(self.path))
            self._energies = _field(self._file, self.path, ENERGIES_FIELD)
            self._showers = _field(self._file, self.path, SHOWERS_FIELD)
            self._check_shapes(geometry)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; reading from it is an error from then on."""
        self._stack.close()

    @property
    def n_showers(self) -> int:
        """Number of showers."""
        return int(self._showers.shape[0])

    @property
    def n_voxels(self) -> int:
        """Number of voxels of each shower."""
        return int(self._showers.shape[1])

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes, as plain Python values."""
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in self._file.attrs.items()}

    @property
    def storage(self) -> dict[str, Any]:
        """How the voxels are stored: number type, chunk shape, compression, and whether in several files."""
        return {
            "dtype": str(self._showers.dtype),
            "chunks": self._showers.chunks,
            "compression": self._showers.compression,
            "is_virtual": bool(self._showers.is_virtual),
        }

    def incident_energies(self) -> npt.NDArray[np.float64]:
        """All incident energies in MeV, shape (showers, 1)."""
        return np.asarray(self._read(self._energies, slice(None)), dtype=np.float64).reshape(-1, 1)

    def read(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Showers from row ``start`` up to, not including, row ``stop``, in MeV, shape (rows, voxels).

        Raises:
            DataError: If the stored numbers cannot be decoded.
        """
        raw = self._read(self._showers, slice(start, stop))
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite: validation tells
            return raw.astype(np.float32, copy=False)

    def chunks(self, rows: int = READ_ROWS) -> Iterator[tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]]:
        """Goes through the file in order.

        Args:
            rows: At most so many showers at a time, rounded down to whole stored chunks if these are smaller.

        Yields:
            Incident energies (rows, 1) and showers (rows, voxels).
        """
        stored = self._showers.chunks[0] if self._showers.chunks else 1
        step = rows // stored * stored or rows
        energies = self.incident_energies()
        for start in range(0, self.n_showers, step):
            yield energies[start : start + step], self.read(start, min(start + step, self.n_showers))

    def _read(self, field: h5py.Dataset, rows: slice) -> npt.NDArray[Any]:
        try:
            return np.asarray(field[rows])
        except (OSError, RuntimeError) as error:
            raise DataError(f"{self.path} is damaged: its {field.name} cannot be decoded; fetch it again") from error

    def _check_shapes(self, geometry: Geometry | None) -> None:
        energies, showers = self._energies.shape, self._showers.shape
        if len(showers) != 2:
            raise DataError(f"{self.path} has showers of shape {showers}; they must be (showers, voxels)")
        if len(energies) not in (1, 2) or energies[1:] not in ((), (1,)):
            raise DataError(f"{self.path} has incident_energies of shape {energies}; they must be (showers, 1)")
        if energies[0] != showers[0]:
            raise DataError(
                f"{self.path} has {energies[0]} incident energies for {showers[0]} showers; give one a shower"
            )
        if geometry is not None and showers[1] != geometry.n_voxels:
            fitting = [name for name, known in GEOMETRIES.items() if known.n_voxels == showers[1]]
            advice = f"try geometry {fitting[0]}" if fitting else "give the binning of this file"
            raise DataError(
                f"{self.path} has {showers[1]} voxels a shower but geometry {geometry.name} has "
                f"{geometry.n_voxels}; {advice}"
            )
        if showers[0] == 0 or showers[1] == 0:
            raise DataError(f"{self.path} holds no showers; give a file with at least one")


def describe_file(path: Path, geometry: Geometry | None = None) -> dict[str, Any]:
    """What a file is, without reading its voxels.

    Args:
        path: The file.
        geometry: The grid that it shall fit; by default every built-in grid of its width is named.

    Returns:
        JSON-ready: file name and size in bytes, number of showers and voxels, names of fitting geometries,
        lowest and highest finite incident energy in MeV (``None`` if there is none), storage and root
        attributes.

    Raises:
        DataError: As :class:`ShowerFile`.
    """
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies()
        finite = energies[np.isfinite(energies)]
        fitting = [name for name, known in GEOMETRIES.items() if known.n_voxels == file.n_voxels]
        return {
            "file": file.path.name,
            "size_bytes": file.path.stat().st_size,
            "n_showers": file.n_showers,
            "n_voxels": file.n_voxels,
            "geometries": [geometry.name] if geometry is not None else fitting,
            "energy_min_mev": float(finite.min()) if finite.size else None,
            "energy_max_mev": float(finite.max()) if finite.size else None,
            "storage": file.storage,
            "attributes": file.attributes,
        }


def content_hash(path: Path) -> str:
    """SHA-256 of the numbers as they are read here, whatever their compression, chunks and attributes.

    Taken over the shape, all incident energies (float64) and all showers (float32), little-endian, in file
    order.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: As :class:`ShowerFile`.
    """
    digest = hashlib.sha256()
    with ShowerFile(path) as file:
        digest.update(f"{file.n_showers},{file.n_voxels};".encode())
        digest.update(file.incident_energies().astype("<f8").tobytes())
        for _, showers in file.chunks():
            digest.update(np.ascontiguousarray(showers, dtype="<f4").data)
    return digest.hexdigest()


class ShowerWriter:
    """Writes a shower file bit by bit; it appears under its name only when it is whole.

    Args:
        path: Where the file shall stand; whatever is there stays until the new file is complete.
        n_voxels: Number of voxels of a shower.
        attrs: Root attributes that tell how the showers were made.
        expected: Number of showers that must have come by the end, if known.
        compression_level: Effort of gzip, 1 to 9.

    Raises:
        OutputError: If the file cannot be written, or fewer or more showers came than expected.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with ShowerWriter(Path(folder, "two.hdf5"), 3, {"seed": 1}, expected=2) as writer:
        ...         writer.append([[1e3], [2e3]], [[0, 10, 20], [0, 0, 50]])
    """

    def __init__(
        self,
        path: Path,
        n_voxels: int,
        attrs: Attributes,
        expected: int | None = None,
        compression_level: int = 1,
    ) -> None:
        self.path = Path(path)
        self.n_voxels = n_voxels
        self.n_written = 0
        self._attrs = attrs
        self._expected = expected
        self._compression_level = compression_level

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_path(self.path))
            # without a cache of chunks a failing disk is told at once, not when the data set is forgotten
            self._file = h5py.File(partial, "w", rdcc_nbytes=0)
            stack.push(self._close)
            self._create()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        with self._stack:  # closes the file, then renames it or, after an error, removes it
            if error is not None:
                raise error
            if self._expected not in (None, self.n_written):
                raise OutputError(
                    f"{self.path} is not written: {self.n_written} of {self._expected} showers came; run again"
                )

    def append(self, incident_energies: npt.ArrayLike, showers: npt.ArrayLike) -> None:
        """Adds showers at the end, as float32.

        Args:
            incident_energies: In MeV, shape (n, 1) or (n,).
            showers: In MeV, shape (n, voxels).

        Raises:
            DataError: If the shapes do not fit.
            OutputError: If the disk does not take them.
        """
        energies = np.asarray(incident_energies, dtype=np.float32)
        voxels = np.asarray(showers, dtype=np.float32)
        rows = energies.size
        if energies.shape not in ((rows,), (rows, 1)) or voxels.shape != (rows, self.n_voxels):
            raise DataError(
                f"incident energies of shape {energies.shape} and showers of shape {voxels.shape} cannot be "
                f"written; they must be (n, 1) and (n, {self.n_voxels})"
            )
        end = self.n_written + rows
        try:
            for field, values in zip(self._fields, (energies.reshape(rows, 1), voxels), strict=True):
                field.resize(end, axis=0)
                field[self.n_written :] = values
            self._file.flush()
        except (OSError, RuntimeError) as error:
            raise self._failure(error) from error
        self.n_written = end

    def _create(self) -> None:
        rows = min(WRITE_ROWS, self._expected or WRITE_ROWS)
        self._fields = [
            self._file.create_dataset(
                name,
                shape=(0, width),
                maxshape=(None, width),
                dtype=np.float32,
                chunks=(rows, width),
                compression="gzip",
                compression_opts=self._compression_level,
                shuffle=True,
            )
            for name, width in ((ENERGIES_FIELD, 1), (SHOWERS_FIELD, self.n_voxels))
        ]
        self._file.attrs.update(self._attrs)

    def _close(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self._file.close()
        except (OSError, RuntimeError) as failure:
            if error is None:
                raise self._failure(failure) from failure

    def _failure(self, error: Exception) -> OutputError:
        told = re.search("error message = '(.+?)'", str(error))  # HDF5 wraps the system's words in many of its own
        reason = told[1] if told else str(error).splitlines()[0]
        return OutputError(f"cannot write {self.path}: {reason}; free some space or choose another place")


def write_virtual(path: Path, parts: Sequence[Path]) -> None:
    """Writes a file through which several shower files read as one, in the order given.

    The parts stay where they are and are named relative to ``path``; move them together. Parts without
    showers are left out. Root attributes that all parts share are copied.

    Raises:
        DataError: If there is no shower at all, or a part is unreadable or of another width.
        OutputError: If the file cannot be written.
    """
    target = Path(path)
    lengths: list[tuple[str, int]] = []
    widths: set[int] = set()
    attributes: list[dict[str, Any]] = []
    for part in map(Path, parts):
        with _open(part) as file:
            shape = _field(file, part, SHOWERS_FIELD).shape
            if len(shape) != 2 or _field(file, part, ENERGIES_FIELD).shape != (shape[0], 1):
                raise DataError(f"{part} cannot be a part of {target}: its arrays must be (n, 1) and (n, voxels)")
            widths.add(shape[1])
            attributes.append(dict(file.attrs))
            if shape[0] > 0:
                lengths.append((os.path.relpath(part.resolve(), target.resolve().parent), shape[0]))
    if not lengths:
        raise DataError(f"{target} is not written: its {len(parts)} parts have no showers; give at least one")
    if len(widths) != 1:
        raise DataError(f"{target} is not written: its parts have {sorted(widths)} voxels; they must be alike")
    with atomic_path(target) as partial, h5py.File(partial, "w") as file:
        for name, width in ((ENERGIES_FIELD, 1), (SHOWERS_FIELD, widths.pop())):
            file.create_virtual_dataset(name, _layout(name, width, lengths))
        first = attributes[0].items()
        file.attrs.update({key: value for key, value in first if all(_same(key, value, other) for other in attributes)})


def split_indices(n: int, fractions: Mapping[str, float], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Divides ``n`` showers at random into named parts, disjoint and complete.

    Args:
        n: Number of showers.
        fractions: Share of each part; they sum to 1.
        seed: Same seed, same split.

    Returns:
        The row numbers of each part, in random order.

    Raises:
        ConfigError: If the shares are negative or do not sum to 1.
        DataError: If there are too few showers to give one to each part of a positive share.
    """
    shares = np.array(list(fractions.values()), dtype=np.float64)
    if not np.all(shares >= 0) or not abs(shares.sum() - 1) < 1e-9:
        raise ConfigError(f"the split {dict(fractions)} is not one; give shares of at least 0 that sum to 1")
    ends = np.rint(np.cumsum(shares) * n).astype(np.int64)
    order = np.random.default_rng(seed).permutation(n).astype(np.int64)
    split = dict(zip(fractions, np.split(order, ends[:-1]), strict=True))
    starved = [name for name, share in fractions.items() if share > 0 and len(split[name]) == 0]
    if starved:
        raise DataError(f"{n} showers are too few for the split {dict(fractions)}: {starved[0]} gets none; add some")
    return split


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise DataError(f"there is no file {path}; check the path, or get one by `calo4pqvae data fetch`")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one of the shower files in it")
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise DataError(f"{path} may not be read; change its permissions") from error
    except OSError as error:
        if h5py.is_hdf5(path):
            raise DataError(f"{path} is a damaged or cut-off HDF5 file; fetch or copy it again") from error
        raise DataError(f"{path} is not an HDF5 file; give a CaloChallenge file of showers") from error


def _field(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    field = file.get(name)
    if not isinstance(field, h5py.Dataset):
        raise DataError(
            f"{path} has no array {name!r} but {sorted(file)}; a shower file needs {ENERGIES_FIELD!r} and "
            f"{SHOWERS_FIELD!r}"
        )
    if field.dtype.kind not in "fiu":
        raise DataError(f"{path} has {name} of type {field.dtype}; they must be real numbers")
    if field.is_virtual:
        missing = [s.file_name for s in field.virtual_sources() if not (path.parent / s.file_name).exists()]
        if missing:  # HDF5 itself would read zeros in their place
            raise DataError(f"{path} reads from parts that are not there ({missing[0]}); move the parts with it")
    return field


def _layout(name: str, width: int, lengths: Sequence[tuple[str, int]]) -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout(shape=(sum(length for _, length in lengths), width), dtype=np.float32)
    start = 0
    for part, length in lengths:
        layout[start : start + length] = h5py.VirtualSource(part, name, shape=(length, width))
        start += length
    return layout


def _same(key: str, value: object, attributes: Mapping[str, Any]) -> bool:
    return key in attributes and bool(np.array_equal(attributes[key], np.asarray(value)))
