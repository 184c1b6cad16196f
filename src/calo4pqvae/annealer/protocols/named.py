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
   * - ``tiled``
     - likewise, of all copies of the machine that are programmed side by side
       (:mod:`~calo4pqvae.annealer.protocols.tiled`)
     - one of a copy and programming

The first four are those of the literature: estimates by the mean energy of 256 reads, with Newton's rule in ln beta
unless another is given (:mod:`~calo4pqvae.annealer.beta.temperature_rules` has the published ones). In
``one-read-per-call`` the first five reads of each estimate warm the chip up and count in no mean.

The last three need no classical energies and no programming beyond those of the samples. The estimate tells at which
ratio :math:`r = \beta_\mathrm{eff} / \beta` these very reads were drawn, and they are corrected: by a short polish, or
by importance weights. If r is surely further from one than a limit (as at the first programming, when beta is a guess),
the reads are given up and the machine is programmed again with the new beta.

Reads of one programming share its errors of control, so that means over few programmings are less certain than the
number of reads says. ``reads_per_call`` bounds how many reads of a programming become samples; the copies of ``tiled``
have errors of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from calo4pqvae.annealer.beta.energy_matching import EnergyMatch, EnergyRule, EnergySample, NewtonRule, match_energy
from calo4pqvae.annealer.beta.pseudo_likelihood import BETA_RANGE, BetaEstimate, maximum_pseudo_likelihood
from calo4pqvae.annealer.beta.running_beta import RunningBeta
from calo4pqvae.annealer.chip.problem import Reads
from calo4pqvae.annealer.protocols.base import Protocol, is_far
from calo4pqvae.annealer.protocols.run import Correction, ProtocolRun
from calo4pqvae.annealer.protocols.tiled import Tiled
from calo4pqvae.errors import AnnealerError

__all__ = [
    "PROTOCOLS",
    "BeforeEach",
    "Once",
    "OnceWithWait",
    "OneReadPerCall",
    "SameReads",
    "Tracked",
    "open_protocol",
]

WARM_UP = 5
"""Calls at the start of an estimate of one read per call that count in no mean."""


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
        if not BETA_RANGE[0] <= match.last_beta <= BETA_RANGE[1]:
            raise AnnealerError(
                f"the rule of the mean energy ended at beta = {match.last_beta:.3g}, outside [{BETA_RANGE[0]:g}, "
                f"{BETA_RANGE[1]:g}]: the sampler draws at no finite temperature, or the rule does not fit it; take "
                "same-reads or another sampler"
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
                if is_far(beta, estimate.error, imposed, self.redo_beyond) and n_redos < self.max_redos:
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
                if is_far(running.value, running.error, imposed, self.redo_beyond) and n_redos < self.max_redos:
                    n_redos += 1
                    continue
                n_kept = run.keep(index, imposed, reads, estimate, (running.value, running.error), wanted)
                n_empty = _still_empty(index, n_kept, n_empty)
                missing -= n_kept


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
    {kind.name: kind for kind in (BeforeEach, Once, OnceWithWait, OneReadPerCall, SameReads, Tracked, Tiled)}
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
