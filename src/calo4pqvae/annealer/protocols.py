r"""Protocols: in which order beta is estimated and conditioned samples are drawn on an annealer.

A machine has to be divided by the annealer's inverse temperature, which is not known, drifts from programming to
programming, and falls with the heat of frequent programming. The protocols differ in what they pay to know it:

.. list-table::
   :header-rows: 1

   * - name
     - beta
     - a sample
   * - ``before-each``
     - energy rule before each sample, started at the last one
     - one read of its own programming
   * - ``once``
     - energy rule once, for the first condition
     - likewise
   * - ``once-with-wait``
     - likewise
     - likewise, after 2.5 s of rest
   * - ``one-read-per-call``
     - energy rule, each read of it a programming of its own
     - likewise
   * - ``same-reads``
     - pseudo-likelihood of the reads that are used, no other programming
     - one of many of a programming
   * - ``tracked``
     - likewise, through a running estimate over programmings
     - likewise

The first four are those of the literature: estimates by the mean energy of 256 reads, with Newton's rule in ln beta
unless another is given (:mod:`~calo4pqvae.annealer.temperature_rules` has the published ones). In ``one-read-per-call``
the first five reads of each estimate warm the chip up and count in no mean.

The last two need no classical energies and no programming beyond those of the samples. The estimate tells at which
ratio :math:`r = \beta_\mathrm{eff} / \beta` these very reads were drawn, and they are corrected: by a short polish, or
by importance weights. If r is surely further from one than a limit (as at the first programming, when beta is a guess),
the reads are given up and the machine is programmed again with the new beta.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike

from calo4pqvae.annealer.conditioning import Conditioned
from calo4pqvae.annealer.device import Annealer
from calo4pqvae.annealer.energy_matching import EnergyMatch, EnergyRule, EnergySample, NewtonRule, match_energy
from calo4pqvae.annealer.problem import Reads
from calo4pqvae.annealer.protocol_run import Conditioning, Correction, ProtocolResult, ProtocolRun
from calo4pqvae.annealer.running_beta import RunningBeta
from calo4pqvae.annealer.temperature import BetaEstimate, maximum_pseudo_likelihood
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.machine import BoltzmannMachine

__all__ = [
    "PROTOCOLS",
    "BeforeEach",
    "Once",
    "OnceWithWait",
    "OneReadPerCall",
    "Protocol",
    "SameReads",
    "Tracked",
    "open_protocol",
]

WARM_UP = 5
"""Calls at the start of an estimate of one read per call that count in no mean."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """What all protocols take.

    Args:
        conditioning: How conditions are imposed.
        start: First guess of beta; that of the chip table if None.
        reads_per_call: Most reads of a programming that are samples; 0 for as many as the chip takes.
        correction: ``"none"``, ``"polish"`` or ``"importance"``.
        polish_sweeps: Sweeps of a polish.
        reference_chains: Gibbs chains of a classical mean energy.
        reference_sweeps: Their sweeps.
        options: Parameters of the solver for every call.

    Raises:
        AnnealerError: If a number makes no sense.
    """

    name: ClassVar[str]

    conditioning: Conditioning = field(default_factory=Conditioning)
    start: float | None = None
    reads_per_call: int = 1
    correction: Correction = "none"
    polish_sweeps: int = 10
    reference_chains: int = 512
    reference_sweeps: int = 200
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.reads_per_call < 0 or self.polish_sweeps < 0 or (self.start is not None and not self.start > 0):
            raise AnnealerError(
                f"{self.reads_per_call} reads a call, {self.polish_sweeps} sweeps and a start at {self.start} make no "
                "protocol; give no negative numbers"
            )

    def sample(
        self,
        annealer: Annealer,
        machine: BoltzmannMachine,
        conditions: ArrayLike,
        n_per_condition: ArrayLike,
        generator: torch.Generator,
    ) -> ProtocolResult:
        """Draws samples of a machine under conditions.

        Args:
            annealer: The annealer; its ledger counts every call.
            machine: The machine.
            conditions: One row a condition, shape (C, n_c): bits of the held partition, or c of the machine. Equal rows
                are best joined first (:func:`~calo4pqvae.annealer.requests.group_requests`).
            n_per_condition: Samples of each condition: one number for all, or one a condition, shape (C,).
            generator: Source of randomness of everything classical, on the machine's device.

        Raises:
            AnnealerError: If an estimate or a condition fails, or the annealer refuses.
        """
        rows = np.asarray(conditions, dtype=np.float64)
        counts = _counts(n_per_condition, len(rows))
        run = ProtocolRun(
            annealer,
            machine,
            rows,
            self.conditioning,
            generator,
            self.options,
            self.reference_chains,
            self.reference_sweeps,
        )
        self._draw(run, counts)
        return run.finish(self.name, self.correction, self.polish_sweeps)

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        raise NotImplementedError

    def _first_beta(self, annealer: Annealer) -> float:
        return annealer.chip.beta if self.start is None else self.start

    def _reads_per_call(self, run: ProtocolRun) -> int:
        most = run.annealer.most_reads(run.machine.n_nodes, **self.options)
        return min(self.reads_per_call or most, most)


@dataclass(frozen=True, kw_only=True, eq=False)
class _ByEnergy(Protocol):
    """Protocols that match mean energies.

    Args:
        rule: How beta is changed.
        estimate_reads: Reads of a programming of the estimate.
        max_programmings: Most steps of an estimate.
    """

    rule: EnergyRule = field(default_factory=NewtonRule)
    estimate_reads: int = 256
    max_programmings: int = 30

    def _estimate(self, run: ProtocolRun, index: int, start: float) -> tuple[float, BetaEstimate]:
        """Where the rule ends under one condition, and the estimate that all its reads make.

        Raises:
            AnnealerError: If beta leaves the positive numbers.
        """
        match = match_energy(
            lambda beta: EnergySample.of(run.energies(index, beta, self.estimate_reads)),
            run.reference_sample(index),
            self.rule,
            start=start,
            max_programmings=self.max_programmings,
        )
        return self._judged(run, match, index)

    def _judged(self, run: ProtocolRun, match: EnergyMatch, index: int) -> tuple[float, BetaEstimate]:
        if match.has_diverged:
            raise AnnealerError(
                f"the rule of the mean energy led from beta = {match.betas[0]:.3g} to {match.last_beta:.3g} in "
                f"{len(match.betas)} programmings; take Newton's rule or another start"
            )
        imposed = run.impose(index, match.betas[-1])
        return match.last_beta, match.estimate(int((~imposed.held).sum()), int(imposed.held.sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class BeforeEach(_ByEnergy):
    """An estimate before every sample, started at the last one: the winning protocol of earlier comparisons."""

    name: ClassVar[str] = "before-each"

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        beta, size = self._first_beta(run.annealer), self._reads_per_call(run)
        for index, missing in enumerate(counts):
            while missing:
                beta, estimate = self._estimate(run, index, beta)
                run.fill(index, beta, min(size, missing), size, estimate)
                missing -= min(size, missing)


@dataclass(frozen=True, kw_only=True, eq=False)
class Once(_ByEnergy):
    """One estimate, under the first condition, for all samples.

    Args:
        wait_s: Rest before every programming of samples in seconds.
    """

    name: ClassVar[str] = "once"
    wait_s: float = 0.0

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        beta, estimate = self._estimate_once(run)
        size = self._reads_per_call(run)
        for index, missing in enumerate(counts):
            while missing:
                if self.wait_s:
                    run.annealer.wait(self.wait_s)
                run.fill(index, beta, min(size, missing), size, estimate)
                missing -= min(size, missing)

    def _estimate_once(self, run: ProtocolRun) -> tuple[float, BetaEstimate]:
        return self._estimate(run, 0, self._first_beta(run.annealer))


@dataclass(frozen=True, kw_only=True, eq=False)
class OnceWithWait(Once):
    """The same with a rest before each sample, in which the heat of programming goes."""

    name: ClassVar[str] = "once-with-wait"
    wait_s: float = 2.5


@dataclass(frozen=True, kw_only=True, eq=False)
class OneReadPerCall(Once):
    """One estimate whose reads are a programming each, as the samples will be: it sees the heat of programming.

    The conditions take turns in the estimate, and the classical mean is taken over the same turns.
    """

    name: ClassVar[str] = "one-read-per-call"
    estimate_reads: int = 128
    max_programmings: int = 10

    def _estimate_once(self, run: ProtocolRun) -> tuple[float, BetaEstimate]:
        turns = [call % len(run.conditions) for call in range(self.estimate_reads + WARM_UP)]
        wanted = np.concatenate([run.reference(index) for index in turns[WARM_UP:]])
        n_chains = sum(len(run.reference(index)) for index in set(turns[WARM_UP:]))

        def read(beta: float) -> EnergySample:
            batches = [run.energies(index, beta, 1) for index in turns]
            return EnergySample.of(np.concatenate(batches[WARM_UP:]))

        match = match_energy(
            read,
            EnergySample.of(wanted, n_chains),
            self.rule,
            start=self._first_beta(run.annealer),
            max_programmings=self.max_programmings,
        )
        return self._judged(run, match, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class SameReads(Protocol):
    """Beta of the very reads that are used, by pseudo-likelihood; the next programming starts from it.

    Args:
        least_reads: Least reads of a programming; if fewer are wanted, the others serve the estimate alone.
        redo_beyond: Distance of ln r from zero, less two errors, beyond which reads are given up and programmed again.
        max_redos: Times that this may happen under a condition.
    """

    name: ClassVar[str] = "same-reads"
    reads_per_call: int = 0
    correction: Correction = "polish"
    least_reads: int = 100
    redo_beyond: float = 0.1
    max_redos: int = 3

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        beta, size = self._first_beta(run.annealer), self._reads_per_call(run)
        for index, missing in enumerate(counts):
            n_redos, n_empty = 0, 0
            while missing:
                wanted = min(size, missing)
                imposed, reads = run.read(index, beta, max(wanted, self.least_reads), self.name)
                estimate = maximum_pseudo_likelihood(reads, imposed.held, seed=run.seed())
                beta = estimate.value
                if _is_far(beta, estimate.error, imposed, self.redo_beyond) and n_redos < self.max_redos:
                    n_redos += 1
                    continue
                n_kept = run.keep(index, imposed, reads, estimate, (beta, estimate.error), wanted)
                n_empty = _still_empty(index, n_kept, n_empty)
                missing -= n_kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracked(Protocol):
    """A running estimate over programmings, fed by the reads that are used.

    Args:
        start_error: Relative error of the first guess.
        drift: Relative change of beta from one programming to the next (assumed).
        least_reads: Reads that are gathered, over programmings if need be, for one estimate; the first programming
            takes as many at least.
        redo_beyond: Distance of ln r from zero, less two errors, beyond which reads are given up and programmed again.
        max_redos: Times that this may happen under a condition.
    """

    name: ClassVar[str] = "tracked"
    reads_per_call: int = 0
    correction: Correction = "polish"
    start_error: float = 0.2
    drift: float = 0.01
    least_reads: int = 20
    redo_beyond: float = 0.1
    max_redos: int = 3

    def _draw(self, run: ProtocolRun, counts: Sequence[int]) -> None:
        running = RunningBeta.start(self._first_beta(run.annealer), self.start_error, self.drift)
        size = self._reads_per_call(run)
        window: list[Reads] = []
        for index, missing in enumerate(counts):
            n_redos, n_empty = 0, 0
            while missing:
                running = running.predict()
                wanted = min(size, missing)
                n_asked = wanted if running.n_estimates else max(wanted, self.least_reads)
                imposed, reads = run.read(index, running.value, n_asked, self.name)
                window.append(reads)
                estimate = None
                if sum(batch.n_reads for batch in window) >= self.least_reads:
                    estimate = maximum_pseudo_likelihood(window, imposed.held, seed=run.seed())
                    running = running.update(estimate)
                    window.clear()
                if _is_far(running.value, running.error, imposed, self.redo_beyond) and n_redos < self.max_redos:
                    n_redos += 1
                    continue
                n_kept = run.keep(index, imposed, reads, estimate, (running.value, running.error), wanted)
                n_empty = _still_empty(index, n_kept, n_empty)
                missing -= n_kept


def _counts(n_per_condition: ArrayLike, n_conditions: int) -> list[int]:
    """Samples of every condition.

    Raises:
        AnnealerError: If they are not whole numbers of one or more, one for all or one each.
    """
    numbers = np.asarray(n_per_condition)
    if numbers.dtype.kind not in "iu" or numbers.shape not in ((), (n_conditions,)) or (numbers < 1).any():
        raise AnnealerError(
            f"{n_per_condition!r} samples for {n_conditions} conditions make no work; give one whole number of 1 or "
            "more, or one a condition"
        )
    counts: list[int] = np.broadcast_to(numbers, n_conditions).tolist()
    return counts


def _is_far(beta: float, error: float, imposed: Conditioned, limit: float) -> bool:
    """Whether reads were surely drawn too far from inverse temperature one: by the limit and two errors."""
    return abs(math.log(beta / imposed.problem.beta)) > limit + 2 * error / beta


def _still_empty(index: int, n_kept: int, n_empty: int) -> int:
    """Programmings in a row without a read to keep.

    Raises:
        AnnealerError: If there are three.
    """
    if not n_kept and n_empty == 2:
        raise AnnealerError(
            f"condition {index} did not hold in any read of 3 programmings; hold it more strongly or fold it"
        )
    return 0 if n_kept else n_empty + 1


PROTOCOLS: Mapping[str, type[Protocol]] = MappingProxyType(
    {kind.name: kind for kind in (BeforeEach, Once, OnceWithWait, OneReadPerCall, SameReads, Tracked)}
)
"""The protocols by name."""


def open_protocol(name: str, **settings: Any) -> Protocol:  # noqa: ANN401
    """The protocol of a name.

    Args:
        name: One of :data:`PROTOCOLS`.
        **settings: Its arguments.

    Raises:
        AnnealerError: If there is no such protocol, or it has no such argument.
    """
    if name not in PROTOCOLS:
        raise AnnealerError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    known = PROTOCOLS[name].__dataclass_fields__
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise AnnealerError(f"the protocol {name!r} has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return PROTOCOLS[name](**settings)
