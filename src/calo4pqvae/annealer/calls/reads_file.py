"""Reads on disk: one HDF5 file a call, whole or absent, safe against a killed process and a power cut.

A file holds the data set ``bits`` (reads, bytes) of packed bits and, as attributes, the number of qubits, the times and
notes of the call as JSON, and what the caller adds. Whether the reads are emulated is an attribute of its own.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.chip.problem import Reads
from calo4pqvae.atomic import atomic_path
from calo4pqvae.errors import AnnealerError

__all__ = ["StoredReads", "load_reads", "save_reads"]


@dataclass(frozen=True, eq=False)
class StoredReads:
    """Reads as they came from a file; the problem is not kept with them.

    Args:
        bits: Zeros and ones, shape (reads, n).
        beta: What the machine had been divided by.
        is_emulated: Whether no live chip was involved.
        timing: Times of the call in microseconds.
        info: Notes of the call.
    """

    bits: NDArray[np.uint8]
    beta: float
    is_emulated: bool
    timing: Mapping[str, float]
    info: Mapping[str, Any]

    @property
    def access_seconds(self) -> float | None:
        """Charged time that the call reported, None if it reported none."""
        access = self.timing.get("qpu_access_time")
        return None if access is None else access * 1e-6


def save_reads(path: Path, reads: Reads, **notes: str | float) -> None:
    """Writes reads and forces them to disk.

    Args:
        path: The file.
        reads: The reads.
        **notes: What to keep with them.

    Raises:
        OutputError: If the file cannot be written.
    """
    info = {key: value for key, value in reads.info.items() if isinstance(value, str | int | float | tuple | list)}
    with atomic_path(path) as partial:
        with h5py.File(partial, "w") as file:
            file["bits"] = np.packbits(reads.bits, axis=1)
            file.attrs.update(notes)
            file.attrs["n_qubits"] = reads.problem.n_qubits
            file.attrs["beta"] = reads.problem.beta
            file.attrs["emulated"] = reads.is_emulated
            file.attrs["timing"] = json.dumps(dict(reads.timing))
            file.attrs["info"] = json.dumps(info)
        _force(partial)
    _force(path.parent)


def load_reads(path: Path) -> StoredReads:
    """Reads a file of :func:`save_reads`.

    Raises:
        AnnealerError: If it is missing or damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            packed = file["bits"][:]
            attributes = dict(file.attrs)
        return StoredReads(
            bits=np.unpackbits(packed, axis=1, count=int(attributes["n_qubits"])),
            beta=float(attributes["beta"]),
            is_emulated=bool(attributes["emulated"]),
            timing=json.loads(attributes["timing"]),
            info=json.loads(attributes["info"]),
        )
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise AnnealerError(f"the reads in {path} cannot be used ({type(error).__name__}): restore the file") from error


def _force(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
