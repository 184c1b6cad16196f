r"""Block Gibbs sampling of a Boltzmann machine: all bits of a partition at once.

Given all other partitions the bits of one partition are independent, with

.. math:: p(z_i = 1 | rest) = \sigma(\beta f_i), \qquad f_i = b_i + \sum_a c_a A_{ai} + \sum_{j \sim i} W_{ij} z_j .

One sweep draws partition 0, 1, ..., P - 1 in this order, each from its exact conditional law, so that
:math:`e^{-\beta E}/Z` is stationary. Clamped bits keep their values: any mask of bits may be clamped, and a
partition without free bits costs nothing. Every chain may have its own condition, clamped values and inverse
temperature.

Three objects are kept apart: the machine holds parameters, the sampler is a rule without memory of chains, and a
:class:`GibbsState` is a value that can be stored and continued. The same state, generator state and number of
sweeps give the same bits with the same kernel.

**Kernels.** The sweeps are made by one of several kernels (:mod:`~calo4pqvae.prior.kernels.choice`) with the same law:
by name, or by estimated cost. The sampler says which it took (:attr:`BlockGibbsSampler.choice`).
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.kernels.call import Kernel, SweepCall
from calo4pqvae.prior.kernels.choice import LARGEST_OF_INTEGERS, KernelChoice, KernelName, Workload, choose_kernel
from calo4pqvae.prior.kernels.torch_blocks import TorchBlocks
from calo4pqvae.prior.kernels.triton_blocks import TritonBlocks
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = ["BlockGibbsSampler", "GibbsState"]


@dataclass(frozen=True)
class GibbsState:
    """States of independent Markov chains, one a row.

    Args:
        states: Bits as float32 zeros and ones, shape (chains, N).

    Raises:
        PriorError: If a value is neither zero nor one.
    """

    states: Tensor

    def __post_init__(self) -> None:
        bits = self.states.detach()
        if bits.ndim != 2 or not bool(((bits == 0) | (bits == 1)).all()):
            raise PriorError("chain states must be zeros and ones of shape (chains, nodes); round them first")
        object.__setattr__(self, "states", bits.to(torch.float32))

    @classmethod
    def of_bits(cls, bits: Tensor) -> Self:
        """A state of float32 bits that are known to be exact: what a kernel returns."""
        state = object.__new__(cls)
        object.__setattr__(state, "states", bits)
        return state

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return len(self.states)


class BlockGibbsSampler:
    """Draws from a machine partition by partition; holds no chain and no generator.

    Args:
        machine: The machine; its parameters are read anew at every call.
        kernel: Which kernel makes the sweeps; ``"auto"`` takes the cheapest for the size of a call.

    Attributes:
        choice: The kernel of the latest call and why it was taken; None before the first.
    """

    def __init__(self, machine: BoltzmannMachine, kernel: KernelName = "auto") -> None:
        self.machine = machine
        self.kernel: KernelName = kernel
        self.choice: KernelChoice | None = None
        self._latest: _Prepared | None = None

    def init(self, n_chains: int, generator: torch.Generator) -> GibbsState:
        """Chains started at fair coins.

        Args:
            n_chains: Number of chains, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        if n_chains < 1:
            raise PriorError(f"{n_chains} chains cannot be started; ask for at least one")
        shape = (n_chains, self.machine.n_nodes)
        return GibbsState(torch.randint(0, 2, shape, generator=generator, device=self.machine.device))

    @torch.no_grad()
    def sample(
        self,
        state: GibbsState,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
        beta: float | Tensor = 1.0,
    ) -> GibbsState:
        """Continues the chains by a number of sweeps.

        Args:
            state: Where the chains are; it is not changed. Clamped bits have the values that they have here.
            n_sweeps: Updates of every free bit; 0 gives the state back.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold.
            condition: c of every chain, shape (chains, n_c), if the machine has a condition.
            beta: Inverse temperature, one for all chains or one for each, shape (chains,).

        Returns:
            The new state, exact bits.

        Raises:
            PriorError: If a shape does not fit, a parameter, condition or beta is not finite, or ``n_sweeps`` is
                negative.
        """
        self.machine.check_finite()
        self._check(state, n_sweeps, condition, beta)
        states = state.states.to(self.machine.device)
        mask = np.zeros(self.machine.n_nodes, dtype=np.bool_) if clamped is None else _as_mask(clamped)
        if len(mask) != self.machine.n_nodes:
            raise PriorError(f"the clamp mask has {len(mask)} entries for {self.machine.n_nodes} bits; give one each")
        if n_sweeps == 0:
            return state
        fields, couplings = self.machine.fields(condition).detach(), self.machine.couplings.detach()
        prepared = self._prepare(mask, state.n_chains, _largest(fields, couplings, beta))
        call = SweepCall(
            states=states,
            fields=fields,
            couplings=couplings,
            neighbours=self.machine.neighbours,
            beta=beta,
            n_sweeps=n_sweeps,
            generator=generator,
        )
        return GibbsState.of_bits(prepared.kernel.run(prepared.plan, call))

    def choose(self, n_chains: int, clamped: NDArray[np.bool_] | None = None, largest: float = 0.0) -> KernelChoice:
        """The kernel that a call of some size takes.

        Args:
            n_chains: Number of chains.
            clamped: Mask (N,) of the bits to hold.
            largest: Largest coupling or field, times beta.

        Raises:
            ConfigError: If the kernel that was asked for cannot run here.
        """
        topology = self.machine.topology
        n_free = topology.n_nodes if clamped is None else int((~clamped).sum())
        degree = 2 * topology.n_edges / max(1, topology.n_nodes)
        workload = Workload(n_free, degree, n_chains, topology.n_partitions, largest)
        return choose_kernel(self.kernel, self.machine.device, workload)

    def _prepare(self, mask: NDArray[np.bool_], n_chains: int, largest: float) -> "_Prepared":
        """Keeps the lists of the latest mask: calls of few sweeps would otherwise spend their time on them."""
        device, kind = self.machine.device, (n_chains, largest > LARGEST_OF_INTEGERS)
        if self._latest is not None and self._latest.fits(mask, device, kind):
            return self._latest
        self.choice = self.choose(n_chains, mask, largest)
        if self._latest is None or not self._latest.serves(mask, device, self.choice):
            kernel = _open(self.choice)
            plan = kernel.plan(self.machine.topology, mask, device)
            self._latest = _Prepared(self.choice, kernel, plan, mask.tobytes(), device)
        self._latest.kinds.add(kind)
        return self._latest

    def _check(self, state: GibbsState, n_sweeps: int, condition: Tensor | None, beta: float | Tensor) -> None:
        if n_sweeps < 0:
            raise PriorError(f"{n_sweeps} sweeps cannot be made; ask for 0 or more")
        if state.states.shape[1] != self.machine.n_nodes:
            raise PriorError(
                f"the chains have {state.states.shape[1]} bits, the machine {self.machine.n_nodes}; "
                "use chains of this machine"
            )
        if condition is not None and len(condition) != state.n_chains:
            raise PriorError(f"{len(condition)} conditions for {state.n_chains} chains; give one for each")
        if isinstance(beta, Tensor) and beta.ndim > 0 and beta.shape != (state.n_chains,):
            raise PriorError(f"beta has shape {tuple(beta.shape)}; give a number or one for each chain")
        if not bool(torch.isfinite(torch.as_tensor(beta, dtype=torch.float32)).all()):
            raise PriorError("an inverse temperature beta is NaN or infinite; give finite numbers")


@dataclass(frozen=True)
class _Prepared:
    """A kernel with its plan for one clamp mask."""

    choice: KernelChoice
    kernel: Kernel[Any]
    plan: Any
    mask: bytes
    device: torch.device
    kinds: set[tuple[int, bool]] = field(default_factory=set)  # chains, and whether parameters are too large for packed

    def fits(self, mask: NDArray[np.bool_], device: torch.device, kind: tuple[int, bool]) -> bool:
        """Whether a call needs no other kernel and no other plan."""
        return kind in self.kinds and (self.mask, self.device) == (mask.tobytes(), device)

    def serves(self, mask: NDArray[np.bool_], device: torch.device, choice: KernelChoice) -> bool:
        """Whether the plan serves a call that has chosen its kernel."""
        return (self.mask, self.device, self.choice.name) == (mask.tobytes(), device, choice.name)


def _open(choice: KernelChoice) -> Kernel[Any]:
    """The kernel of a name; compiled ones are imported when they are first needed."""
    if choice.name == "packed":
        from calo4pqvae.prior.kernels.packed import PackedBlocks  # compiles, so not before it is needed

        return PackedBlocks()
    if choice.name == "triton":
        return TritonBlocks()
    return TorchBlocks({"torch-sparse": 2.0, "torch-dense": 0.0}.get(choice.name, 0.4))


def _largest(fields: Tensor, couplings: Tensor, beta: float | Tensor) -> float:
    """Largest coupling or field, times the largest beta."""
    sizes = [max(float(-part.min()), float(part.max())) for part in (fields, couplings) if part.numel()]
    if not np.isfinite(sizes).all():
        raise PriorError("fields of the chains hold NaN or infinity; give finite conditions")
    return max(sizes) * float(torch.as_tensor(beta).abs().max())


def _as_mask(clamped: Tensor | NDArray[np.bool_]) -> NDArray[np.bool_]:
    mask = clamped.cpu().numpy() if isinstance(clamped, Tensor) else np.asarray(clamped)
    if mask.ndim != 1 or mask.dtype != np.bool_:
        raise PriorError(f"the clamp mask is {mask.dtype} of shape {mask.shape}; give one boolean a bit")
    return mask
