r"""Sums over the couplers of a graph, as fast as plain PyTorch does them.

Two sums carry the whole machine, over states :math:`z` of shape (B, N) and couplings :math:`W` of shape (M,):

.. math:: f_{bi} = \sum_{j \sim i} W_{ij} z_{bj}, \qquad s_{ij} = \sum_b x_{bi} y_{bj} .

The first gives fields and energies, the second the pair moments; each is the other's derivative. Chip graphs
couple about one pair in a hundred, so both walk over the couplers with the nodes as rows and the states as
columns: a coupler then costs one fused multiply-add over a contiguous row, which ``embedding_bag`` does
without a temporary. Where more than one pair in three is coupled, dense matrix products are faster and are
taken instead. The couplers of a complete bipartite graph (a restricted Boltzmann machine) are sorted such that the
list of couplings is the matrix between the two partitions, row by row: there every sum is one product with a view.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from calo4pqvae.prior.graph.topology import IntArray, Topology

__all__ = ["Neighbours", "coupling_field", "pair_sums", "partition_field", "products", "sums_at_nodes"]

_DENSE_FROM = 0.3  # coupled share of all pairs from which dense products are faster
_CHUNK = 1 << 20  # products held at a time by the sparse pair sums


@dataclass(frozen=True)
class Neighbours:
    """Couplers of a graph in both directions, as compressed rows.

    Args:
        ends: Couplers (M, 2), int64.
        indices: Neighbours of node 0, then of node 1, ..., shape (2M,).
        offsets: Start of every node's share of ``indices``, shape (N + 1,).
        couplers: Coupler number of each entry of ``indices``, shape (2M,).
        block: Sizes of the two partitions of a complete bipartite graph; None for any other graph.
    """

    ends: Tensor
    indices: Tensor
    offsets: Tensor
    couplers: Tensor
    block: tuple[int, int] | None = None

    @classmethod
    def of(cls, topology: Topology) -> Self:
        """Lists the neighbours of every node of a topology, on the CPU."""
        indices, offsets, couplers = compressed_rows(topology.edges, topology.n_nodes)
        return cls(
            ends=torch.from_numpy(topology.edges.copy()),
            indices=torch.from_numpy(indices.astype(np.int32)),
            offsets=torch.from_numpy(offsets.astype(np.int32)),
            couplers=torch.from_numpy(couplers),
            block=_complete_block(topology),
        )

    def to(self, device: torch.device) -> Self:
        """The same lists on a device."""
        ends, indices, offsets, couplers = (
            part.to(device) for part in (self.ends, self.indices, self.offsets, self.couplers)
        )
        return type(self)(ends, indices, offsets, couplers, self.block)

    @property
    def is_dense(self) -> bool:
        """Whether dense products are the faster way."""
        n_nodes = len(self.offsets) - 1
        return 2 * len(self.ends) > _DENSE_FROM * n_nodes**2

    def dense(self, couplings: Tensor) -> Tensor:
        """Symmetric coupling matrix (N, N) with zero diagonal."""
        n_nodes = len(self.offsets) - 1
        matrix = couplings.new_zeros(n_nodes, n_nodes)
        first, second = self.ends.unbind(1)
        matrix[first, second] = couplings
        matrix[second, first] = couplings
        return matrix


def _complete_block(topology: Topology) -> tuple[int, int] | None:
    sizes = topology.sizes
    if len(sizes) == 2 and topology.n_edges == sizes[0] * sizes[1]:
        return sizes[0], sizes[1]
    return None


def compressed_rows(edges: IntArray, n_nodes: int) -> tuple[IntArray, IntArray, IntArray]:
    """Neighbour indices (2M,), row offsets (N + 1,) and coupler numbers (2M,) of an edge list (M, 2)."""
    rows = np.concatenate([edges[:, 0], edges[:, 1]])
    columns = np.concatenate([edges[:, 1], edges[:, 0]])
    order = np.lexsort((columns, rows))
    offsets = np.zeros(n_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n_nodes), out=offsets[1:])
    return columns[order], offsets, order % max(len(edges), 1)


def coupling_field(states: Tensor, couplings: Tensor, neighbours: Neighbours) -> Tensor:
    """Field that the couplers put on every node, differentiable once in both arguments.

    Args:
        states: Bits or relaxed bits (B, N).
        couplings: One number a coupler (M,), of the same type.
        neighbours: The graph, on the same device.

    Returns:
        Fields (B, N).
    """
    field: Tensor = _CouplingField.apply(states, couplings, neighbours)  # type: ignore[no-untyped-call]
    return field


@torch.no_grad()
def partition_field(states: Tensor, couplings: Tensor, neighbours: Neighbours, nodes: slice) -> Tensor:
    """Field that the couplers put on the nodes of one partition; nothing is kept for derivatives.

    Args:
        states: Bits or probabilities (B, N).
        couplings: One number a coupler (M,), of the same type.
        neighbours: The graph, on the same device.
        nodes: The nodes of a partition.

    Returns:
        Fields (B, nodes).
    """
    if neighbours.block is None:
        return _field(states, couplings, neighbours)[:, nodes]
    split, matrix = neighbours.block[0], couplings.view(neighbours.block)
    return states[:, split:] @ matrix.t() if nodes.start == 0 else states[:, :split] @ matrix


def pair_sums(first: Tensor, second: Tensor, neighbours: Neighbours) -> Tensor:
    r"""Sums :math:`\sum_b x_{bi} y_{bj}` over all couplers :math:`i < j`.

    Args:
        first: Values :math:`x` (B, N).
        second: Values :math:`y` (B, N).
        neighbours: The graph, on the same device.

    Returns:
        One sum a coupler, shape (M,).
    """
    if neighbours.block is not None:
        split = neighbours.block[0]
        return (first[:, :split].t() @ second[:, split:]).reshape(-1)
    rows, columns = neighbours.ends.unbind(1)
    if neighbours.is_dense:
        return (first.t() @ second)[rows, columns]
    left, right = first.t().contiguous(), second.t().contiguous()
    sums = left.new_empty(len(rows))
    step = max(1, _CHUNK // max(1, len(first)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        products = left.index_select(0, rows[part]).mul_(right.index_select(0, columns[part]))
        torch.sum(products, dim=1, out=sums[part])
    return sums


def products(first: Tensor, second: Tensor, neighbours: Neighbours) -> Tensor:
    r"""Products :math:`x_i y_j` over all couplers :math:`i < j`.

    Args:
        first: One value a node (N,).
        second: One value a node (N,).
        neighbours: The graph, on the same device.

    Returns:
        One product a coupler, shape (M,).
    """
    if neighbours.block is not None:
        split = neighbours.block[0]
        return torch.outer(first[:split], second[split:]).reshape(-1)
    rows, columns = neighbours.ends.unbind(1)
    return first[rows] * second[columns]


def sums_at_nodes(couplings: Tensor, values: Tensor, neighbours: Neighbours) -> Tensor:
    r"""Sums :math:`\sum_{j \sim i} g_{ij} x_j` at every node.

    Args:
        couplings: One number a coupler (M,).
        values: One value a node (N,).
        neighbours: The graph, on the same device.

    Returns:
        One sum a node, shape (N,).
    """
    if neighbours.block is not None:
        split = neighbours.block[0]
        matrix = couplings.view(neighbours.block)
        return torch.cat([matrix @ values[split:], values[:split] @ matrix])
    rows, columns = neighbours.ends.unbind(1)
    sums = torch.zeros_like(values)
    sums.index_add_(0, rows, couplings * values[columns])
    sums.index_add_(0, columns, couplings * values[rows])
    return sums


class _CouplingField(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, couplings: Tensor, neighbours: Neighbours) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(states, couplings)
        ctx.neighbours = neighbours
        return _field(states, couplings, neighbours)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # noqa: ANN401
        states, couplings = ctx.saved_tensors
        of_states = _field(slope, couplings, ctx.neighbours) if ctx.needs_input_grad[0] else None
        of_couplings = None
        if ctx.needs_input_grad[1]:
            of_couplings = pair_sums(slope, states, ctx.neighbours) + pair_sums(states, slope, ctx.neighbours)
        return of_states, of_couplings, None


def _field(states: Tensor, couplings: Tensor, neighbours: Neighbours) -> Tensor:
    if len(neighbours.ends) == 0 or len(states) == 0:
        return torch.zeros_like(states)
    if neighbours.block is not None:
        split, matrix = neighbours.block[0], couplings.view(neighbours.block)
        return torch.cat([states[:, split:] @ matrix.t(), states[:, :split] @ matrix], dim=1)
    if neighbours.is_dense:
        return states @ neighbours.dense(couplings)
    columns = embedding_bag(
        neighbours.indices,
        states.t().contiguous(),
        neighbours.offsets,
        mode="sum",
        per_sample_weights=couplings[neighbours.couplers],
        include_last_offset=True,
    )
    return columns.t().contiguous()
