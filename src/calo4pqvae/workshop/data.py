"""The showers of a training: read once, checked, split by a stored seed, handed out in batches.

Showers are held in compressed rows (about 4 kB each for dataset 2 up to 100 GeV), so that 100,000 of them need far less
than a dense array of 2.6 GB. The order of an epoch depends on the seed and the epoch alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.config import BUNDLED, Config
from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.showers.bundled import BUNDLED_NOTE, bundled_path
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.files import content_hash, split_indices
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.showers.store import ShowerStore

__all__ = ["ShowerChunks", "TrainingData", "resolve_file", "training_grid"]

_FIT_CHUNK = 1000


def resolve_file(name: str, part: str) -> tuple[Path, str]:
    """Path and one-sentence origin of a shower file named in the settings.

    Args:
        name: A path or ``bundled``.
        part: ``train`` or ``heldout``, which bundled file is meant.
    """
    if name == BUNDLED:
        return bundled_path("train" if part == "train" else "heldout"), BUNDLED_NOTE
    return Path(name), f"showers from the file {Path(name).name}"


def training_grid(config: Config) -> Geometry:
    """The geometry of the settings, with their read-out threshold.

    Raises:
        DataError: If the geometry is unknown or its file cannot be used.
    """
    grid, threshold = geometry(config.data.geometry), config.data.threshold_mev
    return grid if threshold is None else replace(grid, threshold_mev=threshold)


@dataclass(frozen=True, eq=False)
class ShowerChunks:
    """Showers and incident energies of some rows of a store, a chunk at a time, as often as wanted."""

    store: ShowerStore
    rows: np.ndarray[Any, Any]
    size: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.rows), self.size):
            yield self.store.batch(self.rows[start : start + self.size])


class TrainingData:
    """Training and validation showers of a run.

    Args:
        config: Settings.

    Raises:
        DataError: If the file or the geometry cannot be used.
        ConfigError: If there are too few showers for the batch size.
    """

    def __init__(self, config: Config) -> None:
        self.path, self.origin = resolve_file(config.data.train, "train")
        self.geometry: Geometry = training_grid(config)
        _ = self.geometry.grid_shape  # irregular grids are refused here, before anything is read
        self.seed, self.batch_size = config.training.seed, config.training.batch_size
        self.store, self.dropped = _load(self.path, self.geometry, config)
        low, high = config.data.energy_min_mev, config.data.energy_max_mev
        check_energies(torch.from_numpy(self.store.incident_energies), low, high)
        share = config.data.validation_fraction
        parts = split_indices(
            len(self.store), {"train": 1 - share, "validation": share}, derive_seed(self.seed, "split") % 2**32
        )
        self.train, self.validation = parts["train"], parts["validation"]
        if len(self.train) < self.batch_size or len(self.validation) < 2:
            raise ConfigError(
                f"{len(self.store)} showers are too few for batches of {self.batch_size} and a validation share of "
                f"{share}: lower training.batch_size or give more showers"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; the rest of the showers waits for another order."""
        return len(self.train) // self.batch_size

    def rows_of_step(self, step: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of the batch of a step, counted from 0 over all epochs."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.train), generator=stream(self.seed, "order", epoch)).numpy()
        rows: np.ndarray[Any, np.dtype[np.int64]] = self.train[
            order[batch * self.batch_size : (batch + 1) * self.batch_size]
        ]
        return rows

    def chunks(self, rows: np.ndarray[Any, Any], size: int = _FIT_CHUNK) -> "ShowerChunks":
        """Showers and energies of rows, a chunk at a time."""
        return ShowerChunks(self.store, rows, size)

    def provenance(self) -> dict[str, Any]:
        """What a run must say of its data."""
        return {
            "origin": self.origin,
            "file": self.path.name,
            "content_hash": content_hash(self.path),
            "geometry": self.geometry.name,
            "n_showers": len(self.store),
            "n_train": len(self.train),
            "n_validation": len(self.validation),
            "dropped": self.dropped,
        }


def _load(path: Path, grid: Geometry, config: Config) -> tuple[ShowerStore, dict[str, int]]:
    store = ShowerStore.from_file(path, grid, drop_bad=config.data.drop_bad)
    dropped = {kind: count for kind, count in store.dropped.items() if count}
    has_energy = np.diff(store.offsets) > 0
    first_hits = store.offsets[:-1][has_energy]
    has_energy[has_energy] = np.logical_or.reduceat(store.values >= grid.threshold_mev, first_hits)
    n_empty = int((~has_energy).sum())
    if n_empty and not config.data.drop_bad:
        raise DataError(f"{path} has {n_empty} empty showers, which cannot be learned: set data.drop_bad = true")
    keep = np.flatnonzero(has_energy)
    if n_empty:
        dropped["empty"] = n_empty
    if config.data.max_showers is not None and len(keep) > config.data.max_showers:
        order = torch.randperm(len(keep), generator=stream(config.training.seed, "subset")).numpy()
        keep = np.sort(keep[order[: config.data.max_showers]])
    return (store if len(keep) == len(store) else store.subset(keep)), dropped
