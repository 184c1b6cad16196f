r"""What a kernel is asked to do, and the interface that all kernels have.

A kernel continues chains by whole sweeps. It knows two things apart: the plan, which follows from graph and clamp mask
alone and is kept between calls, and the call, which holds parameters and chains.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.graph.pairs import Neighbours
from calo4pqvae.prior.graph.topology import Topology

__all__ = ["Kernel", "SweepCall"]

Plan = TypeVar("Plan")


@dataclass(frozen=True)
class SweepCall:
    """Parameters and chains of one call, all on one device.

    Args:
        states: Bits (chains, N) as float32; clamped bits have their values.
        fields: Fields without the couplers, b + c A: (N,), or (chains, N) if chains have conditions.
        couplings: W, one number a coupler (M,).
        neighbours: The graph as lists.
        beta: Inverse temperature, one for all chains or one for each, shape (chains,).
        n_sweeps: Sweeps to make.
        generator: Source of randomness.
    """

    states: Tensor
    fields: Tensor
    couplings: Tensor
    neighbours: Neighbours
    beta: float | Tensor
    n_sweeps: int
    generator: torch.Generator

    @property
    def betas(self) -> Tensor | None:
        """Inverse temperature of each chain, or None if it is the same for all."""
        return self.beta.to(self.states) if isinstance(self.beta, Tensor) and self.beta.ndim > 0 else None


class Kernel(Protocol[Plan]):
    """One way to make sweeps."""

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> Plan:
        """What follows from graph and clamp mask (N,)."""

    def run(self, plan: Plan, call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
