"""What classifiers see: inputs in batches, shuffled splits that share no shower, and what is doubtful about a sample.

Each class is shuffled by a stream of its own and cut into training, test and validation parts of 60, 20 and 20 %;
where one sample is larger, a random part of it is left out. Voxels stay compressed (:class:`ShowerStore`, 6 bytes a
hit) and are unpacked a batch at a time, so that 100,000 showers against as many need no dense array.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ks_2samp
from torch import Tensor

from calo4pqvae.errors import DataError
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.store import ShowerStore

__all__ = ["PARTS", "ClassifierInput", "FeatureInput", "Split", "VoxelInput", "find_copies", "make_split"]

IndexArray = NDArray[np.int64]

PARTS = ("train", "test", "validation")
_SHARES = (0.6, 0.2, 0.2)
_LEAST_SHOWERS = 50
_CHUNK = 1000
_OTHER_ENERGIES_P = 1e-6


class ClassifierInput(Protocol):
    """Rows of numbers of one sample, made when they are asked for."""

    @property
    def n_inputs(self) -> int:
        """Width of a row."""
        ...

    @property
    def energies(self) -> NDArray[np.float64] | None:
        """Incident energies in MeV, (N,), or None if they are not known."""
        ...

    def __len__(self) -> int:
        """Number of showers N."""
        ...

    def batch(self, rows: IndexArray, dtype: torch.dtype) -> Tensor:
        """The inputs of some showers, (rows, n_inputs)."""
        ...

    def part(self, rows: IndexArray) -> Self:
        """A sample of some of the showers."""
        ...


class FeatureInput:
    """A matrix of features, any columns.

    Args:
        matrix: Features, (N, columns).
        energies: Incident energies in MeV, (N,), to check that both samples have the same.

    Raises:
        DataError: If it is no matrix, holds values that are not finite, or the energies do not fit.
    """

    def __init__(self, matrix: ArrayLike, energies: ArrayLike | None = None) -> None:
        self.matrix = np.asarray(matrix, dtype=np.float64)
        if self.matrix.ndim != 2 or self.matrix.shape[1] == 0:
            raise DataError(f"features have the shape {self.matrix.shape}; give a matrix (showers, features)")
        if not np.isfinite(self.matrix).all():
            bad = np.flatnonzero(~np.isfinite(self.matrix).all(axis=0)).tolist()
            raise DataError(f"features hold NaN or infinity in columns {bad[:5]}; leave out the showers or columns")
        self.energies = None if energies is None else np.asarray(energies, dtype=np.float64).reshape(-1)
        if self.energies is not None and len(self.energies) != len(self.matrix):
            raise DataError(f"{len(self.energies)} energies come with {len(self.matrix)} rows; give one for each")

    @property
    def n_inputs(self) -> int:
        """Number of columns."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.matrix)

    def batch(self, rows: IndexArray, dtype: torch.dtype) -> Tensor:
        """Rows of the matrix."""
        return torch.from_numpy(self.matrix[rows]).to(dtype)

    def part(self, rows: IndexArray) -> "FeatureInput":
        """Some of the showers."""
        return FeatureInput(self.matrix[rows], None if self.energies is None else self.energies[rows])


class VoxelInput:
    """log10 of the incident energy in MeV, then voxels over incident energy, those below the threshold set to zero.

    Args:
        store: Showers and incident energies in MeV.
        geometry: The voxel grid.

    Raises:
        DataError: If the showers do not fit the grid, or values are not finite or energies not positive.
    """

    def __init__(self, store: ShowerStore, geometry: Geometry) -> None:
        if store.n_voxels != geometry.n_voxels:
            raise DataError(
                f"showers have {store.n_voxels} voxels but geometry {geometry.name} has {geometry.n_voxels}; "
                "choose the geometry of the file"
            )
        self.energies = store.incident_energies[:, 0].astype(np.float64)
        if not (np.isfinite(store.values).all() and np.isfinite(self.energies).all() and (self.energies > 0).all()):
            raise DataError(
                "the sample holds NaN or infinite voxels, or incident energies that are not positive; "
                "run `calo4pqvae data validate` on it to see which"
            )
        self.store = store
        self.geometry = geometry
        nearest = np.float32(geometry.threshold_mev)
        is_lower = float(nearest) < geometry.threshold_mev
        self._threshold = float(np.nextafter(nearest, np.float32(np.inf)) if is_lower else nearest)

    @property
    def n_inputs(self) -> int:
        """One more than there are voxels."""
        return self.geometry.n_voxels + 1

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, rows: IndexArray, dtype: torch.dtype) -> Tensor:
        """Inputs of some showers, (rows, 1 + voxels)."""
        showers, energies = self.store.batch(rows)
        showers.mul_(showers >= self._threshold)
        return torch.cat([energies.double().log10().to(dtype), showers.to(dtype) / energies.to(dtype)], dim=1)

    def part(self, rows: IndexArray) -> "VoxelInput":
        """Some of the showers."""
        return VoxelInput(self.store.subset(rows), self.geometry)


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of both samples in each part; no row is in two.

    Args:
        reference: Rows of the reference by part.
        generated: Rows of the generated sample by part, as many.
        n_unused: Showers of the larger sample that are left out.
    """

    reference: dict[str, IndexArray]
    generated: dict[str, IndexArray]
    n_unused: int

    def labels(self, part: str) -> NDArray[np.bool_]:
        """Which showers of a part are reference ones: first all of these, then the generated ones."""
        return np.repeat([True, False], [len(self.reference[part]), len(self.generated[part])])


def make_split(reference: ClassifierInput, generated: ClassifierInput, seed: int) -> Split:
    """Shuffles the samples, each by itself, and cuts them into parts.

    Args:
        reference: Geant4 showers.
        generated: Generated showers with inputs of the same width.
        seed: Same seed, same split.

    Raises:
        DataError: If the widths differ, a sample is too small, or the incident energies have clearly another law.
    """
    if reference.n_inputs != generated.n_inputs:
        raise DataError(
            f"the reference has {reference.n_inputs} inputs a shower and the generated sample {generated.n_inputs}; "
            "make both with the same features or geometry"
        )
    n = min(len(reference), len(generated))
    if n < _LEAST_SHOWERS:
        raise DataError(
            f"a classifier needs at least {_LEAST_SHOWERS} showers of each sample (better 10,000), but there are "
            f"{len(reference)} of the reference and {len(generated)} generated ones"
        )
    _check_energies(reference.energies, generated.energies)
    ends = np.rint(np.cumsum(_SHARES[:-1]) * n).astype(np.int64)
    parts = []
    for name, sample in (("reference", reference), ("generated", generated)):
        order = np.random.default_rng(derive_seed(seed, "classifier split", name)).permutation(len(sample))[:n]
        parts.append(dict(zip(PARTS, np.split(order.astype(np.int64), ends), strict=True)))
    return Split(parts[0], parts[1], max(len(reference), len(generated)) - n)


def find_copies(reference: ClassifierInput, generated: ClassifierInput) -> tuple[str, ...]:
    """Sentences on showers that occur more than once, which let a classifier recognise instead of judge."""
    first, second = _digests(reference), _digests(generated)
    found = []
    for name, digests in (("reference", first), ("generated", second)):
        n_copies = len(digests) - len(set(digests))
        if n_copies:
            found.append(
                f"The {name} sample holds {n_copies} showers that are copies of others in it: a classifier can meet "
                "in validation what it was trained on, and the AUC is not to be trusted."
            )
    n_shared = len(set(first) & set(second))
    if n_shared:
        found.append(f"{n_shared} generated showers are exact copies of reference showers: is it the same file?")
    return tuple(found)


def _check_energies(reference: NDArray[np.float64] | None, generated: NDArray[np.float64] | None) -> None:
    if reference is None or generated is None:
        return
    p = float(ks_2samp(reference, generated).pvalue)
    if p < _OTHER_ENERGIES_P:
        raise DataError(
            f"the incident energies of the two samples have different laws (Kolmogorov-Smirnov p = {p:.1g}), by which "
            "alone a classifier tells them apart; generate at the incident energies of the reference"
        )


def _digests(sample: ClassifierInput) -> Sequence[bytes]:
    digests = []
    for start in range(0, len(sample), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(sample)))
        block = sample.batch(rows, torch.float64 if isinstance(sample, FeatureInput) else torch.float32).numpy()
        digests += [hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in block]
    return digests
