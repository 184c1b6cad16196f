"""What an emulated annealer does wrong, and by how much: three modes and every number behind them.

.. list-table::
   :header-rows: 1

   * - setting
     - basis
   * - beta
     - documented one-qubit temperature of the chip
   * - drift
     - mechanism documented ("a few mK"); size and memory **assumed**
   * - heat of programming
     - mechanism documented, worst for many calls with few reads; size and decay **assumed**
   * - temperature offset
     - form T = a + b / J from arXiv 2512.03162; size assumed, off
   * - errors of h and J
     - documented for late (``calibrated``) and early (``stress``) freeze-out; h scale 1 % documented
   * - background susceptibility
     - documented -0.015 to -0.04; off, since it couples every qubit to all second neighbours
   * - flux offsets
     - 10 micro flux quanta documented; what compensation leaves, a fifth, **assumed**
   * - DAC steps
     - documented half-steps 0.0082 and 0.0045; off, below the control errors
   * - sweeps
     - **assumed**: 200 for 20 microseconds, in proportion, 2,000 at most
   * - readout flips
     - documented as 0.001 at most for the full chip, i.e. about 2e-7 a qubit; 2e-6 in ``stress``
   * - polarisation
     - documented on Advantage, not seen on Advantage2; size **assumed**, on in ``stress`` alone
   * - failed programming
     - documented as less than a tenth of all; off but in ``stress``

Documented: D-Wave's pages "Errors", "Solver properties" and "Operation and timing". A number marked as assumed supports
no claim about a chip.
"""

from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np

from calo4pqvae.errors import AnnealerError

__all__ = ["MODES", "EmulatorMode", "EmulatorSettings", "emulator_settings"]

EmulatorMode = Literal["ideal", "calibrated", "stress"]
MODES: tuple[EmulatorMode, ...] = get_args(EmulatorMode)


@dataclass(frozen=True)
class EmulatorSettings:
    """All numbers of an emulated annealer; the defaults are those of mode ``"ideal"``.

    Args:
        beta: Inverse temperature in inverse units of h; that of the chip table if None.
        temperature_offset: b of T = a + b / J with J the largest coupling of the problem.
        drift_std: Standard deviation of ln beta between programmings.
        drift_memory: Correlation of ln beta from one programming to the next.
        heat: Relative rise of the temperature by one programming.
        heat_decay_s: Time in which that falls to 1 / e, in seconds.
        field_error: Standard deviation of the error of h, anew with each programming.
        coupling_error: Likewise of J, on all couplers between qubits of the problem.
        field_scale_spread: Relative spread of the scale of h between qubits, fixed for a chip.
        susceptibility: Background susceptibility chi: h -> h + chi J h, J -> J + chi J^2.
        flux_offset: Spread of the offsets of qubits in flux quanta, fixed for a chip.
        compensated_share: What flux-drift compensation leaves of it.
        field_half_step: Half-step of the DACs of h; 0 for none.
        coupling_half_step: Half-step of the DACs of J; 0 for none.
        sweeps: Sweeps that stand for an anneal of 20 microseconds.
        most_sweeps: Most sweeps of any anneal.
        readout_flip: Probability that a bit is read wrong.
        polarisation: Field towards the reads before and after in units of h, on Pegasus chips alone.
        failed_programming: Probability that a programming leaves one qubit without its field and couplings.
        overhead_us: Time of a call that is not charged, in microseconds.

    Raises:
        AnnealerError: If a number is not finite or outside its range.
    """

    beta: float | None = None
    temperature_offset: float = 0.0
    drift_std: float = 0.0
    drift_memory: float = 0.9
    heat: float = 0.0
    heat_decay_s: float = 0.5
    field_error: float = 0.0
    coupling_error: float = 0.0
    field_scale_spread: float = 0.0
    susceptibility: float = 0.0
    flux_offset: float = 0.0
    compensated_share: float = 0.2
    field_half_step: float = 0.0
    coupling_half_step: float = 0.0
    sweeps: int = 200
    most_sweeps: int = 2000
    readout_flip: float = 0.0
    polarisation: float = 0.0
    failed_programming: float = 0.0
    overhead_us: float = 15_000.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            is_free = entry.name in ("susceptibility", "temperature_offset")
            if value is not None and (not np.isfinite(value) or (value < 0 and not is_free)):
                raise AnnealerError(f"emulator setting {entry.name} is {value!r}; give a finite number of 0 or more")
        for name in ("drift_memory", "compensated_share", "readout_flip", "failed_programming"):
            if getattr(self, name) > 1:
                raise AnnealerError(f"emulator setting {name} is {getattr(self, name):g}; give a number in [0, 1]")
        if self.beta == 0 or self.heat_decay_s == 0 or not 1 <= self.sweeps <= self.most_sweeps:
            raise AnnealerError(
                "an emulator needs beta and heat_decay_s above zero and 1 <= sweeps <= most_sweeps; correct"
            )

    def n_sweeps(self, anneal_us: float) -> int:
        """Sweeps that stand for an anneal: in proportion to its time, at least one."""
        return int(np.clip(round(self.sweeps * anneal_us / 20.0), 1, self.most_sweeps))


_MODE_SETTINGS = {
    "ideal": EmulatorSettings(),
    "calibrated": EmulatorSettings(
        drift_std=0.02,
        heat=0.01,
        field_error=0.010,
        coupling_error=0.010,
        field_scale_spread=0.01,
        flux_offset=1e-5,
        readout_flip=2e-7,
    ),
    "stress": EmulatorSettings(
        drift_std=0.06,
        heat=0.03,
        heat_decay_s=1.0,
        field_error=0.025,
        coupling_error=0.015,
        field_scale_spread=0.02,
        flux_offset=2e-5,
        readout_flip=2e-6,
        polarisation=0.02,
        failed_programming=0.05,
    ),
}


def emulator_settings(mode: EmulatorMode) -> EmulatorSettings:
    """The settings of a mode.

    Args:
        mode: ``"ideal"`` (exact beta, nothing else), ``"calibrated"`` (a chip in good order) or ``"stress"``.

    Raises:
        AnnealerError: If there is no such mode.
    """
    if mode not in _MODE_SETTINGS:
        raise AnnealerError(f"the emulator has no mode {mode!r}; choose one of {', '.join(MODES)}")
    return _MODE_SETTINGS[mode]
