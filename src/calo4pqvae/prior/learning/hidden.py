r"""Bits that the data do not show: what they are given the others, exactly.

Let the hidden bits lie in one partition, so that no coupler joins two of them. Given all other bits they are
independent,

.. math:: p(h_k = 1 | rest) = \sigma(f_k), \qquad f_k = b_k + \sum_a c_a A_{ak} + \sum_{j \sim k} W_{kj} z_j ,

and every statistic of the machine is linear in each of them. The means of the positive phase over the hidden bits are
therefore the statistics with :math:`\sigma(f_k)` in the place of :math:`h_k`: no draw is needed, and by the theorem of
Rao and Blackwell no estimate from draws has a smaller variance. The same holds in the negative phase for any one
partition given the others.

Hidden bits in several partitions have no such closed form; they are drawn by block Gibbs with the visible bits clamped,
after which one partition is still replaced by its probabilities.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.pairs import partition_field
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["HiddenBits", "drawn", "partition_means"]


@torch.no_grad()
def partition_means(
    machine: BoltzmannMachine,
    states: Tensor,
    partition: int,
    condition: Tensor | None = None,
    held: Tensor | None = None,
) -> Tensor:
    """States with the bits of one partition replaced by their probabilities given all others.

    Args:
        machine: The machine.
        states: Bits (B, N).
        partition: The partition.
        condition: c, shape (B, n_c), if the machine has one.
        held: Mask (N,) of bits that stay as they are.

    Returns:
        Bits and probabilities (B, N).
    """
    nodes = machine.topology.slices[partition]
    field = partition_field(states, machine.couplings, machine.neighbours, nodes)
    means = (field + machine.fields(condition)[..., nodes]).sigmoid_()
    if held is not None:
        means = torch.where(held[nodes], states[:, nodes], means)
    return torch.cat([states[:, : nodes.start], means, states[:, nodes.stop :]], dim=1)


@dataclass(frozen=True)
class HiddenBits:
    """Which bits the data show and which are hidden.

    Args:
        visible: Mask (N,) of the visible bits, on the device of the machine.
        partitions: Partitions that hold hidden bits, in order.
        n_sweeps: Sweeps that draw them if there are several such partitions.
    """

    visible: Tensor
    partitions: tuple[int, ...]
    n_sweeps: int

    @classmethod
    def of(cls, topology: Topology, hidden: NDArray[np.bool_], n_sweeps: int, device: torch.device) -> Self:
        """From a mask of hidden bits (N,).

        Raises:
            PriorError: If the mask does not fit the graph, or nothing is hidden or nothing visible.
        """
        if hidden.shape != (topology.n_nodes,) or hidden.dtype != np.bool_:
            raise PriorError(
                f"the mask of hidden bits is {hidden.dtype} of shape {hidden.shape}; give one boolean for each of the "
                f"{topology.n_nodes} bits"
            )
        if hidden.all() or not hidden.any():
            raise PriorError("a mask of hidden bits must leave some visible and hide some; leave it out to hide none")
        partitions = tuple(np.unique(topology.partition[hidden]).tolist())
        return cls(torch.from_numpy(~hidden).to(device), partitions, n_sweeps)

    @property
    def n_visible(self) -> int:
        """Number of visible bits."""
        return int(self.visible.sum())

    def complete(
        self,
        sampler: BlockGibbsSampler,
        bits: Tensor,
        generator: Generator,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Visible bits with what is known of the hidden ones.

        Args:
            sampler: Sampler of the machine, used if several partitions are hidden.
            bits: Visible bits (B, n_visible), in the order of the nodes.
            generator: Source of randomness for the sampler.
            condition: c, shape (B, n_c), if the machine has one.

        Returns:
            States (B, N): bits where they are visible, probabilities in the last hidden partition, drawn bits in other
            hidden partitions.

        Raises:
            PriorError: If the number of bits is not that of the visible ones.
        """
        if bits.ndim != 2 or bits.shape[1] != self.n_visible:
            raise PriorError(
                f"data have shape {tuple(bits.shape)}; they must be (states, {self.n_visible}) visible bits"
            )
        states = bits.new_zeros(len(bits), len(self.visible))
        states[:, self.visible] = bits
        if len(self.partitions) > 1:
            coins = sampler.init(len(bits), generator).states
            start = GibbsState(torch.where(self.visible, states, coins))
            states = sampler.sample(start, self.n_sweeps, generator, self.visible, condition).states
        return partition_means(sampler.machine, states, self.partitions[-1], condition, self.visible)


def drawn(probabilities: Tensor, generator: Generator) -> Tensor:
    """Independent bits with given probabilities; exact zeros and ones stay what they are."""
    uniform = torch.rand(probabilities.shape, generator=generator, device=probabilities.device)
    return (uniform < probabilities).to(probabilities)
