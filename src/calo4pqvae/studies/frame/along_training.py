"""Machines along a training, for studies that follow one: trained here, or taken from a run that is there.

Chains are carried from one machine to the next, as persistent chains are in training: the law changes little from one
saved machine to the next, so a few sweeps bring them back to equilibrium where fair coins would need many.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.standalone.runs import PriorRun, load_bits, open_prior_run
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.standalone.training import train_prior_alone
from calo4pqvae.studies.frame.study import Progress

__all__ = ["Training", "carried_chains", "pooled_images", "training_at", "training_of"]


@dataclass(frozen=True)
class Training:
    """Machines saved along one training.

    Args:
        steps: Learning steps of each machine, rising from 0.
        machines: The machines.
        data: Bits that were learned.
        hidden: Mask (N,) of hidden bits.
        config: Settings of the training.
    """

    steps: tuple[int, ...]
    machines: tuple[BoltzmannMachine, ...]
    data: BitsFile
    hidden: NDArray[np.bool_]
    config: PriorRunConfig

    @property
    def final(self) -> BoltzmannMachine:
        """The last machine."""
        return self.machines[-1]

    def time(self, step: int) -> float:
        """Sum of the learning rates of all updates before a step: the time of the gradient flow."""
        n_steps = self.config.epochs * (self.data.n_states // self.config.batch_size)
        ratio = self.config.learning_rate_final / self.config.learning_rate
        return float((self.config.learning_rate * ratio ** (np.arange(step) / n_steps)).sum())

    def thinned(self, n: int) -> "Training":
        """The first, the last, and machines between them, ``n`` in all or as many as there are."""
        picks = np.unique(np.linspace(0, len(self.steps) - 1, min(n, len(self.steps))).round().astype(int)).tolist()
        return Training(
            tuple(self.steps[pick] for pick in picks),
            tuple(self.machines[pick] for pick in picks),
            self.data,
            self.hidden,
            self.config,
        )


def training_of(config: PriorRunConfig, folder: Path, stage: str, progress: Progress) -> Training:
    """Trains a machine and gives those saved on the way.

    Args:
        config: Settings of the training.
        folder: Its run directory; a run that stands there is replaced.
        stage: Name of the stage for the progress report.
        progress: Told about every step.
    """

    def tell(done: int, total: int, numbers: object) -> None:  # noqa: ARG001
        progress(stage, done, total)

    return _training(train_prior_alone(config, folder, overwrite=True, progress=tell))


def training_at(path: Path) -> Training:
    """The machines of a finished run.

    Raises:
        CheckpointError: If there is no such run.
        DataError: If its data cannot be read any more.
    """
    return _training(open_prior_run(path))


def pooled_images(data: BitsFile, size: int, target: Path) -> Path:
    """Images made smaller by a majority of size x size pixels, as a file to train on.

    Args:
        data: Images of bits.
        size: Side of what becomes one pixel; it divides both sides of the image.
        target: The file (HDF5).

    Raises:
        ConfigError: If the bits are no images or the size does not divide them.
    """
    if len(data.shape) != 2 or size < 1 or any(side % size for side in data.shape):
        raise ConfigError(f"bits of shape {data.shape} cannot be pooled by {size}; give images whose sides it divides")
    rows, columns = (side // size for side in data.shape)
    counts = data.bits.reshape(-1, rows, size, columns, size).sum(axis=(2, 4), dtype=np.int64)
    pooled = (2 * counts >= size * size).astype(np.uint8).reshape(len(counts), -1)
    BitsFile(pooled, data.labels, None, (rows, columns), f"{data.source}, pooled").write(target)
    return target


def carried_chains(
    machines: Sequence[BoltzmannMachine], n_chains: int, n_burn: int, generator: torch.Generator
) -> Iterator[tuple[BoltzmannMachine, GibbsState]]:
    """Chains brought to each machine in turn, from where they were at the one before.

    Args:
        machines: Machines on one graph, in the order of training.
        n_chains: Chains, started at fair coins.
        n_burn: Sweeps at each machine before it is given.
        generator: Source of randomness.
    """
    state: GibbsState | None = None
    for machine in machines:
        sampler = BlockGibbsSampler(machine)
        state = sampler.init(n_chains, generator) if state is None else state
        state = sampler.sample(state, n_burn, generator)
        yield machine, state


def _training(run: PriorRun) -> Training:
    kept = run.trajectory()
    train, _ = load_bits(run.config)
    return Training(
        tuple(step for step, _ in kept), tuple(machine for _, machine in kept), train, run.hidden, run.config
    )
