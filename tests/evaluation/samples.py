"""Samples for the tests, written to files as an evaluation finds them."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.screening import Sample, screened_sample
from calo4pqvae.showers.geometry import Geometry

Array = NDArray[np.floating[Any]]


def written_sample(grid: Geometry, folder: Path, name: str, energies: Array, showers: Array) -> Sample:
    """A sample in a file of that name."""
    path = folder / f"{name}.hdf5"
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = energies, showers.astype(np.float32)
    return screened_sample(path, grid)
