"""Learning a Boltzmann machine from bits: persistent chains and the update step.

A step compares the moments of a batch with those of the model's own samples (the negative phase) and moves
the parameters along the contrastive gradient of :mod:`~calo4pqvae.prior.gradients`.

**Chains.** Contrastive divergence (``cd``) starts its chains at the data in every step; persistent chains
(``pcd``) go on from the step before. Chains hold the clamped values and the condition of an event of their
own. So that these are not those of the first events for ever, a share of the chains, the oldest, takes over
new events in each step. Sweeps must exceed the mixing time, which grows as learning goes on, or the model is
right only for its own protocol.

Tieleman, ICML (2008); Decelle, Furtlehner and Seoane, NeurIPS (2021), arXiv 2105.13889.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.prior.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.gradients import Gradient, Offsets, contrastive_gradient
from calo4pqvae.prior.machine import BoltzmannMachine, Moments

__all__ = ["LearningSettings", "PersistentChains", "PriorLearner", "StepReport"]


@dataclass(frozen=True)
class LearningSettings:
    """How a machine is learned.

    Args:
        learning_rate: Step size at the start.
        learning_rate_final: Step size at the end, reached geometrically; None keeps it constant.
        n_sweeps: Gibbs sweeps a step.
        n_chains: Persistent chains.
        method: ``"pcd"`` (persistent chains) or ``"cd"`` (chains started at the data).
        gradient: ``"centred"`` or ``"plain"``.
        optimizer: ``"sgd"``, or ``"adam"``, which has been seen to diverge with the centred gradient.
        weight_decay: L2 decay of the couplings.
        offset_rate: Share of a new batch in the moving average of the offsets.
        refresh: Share of the persistent chains that takes over new events in each step, if bits are clamped or
            the machine has a condition.

    Raises:
        ConfigError: If a value is out of range.
    """

    learning_rate: float = 0.02
    learning_rate_final: float | None = None
    n_sweeps: int = 50
    n_chains: int = 512
    method: Literal["pcd", "cd"] = "pcd"
    gradient: Literal["centred", "plain"] = "centred"
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: float = 0.0
    offset_rate: float = 0.05
    refresh: float = 0.05

    def __post_init__(self) -> None:
        final = self.learning_rate if self.learning_rate_final is None else self.learning_rate_final
        rules = {
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "learning_rate_final": (final > 0, "above 0"),
            "n_sweeps": (self.n_sweeps >= 1, "1 or more"),
            "n_chains": (self.n_chains >= 1, "1 or more"),
            "method": (self.method in ("pcd", "cd"), "pcd or cd"),
            "gradient": (self.gradient in ("centred", "plain"), "centred or plain"),
            "optimizer": (self.optimizer in ("sgd", "adam"), "sgd or adam"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "offset_rate": (0 < self.offset_rate <= 1, "in (0, 1]"),
            "refresh": (0 <= self.refresh <= 1, "in [0, 1]"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)!r} is out of range; it must be {allowed}")


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


def _pick(n_events: int, n_wanted: int, generator: torch.Generator) -> Tensor:
    """Events in random order, each as often as the others up to one."""
    rounds = -(-n_wanted // n_events)
    orders = [torch.randperm(n_events, generator=generator, device=generator.device) for _ in range(rounds)]
    return torch.cat(orders)[:n_wanted]


@dataclass(frozen=True)
class StepReport:
    """One learning step; energies in nats at the parameters before the step.

    Args:
        step: Number of the step, from 1.
        energy_data: Mean energy of the batch.
        energy_model: Mean energy of the chains.
        gradient_norm: Euclidean length of the direction of ascent.
        learning_rate: Step size that was used.
    """

    step: int
    energy_data: float
    energy_model: float
    gradient_norm: float
    learning_rate: float

    @property
    def energy_gap(self) -> float:
        """Mean energy of the data minus that of the model; zero for a machine that has learned."""
        return self.energy_data - self.energy_model


class PriorLearner:
    """Climbs the log-likelihood of a machine, one negative phase a step.

    Args:
        machine: The machine; its parameters are changed in place.
        settings: How to learn.
        generator: Source of randomness, on the machine's device; its state is saved with the learner.
        clamped: Mask (N,) of bits that each event gives, for example ``topology.is_in_partition(0)``.
        n_steps: Steps after which the learning rate has reached its final value.
        reduce: Mean over processes of a tensor, for data-parallel learning; applied to moments and energies.
        sampler: Sampler of the negative phase; block Gibbs if None.

    Raises:
        ConfigError: If a final learning rate is set without ``n_steps``.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        settings: LearningSettings,
        generator: torch.Generator,
        clamped: NDArray[np.bool_] | None = None,
        n_steps: int | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        sampler: BlockGibbsSampler | None = None,
    ) -> None:
        if settings.learning_rate_final is not None and not n_steps:
            raise ConfigError("learning_rate_final needs the number of steps; pass n_steps")
        self.machine = machine
        self.settings = settings
        self.generator = generator
        self.clamped = np.zeros(machine.n_nodes, dtype=np.bool_) if clamped is None else clamped
        self.n_steps = n_steps
        self.n_done = 0
        self.chains: PersistentChains | None = None
        self.offsets: Offsets | None = None
        self.sampler = sampler or BlockGibbsSampler(machine)
        self._reduce = reduce
        self._held = torch.from_numpy(self.clamped.copy()).to(machine.device)
        self._optimizer = _optimizer(machine, settings)

    def step(self, data_states: Tensor, condition: Tensor | None = None) -> StepReport:
        """One update: data moments, one negative phase, one step of the optimiser.

        Args:
            data_states: Bits of a batch (B, N), clamped ones included.
            condition: Conditions of the batch (B, n_c), if the machine has a condition.

        Raises:
            PriorError: If the data are not bits, a shape does not fit, or the parameters are no longer finite.
        """
        machine = self.machine
        batch = GibbsState(data_states.detach().to(machine.device))
        own = None if condition is None else condition.detach().to(machine.device)
        data = self._shared(machine.sufficient_statistics(batch.states, own))
        samples, sample_condition = self._negative_phase(batch, own)
        model = self._shared(machine.sufficient_statistics(samples.states, sample_condition))
        offsets = self.offsets or Offsets(data.first, data.condition)
        self.offsets = offsets.moved(data, self.settings.offset_rate)
        gradient = contrastive_gradient(data, model, machine.neighbours, self.settings.gradient, self.offsets)
        gradient = gradient.hold(self._held, machine.neighbours.ends)
        report = StepReport(
            step=self.n_done + 1,
            energy_data=self._mean_energy(batch, own),
            energy_model=self._mean_energy(samples, sample_condition),
            gradient_norm=gradient.norm,
            learning_rate=self.learning_rate,
        )
        self._climb(gradient)
        return report

    @property
    def learning_rate(self) -> float:
        """Step size of the next step."""
        start, final = self.settings.learning_rate, self.settings.learning_rate_final
        if final is None or not self.n_steps:
            return start
        return float(start * (final / start) ** min(1.0, self.n_done / self.n_steps))

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next step depends on besides the machine's parameters, as flat named tensors on the CPU."""
        tensors = {"n_done": torch.tensor(self.n_done), "generator": self.generator.get_state().clone()}
        if self.offsets is not None:
            tensors["offsets.bits"] = self.offsets.bits.cpu().clone()
            if self.offsets.condition is not None:
                tensors["offsets.condition"] = self.offsets.condition.cpu().clone()
        if self.chains is not None:
            tensors |= {f"chains.{name}": tensor for name, tensor in self.chains.to_tensors().items()}
        for index, entries in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value.cpu().clone() for name, value in entries.items()}
        return tensors

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on where :meth:`state_dict` was taken, bit for bit.

        Raises:
            CheckpointError: If the tensors are not those of a learner of such a machine.
        """
        device = self.machine.device
        try:
            offsets, chains = _inner(tensors, "offsets."), _inner(tensors, "chains.")
            for name, tensor in (offsets | chains).items():
                if name in ("bits", "states") and tensor.shape[-1] != self.machine.n_nodes:
                    raise CheckpointError(
                        f"the stored prior learner has {tensor.shape[-1]} bits, the machine {self.machine.n_nodes}; "
                        "resume with the configuration of the run"
                    )
            self.n_done = int(tensors["n_done"])
            self.generator.set_state(tensors["generator"].cpu())
            self.chains = PersistentChains.from_tensors(chains, device) if chains else None
            self.offsets = None
            if offsets:
                condition = offsets.get("condition")
                self.offsets = Offsets(offsets["bits"].to(device), None if condition is None else condition.to(device))
            self._load_optimizer(_inner(tensors, "optimizer."))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the stored state of the prior learner cannot be used ({error}); start from another checkpoint"
            ) from error

    def _load_optimizer(self, entries: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in entries.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor.clone()
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})

    def _negative_phase(self, batch: GibbsState, condition: Tensor | None) -> tuple[GibbsState, Tensor | None]:
        if self.settings.method == "cd":
            return self._sampled(batch, condition), condition
        chains = self.chains
        if chains is None:
            chains = PersistentChains.start(batch, condition, self.settings.n_chains, self.generator)
        elif self.clamped.any() or condition is not None:
            n_new = round(self.settings.refresh * self.settings.n_chains)
            chains = chains.refresh(batch, condition, n_new, self.generator)
        state = self._sampled(chains.state, chains.condition)
        self.chains = PersistentChains(state, chains.condition, chains.oldest)
        return state, chains.condition

    def _sampled(self, state: GibbsState, condition: Tensor | None) -> GibbsState:
        return self.sampler.sample(state, self.settings.n_sweeps, self.generator, self.clamped, condition)

    def _shared(self, moments: Moments) -> Moments:
        if self._reduce is None:
            return moments
        return Moments(
            first=self._reduce(moments.first),
            second=self._reduce(moments.second),
            cross=None if moments.cross is None else self._reduce(moments.cross),
            condition=None if moments.condition is None else self._reduce(moments.condition),
        )

    @torch.no_grad()
    def _mean_energy(self, state: GibbsState, condition: Tensor | None) -> float:
        mean = self.machine.energy(state.states, condition).mean()
        return float(mean if self._reduce is None else self._reduce(mean))

    def _climb(self, gradient: Gradient) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.machine.biases.grad = gradient.biases
        self.machine.couplings.grad = gradient.couplings
        if self.machine.condition_weights is not None:
            self.machine.condition_weights.grad = gradient.condition_weights
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.n_done += 1


def _optimizer(machine: BoltzmannMachine, settings: LearningSettings) -> torch.optim.Optimizer:
    others = [machine.biases] + ([] if machine.condition_weights is None else [machine.condition_weights])
    groups = [
        {"params": [machine.couplings], "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, maximize=True)


def _inner(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
