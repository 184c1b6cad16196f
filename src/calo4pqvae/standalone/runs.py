"""Runs of stand-alone machines whose training has ended: what was trained, ready to be sampled and judged."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError, DataError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.bits.mnist import IMAGE_SETS, bundled_images, load_images
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import derive_seed
from calo4pqvae.standalone.settings import PriorRunConfig, load_prior_config
from calo4pqvae.workshop.checkpoints import load_module, with_prefix
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["PriorRun", "chosen_device", "load_bits", "open_prior_run", "stored_config"]


@dataclass(frozen=True)
class PriorRun:
    """A run whose training has ended.

    Args:
        path: The run directory.
        config: Its settings.
        machine: The machine.
        hidden: Mask (N,) of hidden bits; all False without hidden bits.
        chains: Persistent chains (chains, N) at the end of the training; None for contrastive divergence.
        chain_condition: Conditions of the chains, if the machine has a condition.
        n_sweeps: Sweeps of the last steps.
    """

    path: Path
    config: PriorRunConfig
    machine: BoltzmannMachine
    hidden: NDArray[np.bool_]
    chains: Tensor | None
    chain_condition: Tensor | None
    n_sweeps: int

    def trajectory(self) -> list[tuple[int, BoltzmannMachine]]:
        """Steps and machines along the training, from the start to the end.

        Raises:
            CheckpointError: If a file is damaged.
        """
        run = RunDirectory(self.path)
        kept = []
        for path in sorted((self.path / "trajectory").glob("*.safetensors")):
            machine = BoltzmannMachine(self.machine.topology, self.machine.n_condition)
            load_module(machine, run.load_tensors(f"trajectory/{path.stem}")[0])
            kept.append((int(path.stem), machine.to(self.machine.device)))
        return kept

    def visible(self, states: Tensor) -> Tensor:
        """The visible bits (B, n) of states (B, N)."""
        return states[:, torch.from_numpy(~self.hidden).to(states.device)]

    def states(self, bits: NDArray[np.uint8]) -> Tensor:
        """States (B, N) with the given visible bits and zeros for the hidden ones."""
        states = torch.zeros(len(bits), self.machine.n_nodes)
        states[:, torch.from_numpy(~self.hidden)] = torch.from_numpy(bits.astype(np.float32))
        return states.to(self.machine.device)


def open_prior_run(path: Path, device: str = "cpu") -> PriorRun:
    """Opens a run whose training has ended.

    Args:
        path: The run directory.
        device: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        CheckpointError: If there is no such run, or its files are damaged.
        PriorError: If a parameter is not finite.
    """
    run = RunDirectory(path)
    config = stored_config(path)
    tensors, _ = run.load_tensors("prior")
    stored, _ = run.load_tensors("checkpoint")
    try:
        topology = Topology.from_arrays({name: part.numpy() for name, part in with_prefix(tensors, "graph.").items()})
        parameters = with_prefix(tensors, "machine.")
        n_condition = len(parameters["condition_weights"]) if "condition_weights" in parameters else 0
        machine = BoltzmannMachine(topology, n_condition)
        load_module(machine, parameters)
        hidden = tensors["hidden"].numpy().astype(np.bool_)
        n_sweeps = int(stored.get("learner.n_sweeps", torch.tensor(config.n_sweeps)))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the machine in {path} is incomplete ({error}): restore it or train again") from error
    machine.check_finite()
    chains, condition = stored.get("learner.chains.states"), stored.get("learner.chains.condition")
    if chains is not None:
        chains = chains.to(torch.float32)
    return PriorRun(path, config, machine.to(chosen_device(device)), hidden, chains, condition, n_sweeps)


def load_bits(config: PriorRunConfig) -> tuple[BitsFile, BitsFile]:
    """Bits to train on and bits held out.

    Raises:
        DataError: If a file cannot be used, or train and test do not fit each other.
    """
    source = Path(config.data)
    if config.data in IMAGE_SETS:
        parts = bundled_images(config.data, "train"), bundled_images(config.data, "test")
    elif source.is_dir():
        parts = load_images(source, "train"), load_images(source, "test")
    else:
        whole = BitsFile.read(source, config.dataset, config.threshold)
        if config.test_data is None:
            parts = whole.split(config.test_fraction, derive_seed(config.seed, "split") % 2**32)
        else:
            parts = whole, BitsFile.read(Path(config.test_data), config.dataset, config.threshold)
    train, test = parts
    if train.n_bits != test.n_bits:
        raise DataError(f"{train.source} has {train.n_bits} bits, {test.source} {test.n_bits}; give files of one kind")
    if config.condition and (train.condition is None or test.condition is None):
        lacking = " and ".join(dict.fromkeys(part.source for part in parts if part.condition is None))
        raise DataError(f"condition = true, but {lacking} has no data set 'condition'; add it, or leave condition out")
    return train, test


def stored_config(path: Path) -> PriorRunConfig:
    """The settings of a run, finished or not.

    Raises:
        CheckpointError: If there is no run or its settings are damaged.
    """
    settings = path / "settings.toml"
    if not settings.is_file():
        raise CheckpointError(f"{path} is no run of a stand-alone machine: it has no settings.toml")
    try:
        return load_prior_config(settings)
    except ConfigError as error:
        raise CheckpointError(f"the settings of the run {path} cannot be used: {error}") from error


def chosen_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda`` or ``auto``.

    Raises:
        ConfigError: If there is no such device.
    """
    if name not in ("cpu", "cuda", "auto"):
        raise ConfigError(f"device '{name}' is unknown: use cpu, cuda or auto")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for, but no CUDA device is there: use 'cpu' or 'auto'")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
