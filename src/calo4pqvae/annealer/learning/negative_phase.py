r"""The negative phase of learning from an annealer: reads of a few conditions as weighted samples of the machine.

The machine divided by :math:`\beta` is programmed once for each condition. The reads themselves tell the annealer's
:math:`\beta_\mathrm{eff}` by pseudo-likelihood, so that no programming is spent on it, and with it the inverse
temperature :math:`r = \beta_\mathrm{eff} / \beta` at which they were drawn. Two protocols say from which reads:

- ``same-reads``: one estimate from all programmings of the phase together;
- ``tracked``: a running estimate, moved by each programming in turn (:mod:`~calo4pqvae.annealer.beta.running_beta`).

With copies of the machine side by side (:mod:`~calo4pqvae.annealer.placing.tiles`) all conditions of a phase share one
programming; a condition has several copies if there is room, each with errors of control of its own, and fewer reads.

A machine whose fields are all near zero, as one that is about to learn fair coins, has no temperature: reads that hold
less than an information of 25 about :math:`\ln\beta` (by the curvature of the pseudo-likelihood) leave beta as it was.

**Correction.** What is wanted is the law at inverse temperature one. ``importance`` gives each read the weight

.. math:: w \propto e^{-(1 - r) E(z)},

normalised under each condition. It is exact where the reads follow the programmed law at :math:`\beta_\mathrm{eff}`,
and no classical sampling is in it; errors of the control, which make the law another one at each programming, stay in.
``polish`` makes a few block Gibbs sweeps at inverse temperature one from the reads instead, which mends both kinds of
error in part and is classical sampling, however little. ``none`` leaves the reads as they are.

The **effective share** of the reads, :math:`(\sum w)^2 / (n \sum w^2)` with the weights above, is one where :math:`r`
is one. It says whether the reads can stand for the machine at all, whatever the correction.

**What the chip does not have.** With the condition folded into the fields only free bits need qubits. A coupler between
free bits that is gone is taken from the machine (its coupling is zero and stays so). A free bit whose qubit is gone
loses all of those; under a condition it is then independent of the others and is drawn from its own field, exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.annealer.beta.pseudo_likelihood import maximum_pseudo_likelihood
from calo4pqvae.annealer.beta.running_beta import RunningBeta
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.calls.campaign import Campaign, Prepared, SamplingJob
from calo4pqvae.annealer.chip.problem import FloatArray, IntArray, Reads
from calo4pqvae.annealer.placing.placement import Placement, place
from calo4pqvae.annealer.placing.tiles import Tile, read_apart, side_by_side
from calo4pqvae.annealer.protocols.conditioning import Conditioned, Conditioner
from calo4pqvae.annealer.protocols.polish import PolishReport, polish
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.seeds import derive_seed, stream

__all__ = ["ChipPatch", "NegativePhase", "PhaseCorrection", "PhaseProtocol", "PhaseReads", "PhaseRequest"]

PhaseProtocol = Literal["same-reads", "tracked"]
PhaseCorrection = Literal["importance", "polish", "none"]
Call = list[tuple[int, Conditioner]]
"""Conditions of a programming, each with the copy of the machine that draws it."""

_LEAST_INFORMATION = 25.0  # about ln beta: an error of a fifth


@dataclass(frozen=True, eq=False)
class ChipPatch:
    """What of a machine is on the chip of today, with one partition folded away.

    Args:
        placement: Nodes and couplers that are there.
        held: Mask (N,) of the folded partition.
        dead_couplers: Rows of couplers between free nodes that are gone.
        lonely: Free nodes whose qubits are gone.
    """

    placement: Placement
    held: NDArray[np.bool_]
    dead_couplers: IntArray
    lonely: IntArray

    @classmethod
    def of(
        cls, machine: BoltzmannMachine, partition: int | None, annealer: Annealer, *, is_pruned: bool
    ) -> "ChipPatch":
        """The patch of a machine on an annealer.

        Args:
            machine: The machine.
            partition: Partition that holds the condition; None if none is held.
            annealer: The annealer.
            is_pruned: Whether free parts that are gone may be left out.

        Raises:
            AnnealerError: If they are gone and may not, or nothing of the machine is on the chip.
        """
        topology = machine.topology
        placement = place(topology, annealer.nodelist, annealer.edgelist, prune=True)
        held = np.zeros(topology.n_nodes, dtype=np.bool_)
        if partition is not None:
            held[topology.slices[partition]] = True
        gone = placement.missing_couplers
        dead = gone[~held[topology.edges[gone]].any(axis=1)]
        lonely = placement.missing_nodes[~held[placement.missing_nodes]]
        if (len(dead) or len(lonely)) and not is_pruned:
            place(topology, annealer.nodelist, annealer.edgelist)  # says what is gone
        return cls(placement, held, dead, lonely)

    @property
    def n_qubits(self) -> int:
        """Qubits of a programming."""
        return int((~self.held[self.placement.nodes]).sum())

    @torch.no_grad()
    def prune(self, machine: BoltzmannMachine) -> None:
        """Takes the couplers that are gone from the machine."""
        machine.couplings[torch.from_numpy(self.dead_couplers)] = 0.0

    def __str__(self) -> str:
        free = int((~self.held).sum())
        inner = int((~self.held[self.placement.topology.edges].any(axis=1)).sum())
        return f"{len(self.lonely)} of {free} free bits and {len(self.dead_couplers)} of {inner} couplers between them"


@dataclass(frozen=True, eq=False)
class PhaseRequest:
    """What a phase reads.

    Args:
        rows: Conditions (K, n_c): bits of the held partition, or c of the machine.
        n_reads: Least reads of each (K,).
        shares: Share of each condition in the phase (K,), adding up to one.
        beta: What the machine is divided by.
        running: Running estimate before the phase, for ``tracked``.
    """

    rows: FloatArray
    n_reads: Sequence[int]
    shares: FloatArray
    beta: float
    running: RunningBeta | None = None


@dataclass(frozen=True, eq=False)
class PhaseReads:
    """Weighted samples of the machine.

    Args:
        states: Bits of all nodes (reads, N), float32.
        condition: c of every read (reads, n_c), or None.
        weights: Weight of every read (reads,), adding up to one; the share of each condition is as asked for.
        beta: Estimate of the annealer's beta, to divide by next.
        beta_error: Its standard error.
        running: Running estimate after the phase.
        ratios: Inverse temperature of each programming in units of the machine's (K,).
        misfit: Mean squared residual of the spins, one for a perfect law; None if the reads told no temperature.
        effective_share: Least effective share over the conditions.
        polish: Effect of the polish, or None.
        n_reads: Reads.
    """

    states: Tensor
    condition: Tensor | None
    weights: Tensor
    beta: float
    beta_error: float
    running: RunningBeta | None
    ratios: FloatArray
    misfit: float | None
    effective_share: float
    polish: PolishReport | None
    n_reads: int


class NegativePhase:
    """Draws negative phases of one machine on one annealer; the machine's parameters are read anew each time.

    Args:
        machine: The machine.
        partition: Partition that holds the condition; None if the machine's own condition is folded.
        patch: What of it is on the chip.
        protocol: How beta is estimated.
        correction: What is done about the reads' temperature.
        polish_sweeps: Sweeps of a polish.
        seed: Of everything classical.
        tiles: Whole copies of the machine on the chip, all of which are used in each programming; none for one machine.

    Raises:
        AnnealerError: If there is no such protocol or correction, or the number of sweeps makes no sense.
    """

    def __init__(
        self,
        machine: BoltzmannMachine,
        partition: int | None,
        patch: ChipPatch,
        *,
        protocol: PhaseProtocol = "same-reads",
        correction: PhaseCorrection = "importance",
        polish_sweeps: int = 5,
        seed: int = 0,
        tiles: Sequence[Tile] = (),
    ) -> None:
        for name, value, allowed in (
            ("protocol", protocol, get_args(PhaseProtocol)),
            ("correction", correction, get_args(PhaseCorrection)),
        ):
            if value not in allowed:
                raise AnnealerError(f"there is no {name} {value!r} to learn with; choose one of {', '.join(allowed)}")
        if polish_sweeps < 0:
            raise AnnealerError(f"{polish_sweeps} sweeps of a polish make no sense; give zero or more")
        self.machine, self.partition, self.patch = machine, partition, patch
        self.protocol, self.correction, self.polish_sweeps, self.seed = protocol, correction, polish_sweeps, seed
        self._conditioner = Conditioner(machine, "fold", partition=partition, placement=patch.placement)
        self._copies = [replace(self._conditioner, machine=tile.machine, placement=tile.placement) for tile in tiles]
        self._sampler = BlockGibbsSampler(machine)

    def read(self, annealer: Annealer, folder: Path, request: PhaseRequest, number: int) -> PhaseReads:
        """Reads a phase; called again with the same folder it takes what is there and reads the rest.

        Args:
            annealer: The annealer, its ledger in a file.
            folder: Where the reads of this phase are kept.
            request: What to read.
            number: Number of the phase, which names its random streams.

        Raises:
            AnnealerError: If the annealer refuses, or the folder holds other reads; what came is kept.
            SpendingLimitError: If a call would pass the spending limit.
        """
        calls = self._calls(len(request.rows))
        jobs = [self._job(request, call) for call in calls]

        def prepare(job: SamplingJob) -> Prepared:
            call = calls[next(index for index, own in enumerate(jobs) if own is job)]
            return Prepared(side_by_side([one.problem for one in self._imposed(request, call)]))

        campaign = Campaign(folder, jobs, prepare)
        if annealer.ledger.open_calls or not campaign.is_done:  # one that was cut off may be the last of the phase
            campaign.run(annealer)
        imposed = [self._impose(request.beta, row) for row in request.rows]
        bits: list[list[NDArray[np.uint8]]] = [[] for _ in imposed]
        for index, (call, job) in enumerate(zip(calls, jobs, strict=True)):
            problems = [one.problem for one in self._imposed(request, call)]
            joint = Reads(campaign.bits(index)[: job.n_reads], side_by_side(problems))
            for (condition, _), part in zip(call, read_apart(joint, problems), strict=True):
                bits[condition].append(part.bits)
        return self._phase(request, imposed, [np.concatenate(parts) for parts in bits], number)

    @property
    def n_qubits(self) -> int:
        """Qubits of every programming."""
        return sum(len(own.placement.nodes) for own in self._copies if own.placement) or self.patch.n_qubits

    def check(self, n_conditions: int) -> None:
        """Refuses phases for which there are too few copies.

        Raises:
            AnnealerError: If there are copies, but fewer than conditions.
        """
        if 0 < len(self._copies) < n_conditions:
            raise AnnealerError(
                f"the chip has room for {len(self._copies)} whole copies of the machine, {n_conditions} conditions "
                "need as many: lower --conditions, or leave out --tiled"
            )

    def _calls(self, n_conditions: int) -> list[Call]:
        """Programmings of a phase: one a condition, or one for all in which the conditions take turns over the copies.

        Raises:
            AnnealerError: If there are fewer copies than conditions.
        """
        self.check(n_conditions)
        if not self._copies:
            return [[(condition, self._conditioner)] for condition in range(n_conditions)]
        return [[(place % n_conditions, own) for place, own in enumerate(self._copies)]]

    def _job(self, request: PhaseRequest, call: Call) -> SamplingJob:
        copies = np.bincount([condition for condition, _ in call], minlength=len(request.rows))
        n_reads = max(math.ceil(request.n_reads[condition] / copies[condition]) for condition, _ in call)
        return SamplingJob(n_reads, np.concatenate([request.rows[condition] for condition, _ in call]))

    def _imposed(self, request: PhaseRequest, call: Call) -> list[Conditioned]:
        return [self._impose(request.beta, request.rows[condition], own) for condition, own in call]

    def _phase(
        self, request: PhaseRequest, imposed: Sequence[Conditioned], bits: Sequence[NDArray[np.uint8]], number: int
    ) -> PhaseReads:
        batches = [Reads(own, one.problem) for own, one in zip(bits, imposed, strict=True)]
        known = self._temperature(request, imposed, batches, number)
        logs = [
            -(1 - r) * one.problem.machine_energy(own)
            for r, one, own in zip(known["ratios"], imposed, bits, strict=True)
        ]
        weights = [np.exp(part - part.max()) for part in logs]
        share = min(float(part.sum() ** 2 / (len(part) * (part**2).sum())) for part in weights)
        if self.correction != "importance":
            weights = [np.ones(len(part)) for part in weights]
        weights = [total * part / part.sum() for total, part in zip(request.shares, weights, strict=True)]
        states, condition = self._states(imposed, bits, request.rows, number)
        report = None
        if self.correction == "polish" and self.polish_sweeps:
            generator = stream(self.seed, "polish", number)
            states, report = polish(
                self.machine, states, self.polish_sweeps, generator, self.patch.held, condition, self._sampler
            )
        return PhaseReads(
            states=states,
            condition=condition,
            weights=torch.from_numpy(np.concatenate(weights)).float(),
            effective_share=share,
            polish=report,
            n_reads=len(states),
            **known,
        )

    def _temperature(
        self, request: PhaseRequest, imposed: Sequence[Conditioned], batches: Sequence[Reads], number: int
    ) -> dict[str, Any]:
        """Beta, its error, the running estimate, ratios and misfit."""
        seed = derive_seed(self.seed, "bootstrap", number) % 2**31
        told = [_information(one, batch) for one, batch in zip(imposed, batches, strict=True)]
        if self.protocol == "same-reads":
            return self._same_reads(request.beta, batches, sum(told), seed)
        running = request.running
        if running is None:
            raise AnnealerError("a tracked phase needs the running estimate of beta; give it with the request")
        ratios, misfits = [], []
        for group in [list(range(len(batches)))] if self._copies else [[index] for index in range(len(batches))]:
            running = running.predict()
            if sum(told[index] for index in group) > _LEAST_INFORMATION:
                estimate = maximum_pseudo_likelihood([batches[index] for index in group], seed=seed)
                running = running.update(estimate)
                misfits.append(estimate.misfit)
            ratios += [running.value / request.beta] * len(group)
        return {
            "beta": running.value,
            "beta_error": running.error,
            "running": running,
            "ratios": np.array(ratios),
            "misfit": float(np.mean(misfits)) if misfits else None,
        }

    def _same_reads(self, beta: float, batches: Sequence[Reads], information: float, seed: int) -> dict[str, Any]:
        if information <= _LEAST_INFORMATION:
            ratios = np.ones(len(batches))
            error = beta / math.sqrt(_LEAST_INFORMATION)
            return {"beta": beta, "beta_error": error, "running": None, "ratios": ratios, "misfit": None}
        estimate = maximum_pseudo_likelihood(batches, seed=seed)
        return {
            "beta": estimate.value,
            "beta_error": estimate.error,
            "running": None,
            "ratios": np.full(len(batches), estimate.ratio),
            "misfit": estimate.misfit,
        }

    def _states(
        self, imposed: Sequence[Conditioned], bits: Sequence[NDArray[np.uint8]], rows: FloatArray, number: int
    ) -> tuple[Tensor, Tensor | None]:
        """Bits of all nodes, lonely ones drawn from their fields, and c of every read."""
        n_nodes = self.machine.n_nodes
        parts = [one.states(own, n_nodes)[0] for one, own in zip(imposed, bits, strict=True)]
        states = torch.from_numpy(np.concatenate(parts)).float()
        condition = None
        if self.machine.n_condition:
            condition = torch.from_numpy(np.repeat(rows, [len(own) for own in bits], axis=0)).float()
        if len(self.patch.lonely):
            lonely = torch.from_numpy(self.patch.lonely)
            with torch.no_grad():
                odds = torch.sigmoid(self.machine.local_fields(states, condition)[:, lonely])
            states[:, lonely] = torch.bernoulli(odds, generator=stream(self.seed, "lonely", number))
        return states, condition

    def _impose(self, beta: float, row: FloatArray, conditioner: Conditioner | None = None) -> Conditioned:
        own = conditioner or self._conditioner
        if self.partition is not None:
            return own.impose(beta, row)
        return own.impose(beta, None, torch.from_numpy(row).float() if self.machine.n_condition else None)


@torch.no_grad()
def _information(imposed: Conditioned, reads: Reads) -> float:
    """What reads can tell about ln beta: the curvature of the log pseudo-likelihood at the programmed law."""
    fields = imposed.reduced.local_fields(torch.from_numpy(reads.bits.astype(np.float64)))
    odds = torch.sigmoid(fields)
    return float((fields.square() * odds * (1 - odds)).sum())
