"""What the samplers share: how chains start, which bits are held, and which chains sample the same law."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["check_call", "clamp_mask", "distinct_laws", "fair_coins"]


def fair_coins(machine: BoltzmannMachine, n_chains: int, generator: torch.Generator) -> Tensor:
    """Independent fair bits, float32 of shape (chains, N).

    Args:
        machine: Gives number of bits and device.
        n_chains: Number of chains, at least one.
        generator: Source of randomness, on the machine's device.

    Raises:
        PriorError: If there is no chain.
    """
    if n_chains < 1:
        raise PriorError(f"{n_chains} chains cannot be started; ask for at least one")
    shape = (n_chains, machine.n_nodes)
    return torch.randint(0, 2, shape, generator=generator, device=machine.device).float()


def clamp_mask(clamped: Tensor | NDArray[np.bool_] | None, n_nodes: int) -> Tensor:
    """The bits to hold as a boolean tensor (N,) on the CPU; no bit if None.

    Raises:
        PriorError: If the mask is not one boolean a bit.
    """
    if clamped is None:
        return torch.zeros(n_nodes, dtype=torch.bool)
    mask = torch.as_tensor(clamped).cpu()
    if mask.dtype != torch.bool or mask.shape != (n_nodes,):
        raise PriorError(
            f"the clamp mask is {mask.dtype} of shape {tuple(mask.shape)}; give one boolean for each of {n_nodes} bits"
        )
    return mask


def check_call(machine: BoltzmannMachine, states: Tensor, n_sweeps: int, condition: Tensor | None) -> None:
    """Refuses chains, conditions and numbers of sweeps that do not fit a machine.

    Args:
        machine: The machine to draw from.
        states: Bits of the chains (chains, N).
        n_sweeps: Sweeps asked for.
        condition: c of every chain, shape (chains, n_c), if the machine has a condition.

    Raises:
        PriorError: If a shape does not fit, a parameter is not finite, or ``n_sweeps`` is negative.
    """
    machine.check_finite()
    if n_sweeps < 0:
        raise PriorError(f"{n_sweeps} sweeps cannot be made; ask for 0 or more")
    if states.shape[1] != machine.n_nodes:
        raise PriorError(
            f"the chains have {states.shape[1]} bits, the machine {machine.n_nodes}; use chains of this machine"
        )
    if condition is not None and len(condition) != len(states):
        raise PriorError(f"{len(condition)} conditions for {len(states)} chains; give one for each")
    machine.fields(None if condition is None else condition[:1])


def distinct_laws(states: Tensor, mask: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """Groups chains that have the same held bits and the same condition.

    Args:
        states: Bits of the chains (chains, N).
        mask: The bits that are held (N,).
        condition: c of every chain, shape (chains, n_c), or None.

    Returns:
        One chain of every group (G,), and the group of every chain (chains,), both on the CPU.
    """
    held = states.detach().cpu()[:, mask.cpu()].double()
    columns = [torch.zeros(len(held), 1, dtype=torch.float64), held]
    if condition is not None:
        columns.append(condition.detach().cpu().double())
    rows, group = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True)
    member = torch.full((len(rows),), len(held)).scatter_reduce_(0, group, torch.arange(len(held)), "amin")
    return member, group
