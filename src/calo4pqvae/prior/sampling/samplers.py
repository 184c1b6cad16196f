"""All samplers of a machine behind one protocol, and by name.

A sampler is a rule without memory: it holds a machine, and neither chains nor a generator. Chains are a state, a
frozen value that can be stored and continued; ``state.states`` are bits of the machine's own law at inverse
temperature one, shape (chains, N). Held bits have the values that they have there; :func:`with_values` sets them.

.. list-table::
   :header-rows: 1

   * - name
     - how
     - its law
   * - ``gibbs``
     - block Gibbs
     - after mixing
   * - ``annealed``
     - fresh chains, cooled
     - for slow ramps, up to the weights of modes
   * - ``tempering``
     - replicas at several temperatures
     - after mixing, barriers crossed by temperature
   * - ``trajectory``
     - replicas at saved machines of the training
     - after mixing, barriers crossed along the training
   * - ``exact``
     - enumeration, 22 free bits at most
     - exact, independent
   * - ``treewidth``
     - elimination, graphs of width 22 at most
     - exact, independent

Example:
    >>> from calo4pqvae.prior.sampling.samplers import open_sampler
    >>> from calo4pqvae.testing import tiny_machine
    >>> sampler = open_sampler("tempering", tiny_machine(), betas=(0.2, 0.6, 1.0))
    >>> generator = torch.Generator().manual_seed(0)
    >>> sampler.sample(sampler.init(5, generator), 10, generator).states.shape
    torch.Size([5, 8])
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.annealed import AnnealedSampler
from calo4pqvae.prior.sampling.chains import clamp_mask
from calo4pqvae.prior.sampling.exact import ExactSampler
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.prior.sampling.tempering import TemperingSampler
from calo4pqvae.prior.sampling.trajectory import TrajectorySampler
from calo4pqvae.prior.sampling.treewidth import TreewidthSampler

__all__ = ["SAMPLERS", "ChainState", "Sampler", "open_sampler", "with_values"]


class ChainState(Protocol):
    """A frozen dataclass with the bits of all chains among its fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def states(self) -> Tensor:
        """Bits of the machine's own law as float32 zeros and ones, shape (chains, N)."""
        ...

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        ...


StateT = TypeVar("StateT", bound=ChainState)


class Sampler(Protocol[StateT]):
    """What every sampler can do; further arguments, as ``beta`` of block Gibbs, are its own."""

    @property
    def machine(self) -> BoltzmannMachine:
        """The machine whose law is drawn."""
        ...

    def init(self, n_chains: int, generator: torch.Generator) -> StateT:
        """Chains to begin with.

        Args:
            n_chains: Number of chains, at least one.
            generator: Source of randomness, on the machine's device.

        Raises:
            PriorError: If there is no chain.
        """
        ...

    def sample(
        self,
        state: StateT,
        n_sweeps: int,
        generator: torch.Generator,
        clamped: Tensor | NDArray[np.bool_] | None = None,
        condition: Tensor | None = None,
    ) -> StateT:
        """Chains after a number of sweeps, or fresh draws where a sampler makes these.

        Args:
            state: Where the chains are; it is not changed.
            n_sweeps: Sweeps to make, 0 or more; their meaning is the sampler's.
            generator: Source of randomness, on the machine's device.
            clamped: Mask (N,) of the bits to hold at the values of ``state.states``.
            condition: c of every chain, shape (chains, n_c), if the machine has a condition.

        Raises:
            PriorError: If a shape does not fit, a parameter is not finite, or ``n_sweeps`` is negative.
        """
        ...


def _trajectory(
    machine: BoltzmannMachine,
    checkpoints: Sequence[BoltzmannMachine] = (),
    sweeps_per_swap: int = 1,
    gibbs: Callable[[BoltzmannMachine], BlockGibbsSampler] = BlockGibbsSampler,
) -> TrajectorySampler:
    if not checkpoints:
        raise PriorError('the sampler "trajectory" needs earlier machines of the training; pass them as checkpoints')
    return TrajectorySampler([*checkpoints, machine], sweeps_per_swap, gibbs)


SAMPLERS: dict[str, Callable[..., Sampler[Any]]] = {
    "gibbs": BlockGibbsSampler,
    "annealed": AnnealedSampler,
    "tempering": TemperingSampler,
    "trajectory": _trajectory,
    "exact": ExactSampler,
    "treewidth": TreewidthSampler,
}
"""Every sampler by name; each is called with the machine and its own options."""


def open_sampler(name: str, machine: BoltzmannMachine, **options: object) -> Sampler[Any]:
    """The sampler of a name.

    Args:
        name: One of :data:`SAMPLERS`.
        machine: The machine to draw from.
        options: Options of the sampler's class; ``trajectory`` takes the earlier machines as ``checkpoints``.

    Raises:
        PriorError: If there is no such sampler, or it has no such option or refuses its value.
    """
    if name not in SAMPLERS:
        raise PriorError(f"there is no sampler {name!r}; choose from {', '.join(SAMPLERS)}")
    known = list(inspect.signature(SAMPLERS[name]).parameters)[1:]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise PriorError(f"the sampler {name!r} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return SAMPLERS[name](machine, **options)


def with_values(state: StateT, clamped: Tensor | NDArray[np.bool_], values: Tensor) -> StateT:
    """The same chains with other held bits.

    Args:
        state: State of any sampler.
        clamped: Mask (N,) of the bits to set.
        values: Bits (N,) for all chains or (chains, N) for each; those under the mask are used.

    Raises:
        PriorError: If a shape does not fit or a used value is no bit.
    """
    shape = state.states.shape
    mask = clamp_mask(clamped, shape[1]).to(state.states.device)
    if values.shape not in (shape, shape[1:]):
        raise PriorError(
            f"values have shape {tuple(values.shape)}; give {shape[1]} bits for all chains, or {tuple(shape)} for each"
        )
    bits = torch.where(mask, values.to(state.states), state.states)
    if not bool(((bits == 0) | (bits == 1)).all()):
        raise PriorError("held bits must be zeros and ones; round them first")
    return replace(state, states=bits)
