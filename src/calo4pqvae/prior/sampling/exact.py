r"""Exact laws of small machines by summing over all states.

.. math::
    \ln Z_\beta = \ln \sum_z e^{-\beta E(z)}, \qquad \langle A \rangle = \sum_z A(z) e^{-\beta E(z)} /
    Z_\beta,

the sum over the bits that are not clamped, in float64 with the largest exponent taken out. The cost doubles
with every free bit: 20 take about a second, 22 are the limit. This is the oracle that samplers, gradients and
estimators of the partition function are compared with; it knows the variances too, because tests without them
have no power. :class:`ExactSampler` draws from it, independently and at once. Graphs that are nearly trees need no
enumeration: :mod:`~calo4pqvae.prior.sampling.treewidth`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import check_call, clamp_mask, distinct_laws, fair_coins
from calo4pqvae.prior.sampling.gibbs import GibbsState

__all__ = ["ExactLaw", "ExactSampler", "enumerate_machine"]

MAX_FREE_BITS = 22
_CHUNK = 1 << 14


@dataclass(frozen=True)
class ExactLaw:
    """The law of a machine over its free bits; all numbers float64 on the CPU, S = 2 ** (number of free bits).

    Args:
        free_nodes: The bits summed over, shape (F,).
        free_states: Their values in every state, uint8, shape (S, F); the first free bit changes slowest.
        held: All bits with the clamped values filled in and zeros elsewhere, shape (N,).
        energies: E of every state, with the clamped part, shape (S,).
        probabilities: p of every state, shape (S,).
        log_z: Log of the sum over the free bits.
        first: Means of the bits, shape (N,).
        second: Means of the products over the couplers, shape (M,).
        energy_mean: Mean of E.
        energy_variance: Variance of E.
    """

    free_nodes: Tensor
    free_states: Tensor
    held: Tensor
    energies: Tensor
    probabilities: Tensor
    log_z: float
    first: Tensor
    second: Tensor
    energy_mean: float
    energy_variance: float

    @property
    def first_variance(self) -> Tensor:
        """Variances of the bits, shape (N,)."""
        return self.first * (1 - self.first)

    @property
    def second_variance(self) -> Tensor:
        """Variances of the products over the couplers, shape (M,)."""
        return self.second * (1 - self.second)

    @property
    def entropy(self) -> float:
        """Entropy of the law in nats."""
        return float(torch.special.entr(self.probabilities).sum())

    def states(self) -> Tensor:
        """All bits in every state, uint8, shape (S, N)."""
        full = self.held.to(torch.uint8).repeat(len(self.free_states), 1)
        full[:, self.free_nodes] = self.free_states
        return full


@torch.no_grad()
def enumerate_machine(
    machine: BoltzmannMachine,
    condition: Tensor | None = None,
    clamped: Tensor | None = None,
    values: Tensor | None = None,
    beta: float = 1.0,
) -> ExactLaw:
    """Sums over all states of the free bits.

    Args:
        machine: The machine, with at most 22 free bits.
        condition: c, shape (n_c,), if the machine has one.
        clamped: Mask (N,) of the bits to hold; none if None.
        values: Bits (N,); those under the mask are used.
        beta: Inverse temperature.

    Raises:
        PriorError: If there are too many free bits, or a mask comes without values or with a wrong shape.
    """
    machine.check_finite()
    n_nodes = machine.n_nodes
    mask, held = _held(n_nodes, clamped, values)
    free = torch.nonzero(~mask).squeeze(1)
    if len(free) > MAX_FREE_BITS:
        raise PriorError(f"{len(free)} free bits are too many to sum over; clamp some, the limit is {MAX_FREE_BITS}")
    fields = _fields(machine, condition)
    matrix = _coupling_matrix(machine)
    constant = -(held @ fields + held @ matrix @ held / 2)
    free_fields = (fields + matrix @ held)[free]
    free_matrix = matrix[free][:, free]
    bits = _all_bits(len(free))
    energies = (
        torch.cat([_energies(part.double(), free_fields, free_matrix) for part in torch.split(bits, _CHUNK)]) + constant
    )
    log_z = torch.logsumexp(-beta * energies, dim=0)
    probabilities = torch.exp(-beta * energies - log_z)
    first, pairs = _moments(bits, probabilities)
    means = held.clone()
    means[free] = first
    products = torch.outer(means, means)
    products[free[:, None], free] = pairs
    ends = torch.from_numpy(machine.topology.edges.copy())
    energy_mean = probabilities @ energies
    return ExactLaw(
        free_nodes=free,
        free_states=bits,
        held=held,
        energies=energies,
        probabilities=probabilities,
        log_z=float(log_z),
        first=means,
        second=products[ends[:, 0], ends[:, 1]],
        energy_mean=float(energy_mean),
        energy_variance=float(probabilities @ (energies - energy_mean).square()),
    )


class ExactSampler:
    """Independent draws from the enumerated law; holds no generator.

    Chains with equal held bits and condition share one enumeration; a call with many different ones takes as many.

    Args:
        machine: The machine, with at most 22 free bits in every call; its parameters are read anew each time.
    """

    def __init__(self, machine: BoltzmannMachine) -> None:
        self.machine = machine

    def init(self, n_chains: int, generator: torch.Generator) -> GibbsState:
        """Fair coins, which carry the held bits if some are set and are forgotten otherwise.

        Args:
            n_chains: Number of draws, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        return GibbsState(fair_coins(self.machine, n_chains, generator))

    @torch.no_grad()
    def sample(
        self,
        state: GibbsState,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
        beta: float = 1.0,
    ) -> GibbsState:
        """Fresh independent draws.

        Args:
            state: Gives the number of draws and the values of held bits; its free bits are not used.
            n_sweeps: 0 gives the state back; any other number gives one draw a chain.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every draw, shape (chains, n_c), if the machine has a condition.
            beta: Inverse temperature.

        Raises:
            PriorError: If there are too many free bits, a shape does not fit, a parameter is not finite, or
                ``n_sweeps`` is negative.
        """
        check_call(self.machine, state.states, n_sweeps, condition)
        mask = clamp_mask(clamped, self.machine.n_nodes)
        if n_sweeps == 0:
            return state
        states, device = state.states.cpu(), self.machine.device
        members, group = distinct_laws(states, mask, condition)
        draws = torch.empty_like(states)
        for index, member in enumerate(members.tolist()):
            row = None if condition is None else condition[member]
            law = enumerate_machine(self.machine, row, mask, states[member], beta)
            chains = torch.nonzero(group == index).squeeze(1)
            odds = law.probabilities.to(device)
            picks = torch.multinomial(odds, len(chains), replacement=True, generator=generator).cpu()
            draws[chains] = law.held.float()
            draws[chains[:, None], law.free_nodes] = law.free_states[picks].float()
        return GibbsState(draws.to(device))


def _held(n_nodes: int, clamped: Tensor | None, values: Tensor | None) -> tuple[Tensor, Tensor]:
    if clamped is None:
        return torch.zeros(n_nodes, dtype=torch.bool), torch.zeros(n_nodes, dtype=torch.float64)
    mask = torch.as_tensor(clamped).cpu()
    if values is None or mask.shape != (n_nodes,) or values.shape != (n_nodes,) or mask.dtype != torch.bool:
        raise PriorError(f"clamping needs a boolean mask and values, {n_nodes} of each; give both")
    return mask, values.cpu().double() * mask


def _fields(machine: BoltzmannMachine, condition: Tensor | None) -> Tensor:
    biases = machine.biases.cpu().double()
    machine.fields(None if condition is None else condition[None])
    if condition is None or machine.condition_weights is None:
        return biases
    return biases + condition.cpu().double() @ machine.condition_weights.cpu().double()


def _coupling_matrix(machine: BoltzmannMachine) -> Tensor:
    ends = torch.from_numpy(machine.topology.edges.copy())
    matrix = torch.zeros(machine.n_nodes, machine.n_nodes, dtype=torch.float64)
    matrix[ends[:, 0], ends[:, 1]] = machine.couplings.cpu().double()
    return matrix + matrix.t()


def _all_bits(n_bits: int) -> Tensor:
    numbers = torch.arange(1 << n_bits)
    shifts = range(n_bits - 1, -1, -1)
    columns = [((numbers >> shift) & 1).to(torch.uint8) for shift in shifts]
    return torch.stack(columns, dim=1) if columns else torch.zeros(1, 0, dtype=torch.uint8)


def _energies(bits: Tensor, fields: Tensor, matrix: Tensor) -> Tensor:
    return -(bits @ fields + ((bits @ matrix) * bits).sum(dim=1) / 2)


def _moments(bits: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    n_bits = bits.shape[1]
    first = torch.zeros(n_bits, dtype=torch.float64)
    pairs = torch.zeros(n_bits, n_bits, dtype=torch.float64)
    for part, weights in zip(torch.split(bits, _CHUNK), torch.split(probabilities, _CHUNK), strict=True):
        values = part.double()
        weighted = values * weights[:, None]
        first += weighted.sum(dim=0)
        pairs += weighted.t() @ values
    return first, pairs
