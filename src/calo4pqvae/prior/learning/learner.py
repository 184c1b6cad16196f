r"""Learning a Boltzmann machine from bits: the update step.

A step compares the moments of a batch (positive phase) with those of the model's own samples (negative phase) and
moves the parameters along a direction of :mod:`~calo4pqvae.prior.learning.gradients`.

**Negative phase.** Contrastive divergence (``cd``) starts its chains at the data in every step; persistent chains
(``pcd``) go on from the step before (:mod:`~calo4pqvae.prior.sampling.persistent`); tempered chains (``pt``) do so at
several temperatures at once and exchange states, which leads them out of modes that plain chains do not leave. Sweeps
must exceed the mixing time, which grows as learning goes on, or the model is right only for its own protocol: the
learner can measure it and warn, or let the sweeps grow with it (:mod:`~calo4pqvae.prior.learning.mixing`).

**Hidden bits** are not in the data. Their positive phase is exact if they lie in one partition
(:mod:`~calo4pqvae.prior.learning.hidden`); with ``rao_blackwell`` the negative phase takes the probabilities of the
last partition given the others in place of its bits as well, which has the same mean and a smaller variance.

**Energies** are reported as means over the phase. The energy is linear in the sufficient statistics,
:math:`\langle E \rangle = -\sum_i b_i \langle z_i \rangle - \sum_{i<j} W_{ij} \langle z_i z_j \rangle -
\sum_{a,i} A_{ai} \langle c_a z_i \rangle`, so that they cost nothing beyond the moments.

Tieleman, ICML (2008); Decelle, Furtlehner and Seoane, NeurIPS (2021), arXiv 2105.13889.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.prior.learning.constraints import Constraints, ProgrammableRange
from calo4pqvae.prior.learning.gradients import (
    GRADIENT_FORMS,
    Gradient,
    GradientForm,
    Offsets,
    contrastive_gradient,
    energy_covariance,
    mean_energy_gradient,
    mean_field_gradient,
    twin_covariance,
)
from calo4pqvae.prior.learning.hidden import HiddenBits, drawn, partition_means
from calo4pqvae.prior.learning.mixing import LEAST_SWEEPS, MixingReport, grown_sweeps, measure_mixing
from calo4pqvae.prior.machine import BoltzmannMachine, Moments
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.persistent import PersistentChains, TemperedChains

__all__ = ["LearningSettings", "PriorLearner", "StepReport"]


@dataclass(frozen=True)
class LearningSettings:
    """How a machine is learned.

    Args:
        learning_rate: Step size at the start.
        learning_rate_final: Step size at the end, reached geometrically; None keeps it constant.
        n_sweeps: Gibbs sweeps a step.
        n_chains: Persistent chains.
        method: ``"pcd"`` (persistent chains), ``"pt"`` (persistent chains at several temperatures) or ``"cd"`` (chains
            started at the data).
        gradient: ``"centred"``, ``"plain"``, or one of the historical forms ``"mean-energy"`` and ``"mean-field"``.
        optimizer: ``"sgd"``, or ``"adam"``, which has been seen to diverge with the centred gradient.
        weight_decay: L2 decay of the couplings.
        offset_rate: Share of a new batch in the moving average of the offsets.
        refresh: Share of the persistent chains that takes over new events in each step, if bits are clamped or
            the machine has a condition.
        rao_blackwell: Take probabilities for the bits of the last partition in the negative phase.
        n_temperatures: Temperatures of ``"pt"``.
        hottest: Smallest inverse temperature of ``"pt"``.
        l1: L1 decay of the couplings.
        max_norm: Largest Euclidean norm of the couplings of a node.
        programmable: Range of an annealer in which the parameters are kept.
        measure_every: Steps between measurements of the mixing of the chains; 0 measures never.
        measure_sweeps: Sweeps of a measurement.
        sweeps_growth: Sweeps a step, in measured relaxation times, up to which ``n_sweeps`` grows; None keeps it.
        max_sweeps: Sweeps a step beyond which it does not grow.

    Raises:
        ConfigError: If a value is out of range.
    """

    learning_rate: float = 0.02
    learning_rate_final: float | None = None
    n_sweeps: int = 50
    n_chains: int = 512
    method: Literal["pcd", "pt", "cd"] = "pcd"
    gradient: GradientForm = "centred"
    optimizer: Literal["sgd", "adam"] = "sgd"
    weight_decay: float = 0.0
    offset_rate: float = 0.05
    refresh: float = 0.05
    rao_blackwell: bool = False
    n_temperatures: int = 10
    hottest: float = 0.1
    l1: float = 0.0
    max_norm: float | None = None
    programmable: ProgrammableRange | None = None
    measure_every: int = 0
    measure_sweeps: int = 200
    sweeps_growth: float | None = None
    max_sweeps: int = 1000

    def __post_init__(self) -> None:
        final = self.learning_rate if self.learning_rate_final is None else self.learning_rate_final
        rules = {
            "learning_rate": (self.learning_rate > 0, "above 0"),
            "learning_rate_final": (final > 0, "above 0"),
            "n_sweeps": (self.n_sweeps >= 1, "1 or more"),
            "n_chains": (self.n_chains >= 1, "1 or more"),
            "method": (self.method in ("pcd", "pt", "cd"), "pcd, pt or cd"),
            "gradient": (self.gradient in GRADIENT_FORMS, ", ".join(GRADIENT_FORMS)),
            "optimizer": (self.optimizer in ("sgd", "adam"), "sgd or adam"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "offset_rate": (0 < self.offset_rate <= 1, "in (0, 1]"),
            "refresh": (0 <= self.refresh <= 1, "in [0, 1]"),
            "n_temperatures": (self.n_temperatures >= 2, "2 or more"),
            "hottest": (0 <= self.hottest < 1, "in [0, 1)"),
            "measure_every": (self.measure_every >= 0, "0 or more"),
            "measure_sweeps": (self.measure_sweeps >= LEAST_SWEEPS, f"{LEAST_SWEEPS} or more"),
            "sweeps_growth": (self.sweeps_growth is None or self.sweeps_growth > 0, "above 0"),
            "max_sweeps": (self.max_sweeps >= self.n_sweeps, "n_sweeps or more"),
        }
        for name, (holds, allowed) in rules.items():
            if not holds:
                raise ConfigError(f"{name} = {getattr(self, name)!r} is out of range; it must be {allowed}")
        Constraints(self.l1, self.max_norm, self.programmable)
        if self.sweeps_growth is not None and not self.measure_every:
            raise ConfigError("sweeps_growth needs measurements of the relaxation time; set measure_every")

    @property
    def constraints(self) -> Constraints:
        """What acts on the parameters after each step."""
        return Constraints(self.l1, self.max_norm, self.programmable)


@dataclass(frozen=True)
class StepReport:
    """One learning step; energies in nats at the parameters before the step.

    Args:
        step: Number of the step, from 1.
        energy_data: Mean energy of the batch, over its hidden bits too.
        energy_model: Mean energy of the chains.
        gradient_norm: Euclidean length of the direction of ascent.
        learning_rate: Step size that was used.
        n_sweeps: Sweeps of the negative phase.
        mixing: Measurement of the chains after the step, if one was due.
    """

    step: int
    energy_data: float
    energy_model: float
    gradient_norm: float
    learning_rate: float
    n_sweeps: int
    mixing: MixingReport | None = None

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
        reduce: Mean over processes of a tensor, for data-parallel learning; applied to moments.
        sampler: Sampler of the negative phase; block Gibbs if None.
        hidden: Mask (N,) of bits that the data do not show, for example ``topology.is_in_partition(1)``.

    Raises:
        ConfigError: If settings do not fit each other or the machine.
        PriorError: If the mask of hidden bits cannot be used.
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
        hidden: NDArray[np.bool_] | None = None,
    ) -> None:
        if settings.learning_rate_final is not None and not n_steps:
            raise ConfigError("learning_rate_final needs the number of steps; pass n_steps")
        self.machine = machine
        self.settings = settings
        self.generator = generator
        self.clamped = np.zeros(machine.n_nodes, dtype=np.bool_) if clamped is None else clamped
        self.hidden: HiddenBits | None = None
        if hidden is not None:
            self.hidden = HiddenBits.of(machine.topology, hidden, settings.n_sweeps, machine.device)
            if (hidden & self.clamped).any():
                raise ConfigError("a bit cannot be both clamped and hidden; clamp visible bits only")
        self._is_conditional = bool(machine.n_condition or self.clamped.any())
        if settings.gradient == "mean-energy":
            if hidden is not None:
                raise ConfigError("the mean-energy gradient is that of one law: use another with hidden bits")
            if self._is_conditional and settings.method != "pcd":
                raise ConfigError(
                    "the mean-energy gradient at given conditions needs twins of persistent chains: use method 'pcd'"
                )
        self.n_steps = n_steps
        self.n_done = 0
        self.n_sweeps = settings.n_sweeps
        self.chains: PersistentChains | TemperedChains | None = None
        self.twins: PersistentChains | None = None
        self.offsets: Offsets | None = None
        self.sampler = sampler or BlockGibbsSampler(machine)
        self._reduce = reduce
        self._held = torch.from_numpy(self.clamped.copy()).to(machine.device)
        self._optimizer = _optimizer(machine, settings)

    def step(self, data_states: Tensor, condition: Tensor | None = None) -> StepReport:
        """One update: data moments, one negative phase, one step of the optimiser.

        Args:
            data_states: Bits of a batch (B, N), clamped ones included, hidden ones left out.
            condition: Conditions of the batch (B, n_c), if the machine has a condition.

        Raises:
            PriorError: If the data are not bits, a shape does not fit, or the parameters are no longer finite.
        """
        machine = self.machine
        own = None if condition is None else condition.detach().to(machine.device)
        batch = self._completed(data_states, own)
        data = self._shared(machine.sufficient_statistics(batch, own))
        samples, sample_condition = self._negative_phase(batch, own)
        model = self._shared(machine.sufficient_statistics(self._smooth(samples, sample_condition), sample_condition))
        offsets = self.offsets or Offsets(data.first, data.condition)
        self.offsets = offsets.moved(data, self.settings.offset_rate)
        gradient = self._direction(data, model, samples, sample_condition)
        report = StepReport(
            step=self.n_done + 1,
            energy_data=_mean_energy(machine, data),
            energy_model=_mean_energy(machine, model),
            gradient_norm=gradient.norm,
            learning_rate=self.learning_rate,
            n_sweeps=self.n_sweeps,
        )
        self._climb(gradient)
        if self.settings.measure_every and self.n_done % self.settings.measure_every == 0:
            report = replace(report, mixing=self._measure(samples, sample_condition))
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
        if self.settings.sweeps_growth is not None:
            tensors["n_sweeps"] = torch.tensor(self.n_sweeps)
        if self.chains is not None:
            tensors |= {f"chains.{name}": tensor for name, tensor in self.chains.to_tensors().items()}
        if self.twins is not None:
            tensors |= {f"twins.{name}": tensor for name, tensor in self.twins.to_tensors().items()}
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
            kind = TemperedChains if self.settings.method == "pt" else PersistentChains
            self.chains = kind.from_tensors(chains, device) if chains else None
            twins = _inner(tensors, "twins.")
            self.twins = PersistentChains.from_tensors(twins, device) if twins else None
            if self.settings.sweeps_growth is not None:
                self.n_sweeps = int(tensors["n_sweeps"])
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

    def _completed(self, data_states: Tensor, condition: Tensor | None) -> Tensor:
        """The batch as (B, N): bits, and probabilities where they are hidden."""
        bits = GibbsState(data_states.detach().to(self.machine.device)).states
        if self.hidden is None:
            return bits
        return self.hidden.complete(self.sampler, bits, self.generator, condition)

    def _negative_phase(self, batch: Tensor, condition: Tensor | None) -> tuple[GibbsState, Tensor | None]:
        def events() -> GibbsState:
            return GibbsState(batch if self.hidden is None else drawn(batch, self.generator))

        if self.settings.method == "cd":
            start = events()
            return self.sampler.sample(start, self.n_sweeps, self.generator, self.clamped, condition), condition
        chains, n_new = self.chains, 0
        if chains is None:
            chains = self._started(events(), condition)
        elif self.clamped.any() or condition is not None:
            n_new = round(self.settings.refresh * self.settings.n_chains)
            chains = chains.refresh(events(), condition, n_new, self.generator)
        if self.settings.gradient == "mean-energy" and self._is_conditional and isinstance(chains, PersistentChains):
            twins = chains if self.twins is None else self.twins.following(chains, n_new)
            self.twins = twins.advanced(self.sampler, self.n_sweeps, self.generator, self.clamped)
        self.chains = chains.advanced(self.sampler, self.n_sweeps, self.generator, self.clamped)
        return self.chains.state, self.chains.condition

    def _started(self, events: GibbsState, condition: Tensor | None) -> PersistentChains | TemperedChains:
        settings = self.settings
        if settings.method == "pt":
            ladder = np.linspace(settings.hottest, 1.0, settings.n_temperatures).tolist()
            return TemperedChains.start(events, condition, settings.n_chains, ladder, self.generator)
        return PersistentChains.start(events, condition, settings.n_chains, self.generator)

    def _smooth(self, samples: GibbsState, condition: Tensor | None) -> Tensor:
        """The samples, or bits and probabilities of the same mean."""
        if not self.settings.rao_blackwell:
            return samples.states
        last = self.machine.topology.n_partitions - 1
        return partition_means(self.machine, samples.states, last, condition, self._held)

    def _direction(self, data: Moments, model: Moments, samples: GibbsState, condition: Tensor | None) -> Gradient:
        machine, form = self.machine, self.settings.gradient
        if form == "mean-field":
            gradient = mean_field_gradient(data, model, machine.neighbours)
        elif form == "mean-energy":
            covariance = (
                energy_covariance(machine, samples.states)
                if self.twins is None
                else twin_covariance(machine, samples.states, self.twins.state.states, condition)
            )
            gradient = mean_energy_gradient(data, model, self._shared(covariance))
        else:
            gradient = contrastive_gradient(data, model, machine.neighbours, form, self.offsets)
        return gradient.hold(self._held, machine.neighbours.ends) if self.clamped.any() else gradient

    def _measure(self, samples: GibbsState, condition: Tensor | None) -> MixingReport:
        """Looks at the mixing of the chains, which stay where they are, and lets the sweeps grow if that is wanted."""
        settings, chains = self.settings, self.chains
        rest: dict[str, Any] = {
            "measured_sweeps": settings.measure_sweeps,
            "n_sweeps": self.n_sweeps,
            "clamped": self.clamped,
            "condition": condition,
        }
        if isinstance(chains, TemperedChains):
            tempering = chains.tempering(self.sampler)
            found = measure_mixing(self.machine, tempering, chains.replicas, self.generator, **rest)
        else:
            found = measure_mixing(self.machine, self.sampler, samples, self.generator, **rest)
        if settings.sweeps_growth is not None:
            self.n_sweeps = grown_sweeps(found, settings.sweeps_growth, settings.max_sweeps)
        return found

    def _shared(self, moments: Moments) -> Moments:
        if self._reduce is None:
            return moments
        return Moments(
            first=self._reduce(moments.first),
            second=self._reduce(moments.second),
            cross=None if moments.cross is None else self._reduce(moments.cross),
            condition=None if moments.condition is None else self._reduce(moments.condition),
        )

    def _climb(self, gradient: Gradient) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.machine.biases.grad = gradient.biases
        self.machine.couplings.grad = gradient.couplings
        if self.machine.condition_weights is not None:
            self.machine.condition_weights.grad = gradient.condition_weights
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.settings.constraints.apply(self.machine, self.learning_rate)
        self.n_done += 1


def _optimizer(machine: BoltzmannMachine, settings: LearningSettings) -> torch.optim.Optimizer:
    others = [machine.biases] + ([] if machine.condition_weights is None else [machine.condition_weights])
    groups = [
        {"params": [machine.couplings], "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kind = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, maximize=True)


@torch.no_grad()
def _mean_energy(machine: BoltzmannMachine, moments: Moments) -> float:
    mean = machine.biases @ moments.first + machine.couplings @ moments.second
    if machine.condition_weights is not None and moments.cross is not None:
        mean = mean + (machine.condition_weights * moments.cross).sum()
    return -float(mean)


def _inner(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
