"""The fused GPU kernel behind the interface of all kernels.

Clamped bits enter as a part of the field that does not change; a call draws one seed of 63 bits from the generator.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.graph.pairs import compressed_rows, coupling_field
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.call import SweepCall
from calo4pqvae.prior.kernels.triton_sweeps import NeighbourTable

__all__ = ["TritonBlocks", "TritonPlan"]


@dataclass(frozen=True)
class TritonPlan:
    """What follows from graph and clamp mask.

    Args:
        table: Neighbours of the free bits.
        couplers: Coupler of each entry of their lists.
        free: Free nodes in partition order.
        held: Clamp mask (N,).
    """

    table: NeighbourTable
    couplers: Tensor
    free: Tensor
    held: Tensor


@dataclass(frozen=True)
class TritonBlocks:
    """The kernel."""

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> TritonPlan:
        """What follows from graph and clamp mask (N,)."""
        free = np.flatnonzero(~mask)
        row = np.cumsum(~mask) - 1
        couplers = np.flatnonzero(~mask[topology.edges].any(axis=1))
        indices, offsets, entries = compressed_rows(row[topology.edges[couplers]], len(free))
        stops = [int(np.searchsorted(free, nodes.stop)) for nodes in topology.slices]
        neighbours, starts = (torch.from_numpy(array.astype(np.int32)).to(device) for array in (indices, offsets))
        return TritonPlan(
            table=NeighbourTable.of(neighbours, starts, [0, *stops]),
            couplers=torch.from_numpy(couplers[entries]).to(device),
            free=torch.from_numpy(free).to(device),
            held=torch.from_numpy(mask.copy()).to(device),
        )

    def run(self, plan: TritonPlan, call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
        states = call.states
        constant = call.fields.to(states)
        if bool(plan.held.any()):
            constant = constant + coupling_field(states * plan.held, call.couplings.to(states), call.neighbours)
        constant = constant.reshape(-1, states.shape[1])[:, plan.free].t()
        betas = call.betas
        drawn = plan.table.sweeps(
            values=states[:, plan.free].t().contiguous(),
            weights=call.couplings.to(states)[plan.couplers],
            constant=constant,
            beta=states.new_tensor(float(call.beta)) if betas is None else betas,
            n_sweeps=call.n_sweeps,
            seed=int(torch.randint(2**63 - 1, (1,), generator=call.generator, device=call.generator.device)),
        )
        result = states.clone()
        result[:, plan.free] = drawn.t()
        return result
