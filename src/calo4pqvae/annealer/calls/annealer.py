"""One door to every annealer: a live D-Wave chip, the emulator, or any structured sampler of dimod.

:func:`open_annealer` takes the name of an emulated chip (``"emulator:advantage2"``), of a live one (``"qpu"``,
``"qpu:NAME"``) or a sampler; what comes back behaves the same:

1. the problem is held against the working graph of today and against every documented limit before anything is sent;
2. the access time of the call is reserved in the :class:`~calo4pqvae.annealer.calls.ledger.Ledger`, which refuses it if
   a limit would be passed;
3. the call is made with raw answers and without automatic scaling, which would change the temperature silently;
4. reads are checked, put in the order of the problem and handed to ``keep``; when they are safe, the call is settled.

**Faults that pass** (a call refused for load, a time-out, a lost connection, an answer cut short) are met by waiting,
doubling the wait each time, and calling again; each attempt is in the ledger. Reads of an answer that was cut short are
kept and only the rest is asked for again. If the chip had named the problem before the connection was lost, its answer
is fetched by that name, since it was paid for. Everything else is told at once.

Tokens come from D-Wave's own configuration (``dwave config create``, or its environment variables) and are neither
taken as arguments nor logged. ``dwave-system`` is imported here only, inside a function, when a live chip is asked for.
Anything that is not a live chip calls itself emulated.
"""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calo4pqvae.annealer.calls.ledger import Ledger, LedgerCall, Outcome, without_tokens
from calo4pqvae.annealer.calls.retries import IncompleteReadsError, PassingFaultError, RetryPolicy, passing_fault, told
from calo4pqvae.annealer.chip.answers import access_seconds, join_reads, reads_of_answer
from calo4pqvae.annealer.chip.problem import FloatArray, IsingProblem, Reads
from calo4pqvae.annealer.chip.request import ChipRequest, most_reads
from calo4pqvae.annealer.chip.table import Chip, chip
from calo4pqvae.annealer.chip.working_graph import WorkingParts
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.errors import AnnealerError
from calo4pqvae.seeds import derive_seed

__all__ = ["Annealer", "Keep", "open_annealer"]

Keep = Callable[[Reads, LedgerCall], None]
"""Takes the reads of one call, and its entry in the ledger, before the call is settled."""

_TIMED = ("annealing_time", "programming_thermalization", "readout_thermalization", "reduce_intersample_correlation")


class Annealer:
    """A structured sampler with checks, retries and a ledger; opened by :func:`open_annealer`.

    Args:
        sampler: A dimod sampler with ``nodelist`` and ``edgelist``.
        chip: Documented facts of the chip; None for samplers that have none.
        ledger: Where calls are entered; a new one in memory if None.
        retry: How faults that pass are met.
        seed: For samplers that take a ``seed``: call k gets one derived from this and k.
        sleep: How to wait; the emulator's own clock, or the real one, if None.
        topology: Family and shape of the ideal graph, if the sampler does not tell.

    Attributes:
        sampler: The sampler.
        is_emulated: Whether no live chip is involved.
        ledger: The ledger.
        retry: The policy.

    Raises:
        AnnealerError: If the sampler has no working graph, the ledger is of the other kind, or it has a limit that
            cannot be held since nothing is known of the times of the sampler.
    """

    def __init__(
        self,
        sampler: Any,  # noqa: ANN401
        *,
        chip: Chip | None = None,
        ledger: Ledger | None = None,
        retry: RetryPolicy | None = None,
        seed: int | None = None,
        sleep: Callable[[float], None] | None = None,
        topology: tuple[str, Sequence[int]] | None = None,
    ) -> None:
        if not hasattr(sampler, "nodelist") or not hasattr(sampler, "edgelist"):
            raise AnnealerError(
                f"{type(sampler).__name__} has no working graph; wrap it in dimod.StructureComposite with a graph"
            )
        self.sampler = sampler
        self.is_emulated = not _is_live(sampler)
        self.ledger = Ledger(is_emulated=self.is_emulated) if ledger is None else ledger
        if self.ledger.is_emulated != self.is_emulated:
            raise AnnealerError(
                "emulated and real access time are not mixed; give this annealer a ledger of its own kind"
            )
        self.retry = retry or RetryPolicy()
        self._seed = seed
        self._chip = chip
        self._topology = topology
        self._sleep = sleep or getattr(sampler, "wait", None) or time.sleep
        self._parts: WorkingParts | None = None
        if self.ledger.limit is not None and not self._has_times:
            raise AnnealerError(
                f"no spending limit can be held on {self.name}, whose times are unknown; name its chip or set no limit"
            )

    @property
    def name(self) -> str:
        """Solver name."""
        return str(self.properties.get("chip_id") or type(self.sampler).__name__)

    @property
    def properties(self) -> Mapping[str, Any]:
        """Properties of the solver."""
        found: Mapping[str, Any] = self.sampler.properties
        told = {"topology": dict(zip(("type", "shape"), self._topology, strict=True))} if self._topology else {}
        return {**found, **told} if told else found

    @property
    def mode(self) -> str:
        """Mode of an emulator; empty for anything else."""
        return str(getattr(self.sampler, "mode", ""))

    @property
    def nodelist(self) -> Sequence[int]:
        """Working qubits."""
        found: Sequence[int] = self.sampler.nodelist
        return found

    @property
    def edgelist(self) -> Sequence[tuple[int, int]]:
        """Working couplers."""
        found: Sequence[tuple[int, int]] = self.sampler.edgelist
        return found

    @property
    def chip(self) -> Chip:
        """Documented facts of the chip.

        Raises:
            AnnealerError: If the sampler is no chip of the table.
        """
        if self._chip is None:
            raise AnnealerError(f"nothing is documented of {self.name}; name the chip that it stands for (chip_facts=)")
        return self._chip

    @property
    def has_chip(self) -> bool:
        """Whether it is a chip of the table."""
        return self._chip is not None

    @property
    def graph_id(self) -> str:
        """Name of the working graph, the chip's own or a hash of it, to notice that it has changed."""
        return self._working_parts().name

    def wait(self, seconds: float) -> None:
        """Waits, on the emulator's own clock where there is one."""
        self._sleep(seconds)

    def check(self, request: ChipRequest) -> None:
        """Refuses a request that the chip would refuse; nothing is sent.

        Raises:
            AnnealerError: Naming what is wrong first.
        """
        self._working_parts().check(request.problem, self.name)
        request.check(self.properties, self.sampler.parameters, self._chip)

    def most_reads(self, n_qubits: int, **options: Any) -> int:  # noqa: ANN401
        """Most reads that one call may have.

        Args:
            n_qubits: Qubits of the problem.
            **options: As for :meth:`read`.
        """
        return most_reads(n_qubits, options, self.properties, self._chip)

    def estimate(self, request: ChipRequest) -> float:
        """Estimated access time of a request in seconds; 0 for a sampler whose times are unknown."""
        if not self.is_emulated and self.properties.get("problem_timing_data"):
            timed = {key: value for key, value in request.options.items() if key in _TIMED}
            solver = self.sampler.solver
            micros = solver.estimate_qpu_access_time(request.problem.n_qubits, num_reads=request.n_reads, **timed)
            return float(micros) * 1e-6
        return 0.0 if self._chip is None else request.access_seconds(self.properties, self._chip)

    def read(
        self,
        problem: IsingProblem,
        n_reads: int,
        *,
        flux_biases: FloatArray | None = None,
        label: str = "",
        keep: Keep | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Reads:
        """Reads of one problem: one programming, or more if faults make it necessary.

        Args:
            problem: What to program.
            n_reads: Reads.
            flux_biases: In flux quanta, one for every qubit of the ideal chip; None for none.
            label: What it is for, for the ledger.
            keep: Is given the reads of each call, and its entry, before the call is settled and before any other is
                made: the place to write them to disk.
            **options: Parameters of the solver, see :class:`~calo4pqvae.annealer.chip.request.ChipRequest`.

        Returns:
            The reads, in the order in which they came; ``info["reads_per_call"]`` says how many came from each call.

        Raises:
            AnnealerError: If the request is not valid, or the chip refuses it for good.
            IncompleteReadsError: If faults did not pass; it holds the reads that came.
            SpendingLimitError: If a call would pass the spending limit and none was made.
        """
        request = ChipRequest(problem, n_reads, flux_biases, label, options)
        self.check(request)
        parts: list[Reads] = []
        for attempt in range(1, self.retry.attempts + 1):
            missing = n_reads - sum(part.n_reads for part in parts)
            try:
                parts.append(self._attempt(ChipRequest(problem, missing, flux_biases, label, options), attempt, keep))
                last = f"{missing - parts[-1].n_reads} reads were missing"
            except PassingFaultError as fault:
                last = str(fault)
            except AnnealerError as error:
                if not parts:
                    raise
                raise IncompleteReadsError(
                    f"{n_reads - missing} of {n_reads} reads came: {error}", join_reads(parts)
                ) from error
            if sum(part.n_reads for part in parts) == n_reads:
                return join_reads(parts)
            if attempt < self.retry.attempts:
                self.wait(self.retry.wait(attempt))
        raise IncompleteReadsError(
            f"{sum(part.n_reads for part in parts)} of {n_reads} reads came from {self.name} in {self.retry.attempts} "
            f"attempts, the last time {last}; try again later",
            join_reads(parts) if parts else None,
        )

    def recover(self, call: LedgerCall, problem: IsingProblem, keep: Keep | None = None) -> Reads | None:
        """Settles a call that a killed process left open, with its answer if the chip still has it.

        Args:
            call: An open call of the ledger.
            problem: What it had programmed.
            keep: As for :meth:`read`.

        Returns:
            The reads, or None if they cannot be had; the call counts with its estimate then.

        Raises:
            AnnealerError: If the answer does not belong to the problem.
        """
        if call.problem_id and self._can_fetch:
            try:
                return self._fetched(call, problem, keep)
            except PassingFaultError:  # settled as lost
                return None
        self.ledger.settle(call, "lost", is_charged=self._has_times, message="the process ended during the call")
        return None

    @property
    def _can_fetch(self) -> bool:
        return hasattr(getattr(self.sampler, "client", None), "retrieve_answer")

    @property
    def _has_times(self) -> bool:
        return self._chip is not None or bool(self.properties.get("problem_timing_data"))

    def _working_parts(self) -> WorkingParts:
        """The working graph, which an emulator may lose parts of at any time."""
        if self._parts is None or not self._parts.has_size_of(self.sampler):
            self._parts = WorkingParts.of(self.sampler)
        return self._parts

    def _attempt(self, request: ChipRequest, attempt: int, keep: Keep | None) -> Reads:
        """One call, entered in the ledger whatever comes of it.

        Raises:
            PassingFaultError: If the fault may pass.
            AnnealerError: If it does not.
        """
        estimate = self.estimate(request)
        call = self.ledger.reserve(self.name, request.n_reads, estimate, attempt=attempt, label=request.label)
        try:
            answer = self._send(request, call)
        except PassingFaultError as fault:
            named = self.ledger.calls[call.number]
            if named.problem_id and self._can_fetch and fault.kind in ("timeout", "lost"):
                return self._fetched(named, request.problem, keep)
            self._settle_fault(call, fault.kind, str(fault))
            raise
        except Exception as error:
            if isinstance(error, AnnealerError | ValueError):  # it never reached the chip
                self.ledger.settle(call, "rejected", access_seconds=0.0, programmings=0, message=told(error))
                raise AnnealerError(f"{self.name} refuses the call ({told(error)}); correct the request") from error
            self._settle_fault(call, "failed", told(error))
            if type(error).__module__.partition(".")[0] in ("dimod", "dwave", "requests"):
                raise AnnealerError(
                    f"the call of {self.name} failed ({told(error)}); see that the chip is in order"
                ) from error
            raise
        return self._accepted(answer, request.problem, call, keep)

    def _settle_fault(self, call: LedgerCall, kind: Outcome, message: str) -> None:
        """A refused call costs nothing; of any other fault it is not known, so that the estimate is charged."""
        if kind == "rejected":
            self.ledger.settle(call, kind, access_seconds=0.0, programmings=0, message=message)
        else:
            self.ledger.settle(call, kind, is_charged=self._has_times, message=message)

    def _send(self, request: ChipRequest, call: LedgerCall) -> Any:  # noqa: ANN401
        """The answer to a call.

        Raises:
            PassingFaultError: If the fault may pass.
        """
        arguments = request.arguments(self.sampler.parameters)
        if self._seed is not None and "seed" in self.sampler.parameters:
            arguments["seed"] = derive_seed(self._seed, "call", call.number) % 2**31
        try:
            with warnings.catch_warnings():  # of a mock that takes the arguments of a chip and says what it leaves out
                warnings.filterwarnings("ignore", message=".*not mocked in", category=UserWarning)
                answer = self.sampler.sample(request.problem.to_bqm(), **arguments)
            if self._can_fetch and (problem_id := answer.wait_id()):
                self.ledger.note_problem(call, problem_id)
            answer.resolve()
        except Exception as error:
            fault = passing_fault(error)
            if fault is None:
                raise
            raise fault from error
        return answer

    def _fetched(self, call: LedgerCall, problem: IsingProblem, keep: Keep | None) -> Reads:
        """The answer to an earlier call, by the name that the chip gave it.

        Raises:
            PassingFaultError: If it cannot be had; the call is settled then.
        """
        for attempt in range(1, self.retry.attempts + 1):
            try:
                answer = self.sampler.client.retrieve_answer(call.problem_id).sampleset
                answer.resolve()
                break
            except Exception as error:
                if passing_fault(error) is None or attempt == self.retry.attempts:
                    message = f"no answer to {call.problem_id} ({told(error)})"
                    self._settle_fault(call, "lost", message)
                    raise PassingFaultError(message, "lost") from error
            self.wait(self.retry.wait(attempt))
        return self._accepted(answer, problem, call, keep)

    def _accepted(self, answer: Any, problem: IsingProblem, call: LedgerCall, keep: Keep | None) -> Reads:  # noqa: ANN401
        """Reads of an answer, kept and settled."""
        seconds = access_seconds(answer)
        is_charged = seconds is not None or self._has_times
        info = {"emulated": self.is_emulated, "chip": self.name, "graph_id": self.graph_id, "label": call.label}
        try:
            reads = reads_of_answer(answer, problem, call.asked, info | {"calls": (call.number,)})
        except AnnealerError as error:
            self.ledger.settle(call, "failed", access_seconds=seconds, is_charged=is_charged, message=str(error))
            raise
        if keep is not None:
            keep(reads, call)
        outcome: Outcome = "complete" if reads.n_reads == call.asked else "partial"
        self.ledger.settle(call, outcome, reads=reads.n_reads, access_seconds=seconds, is_charged=is_charged)
        return reads


def open_annealer(
    spec: Any,  # noqa: ANN401
    *,
    seed: int | None = None,
    mode: EmulatorMode = "calibrated",
    limit: float | None = None,
    ledger: Path | None = None,
    retry: RetryPolicy | None = None,
    chip_facts: Chip | None = None,
    sleep: Callable[[float], None] | None = None,
    topology: tuple[str, Sequence[int]] | None = None,
    **emulator: Any,  # noqa: ANN401
) -> Annealer:
    """Opens an annealer by name, or wraps a sampler.

    Args:
        spec: ``"emulator:CHIP"`` or ``"emulator:CHIP:M"`` (CHIP as in the chip table, on a graph of size M; with
            ``":whole"`` behind it nothing of the graph is broken), ``"qpu"`` (the default solver of D-Wave's
            configuration), ``"qpu:NAME"``, or a dimod sampler with ``nodelist`` and ``edgelist``.
        seed: Seed of an emulator, or of a sampler that takes one. An emulator lives through the calls of the ledger, so
            that work that is gone on with finds the same chip, as warm as it was left.
        mode: ``"ideal"``, ``"calibrated"`` or ``"stress"``, of an emulator.
        limit: Most access time in seconds over the whole ledger.
        ledger: File of the ledger; None keeps it in memory.
        retry: How faults that pass are met.
        chip_facts: Documented facts of the chip that a sampler stands for; None takes those of its name, if any.
        sleep: How to wait between attempts; see :class:`Annealer`.
        topology: Ideal graph of a sampler that does not say it: ``("zephyr", (12, 4))`` or ``("pegasus", (16,))``.
        **emulator: Further arguments of :class:`~calo4pqvae.annealer.emulator.emulator.Emulator`.

    Raises:
        AnnealerError: If there is no such annealer, or it cannot be reached.
    """
    if not isinstance(spec, str):
        if emulator:
            raise AnnealerError(f"{', '.join(emulator)} is for an emulator that is named; a sampler is taken as it is")
        return Annealer(
            spec,
            topology=topology,
            chip=chip_facts or _facts(spec),
            ledger=Ledger(ledger, limit, is_emulated=not _is_live(spec)),
            retry=retry,
            seed=seed,
            sleep=sleep,
        )
    kind, _, name = spec.partition(":")
    if kind == "emulator":
        book = Ledger(ledger, limit, is_emulated=True)
        if seed is None:
            raise AnnealerError("an emulator draws random numbers; give it a seed")
        sampler = _emulator(name, mode, seed, emulator, book)
    elif kind == "qpu" and not emulator:
        sampler = _live_chip(name)
        book = Ledger(ledger, limit)
    else:
        raise AnnealerError(
            f"there is no annealer {without_tokens(spec)!r}; use emulator:CHIP (for example "
            "emulator:advantage2), qpu or qpu:NAME"
        )
    return Annealer(sampler, chip=chip_facts or _facts(sampler), ledger=book, retry=retry, sleep=sleep)


def _emulator(name: str, mode: EmulatorMode, seed: int, options: Mapping[str, Any], book: Ledger) -> Any:  # noqa: ANN401
    from calo4pqvae.annealer.emulator.emulator import Emulator
    from calo4pqvae.annealer.emulator.graph import whole_graph
    from calo4pqvae.annealer.emulator.replay import live_through

    plain = name.removesuffix(":whole")
    chip_name, _, size = plain.partition(":")
    if size and not size.isdecimal():
        raise AnnealerError(
            f"the size of an emulated chip is a whole number, not {size!r}; write emulator:advantage2:4"
        )
    entry = chip(chip_name or "advantage2")
    graph = {"m": int(size)} | dict(options) if size else dict(options)
    if plain != name:
        graph["nodelist"] = whole_graph(entry, graph.get("m")).qubits
    emulator = Emulator(entry, mode=mode, seed=seed, **graph)
    live_through(emulator, book)
    return emulator


def _live_chip(name: str) -> Any:  # noqa: ANN401
    """A sampler on a live chip.

    Raises:
        AnnealerError: If Ocean is not installed, no token is configured, or there is no such chip.
    """
    if without_tokens(name) != name:
        raise AnnealerError("a token is not given here; put it in D-Wave's own configuration (dwave config create)")
    try:
        from dwave.system import DWaveSampler
    except ImportError as error:
        raise AnnealerError(
            "a live chip needs D-Wave's client: pip install 'calo4pqvae[qpu]'; or use the emulator"
        ) from error
    try:
        return DWaveSampler(**({"solver": name} if name else {}))
    except ValueError as error:
        if "token" not in str(error):
            raise AnnealerError(
                f"D-Wave's configuration cannot be used ({told(error)}): run dwave config create"
            ) from error
        raise AnnealerError(
            "no D-Wave token is configured: run `dwave config create` (or set DWAVE_API_TOKEN), or "
            "use emulator:advantage2"
        ) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("dwave", "requests"):
            raise
        wanted = f"the live chip {name}" if name else "a live chip"
        raise AnnealerError(
            f"{wanted} cannot be reached ({told(error)}): run dwave solvers to see what there is"
        ) from error


def _is_live(sampler: Any) -> bool:  # noqa: ANN401
    """Whether a sampler, or one that it wraps, is D-Wave's own client."""
    kinds = type(sampler).__mro__
    if any(kind.__name__ == "DWaveSampler" and kind.__module__.startswith("dwave.system.") for kind in kinds):
        return True
    return any(_is_live(child) for child in getattr(sampler, "children", ()))


def _facts(sampler: Any) -> Chip | None:  # noqa: ANN401
    """Documented facts of a sampler, by the name of its chip."""
    name = str(sampler.properties.get("chip_id", "")).removeprefix("emulated-")
    try:
        return chip(name)
    except AnnealerError:
        return None
