"""Showers of a whole training file in memory, without their empty voxels.

About nine voxels in ten are empty, so showers are kept in compressed rows: the non-zero energies in float32,
their voxel numbers in 16 bits (32 where a grid has more than 65536 voxels), and where each shower begins.
That is 6 bytes a hit instead of 4 a voxel. Numbers come back exactly as they were.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.showers.files import READ_ROWS, ShowerFile
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.validation import BAD_KINDS, find_faults

__all__ = ["ShowerStore"]

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class ShowerStore:
    """Showers in compressed rows; made by :meth:`from_file` or :meth:`from_arrays`.

    Args:
        incident_energies: In MeV, float32, shape (n, 1).
        values: Energies of the hits of all showers in MeV, one shower after the other.
        voxels: The voxel number of each hit.
        offsets: Where each shower begins in ``values``, and the end; int64, shape (n + 1,).
        n_voxels: Number of voxels of a shower.
        dropped: How many showers of the file were left out for each kind of fault; one may have several.
        n_dropped: How many were left out in all.
    """

    incident_energies: FloatArray
    values: FloatArray
    voxels: IndexArray
    offsets: npt.NDArray[np.int64]
    n_voxels: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    n_dropped: int = 0

    def __len__(self) -> int:
        return len(self.incident_energies)

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes."""
        return self.incident_energies.nbytes + self.values.nbytes + self.voxels.nbytes + self.offsets.nbytes

    @classmethod
    def from_arrays(cls, showers: npt.ArrayLike, incident_energies: npt.ArrayLike) -> Self:
        """Stores showers (n, voxels) and incident energies (n, 1) or (n,), both in MeV.

        Raises:
            DataError: If the shapes do not fit.
        """
        dense = np.asarray(showers, dtype=np.float32)
        energies = np.asarray(incident_energies, dtype=np.float32)
        if dense.ndim != 2 or energies.shape not in ((len(dense),), (len(dense), 1)):
            raise DataError(
                f"showers of shape {dense.shape} and incident energies of shape {energies.shape} cannot be "
                "stored; they must be (n, voxels) and (n, 1)"
            )
        packer = _Packer(dense.shape[1])
        packer.add(energies.reshape(-1, 1), dense)
        return cls(*packer.arrays(), dense.shape[1])

    @classmethod
    def from_file(cls, path: Path, geometry: Geometry, drop_bad: bool = False, chunk: int = READ_ROWS) -> Self:
        """Reads a whole file, a stretch at a time.

        Args:
            path: The file.
            geometry: The grid that it shall fit.
            drop_bad: Leave out bad showers and count them; otherwise one bad shower is an error.
            chunk: Showers in uncompressed form at a time.

        Raises:
            DataError: If the file cannot be used, or has bad showers that were not to be dropped.
        """
        packer = _Packer(geometry.n_voxels)
        dropped = dict.fromkeys(BAD_KINDS, 0)
        n_dropped = 0
        with ShowerFile(path, geometry) as file:
            for energies, showers in file.chunks(chunk):
                faults = find_faults(energies, showers, geometry)
                bad = np.any([faults[kind] for kind in BAD_KINDS], axis=0)
                for kind in BAD_KINDS:
                    dropped[kind] += int(faults[kind].sum())
                n_dropped += int(bad.sum())
                packer.add(energies[~bad].astype(np.float32), showers[~bad])
        if n_dropped and not drop_bad:
            counts = ", ".join(f"{count} {kind}" for kind, count in dropped.items() if count)
            raise DataError(f"{path} has {n_dropped} bad showers ({counts}); set data.drop_bad = true to do without")
        if packer.n_showers == 0:
            raise DataError(f"{path} has no good shower left of {n_dropped}; give another file")
        return cls(*packer.arrays(), geometry.n_voxels, dropped, n_dropped)

    def batch(self, indices: npt.ArrayLike) -> tuple[Tensor, Tensor]:
        """Unpacks some showers.

        Args:
            indices: Their numbers in the store, shape (B,), in any order.

        Returns:
            Showers (B, voxels) and incident energies (B, 1), float32, in MeV.

        Raises:
            IndexError: If there is no shower of such a number.
        """
        rows, lengths, hits = self._locate(indices)
        showers = np.zeros((len(rows), self.n_voxels), dtype=np.float32)
        showers[np.repeat(np.arange(len(rows)), lengths), self.voxels[hits]] = self.values[hits]
        return torch.from_numpy(showers), torch.from_numpy(self.incident_energies[rows])

    def subset(self, indices: npt.ArrayLike) -> "ShowerStore":
        """A store of its own with some of the showers, in the order of ``indices``."""
        rows, lengths, hits = self._locate(indices)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return ShowerStore(self.incident_energies[rows], self.values[hits], self.voxels[hits], offsets, self.n_voxels)

    def _locate(self, indices: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], ...]:
        rows = np.asarray(indices, dtype=np.int64).reshape(-1)
        if rows.size and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"shower numbers must lie in 0 to {len(self) - 1}; got {rows.min()} to {rows.max()}")
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        # positions of all hits: each shower's start, repeated, plus a count that begins anew at each shower
        before = np.cumsum(lengths) - lengths
        hits = np.repeat(starts - before, lengths) + np.arange(lengths.sum())
        return rows, lengths, hits


class _Packer:
    """Collects chunks of showers in compressed rows."""

    def __init__(self, n_voxels: int) -> None:
        self._index_type: type[np.unsignedinteger[Any]] = np.uint16 if n_voxels <= 2**16 else np.uint32
        self._energies: list[FloatArray] = []
        self._values: list[FloatArray] = []
        self._voxels: list[IndexArray] = []
        self._lengths: list[npt.NDArray[np.int64]] = []

    @property
    def n_showers(self) -> int:
        return sum(map(len, self._energies))

    def add(self, incident_energies: FloatArray, showers: FloatArray) -> None:
        occupied = showers != 0
        self._energies.append(incident_energies)
        self._values.append(showers[occupied])
        self._voxels.append(np.nonzero(occupied)[1].astype(self._index_type))
        self._lengths.append(occupied.sum(axis=1, dtype=np.int64))

    def arrays(self) -> tuple[FloatArray, FloatArray, IndexArray, npt.NDArray[np.int64]]:
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))]).astype(np.int64)
        energies = np.concatenate(self._energies)
        values = np.concatenate(self._values)
        self._values.clear()  # so that at most one of the large arrays is there twice
        return energies, values, np.concatenate(self._voxels), offsets
