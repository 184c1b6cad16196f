"""Devices and processes: one process, or those that torchrun started (also inside a Slurm job).

Fabric is imported when a training begins: it takes longer to load than PyTorch, and generation does without it.
"""

import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import ConfigError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["gather", "make_fabric", "mean_over_processes", "process_rank"]


def process_rank() -> tuple[int, int]:
    """Rank of this process and number of processes, as torchrun says; (0, 1) without it.

    Raises:
        ConfigError: If the environment holds no whole numbers there.
    """
    return _whole("RANK", 0), _whole("WORLD_SIZE", 1)


def make_fabric(config: Config) -> "Fabric":
    """Sets up device, precision and processes.

    Raises:
        ConfigError: If CUDA is asked for and there is none, or a batch cannot be shared evenly.
    """
    from lightning_fabric import Fabric

    training = config.training
    if training.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("training.device = 'cuda', but no CUDA device is there: use 'cpu' or 'auto'")
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    accelerator = "cuda" if training.device != "cpu" and torch.cuda.is_available() else "cpu"
    _, n_processes = process_rank()
    if training.batch_size % n_processes:
        raise ConfigError(
            f"training.batch_size = {training.batch_size} cannot be shared evenly by {n_processes} processes"
        )
    if n_processes == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=training.precision)
    local = _whole("LOCAL_WORLD_SIZE", n_processes)
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=n_processes // local,
        strategy="ddp",
        precision=training.precision,
    )
    fabric.launch()
    return fabric


def mean_over_processes(fabric: "Fabric", value: Tensor) -> Tensor:
    """Mean of a tensor over all processes."""
    if fabric.world_size == 1:
        return value
    reduced: Tensor = fabric.all_reduce(value, reduce_op="mean")  # type: ignore[assignment]
    return reduced


def gather(fabric: "Fabric", rows: Tensor) -> Tensor:
    """Rows of all processes, one after the other, in the order of the batch; gradients go back to their process."""
    if fabric.world_size == 1:
        return rows
    gathered: Tensor = fabric.all_gather(rows, sync_grads=rows.requires_grad)  # type: ignore[assignment]
    return gathered.flatten(0, 1)


def _whole(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        raise ConfigError(f"the environment variable {name} = '{text}' is no whole number: start with torchrun")
    return int(text)
