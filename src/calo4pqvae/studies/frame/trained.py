"""Trained machines that several studies look at, made once for all studies of one folder.

A study gives its own folder ``OUT/NAME``; what is trained on the way lies in ``OUT/trained``: the shower model in
``shower`` (the preset ``demo``) or ``shower-quick`` (fewer showers and epochs, about 65 s on one core), machines of
images in folders named by a hash of their settings and data. A run that is finished with equal settings is used again,
one that was interrupted goes on from its checkpoint, and one of other settings is replaced. A user may name a finished
run of his own instead.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import CheckpointError
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.runs.generation import load_model
from calo4pqvae.runs.training import train
from calo4pqvae.standalone.runs import load_bits
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.standalone.training import train_prior_alone
from calo4pqvae.studies.frame.along_training import Training, training_at
from calo4pqvae.studies.frame.study import Progress
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = [
    "QUICK_SHOWERS",
    "ShowerPrior",
    "finished_run",
    "image_training",
    "shower_config",
    "shower_prior",
    "shower_run",
]

QUICK_SHOWERS: Mapping[str, Any] = MappingProxyType(
    {"cascade.steps": 200, "data.max_showers": 3000, "training.epochs": 5}
)
"""What differs from the preset ``demo`` in the quick form; the machine itself is trained in full."""

_FOLDER = "trained"
_KEY_LENGTH = 12  # hexadecimal digits of a folder's name
_PARTS = ("autoencoder", "prior", "posterior")


@dataclass(frozen=True)
class ShowerPrior:
    """A trained shower model and the posterior bits that its machine has learned.

    Args:
        path: The run directory.
        model: Networks, machine and baseline, on the CPU.
        bits: Posterior bits of training showers (n, n_bits), 0 and 1.
        incident_energies: Their incident energies in MeV, (n, 1).
        validation_bits: Posterior bits of showers that the machine has not seen.
        validation_energies: Their incident energies in MeV.
        origin: One sentence on where the showers come from.
    """

    path: Path
    model: TrainedModel
    bits: Tensor
    incident_energies: Tensor
    validation_bits: Tensor
    validation_energies: Tensor
    origin: str

    @property
    def machine(self) -> BoltzmannMachine:
        """The Boltzmann machine."""
        return self.model.prior.machine

    @property
    def clamped(self) -> NDArray[np.bool_]:
        """Mask (N,) of nodes that hold the code of the incident energy; all False if it is folded into the fields."""
        return self.model.prior.clamped

    @property
    def states(self) -> Tensor:
        """States (n, N) of all nodes at training showers: code of the incident energy and posterior bits."""
        return self.model.prior.states(self.bits, self.incident_energies)

    @property
    def condition(self) -> Tensor | None:
        """Condition (n, n_c) of training showers that is folded into the fields, or None."""
        return self.model.prior.condition(self.incident_energies)


def shower_config(*, quick: bool, seed: int, changes: Mapping[str, Any] | None = None) -> Config:
    """Settings of the shower model of the studies.

    Args:
        quick: Whether to take fewer showers and epochs.
        seed: Seed of the training.
        changes: Further settings by dotted key; they win.
    """
    chosen: dict[str, Any] = dict(QUICK_SHOWERS) if quick else {}
    return load_config("demo").replace({**chosen, "training.seed": seed, **(changes or {})})


def shower_run(folder: Path, run: str | None, *, quick: bool, seed: int, progress: Progress) -> Path:
    """The run directory of a trained shower model: the one that is named, or one that is trained for all studies.

    Args:
        folder: The folder of a study, ``OUT/NAME``.
        run: A finished run to use; None trains one into ``OUT/trained``, unless it is there.
        quick: Whether a short training will do.
        seed: Seed of that training.
        progress: Told about every step.

    Raises:
        CheckpointError: If the run that is named is not finished or its files are damaged.
    """
    if run is not None:
        path = Path(run)
        opened = RunDirectory.open(path)
        missing = [name for name in _PARTS if not opened.has(name)]
        if missing or not opened.provenance().get("finished"):
            raise CheckpointError(
                f"{path} is no finished run of a shower model with a prior: finish it (calo4pqvae train --resume) or "
                "name another"
            )
        return path
    path = folder.parent / _FOLDER / ("shower-quick" if quick else "shower")
    return finished_run(shower_config(quick=quick, seed=seed), path, "training (showers)", progress)


def finished_run(config: Config, path: Path, name: str, progress: Progress) -> Path:
    """Trains a shower model unless its run is there; goes on if it was interrupted, replaces one of other settings.

    Args:
        config: Settings.
        path: Its run directory.
        name: Name for the progress report, which adds the stage of the training.
        progress: Told about every step of every part of the training.

    Raises:
        CheckpointError: If files of a run that stands there are damaged.
        DivergenceError: If the training leaves finite values.
    """
    run = RunDirectory(path)
    is_ours = run.config_path.is_file() and run.config().to_toml() == config.to_toml()
    if is_ours and run.provenance().get("finished"):
        return path

    def tell(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:  # noqa: ARG001
        progress(f"{name}, {stage}", done, total)

    train(config, path, resume=is_ours, overwrite=not is_ours, report=tell)
    return path


def shower_prior(path: Path) -> ShowerPrior:
    """The model of a finished run with its posterior bits.

    Args:
        path: A run directory, as :func:`shower_run` gives it.

    Raises:
        CheckpointError: If the run lacks a part or its files are damaged.
    """
    run = RunDirectory.open(path)
    posterior, _ = run.load_tensors("posterior")
    try:
        return ShowerPrior(
            path=path,
            model=as_qvae(load_model(path)),
            bits=posterior["bits"].float(),
            incident_energies=posterior["energies"],
            validation_bits=posterior["validation_bits"].float(),
            validation_energies=posterior["validation_energies"],
            origin=str(run.provenance()["data"]["origin"]),
        )
    except KeyError as error:
        raise CheckpointError(f"the run {path} lacks {error}: restore it or train again") from error


def image_training(folder: Path, config: PriorRunConfig, stage: str, progress: Progress) -> Training:
    """Machines along a training on images, trained once for all studies that ask for the same settings and data.

    Args:
        folder: The folder of a study, ``OUT/NAME``.
        config: Settings of the training.
        stage: Name for the progress report.
        progress: Told about every step.

    Raises:
        DataError: If the images cannot be used.
        CheckpointError: If files of a run that stands there are damaged.
        DivergenceError: If the training leaves finite values.
    """
    hashes = "".join(part.content_hash for part in load_bits(config))
    key = hashlib.sha256((config.to_toml() + hashes).encode()).hexdigest()[:_KEY_LENGTH]
    path = folder.parent / _FOLDER / f"images-{key}"
    run = RunDirectory(path)

    def tell(done: int, total: int, numbers: Mapping[str, float]) -> None:  # noqa: ARG001
        progress(stage, done, total)

    if not run.provenance().get("finished"):
        train_prior_alone(config, path, resume=(path / "settings.toml").is_file(), progress=tell)
    return training_at(path)
