r"""What all protocols share: imposing conditions, reading, keeping, classical references, corrections, and the account.

A :class:`ProtocolRun` lives for one call of a protocol. It programs the machine under one condition after another,
keeps reads whose condition held, remembers for each kept batch what the machine was divided by and what is known of the
annealer's beta, and takes the difference of the ledger. At the end bits that are gone from the chip are drawn given the
others, and the reads are corrected if the protocol asks for it:

- ``"polish"``: block Gibbs at inverse temperature one (:mod:`~calo4pqvae.annealer.protocols.polish`);
- ``"importance"``: reads at ratio :math:`r = \beta_\mathrm{eff} / \beta` follow :math:`e^{-r E}`, so that weights
  :math:`\ln w = -(1 - r) E` turn their averages into those of the machine, condition by condition. The effective number
  of reads is stated. Weights know of beta only, while a polish mends other errors too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.annealer.beta.energy_matching import EnergySample
from calo4pqvae.annealer.beta.pseudo_likelihood import BetaEstimate
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.calls.ledger import Totals
from calo4pqvae.annealer.chip.problem import FloatArray, IntArray, Reads
from calo4pqvae.annealer.placing.placement import Placement
from calo4pqvae.annealer.protocols.conditioning import ClampReport, Conditioned, Conditioner, FailurePolicy, Method
from calo4pqvae.annealer.protocols.polish import PolishReport, polish
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState

__all__ = ["BetaRecord", "Conditioning", "Correction", "ProtocolResult", "ProtocolRun"]

BitArray = NDArray[np.uint8]
Correction = Literal["none", "polish", "importance"]

_MOST_TRIES = 5  # programmings to replace rejected reads
_COMPLETING_SWEEPS = 20  # over bits that are gone from the chip


@dataclass(frozen=True, eq=False)
class Conditioning:
    """How a protocol imposes conditions.

    Args:
        method: ``"fold"``, ``"fields"`` or ``"flux"`` (:mod:`~calo4pqvae.annealer.protocols.conditioning`).
        partition: The held partition, whose bits are the conditions; None if conditions are the machine's own c.
        policy: What is done with reads whose condition slipped.
        error_rate: Most probable wrong bits a held bit.
        placement: What of the machine is on the chip; all of it if None.
    """

    method: Method = "fold"
    partition: int | None = 0
    policy: FailurePolicy = "reject"
    error_rate: float = 1e-6
    placement: Placement | None = None

    def conditioner(self, machine: BoltzmannMachine, annealer: Annealer) -> Conditioner:
        """For a machine and a chip.

        Raises:
            AnnealerError: If the chip cannot condition in this way.
        """
        return Conditioner(
            machine,
            self.method,
            annealer.chip if annealer.has_chip else None,
            annealer.properties.get("num_qubits"),
            self.partition,
            self.placement,
            self.error_rate,
        )


@dataclass(frozen=True)
class BetaRecord:
    """A batch of kept reads, what they were programmed with and what is known of beta.

    Args:
        condition: Number of the condition.
        programmed: What the machine was divided by.
        estimate: Of the annealer's beta, made before these reads or from them, as the protocol is; None if it goes by
            what it knew.
        n_reads: Reads kept.
        reads_per_call: Reads of the call, which decides how warm the chip is.
        beta: What the protocol takes beta to be for these reads.
        beta_error: Its standard error.
        calls: Numbers of the calls in the ledger that the reads come from.
    """

    condition: int
    programmed: float
    estimate: BetaEstimate | None
    n_reads: int
    reads_per_call: int
    beta: float
    beta_error: float
    calls: tuple[int, ...] = ()

    @property
    def ratio(self) -> float:
        """Inverse temperature of the reads in units of the machine's."""
        return self.beta / self.programmed


@dataclass(frozen=True, eq=False)
class ProtocolResult:
    """Reads of a protocol, and what they cost.

    Args:
        protocol: Its name.
        states: Bits of all nodes in the order of the machine, those of one condition together, shape (reads, N).
        condition: Number of the condition of every read, ascending, shape (reads,).
        log_weights: ln w of every read, zero without importance weights, shape (reads,).
        betas: One record a batch of kept reads, in the order of ``states``.
        totals: What was added to the ledger.
        clamp: How well conditions held.
        polish: Effect of the polish, or None.
        correction: How the reads were corrected.
        is_emulated: Whether no real annealer was involved.
    """

    protocol: str
    states: BitArray
    condition: IntArray
    log_weights: FloatArray
    betas: tuple[BetaRecord, ...]
    totals: Totals
    clamp: ClampReport
    polish: PolishReport | None
    correction: Correction
    is_emulated: bool

    @property
    def n_reads(self) -> int:
        """Kept reads."""
        return len(self.states)

    @property
    def access_seconds_per_read(self) -> float:
        """Access time of everything, estimates included, over the kept reads."""
        return self.totals.access_seconds / max(1, self.n_reads)

    @property
    def effective_reads(self) -> float:
        """Sum over conditions of (sum w)^2 / sum w^2: the number of reads that the weights leave."""
        total = 0.0
        for index in np.unique(self.condition):
            weights = self._weights(index)
            total += float(weights.sum() ** 2 / (weights**2).sum())
        return total

    def normalised_weights(self) -> FloatArray:
        """Weights whose mean is one under every condition, shape (reads,)."""
        result = np.ones(self.n_reads)
        for index in np.unique(self.condition):
            weights = self._weights(index)
            result[self.condition == index] = weights / weights.mean()
        return result

    def _weights(self, index: int) -> FloatArray:
        logs = self.log_weights[self.condition == index]
        weights: FloatArray = np.exp(logs - logs.max())
        return weights


@dataclass(eq=False)
class ProtocolRun:
    """One call of a protocol; its reads grow as it goes on.

    Args:
        annealer: The annealer.
        machine: The machine.
        conditions: One row a condition, shape (C, n_c).
        conditioning: How they are imposed.
        generator: Source of randomness of everything classical, on the machine's device.
        options: Parameters of the solver for every call.
        reference_chains: Gibbs chains of a classical mean energy.
        reference_sweeps: Their sweeps from fair coins.

    Raises:
        AnnealerError: If the conditions have a wrong shape or cannot be imposed.
    """

    annealer: Annealer
    machine: BoltzmannMachine
    conditions: FloatArray
    conditioning: Conditioning
    generator: torch.Generator
    options: Mapping[str, Any] = field(default_factory=dict)
    reference_chains: int = 512
    reference_sweeps: int = 200
    records: list[BetaRecord] = field(default_factory=list)
    _parts: list[BitArray] = field(default_factory=list)
    _known: list[NDArray[np.bool_]] = field(default_factory=list)
    _clamp: ClampReport | None = None
    _references: dict[bytes, FloatArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.conditions.ndim != 2 or not len(self.conditions):
            raise AnnealerError(f"conditions have shape {self.conditions.shape}; give one row a condition")
        self.conditioner = self.conditioning.conditioner(self.machine, self.annealer)
        self._before = self.annealer.ledger.totals

    def impose(self, index: int, beta: float, conditioner: Conditioner | None = None) -> Conditioned:
        """The problem of a condition, the machine divided by beta.

        Args:
            index: Number of the condition.
            beta: What the machine is divided by.
            conditioner: Of the machine at another place; the run's own if None.
        """
        row, own = self.conditions[index], conditioner or self.conditioner
        if self.conditioning.partition is None:
            condition = None if self.machine.condition_weights is None else torch.from_numpy(row)
            return own.impose(beta, None, condition)
        return own.impose(beta, row)

    def read(self, index: int, beta: float, n_reads: int, label: str) -> tuple[Conditioned, Reads]:
        """One programming."""
        imposed = self.impose(index, beta)
        reads = self.annealer.read(
            imposed.problem, n_reads, flux_biases=imposed.flux_biases, label=label, **self.options
        )
        return imposed, reads

    def energies(self, index: int, beta: float, n_reads: int) -> FloatArray:
        """Machine energies of the reads of one programming whose condition held."""
        imposed, reads = self.read(index, beta, n_reads, "estimate")
        bits, _, report = imposed.settle(reads.bits, "reject")
        self._count(report)
        return imposed.energies(bits)

    @torch.no_grad()
    def reference(self, index: int) -> FloatArray:
        """Classical machine energies under a condition, one a chain; made once a condition."""
        key = self.conditions[index].tobytes()
        if key not in self._references:
            imposed = self.impose(index, 1.0) if self.conditioning.method == "fold" else self._folded(index)
            machine = imposed.reduced.float()
            sampler = BlockGibbsSampler(machine)
            chains = sampler.sample(
                sampler.init(self.reference_chains, self.generator), self.reference_sweeps, self.generator
            )
            energies: FloatArray = machine.double().energy(chains.states).numpy() + imposed.offset
            self._references[key] = energies
        return self._references[key]

    def reference_sample(self, index: int) -> EnergySample:
        """Mean and variance of :meth:`reference`."""
        return EnergySample.of(self.reference(index))

    def keep(
        self,
        index: int,
        imposed: Conditioned,
        reads: Reads,
        estimate: BetaEstimate | None,
        beta: tuple[float, float],
        most: int,
    ) -> int:
        """Keeps reads of a programming as samples.

        Args:
            index: Number of the condition.
            imposed: What was programmed.
            reads: What came back.
            estimate: Of beta, if one was made.
            beta: Value and standard error that the protocol goes by.
            most: Reads that are wanted; the first ones are kept.

        Returns:
            Number of reads kept.
        """
        bits, _, report = imposed.settle(reads.bits, self.conditioning.policy)
        self._count(report)
        states, is_known = imposed.states(bits[:most], self.machine.n_nodes)
        if len(states):
            self._parts.append(states)
            self._known.append(is_known)
            calls = tuple(reads.info.get("calls", ()))
            record = BetaRecord(index, imposed.problem.beta, estimate, len(states), reads.n_reads, *beta, calls)
            self.records.append(record)
        return len(states)

    def fill(self, index: int, beta: float, n_reads: int, reads_per_call: int, estimate: BetaEstimate) -> None:
        """Reads and keeps until there are enough; reads whose condition slipped are replaced.

        Raises:
            AnnealerError: If the condition does not hold.
        """
        missing, n_calls = n_reads, 0
        most_calls = math.ceil(n_reads / reads_per_call) + _MOST_TRIES
        while missing:
            if n_calls == most_calls:
                raise AnnealerError(
                    f"condition {index} held in {n_reads - missing} of {n_reads} reads in {n_calls} programmings; "
                    "hold it more strongly, fold it, or keep such reads (policy 'repair' or 'report')"
                )
            imposed, reads = self.read(index, beta, min(missing, reads_per_call), "sample")
            missing -= self.keep(index, imposed, reads, estimate, (estimate.value, estimate.error), missing)
            n_calls += 1

    def seed(self) -> int:
        """A seed from the generator."""
        return int(torch.randint(2**31, (1,), generator=self.generator, device=self.generator.device))

    def finish(self, name: str, correction: Correction, n_sweeps: int) -> ProtocolResult:
        """Completes and corrects the reads.

        Raises:
            AnnealerError: If there is no read.
        """
        if self._clamp is None or not self.records:
            raise AnnealerError("the protocol kept no read; ask for one or more")
        self._sort()
        states, number = self._completed()
        totals = self.annealer.ledger.totals - self._before
        log_weights, report = np.zeros(len(states)), None
        if correction == "polish":
            states, report = polish(self.machine, states, n_sweeps, self.generator, self._held(), self._rows(number))
        elif correction == "importance":
            log_weights = self._log_weights(states, number)
        return ProtocolResult(
            protocol=name,
            states=states.cpu().numpy().astype(np.uint8),
            condition=number,
            log_weights=log_weights,
            betas=tuple(self.records),
            totals=totals,
            clamp=self._clamp,
            polish=report,
            correction=correction,
            is_emulated=self.annealer.is_emulated,
        )

    def _folded(self, index: int) -> Conditioned:
        """The condition folded into the machine that is on the chip: the same law, and free bits only."""
        whole = self.conditioner
        folding = Conditioner(self.machine, "fold", None, None, whole.partition, whole.placement)
        return folding.impose(1.0, self.conditions[index])

    def _count(self, report: ClampReport) -> None:
        counted = replace(report, policy=self.conditioning.policy)
        self._clamp = counted if self._clamp is None else self._clamp + counted

    def _held(self) -> NDArray[np.bool_]:
        held = np.zeros(self.machine.n_nodes, dtype=np.bool_)
        held[self.conditioner.condition_nodes] = True
        return held

    def _rows(self, number: IntArray) -> torch.Tensor | None:
        """The c of every read, if the machine has a condition of its own."""
        if self.machine.condition_weights is None:
            return None
        return torch.from_numpy(self.conditions[number]).float().to(self.machine.device)

    def _sort(self) -> None:
        """Brings batches of one condition together, in the order in which they came."""
        order = sorted(range(len(self.records)), key=lambda place: self.records[place].condition)
        self.records = [self.records[place] for place in order]
        self._parts = [self._parts[place] for place in order]
        self._known = [self._known[place] for place in order]

    def _completed(self) -> tuple[torch.Tensor, IntArray]:
        """States of all reads, bits that are gone from the chip drawn given the others, and their conditions."""
        lengths = [len(part) for part in self._parts]
        number = np.repeat([record.condition for record in self.records], lengths).astype(np.int64)
        states = torch.from_numpy(np.concatenate(self._parts)).float().to(self.machine.device)
        masks, kind = np.unique(np.stack(self._known), axis=0, return_inverse=True)
        kind = np.repeat(kind.ravel(), lengths)
        for index, known in enumerate(masks):
            if not known.all():
                rows = np.flatnonzero(kind == index)
                states[torch.from_numpy(rows)] = self._drawn(states[torch.from_numpy(rows)], known, number[rows])
        return states, number

    def _drawn(self, states: torch.Tensor, known: NDArray[np.bool_], number: IntArray) -> torch.Tensor:
        """States (n, N) with the bits that are not known drawn given the others."""
        gone = torch.from_numpy(~known).to(states.device)
        states = states.clone()
        states[:, gone] = torch.randint(
            0, 2, (len(states), int(gone.sum())), generator=self.generator, device=states.device
        ).float()
        sampler = BlockGibbsSampler(self.machine)
        start = GibbsState(states)
        return sampler.sample(
            start, _COMPLETING_SWEEPS, self.generator, clamped=known, condition=self._rows(number)
        ).states

    @torch.no_grad()
    def _log_weights(self, states: torch.Tensor, number: IntArray) -> FloatArray:
        energies = self.machine.energy(states, self._rows(number)).double().cpu().numpy()
        ratios = np.repeat([record.ratio for record in self.records], [record.n_reads for record in self.records])
        weights: FloatArray = -(1 - ratios) * energies
        for index in np.unique(number):
            weights[number == index] -= weights[number == index].max()
        return weights
