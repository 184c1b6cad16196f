"""Chains that go on from one learning step to the next.

Persistent chains hold the clamped values and the condition of an event of their own. So that these are not those of
the first events for ever, a share of the chains, the oldest, takes over new events in each step. Tempered chains do the
same at every temperature (:mod:`~calo4pqvae.prior.sampling.tempering`); those at inverse temperature one are the
model's.

Tieleman, "Training restricted Boltzmann machines using approximations to the likelihood gradient", ICML (2008).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.replicas import ReplicaState, SwapBook
from calo4pqvae.prior.sampling.tempering import TemperingSampler

__all__ = ["PersistentChains", "TemperedChains"]

_BOOK = ("attempts", "accepts", "walkers", "legs", "round_trips")


@dataclass(frozen=True)
class PersistentChains:
    """Chains that go on from step to step, each with the clamped values and the condition of an event of its own.

    Args:
        state: The chains; clamped bits hold the values of the chain's event.
        condition: Condition of every chain (chains, n_c), or None.
        oldest: The chain that takes over a new event next.
    """

    state: GibbsState
    condition: Tensor | None = None
    oldest: int = 0

    @classmethod
    def start(cls, data: GibbsState, condition: Tensor | None, n_chains: int, generator: torch.Generator) -> Self:
        """Starts every chain at an event of the batch, all events as evenly as the numbers allow.

        Args:
            data: Bits of the batch.
            condition: Conditions of the batch, or None.
            n_chains: Number of chains.
            generator: Source of the choice.
        """
        picks = _pick(data.n_chains, n_chains, generator)
        return cls(GibbsState(data.states[picks]), None if condition is None else condition[picks])

    def refresh(
        self, data: GibbsState, condition: Tensor | None, n_new: int, generator: torch.Generator
    ) -> "PersistentChains":
        """Restarts the oldest chains at events of a batch.

        Args:
            data: Bits of the batch.
            condition: Conditions of the batch, or None.
            n_new: How many chains to restart.
            generator: Source of the choice.
        """
        n_chains = self.state.n_chains
        picks = _pick(data.n_chains, n_new, generator)
        rows = (self.oldest + torch.arange(n_new, device=picks.device)) % n_chains
        states = self.state.states.index_copy(0, rows, data.states[picks])
        own = self.condition
        if own is not None and condition is not None:
            own = own.index_copy(0, rows, condition[picks])
        return PersistentChains(GibbsState(states), own, (self.oldest + n_new) % n_chains)

    def following(self, other: "PersistentChains", n_new: int) -> "PersistentChains":
        """These chains as twins of others: the last ``n_new`` that the others restarted restart at the same events.

        Args:
            other: Chains that were just refreshed; until then each had the event of its twin.
            n_new: How many were restarted.
        """
        states = other.state.states
        rows = (other.oldest - n_new + torch.arange(n_new, device=states.device)) % other.state.n_chains
        own = self.state.states.index_copy(0, rows, states[rows])
        return PersistentChains(GibbsState(own), other.condition, other.oldest)

    def advanced(
        self, sampler: BlockGibbsSampler, n_sweeps: int, generator: torch.Generator, clamped: NDArray[np.bool_]
    ) -> "PersistentChains":
        """The chains after some sweeps.

        Args:
            sampler: Sampler of the machine.
            n_sweeps: How many.
            generator: Source of randomness.
            clamped: Mask (N,) of the bits to hold.
        """
        state = sampler.sample(self.state, n_sweeps, generator, clamped, self.condition)
        return PersistentChains(state, self.condition, self.oldest)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit, as tensors on the CPU."""
        tensors = {"states": self.state.states.to("cpu", torch.uint8), "oldest": torch.tensor(self.oldest)}
        if self.condition is not None:
            tensors["condition"] = self.condition.cpu().clone()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Self:
        """Rebuilds the chains of :meth:`to_tensors` on a device."""
        condition = tensors.get("condition")
        return cls(
            GibbsState(tensors["states"].to(device)),
            None if condition is None else condition.to(device),
            int(tensors["oldest"]),
        )


@dataclass(frozen=True)
class TemperedChains:
    """Persistent chains with replicas at higher temperatures.

    Args:
        replicas: The chains at all temperatures; clamped bits hold the values of the chain's event.
        ladder: Inverse temperatures, rising to one.
        condition: Condition of every chain (chains, n_c), or None.
        oldest: The chain that takes over a new event next.
    """

    replicas: ReplicaState
    ladder: tuple[float, ...]
    condition: Tensor | None = None
    oldest: int = 0

    @property
    def state(self) -> GibbsState:
        """The chains at inverse temperature one."""
        return GibbsState(self.replicas.states)

    @classmethod
    def start(
        cls,
        data: GibbsState,
        condition: Tensor | None,
        n_chains: int,
        ladder: Sequence[float],
        generator: torch.Generator,
    ) -> Self:
        """Starts every chain, at all temperatures, at an event of the batch.

        Args:
            data: Bits of the batch.
            condition: Conditions of the batch, or None.
            n_chains: Number of chains.
            ladder: Inverse temperatures, rising to one.
            generator: Source of the choice.
        """
        picks = _pick(data.n_chains, n_chains, generator)
        levels = data.states[picks].repeat(len(ladder), 1, 1)
        return cls(ReplicaState.start(levels), tuple(ladder), None if condition is None else condition[picks])

    def refresh(
        self, data: GibbsState, condition: Tensor | None, n_new: int, generator: torch.Generator
    ) -> "TemperedChains":
        """Restarts the oldest chains, at all temperatures, at events of a batch; arguments as for plain chains."""
        picks = _pick(data.n_chains, n_new, generator)
        rows = (self.oldest + torch.arange(n_new, device=picks.device)) % self.replicas.n_chains
        fresh, old = data.states[picks], self.replicas
        levels = old.others.index_copy(1, rows, fresh.expand(len(old.others), -1, -1))
        replicas = replace(old, states=old.states.index_copy(0, rows, fresh), others=levels)
        own = self.condition
        if own is not None and condition is not None:
            own = own.index_copy(0, rows, condition[picks])
        return TemperedChains(replicas, self.ladder, own, (self.oldest + n_new) % old.n_chains)

    def tempering(self, sampler: BlockGibbsSampler) -> TemperingSampler:
        """The sampler of all temperatures that sweeps with the given one."""
        return TemperingSampler(sampler.machine, self.ladder, gibbs=lambda _: sampler)

    def advanced(
        self, sampler: BlockGibbsSampler, n_sweeps: int, generator: torch.Generator, clamped: NDArray[np.bool_]
    ) -> "TemperedChains":
        """The chains after some sweeps of all temperatures, with an exchange after each; arguments as above."""
        replicas = self.tempering(sampler).sample(self.replicas, n_sweeps, generator, clamped, self.condition)
        return replace(self, replicas=replicas)

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on bit for bit, as tensors on the CPU."""
        replicas = self.replicas
        tensors = {
            "states": replicas.states.to("cpu", torch.uint8),
            "others": replicas.others.to("cpu", torch.uint8),
            "n_sweeps": torch.tensor(replicas.n_sweeps),
            "ladder": torch.tensor(self.ladder, dtype=torch.float64),
            "oldest": torch.tensor(self.oldest),
        }
        tensors |= {f"book.{name}": getattr(replicas.book, name).cpu().clone() for name in _BOOK}
        if self.condition is not None:
            tensors["condition"] = self.condition.cpu().clone()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: torch.device) -> Self:
        """Rebuilds the chains of :meth:`to_tensors` on a device."""
        condition = tensors.get("condition")
        replicas = ReplicaState(
            tensors["states"].to(device, torch.float32),
            tensors["others"].to(device, torch.float32),
            SwapBook(*(tensors[f"book.{name}"].to(device) for name in _BOOK)),
            int(tensors["n_sweeps"]),
        )
        own = None if condition is None else condition.to(device)
        return cls(replicas, tuple(tensors["ladder"].tolist()), own, int(tensors["oldest"]))


def _pick(n_events: int, n_wanted: int, generator: torch.Generator) -> Tensor:
    """Events in random order, each as often as the others up to one."""
    rounds = -(-n_wanted // n_events)
    orders = [torch.randperm(n_events, generator=generator, device=generator.device) for _ in range(rounds)]
    return torch.cat(orders)[:n_wanted]
