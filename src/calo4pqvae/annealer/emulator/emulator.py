r"""An annealer without an account: a dimod sampler that behaves like ``DWaveSampler``, and says that it is emulated.

The emulator has the working graph, ranges, timing and temperature of a chip of
:mod:`~calo4pqvae.annealer.chip.table`, refuses what the chip refuses, and draws reads by block Gibbs sampling at an
inverse temperature that the caller does not know. Three modes: ``"ideal"`` (the temperature of the table, nothing
else), ``"calibrated"`` (drift, heat, control errors, flux offsets of the documented sizes) and ``"stress"``
(:mod:`~calo4pqvae.annealer.emulator.settings` gives every number and what is merely assumed).

A flux bias acts as a field of opposite sign, with the chip's own M_AFM and B(s*).

**No claim about quantum dynamics** is made: the reads are those of a classical heat bath
(:mod:`~calo4pqvae.annealer.emulator.dynamics`). It predicts neither the errors of a given chip nor any speed-up; the
time that it reports is the charged time of the chip, not its own.

What it makes is marked: ``properties["category"] == "emulator"``, ``info["emulated"] is True``, names that begin with
``emulated-``.

Example:
    >>> from calo4pqvae.annealer.emulator.emulator import Emulator
    >>> emulator = Emulator("advantage2", mode="ideal", seed=1, m=2)
    >>> reads = emulator.sample_ising({emulator.nodelist[0]: -1.0}, {}, num_reads=5, auto_scale=False)
    >>> reads.info["emulated"], len(reads.info["timing"])
    (True, 9)
"""

import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import dimod
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from calo4pqvae.annealer.chip.limits import FLUX_LIMIT, Call, check_call, check_problem, smallest_scale
from calo4pqvae.annealer.chip.problem import FloatArray, IsingProblem
from calo4pqvae.annealer.chip.table import Chip, chip, flux_to_fields
from calo4pqvae.annealer.emulator.call import PARAMETERS, CallOptions, timing_info
from calo4pqvae.annealer.emulator.dynamics import AnnealedPatch, GraphPatch, greedy_partition, with_susceptibility
from calo4pqvae.annealer.emulator.faults import (
    FAULTS,
    EmulatedConnectionError,
    EmulatedTimeoutError,
    FaultKind,
    SolverOfflineError,
)
from calo4pqvae.annealer.emulator.graph import WorkingGraph, broken_graph, listed_graph, solver_properties
from calo4pqvae.annealer.emulator.settings import EmulatorMode, EmulatorSettings, emulator_settings
from calo4pqvae.annealer.emulator.state import HiddenState, Programming, Usage
from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.kernels.choice import KernelName

__all__ = ["Emulator"]

_PATCHES = 4  # that are kept ready
_LARGEST = 40  # size of a graph


class Emulator(dimod.Sampler, dimod.Structured):  # type: ignore[misc, name-defined]
    """An emulated chip.

    Args:
        name: A chip, or its name in the table, for example ``"advantage2"`` or ``"Advantage_system4"``.
        seed: Seed of everything that is drawn; the same seed and the same calls give the same reads.
        mode: ``"ideal"``, ``"calibrated"`` or ``"stress"``.
        settings: Numbers in place of those of the mode.
        m: Size of the graph, for slices of a chip; that of the chip if None.
        nodelist: Working qubits in place of the emulated ones.
        edgelist: Working couplers, likewise.
        kernel: Kernel of the Gibbs sweeps; ``"packed"`` is the fastest for calls of few reads of few qubits.

    Attributes:
        chip: Facts of the chip.
        mode: The mode, ``"custom"`` with settings of one's own.
        hidden: What the chip keeps to itself; tests and studies look at it, samplers do not.

    Raises:
        AnnealerError: If chip, mode or lists do not exist.
    """

    is_emulated = True

    def __init__(
        self,
        name: str | Chip = "advantage2",
        *,
        seed: int,
        mode: EmulatorMode = "calibrated",
        settings: EmulatorSettings | None = None,
        m: int | None = None,
        nodelist: Iterable[int] | None = None,
        edgelist: Iterable[Sequence[int]] | None = None,
        kernel: KernelName = "auto",
    ) -> None:
        self.chip = name if isinstance(name, Chip) else chip(name)
        self.mode: str = mode if settings is None else "custom"
        self.seed = seed
        self._kernel = kernel
        self._settings = emulator_settings(mode) if settings is None else settings
        size = self.chip.m if m is None else m
        smallest = 2 if self.chip.family == "pegasus" else 1
        if not smallest <= size <= _LARGEST:
            raise AnnealerError(
                f"an emulated {self.chip.family} graph of size {size} does not exist; give {smallest} to {_LARGEST}"
            )
        if nodelist is None and edgelist is None:
            graph = broken_graph(self.chip, size)
        else:
            graph = listed_graph(self.chip, size, nodelist, edgelist)
        self.hidden = HiddenState(self._settings, self.chip, graph.n_labels, seed)
        self._faults: list[FaultKind] = []
        self._losses = 0
        self._set_graph(graph)

    def _set_graph(self, graph: WorkingGraph) -> None:
        self._graph = graph
        self._patches: OrderedDict[bytes, GraphPatch] = OrderedDict()
        self._properties = solver_properties(graph)
        self._row = np.full(graph.n_labels, -1, dtype=np.int64)
        self._row[graph.labels] = np.arange(len(graph.labels))
        self.__dict__.pop("_adjacency", None)  # dimod keeps it; it belongs to the graph

    @property
    def nodelist(self) -> list[int]:
        """Working qubits."""
        return self._graph.qubits

    @property
    def edgelist(self) -> list[tuple[int, int]]:
        """Working couplers."""
        return self._graph.couplers

    @property
    def properties(self) -> dict[str, Any]:
        """Properties of the emulated solver."""
        return self._properties

    @property
    def parameters(self) -> dict[str, list[str]]:
        """Options of :meth:`sample`, each with the properties that it depends on."""
        return {name: ["parameters"] for name in PARAMETERS}

    @property
    def usage(self) -> Usage:
        """Programmings, reads and charged time so far."""
        return self.hidden.usage

    @property
    def clock_s(self) -> float:
        """Virtual time in seconds since the emulator was opened."""
        return self.hidden.clock_s

    def wait(self, seconds: float) -> None:
        """Lets virtual time pass, in which the chip cools; no real time passes.

        Raises:
            AnnealerError: If the time is negative.
        """
        if not np.isfinite(seconds) or seconds < 0:
            raise AnnealerError(f"{seconds:g} s cannot be waited; give 0 or more")
        self.hidden.wait(seconds)

    def reveal(self) -> tuple[Programming, ...]:
        """The true inverse temperatures of all programmings, for tests and studies; a real chip keeps them hidden."""
        return tuple(self.hidden.history)

    def fail_next(self, *kinds: FaultKind) -> None:
        """Lets the next calls fail, one call a kind, in the order given.

        Raises:
            AnnealerError: If there is no such fault.
        """
        unknown = [kind for kind in kinds if kind not in FAULTS]
        if unknown:
            raise AnnealerError(f"there is no fault {unknown[0]!r}; choose from {', '.join(FAULTS)}")
        self._faults.extend(kinds)

    def degrade(self, k: int) -> tuple[int, ...]:
        """Loses qubits for good, as chips do from one calibration to the next; ``graph_id`` changes.

        Args:
            k: Number of qubits to lose.

        Returns:
            Their labels.

        Raises:
            AnnealerError: If so many cannot be lost.
        """
        if not 0 < k < len(self.nodelist):
            raise AnnealerError(f"{k} of {len(self.nodelist)} qubits cannot be lost; give a number between")
        lost = self.hidden.generator("losses", self._losses).choice(self.nodelist, size=k, replace=False).tolist()
        self._losses += 1
        self._set_graph(self._graph.without(lost))
        return tuple(sorted(lost))

    def sample(self, bqm: dimod.BinaryQuadraticModel, **parameters: Any) -> dimod.SampleSet:  # noqa: ANN401
        """Draws reads.

        Args:
            bqm: The problem, over working qubits and couplers.
            **parameters: Options of ``DWaveSampler.sample`` named in :attr:`parameters`, with the same defaults;
                notably ``auto_scale`` rescales problems silently unless it is switched off or flux biases are given.

        Returns:
            The reads in the order of ``answer_mode``, with timing in ``info``.

        Raises:
            AnnealerError: If the problem or an option is outside what the chip takes.
            SolverOfflineError: If asked for by :meth:`fail_next`.
            EmulatedTimeoutError: Likewise.
            EmulatedConnectionError: Likewise.
        """
        options = CallOptions.of(parameters)
        problem = self._problem(bqm)
        patch = self._patch(problem)
        scale = (smallest_scale(problem, self._properties) or 1.0) if options.is_scaled else 1.0
        problem = _divided(problem, scale)
        times = options.times(self.chip, problem.n_qubits)
        self._check(problem, options.limited(times))
        fault = self._faults.pop(0) if self._faults else None
        if fault == "rejected":
            raise SolverOfflineError("the emulated solver did not take the call; make it again later")
        largest = float(np.abs(problem.couplings).max(initial=0.0))
        record = self.hidden.program(times, options.programming_thermalization, largest)
        if fault == "timeout":
            raise EmulatedTimeoutError("the emulated solver gave no answer in time; make the call again")
        if fault == "connection":
            raise EmulatedConnectionError("the connection to the emulated solver broke; make the call again")
        bits = self._read(problem, patch, record, options)
        if fault == "truncated":
            bits = bits[: len(bits) // 2]
        info = self._info(record, scale) | {"timing": timing_info(times, self._settings.overhead_us)}
        if options.label is not None:
            info["problem_label"] = options.label
        return _answer(bqm, problem, bits, options, info)

    def _problem(self, bqm: dimod.BinaryQuadraticModel) -> IsingProblem:
        """The problem over its own qubits, in the order of the graph's nodes."""
        labels: list[Any] = list(bqm.variables)
        known = [isinstance(label, int | np.integer) and 0 <= label < len(self._row) for label in labels]
        rows = np.array(
            [self._row[label] if good else -1 for label, good in zip(labels, known, strict=True)], dtype=int
        )
        if not labels or (rows < 0).any():
            gone = [label for label, row in zip(labels, rows, strict=True) if row < 0]
            raise AnnealerError(
                f"{len(gone)} of the {len(labels)} qubits of the problem do not work on {self._properties['graph_id']} "
                f"({', '.join(map(str, gone[:8]))}); place the problem on the working graph of today"
            )
        order = np.argsort(rows)
        place = np.empty(len(labels), dtype=np.int64)
        place[order] = np.arange(len(labels))
        vectors: Any = bqm.spin.to_numpy_vectors(variable_order=labels)
        first, second, values = vectors.quadratic
        edges = np.sort(np.stack([place[first], place[second]], axis=1), axis=1)
        by_end = np.lexsort((edges[:, 1], edges[:, 0]))
        fields, qubits = np.asarray(vectors.linear_biases)[order], np.array(labels)[order]
        return IsingProblem(fields, np.asarray(values)[by_end], edges[by_end], float(vectors.offset), 1.0, qubits)

    def _patch(self, problem: IsingProblem) -> GraphPatch:
        """The qubits of a problem, made ready.

        Raises:
            AnnealerError: If the problem has couplers that do not work.
        """
        rows = self._row[problem.qubits]
        key = rows.tobytes()
        if key not in self._patches:
            self._patches[key] = GraphPatch.of(self._graph.topology, rows, self._kernel)
            if len(self._patches) > _PATCHES:
                self._patches.popitem(last=False)
        self._patches.move_to_end(key)
        patch = self._patches[key]
        strange = patch.strangers(problem.edges)
        if len(strange):
            pairs = [tuple(pair) for pair in problem.qubits[problem.edges[strange[:8]]].tolist()]
            raise AnnealerError(
                f"{len(strange)} of the {len(problem.edges)} couplers of the problem do not work on "
                f"{self._properties['graph_id']} ({', '.join(map(str, pairs))}); place the problem on the "
                "working graph of today"
            )
        return patch

    def _check(self, problem: IsingProblem, call: Call) -> None:
        check_problem(problem, self._properties)
        check_call(call, self._properties, problem, flux_limit=None)
        if call.flux_biases is not None and np.abs(call.flux_biases).max(initial=0.0) > FLUX_LIMIT:
            warnings.warn(f"flux biases beyond {FLUX_LIMIT} flux quanta may be refused by a real chip", stacklevel=3)

    def _read(
        self, problem: IsingProblem, patch: GraphPatch, record: Programming, options: CallOptions
    ) -> NDArray[np.uint8]:
        settings, hidden = self._settings, self.hidden
        fields, couplings = self._programmed(problem, patch, record.index, options)
        dynamics = patch.dynamics
        if settings.susceptibility:
            fields, couplings = with_susceptibility(fields, couplings, settings.susceptibility)
            edges = np.stack(sparse.triu(couplings).nonzero(), axis=1).astype(np.int64)
            dynamics = AnnealedPatch.of(greedy_partition(len(fields), edges), edges, self._kernel)
        is_polarised = self.chip.family == "pegasus" and not options.reduce_intersample_correlation
        bits = dynamics.draw(
            fields,
            couplings,
            record.betas,
            settings.n_sweeps(options.annealing_time),
            hidden.torch_generator("reads", record.index),
            settings.polarisation if is_polarised else 0.0,
        )
        if settings.readout_flip:
            coins = hidden.generator("readout", record.index).random(bits.shape, dtype=np.float32)
            bits ^= (coins < settings.readout_flip).astype(np.uint8)
        return bits

    def _programmed(
        self, problem: IsingProblem, patch: GraphPatch, index: int, options: CallOptions
    ) -> tuple[FloatArray, "sparse.csr_array"]:
        """Fields (n,) and couplings (n, n) that act, after all errors of the control."""
        settings, rng = self._settings, self.hidden.generator("control", index)
        fields = _rounded(problem.fields, settings.field_half_step)
        couplings = np.zeros(len(patch.edges))
        couplings[patch.places(problem.edges)] = _rounded(problem.couplings, settings.coupling_half_step)
        fields = self.hidden.field_scales[problem.qubits] * (
            fields + settings.field_error * rng.normal(size=len(fields))
        )
        fields = fields + flux_to_fields(self.chip, self._flux(options)[problem.qubits])
        couplings = couplings + settings.coupling_error * rng.normal(size=len(couplings))
        if rng.random() < settings.failed_programming:
            failed = int(rng.integers(len(fields)))
            fields[failed] = 0.0
            couplings[(patch.edges == failed).any(axis=1)] = 0.0
        half = sparse.coo_array((couplings, patch.edges.T), shape=(len(fields), len(fields)))
        return fields, sparse.csr_array(half + half.T)

    def _flux(self, options: CallOptions) -> FloatArray:
        """Flux that acts on every qubit of the ideal graph: the bias and what is left of its offset."""
        share = self._settings.compensated_share if options.flux_drift_compensation else 1.0
        flux = share * self.hidden.flux_offsets
        return flux if options.flux_biases is None else flux + np.asarray(options.flux_biases, dtype=np.float64)

    def _info(self, record: Programming, scale: float) -> dict[str, Any]:
        return {
            "problem_id": f"emulated-{self.seed}-{record.index}",
            "emulated": True,
            "category": "emulator",
            "chip": self.chip.name,
            "mode": self.mode,
            "seed": self.seed,
            "graph_id": self._properties["graph_id"],
            "divided_by": scale,
        }


def _answer(
    bqm: dimod.BinaryQuadraticModel,
    problem: IsingProblem,
    bits: NDArray[np.uint8],
    options: CallOptions,
    info: dict[str, Any],
) -> dimod.SampleSet:
    spins = 2 * bits.astype(np.int8) - 1
    values = spins if bqm.vartype is dimod.SPIN else bits.astype(np.int8)
    energies = problem.energy(spins) * info["divided_by"] + problem.constant
    samples: Any = dimod.SampleSet
    answer: Any = samples.from_samples((values, problem.qubits.tolist()), bqm.vartype, energies, info=info)
    if options.answer_mode == "histogram":
        answer = answer.aggregate().slice(None, sorted_by="energy")
    if options.max_answers is not None:
        answer = answer.slice(options.max_answers, sorted_by=None)
    result: dimod.SampleSet = answer
    return result


def _divided(problem: IsingProblem, scale: float) -> IsingProblem:
    if scale == 1.0:
        return problem
    fields, couplings = problem.fields / scale, problem.couplings / scale
    return IsingProblem(fields, couplings, problem.edges, problem.constant, problem.beta, problem.qubits)


def _rounded(values: FloatArray, half_step: float) -> FloatArray:
    return np.rint(values / (2 * half_step)) * 2 * half_step if half_step else values
