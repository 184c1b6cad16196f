r"""Block Gibbs sweeps in plain PyTorch, on any device.

Nodes are rows and chains are columns, so that a coupler is one multiply-add over a contiguous row. What does not
change during a call (fields, condition, clamped neighbours, beta) is summed once. A partition that sees less than 40 %
of the other bits is summed by ``embedding_bag``, which needs no temporary; otherwise by matrix products. A bit is one
when a uniform number lies below :math:`\sigma(\beta f)`; the uniform is a 32-bit integer, because 64 random bits at
once are cheaper than two floats. Probabilities are thereby exact to about 6e-8, as for a float32 uniform.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from calo4pqvae.prior.graph.pairs import compressed_rows, coupling_field
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.call import SweepCall

__all__ = ["TorchBlocks", "TorchPlan"]

_HALF_RANGE = float(2**31)


@dataclass(frozen=True)
class _Block:
    """Free bits of one partition: their rows among the free bits, and their couplers to other free bits."""

    rows: slice
    indices: Tensor  # free neighbours of each row, one after the other, int32
    offsets: Tensor  # (rows + 1,), int32
    couplers: Tensor  # coupler number of each entry of indices
    is_dense: bool


@dataclass(frozen=True)
class TorchPlan:
    """What follows from graph and clamp mask alone."""

    free: Tensor  # free nodes in partition order, int64
    held: Tensor  # clamp mask (N,)
    blocks: tuple[_Block, ...]

    @classmethod
    def of(cls, topology: Topology, mask: NDArray[np.bool_], device: torch.device, dense_from: float) -> Self:
        """Lists neighbours of the free bits partition by partition."""
        free = np.flatnonzero(~mask)
        row = np.cumsum(~mask) - 1
        edges = topology.edges
        couplers = np.flatnonzero(~mask[edges].any(axis=1))
        indices, offsets, entries = compressed_rows(row[edges[couplers]], len(free))
        blocks = []
        for nodes in topology.slices:
            start, stop = np.searchsorted(free, (nodes.start, nodes.stop)).tolist()
            if start == stop:
                continue
            part = slice(offsets[start], offsets[stop])
            possible = (stop - start) * (len(free) - stop + start)
            blocks.append(
                _Block(
                    rows=slice(start, stop),
                    indices=torch.from_numpy(indices[part].astype(np.int32)).to(device),
                    offsets=torch.from_numpy((offsets[start : stop + 1] - offsets[start]).astype(np.int32)).to(device),
                    couplers=torch.from_numpy(couplers[entries[part]]).to(device),
                    is_dense=len(indices[part]) > dense_from * possible,
                )
            )
        return cls(torch.from_numpy(free).to(device), torch.from_numpy(mask.copy()).to(device), tuple(blocks))


@dataclass(frozen=True)
class TorchBlocks:
    """The kernel.

    Args:
        dense_from: Coupled share of a partition's possible pairs from which matrix products are used.
    """

    dense_from: float = 0.4

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> TorchPlan:
        """What follows from graph and clamp mask (N,)."""
        return TorchPlan.of(topology, mask, device, self.dense_from)

    def run(self, plan: TorchPlan, call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
        run = _Run.start(plan, call)
        for _ in range(call.n_sweeps):
            run.sweep(call.generator)
        return run.finish(call.states)


@dataclass(frozen=True)
class _Update:
    """One partition of a running call: weights, constant fields and buffers, all scaled by beta."""

    block: _Block
    weights: Tensor | tuple[Tensor, Tensor]  # per entry, or dense blocks before and after the own rows
    constant: Tensor  # (rows, chains) or (rows, 1)
    bits: Tensor  # int64, room for 32 random bits a free bit and chain
    noise: Tensor  # (rows, chains)

    @classmethod
    def of(cls, block: _Block, couplings: Tensor, constant: Tensor, n_chains: int) -> Self:
        """Gathers weights and makes room for random bits."""
        n_rows = block.rows.stop - block.rows.start
        entries = couplings[block.couplers]
        weights: Tensor | tuple[Tensor, Tensor] = entries
        if block.is_dense:
            matrix = couplings.new_zeros(n_rows, len(constant))
            rows = torch.repeat_interleave(block.offsets.diff().long())
            matrix[rows, block.indices.long()] = entries
            weights = (matrix[:, : block.rows.start].contiguous(), matrix[:, block.rows.stop :].contiguous())
        n_pairs = (n_rows * n_chains + 1) // 2
        return cls(
            block=block,
            weights=weights,
            constant=constant[block.rows],
            bits=torch.empty(n_pairs, dtype=torch.int64, device=constant.device),
            noise=torch.empty(n_rows, n_chains, device=constant.device),
        )

    def field(self, values: Tensor) -> Tensor:
        """Couplers' part of the scaled field, (rows, chains)."""
        if isinstance(self.weights, tuple):
            rows = self.block.rows
            return (self.weights[0] @ values[: rows.start]).addmm_(self.weights[1], values[rows.stop :])
        if len(self.weights) == 0:
            return torch.zeros_like(self.noise)
        field: Tensor = embedding_bag(
            self.block.indices,
            values,
            self.block.offsets,
            mode="sum",
            per_sample_weights=self.weights,
            include_last_offset=True,
        )
        return field


@dataclass(frozen=True)
class _Run:
    """A call in progress: free bits as (free, chains), changed in place."""

    plan: TorchPlan
    values: Tensor
    betas: Tensor | None  # (chains,) where chains differ in temperature
    updates: tuple[_Update, ...]

    @classmethod
    def start(cls, plan: TorchPlan, call: SweepCall) -> Self:
        """Sums what does not change during the call."""
        states, betas = call.states, call.betas
        scale = 1.0 if betas is not None else float(call.beta)
        couplings = scale * call.couplings.to(states)
        constant = scale * call.fields.to(states)
        if bool(plan.held.any()):
            constant = constant + coupling_field(states * plan.held, couplings, call.neighbours)
        constant = constant.reshape(-1, states.shape[1])[:, plan.free].t().contiguous()
        if betas is not None:
            constant = constant * betas
        updates = tuple(_Update.of(block, couplings, constant, len(states)) for block in plan.blocks)
        return cls(plan, states[:, plan.free].t().contiguous(), betas, updates)

    def sweep(self, generator: torch.Generator) -> None:
        """Draws every partition once, in order."""
        for update in self.updates:
            field = update.field(self.values)
            if self.betas is not None:
                field.mul_(self.betas)
            field.add_(update.constant).sigmoid_().mul_(2 * _HALF_RANGE).sub_(_HALF_RANGE)
            update.bits.random_(-(2**63), None, generator=generator)
            update.noise.copy_(update.bits.view(torch.int32)[: update.noise.numel()].view_as(update.noise))
            torch.lt(update.noise, field, out=self.values[update.block.rows])

    def finish(self, states: Tensor) -> Tensor:
        """All bits, the clamped ones as they were, (chains, N)."""
        result = states.clone()
        result[:, self.plan.free] = self.values.t()
        return result
