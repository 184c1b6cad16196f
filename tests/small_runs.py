"""Small files, settings and runs that the end-to-end tests share."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.config import Config, load_config
from calo4pqvae.showers.bundled import bundled_path
from calo4pqvae.showers.files import ShowerFile, ShowerWriter
from calo4pqvae.workshop.bench import Reporter

Array = NDArray[np.floating[Any]]

N_SHOWERS = 120
N_VOXELS = 6480
CHECKPOINT_EVERY = 3
PRIOR_CHECKPOINT_EVERY = 25
N_UPDATES = 60
N_STEPS = 10  # two epochs of five batches: 84 of 120 showers train, in batches of 16
WEIGHTS = ("autoencoder.safetensors", "prior.safetensors")

TINY: dict[str, Any] = {
    "data.energy_max_mev": 1e5,
    "data.validation_fraction": 0.3,
    "latent.bits_per_level": 8,
    "encoder.channels": [4, 4, 4],
    "encoder.hidden": 16,
    "decoder.base_channels": 4,
    "decoder.channels": 4,
    "decoder.hidden": 16,
    "decoder.position_channels": 2,
    "decoder.head_hidden": 8,
    "cascade.steps": 5,
    "cascade.batch_size": 4,
    "prior.updates": N_UPDATES,
    "prior.n_chains": 60,
    "prior.batch_size": 60,
    "prior.n_sweeps": 2,
    "prior.checkpoint_every": PRIOR_CHECKPOINT_EVERY,
    "prior.joint_chains": 32,
    "training.layer_steps": 0,
    "training.epochs": 2,
    "training.batch_size": 16,
    "training.checkpoint_every": CHECKPOINT_EVERY,
    "training.device": "cpu",
    "training.threads": 1,
    "generation.n_sweeps": 10,
    "generation.chunk": 20,
    "evaluation.n_generated": 150,
    "evaluation.metrics": ["separation"],
}


def bundled_rows(part: Literal["train", "heldout"], n: int) -> tuple[Array, Array]:
    """Incident energies and showers of the first rows of a bundled file."""
    with ShowerFile(bundled_path(part)) as file:
        return file.incident_energies()[:n], file.read(0, n)


def write_showers(path: Path, energies: Array, showers: Array) -> Path:
    """Writes a shower file."""
    with ShowerWriter(path, showers.shape[1], {}) as writer:
        writer.append(energies, showers)
    return path


def tiny_file(folder: Path, n: int = N_SHOWERS, part: Literal["train", "heldout"] = "train") -> Path:
    """A file of a few genuine showers."""
    return write_showers(folder / f"{part}.hdf5", *bundled_rows(part, n))


def tiny_config(file: Path, changes: Mapping[str, Any] | None = None) -> Config:
    """Settings with which a run takes about a second."""
    return load_config().replace({**TINY, "data.train": str(file), "data.heldout": str(file), **(changes or {})})


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder and what is in them."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class InterruptionError(Exception):
    """Stands for whatever may stop a training."""


def stop_at(stage: str, done: int) -> Reporter:
    """A reporter that raises at a step of a stage."""

    def report(now: str, step: int, _total: int, _numbers: Mapping[str, float]) -> None:
        if (now, step) == (stage, done):
            raise InterruptionError

    return report


class Diary:
    """A reporter that keeps which steps were done."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        assert done <= total
        assert all(np.isfinite(value) for value in numbers.values())
        self.steps.append((stage, done))


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Environment variables for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_python(*arguments: str, n_processes: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs Python, or so many of them under torchrun, one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}"]
    return subprocess.run(
        [sys.executable, *(launcher if n_processes > 1 else []), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
