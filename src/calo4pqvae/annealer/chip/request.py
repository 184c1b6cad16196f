"""A request to an annealer: the problem, how many reads, with which options; its check and its estimated time."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calo4pqvae.annealer.chip.limits import Call, check_call, check_problem
from calo4pqvae.annealer.chip.problem import FloatArray, IsingProblem
from calo4pqvae.annealer.chip.table import (
    DEFAULT_ANNEAL_US,
    DEFAULT_THERMALIZATION_US,
    Chip,
    access_time,
    readout_time,
)
from calo4pqvae.errors import AnnealerError

__all__ = ["ChipRequest", "most_reads"]

Properties = Mapping[str, Any]

_OWN_OPTIONS = ("num_reads", "answer_mode", "flux_biases", "label")


@dataclass(frozen=True, eq=False)
class ChipRequest:
    """Reads of one problem.

    Args:
        problem: What is programmed.
        n_reads: Reads.
        flux_biases: In flux quanta, one for every qubit of the ideal chip, working or not; None for none.
        label: What it is for; it is sent with the problem and stands in the ledger.
        options: Parameters of the solver, in its units: ``annealing_time``, ``programming_thermalization``,
            ``readout_thermalization``, ``reduce_intersample_correlation``, ``flux_drift_compensation``,
            ``fast_anneal``.
    """

    problem: IsingProblem
    n_reads: int
    flux_biases: FloatArray | None = None
    label: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def check(self, properties: Properties, parameters: Collection[str], chip: Chip | None) -> None:
        """Refuses what a solver would refuse.

        Args:
            properties: Properties of the solver.
            parameters: Parameters that it takes.
            chip: Documented facts of the chip, if any.

        Raises:
            AnnealerError: Naming what is wrong first.
        """
        if self.options.get("auto_scale"):
            raise AnnealerError("auto_scale changes the temperature that the reads belong to; leave it off")
        own = [name for name in _OWN_OPTIONS if name in self.options]
        if own:
            raise AnnealerError(f"option {own[0]} is no free option of a request; give it by its own argument")
        wanted = set(self.options) | ({"flux_biases"} if self.flux_biases is not None else set())
        unknown = sorted(wanted - set(parameters) - {"auto_scale"})
        if unknown:
            raise AnnealerError(f"this sampler has no parameter {unknown[0]}; leave it out or take another sampler")
        if self.flux_biases is not None and properties.get("chip_id") == "MockDWaveSampler":
            raise AnnealerError("this mock takes flux biases and ignores them; condition by fields or use the emulator")
        check_problem(self.problem, properties)
        check_call(self.call(properties, chip), properties, self.problem)

    def call(self, properties: Properties, chip: Chip | None) -> Call:
        """What the limits of a call are about.

        Args:
            properties: Properties of the solver.
            chip: Documented facts of the chip, if any; without them readout counts as no time.
        """
        call = _call_of_one(self.problem.n_qubits, self.options, properties, chip)
        return replace(call, n_reads=self.n_reads, flux_biases=self.flux_biases)

    def access_seconds(self, properties: Properties, chip: Chip) -> float:
        """Access time by the documented numbers of a chip, in seconds.

        Args:
            properties: Properties of the solver.
            chip: Documented facts of the chip.
        """
        call = self.call(properties, chip)
        return access_time(
            chip,
            self.n_reads,
            call.anneal_us,
            n_qubits=min(self.problem.n_qubits, chip.n_qubits),
            programming_thermalization_us=call.programming_thermalization_us,
            readout_thermalization_us=call.readout_thermalization_us,
            reduce_intersample_correlation=bool(self.options.get("reduce_intersample_correlation", False)),
        ).seconds

    def arguments(self, parameters: Collection[str]) -> dict[str, Any]:
        """Keyword arguments for a sampler that takes the given parameters; automatic scaling is off."""
        always: dict[str, Any] = {"num_reads": self.n_reads, "auto_scale": False, "answer_mode": "raw"}
        if self.label:
            always["label"] = self.label
        arguments = {key: value for key, value in always.items() if key in parameters} | dict(self.options)
        if self.flux_biases is not None:
            arguments["flux_biases"] = np.asarray(self.flux_biases, dtype=np.float64).tolist()
        return arguments


def most_reads(n_qubits: int, options: Mapping[str, Any], properties: Properties, chip: Chip | None) -> int:
    """Most reads of one call, by ``num_reads_range`` and the run limit.

    Args:
        n_qubits: Qubits of the problem.
        options: Options of the request.
        properties: Properties of the solver.
        chip: Documented facts of the chip, if any.
    """
    call = _call_of_one(n_qubits, options, properties, chip)
    most = int((properties.get("num_reads_range") or (1, 10_000))[1])
    limit = properties.get("problem_run_duration_range")
    per_read = call.anneal_us + call.readout_us + call.readout_thermalization_us
    if limit is None or per_read <= 0:
        return most
    return max(1, min(most, int((limit[1] - call.programming_thermalization_us) // per_read)))


def _call_of_one(n_qubits: int, options: Mapping[str, Any], properties: Properties, chip: Chip | None) -> Call:
    """A call of one read; what the options leave open is the default of the solver."""

    def option(name: str, default: float) -> float:
        return float(options.get(name, properties.get(f"default_{name}", default)))

    return Call(
        n_reads=1,
        anneal_us=option("annealing_time", DEFAULT_ANNEAL_US),
        readout_us=0.0 if chip is None else readout_time(chip, min(n_qubits, chip.n_qubits)),
        programming_thermalization_us=option("programming_thermalization", DEFAULT_THERMALIZATION_US),
        readout_thermalization_us=option("readout_thermalization", 0.0),
        is_fast=bool(options.get("fast_anneal", False)),
    )
