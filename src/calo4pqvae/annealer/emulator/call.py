"""One call of the emulator: its options, what limits say of it, its times, and what it answers about itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calo4pqvae.annealer.chip.limits import Call
from calo4pqvae.annealer.chip.table import (
    DEFAULT_ANNEAL_US,
    DEFAULT_THERMALIZATION_US,
    AccessTime,
    Chip,
    access_time,
)
from calo4pqvae.errors import AnnealerError

__all__ = ["PARAMETERS", "CallOptions", "timing_info"]

PARAMETERS = (
    "annealing_time",
    "answer_mode",
    "auto_scale",
    "fast_anneal",
    "flux_biases",
    "flux_drift_compensation",
    "label",
    "max_answers",
    "num_reads",
    "programming_thermalization",
    "readout_thermalization",
    "reduce_intersample_correlation",
)
"""Options of a solver that the emulator takes."""

_TIMES = ("annealing_time", "programming_thermalization", "readout_thermalization")


@dataclass(frozen=True)
class CallOptions:
    """Options in the words of a solver, with its defaults; times in microseconds."""

    num_reads: int = 1
    annealing_time: float = DEFAULT_ANNEAL_US
    answer_mode: str = "histogram"
    auto_scale: bool | None = None
    fast_anneal: bool = False
    flux_biases: ArrayLike | None = None
    flux_drift_compensation: bool = True
    label: str | None = None
    max_answers: int | None = None
    programming_thermalization: float = DEFAULT_THERMALIZATION_US
    readout_thermalization: float = 0.0
    reduce_intersample_correlation: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "CallOptions":
        """Options of a call; None stands for the default.

        Raises:
            AnnealerError: If an option is unknown or has no meaning.
        """
        unknown = sorted(set(given) - set(PARAMETERS))
        if unknown:
            raise AnnealerError(f"the emulator does not know {', '.join(unknown)}; it takes {', '.join(PARAMETERS)}")
        options = cls(**{name: value for name, value in given.items() if value is not None})
        if options.answer_mode not in ("histogram", "raw"):
            raise AnnealerError(f"answer_mode is {options.answer_mode!r}; give 'histogram' or 'raw'")
        for name in ("num_reads", "max_answers"):
            value = getattr(options, name)
            if value is not None and (isinstance(value, bool) or value != int(value) or value < 1):
                raise AnnealerError(f"{name} is {value!r}; give a whole number of 1 or more")
        for name in _TIMES:
            if not np.isfinite(getattr(options, name)) or getattr(options, name) < 0:
                raise AnnealerError(f"{name} is {getattr(options, name)!r}; give microseconds of 0 or more")
        return options

    @property
    def is_scaled(self) -> bool:
        """Whether the problem is rescaled: by default, unless there are flux biases."""
        return self.flux_biases is None if self.auto_scale is None else self.auto_scale

    def times(self, entry: Chip, n_qubits: int) -> AccessTime:
        """Charged time of the call.

        Args:
            entry: The chip.
            n_qubits: Qubits of the problem.
        """
        return access_time(
            entry,
            int(self.num_reads),
            self.annealing_time,
            n_qubits=min(n_qubits, entry.n_qubits),
            programming_thermalization_us=self.programming_thermalization,
            readout_thermalization_us=self.readout_thermalization,
            reduce_intersample_correlation=self.reduce_intersample_correlation,
        )

    def limited(self, times: AccessTime) -> Call:
        """What limits are about."""
        return Call(
            n_reads=int(self.num_reads),
            anneal_us=self.annealing_time,
            readout_us=times.readout_us - self.readout_thermalization,
            programming_thermalization_us=self.programming_thermalization,
            readout_thermalization_us=self.readout_thermalization,
            flux_biases=None if self.flux_biases is None else np.asarray(self.flux_biases, dtype=np.float64),
            is_scaled=self.is_scaled,
            is_fast=self.fast_anneal,
        )


def timing_info(times: AccessTime, overhead_us: float) -> dict[str, float]:
    """The nine times that a solver reports, in microseconds."""
    return {
        "qpu_sampling_time": times.sampling_us,
        "qpu_anneal_time_per_sample": times.anneal_us,
        "qpu_readout_time_per_sample": times.readout_us,
        "qpu_access_time": times.total_us,
        "qpu_access_overhead_time": overhead_us,
        "qpu_programming_time": times.programming_us,
        "qpu_delay_time_per_sample": times.delay_us,
        "total_post_processing_time": 0.0,
        "post_processing_overhead_time": 0.0,
    }
