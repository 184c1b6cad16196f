"""Named tensors in and out of modules and optimisers: how a checkpoint is made and taken apart."""

from collections.abc import Mapping

import torch
from torch import Tensor

from calo4pqvae.errors import CheckpointError

__all__ = ["load_module", "load_optimizer", "optimizer_tensors", "prefixed", "with_prefix"]


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_module(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads a module's state.

    Raises:
        CheckpointError: If names or shapes do not fit.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise CheckpointError(f"stored weights do not fit the model ({reason}): use the run's configuration") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as tensors named ``index.entry``."""
    return {
        f"{index}.{name}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, entries: Mapping[str, Tensor]) -> None:
    """Loads the state of an optimiser from tensors named ``index.entry``."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in entries.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
