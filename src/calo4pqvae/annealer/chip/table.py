r"""The chips: size, timing, temperature, ranges, and what a flux bias is worth.

Numbers are those that D-Wave documents for each chip (pages "QPU-specific characteristics", "Operation and timing",
"Solver properties"); those computed from its published annealing schedules are marked below.

**Time.** One call of n reads is charged

.. math:: t = t_\mathrm{prog} + n (t_\mathrm{anneal} + t_\mathrm{readout} + t_\mathrm{delay}).

The documented programming times are taken to hold the default thermalisation of 1,000 microseconds; another one adds
its difference. Readout is documented for one qubit and for the full chip; between them :math:`\ln t` against
:math:`\ln n` follows the shape of the timing data that D-Wave published for Advantage_system4.1 (``readout_time_model``
of its solver, August 2022), which is assumed for the other chips: most of the rise lies below a few hundred qubits.
``reduce_intersample_correlation`` adds 500 + 4.75 t_anneal microseconds a read on Advantage
chips and nothing on Advantage2.

**Temperature.** A single qubit is read as if drawn at :math:`T` in units of h; ``beta`` is 1 / T. Coupled qubits freeze
earlier, so that it is only where to start.

**Flux.** A flux bias :math:`\varphi` (in :math:`\Phi_0`) acts on a qubit like the field

.. math:: h = -\frac{2 I_p \Phi_0}{B} \varphi, \qquad I_p = \sqrt{\frac{B}{2 M_\mathrm{AFM}}},

of opposite sign, with the problem energy :math:`B(s^*)` at the point of the anneal where the qubit freezes. The
constant that is often quoted for Advantage, 1.391 GHz, belongs to the quantum critical point, where a flux bias is
worth 1.7 to 1.9 times more. For chips without a published schedule B(s*) is that implied by
:math:`T = 2 k_B T_\mathrm{chip} / B`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.errors import AnnealerError
from calo4pqvae.prior.graph.chips import Family

__all__ = ["CHIPS", "AccessTime", "Chip", "access_time", "chip", "fields_to_flux", "flux_to_fields", "readout_time"]

FloatArray = NDArray[np.float64]
Range = tuple[float, float]

PLANCK = 6.62607015e-34  # J s
BOLTZMANN = 1.380649e-23  # J / K
FLUX_QUANTUM = 2.067833848e-15  # Wb

DEFAULT_ANNEAL_US = 20.0
DEFAULT_THERMALIZATION_US = 1000.0

_READOUT_SHAPE = ((0.0, 0.20531, 0.45977, 0.72315, 0.84365, 1.0), (0.0, 0.40064, 0.70451, 0.95321, 0.99998, 1.0))
"""ln n over that of the full chip, and which share of the rise of ln t lies below."""


@dataclass(frozen=True)
class Chip:
    """Documented facts of one chip.

    Args:
        name: Solver name without the version of its working graph.
        family: ``"pegasus"`` or ``"zephyr"``.
        m: Size of the ideal graph.
        n_qubits: Working qubits.
        n_couplers: Working couplers.
        temperature_mk: Temperature of the chip in mK.
        one_qubit_temperature: Average temperature of single qubits in units of h.
        m_afm_ph: Largest mutual inductance M_AFM in pH.
        schedule_b_ghz: B(s*) in GHz from the published schedule; None where none was evaluated.
        critical_b_ghz: B at the quantum critical point in GHz, from the schedule, or None.
        programming_us: Programming time in microseconds, default thermalisation included.
        readout_us: Readout time a read of one qubit and of the full chip.
        delay_us: Delay after a read.
        per_qubit_range: Range of the sum of J at a qubit, or None.
        per_group_range: Range of the sum of J in a coupling group, or None.
        t: Tile parameter of Zephyr graphs.
        h_range: Range of h.
        j_range: Extended range of J.
        num_reads_range: Fewest and most reads a call.
        annealing_range_us: Shortest and longest standard anneal.
        fast_annealing_range_us: Shortest and longest fast anneal.
        thermalization_range_us: Range of either thermalisation.
        run_limit_us: Longest run of a call.
    """

    name: str
    family: Family
    m: int
    n_qubits: int
    n_couplers: int
    temperature_mk: float
    one_qubit_temperature: float
    m_afm_ph: float
    schedule_b_ghz: float | None
    critical_b_ghz: float | None
    programming_us: float
    readout_us: Range
    delay_us: float
    per_qubit_range: Range | None = None
    per_group_range: Range | None = None
    t: int = 4
    h_range: Range = (-4.0, 4.0)
    j_range: Range = (-2.0, 1.0)
    num_reads_range: tuple[int, int] = (1, 10_000)
    annealing_range_us: Range = (0.5, 2000.0)
    fast_annealing_range_us: Range = (0.005, 2000.0)
    thermalization_range_us: Range = (0.0, 10_000.0)
    run_limit_us: float = 1e6

    @property
    def beta(self) -> float:
        """Inverse temperature of single qubits in inverse units of h."""
        return 1.0 / self.one_qubit_temperature

    @property
    def freeze_out_b_ghz(self) -> float:
        """B(s*) in GHz: from the schedule, else implied by the one-qubit temperature."""
        if self.schedule_b_ghz is not None:
            return self.schedule_b_ghz
        thermal_ghz = BOLTZMANN * self.temperature_mk * 1e-3 / PLANCK * 1e-9
        return 2 * thermal_ghz / self.one_qubit_temperature

    @property
    def flux_source(self) -> str:
        """Where B(s*) is from, in words for a report."""
        source = "published schedule" if self.schedule_b_ghz is not None else "implied by the one-qubit temperature"
        return f"B(s*) = {self.freeze_out_b_ghz:.3f} GHz, {source}"


_ADVANTAGE_SUM = (-18.0, 15.0)
_ADVANTAGE2_SUM = (-13.0, 10.0)

CHIPS: Mapping[str, Chip] = {
    entry.name: entry
    for entry in (
        Chip(
            "Advantage_system4", "pegasus", 16, 5627, 40279, 15.4, 0.198, 1.647, 3.918, 1.391,
            14_100.0, (17.0, 235.0), 20.5, per_qubit_range=_ADVANTAGE_SUM,
        ),
        Chip(
            "Advantage_system6", "pegasus", 16, 5612, 40088, 16.0, 0.221, 1.554, 3.532, 1.281,
            14_200.0, (18.0, 173.0), 20.5, per_qubit_range=_ADVANTAGE_SUM,
        ),
        Chip(
            "Advantage2_system1", "zephyr", 12, 4577, 41515, 20.0, 0.112, 0.528, 8.066, 2.308,
            33_600.0, (17.0, 101.0), 60.6, per_group_range=_ADVANTAGE2_SUM,
        ),
        Chip(
            "Advantage2_system2", "zephyr", 12, 4514, 40409, 16.7, 0.119, 0.554, None, None,
            24_500.0, (17.0, 95.0), 20.6, per_group_range=_ADVANTAGE2_SUM,
        ),
        Chip(
            "Advantage2_system4", "zephyr", 6, 1202, 10537, 18.0, 0.119, 0.514, None, None,
            8_000.0, (17.0, 45.0), 20.6, per_group_range=_ADVANTAGE2_SUM,
        ),
    )
}  # fmt: skip
"""The chips by name."""

_SHORT_NAMES = {
    "advantage": "Advantage_system4",
    "advantage4": "Advantage_system4",
    "advantage6": "Advantage_system6",
    "advantage2": "Advantage2_system1",
    "pegasus": "Advantage_system4",
    "zephyr": "Advantage2_system1",
}


def chip(name: str) -> Chip:
    """A chip of the table.

    Args:
        name: Solver name, with or without the version of its working graph (``"Advantage2_system1.10"``), in any case,
            or a short name: ``"advantage4"``, ``"advantage6"``, ``"advantage2"``.

    Raises:
        AnnealerError: If the table has no such chip.
    """
    plain = re.sub(r"\.\d+$", "", name.strip()).lower()
    plain = _SHORT_NAMES.get(plain, plain).lower()
    for entry in CHIPS.values():
        if entry.name.lower() == plain:
            return entry
    known = ", ".join([*CHIPS, *_SHORT_NAMES])
    raise AnnealerError(f"there is no chip {name!r} in the table; choose one of {known}")


@dataclass(frozen=True)
class AccessTime:
    """Charged time of one call, in microseconds.

    Args:
        n_reads: Reads of the call.
        programming_us: Programming with thermalisation.
        anneal_us: Anneal a read.
        readout_us: Readout a read, with its thermalisation.
        delay_us: Delay a read, with the pause against correlated reads.
    """

    n_reads: int
    programming_us: float
    anneal_us: float
    readout_us: float
    delay_us: float

    @property
    def sampling_us(self) -> float:
        """All reads together."""
        return self.n_reads * (self.anneal_us + self.readout_us + self.delay_us)

    @property
    def total_us(self) -> float:
        """Charged time."""
        return self.programming_us + self.sampling_us

    @property
    def seconds(self) -> float:
        """Charged time in seconds."""
        return self.total_us * 1e-6

    @property
    def per_read_us(self) -> float:
        """Charged time of one read with its share of the programming."""
        return self.total_us / self.n_reads


def readout_time(entry: Chip, n_qubits: int) -> float:
    """Readout of one read in microseconds, between one qubit and the full chip as on Advantage_system4.1.

    Args:
        entry: The chip.
        n_qubits: Qubits of the problem.

    Raises:
        AnnealerError: If the chip has fewer qubits or none is asked for.
    """
    if not 1 <= n_qubits <= entry.n_qubits:
        raise AnnealerError(f"{n_qubits} qubits cannot be read on {entry.name}, which has {entry.n_qubits}; use fewer")
    one, full = entry.readout_us
    share = np.interp(math.log(n_qubits) / math.log(entry.n_qubits), *_READOUT_SHAPE)
    return float(one * (full / one) ** share)


def access_time(
    entry: Chip,
    n_reads: int,
    anneal_us: float = DEFAULT_ANNEAL_US,
    *,
    n_qubits: int | None = None,
    programming_thermalization_us: float = DEFAULT_THERMALIZATION_US,
    readout_thermalization_us: float = 0.0,
    reduce_intersample_correlation: bool = False,
) -> AccessTime:
    """Charged time of one call.

    Args:
        entry: The chip.
        n_reads: Reads, at least one.
        anneal_us: Anneal in microseconds.
        n_qubits: Qubits of the problem; the full chip if None.
        programming_thermalization_us: Wait after programming.
        readout_thermalization_us: Wait after a read.
        reduce_intersample_correlation: Whether reads are kept apart by a pause.

    Raises:
        AnnealerError: If there is no read or a time is negative.
    """
    times = (anneal_us, programming_thermalization_us, readout_thermalization_us)
    if n_reads < 1 or min(times) < 0:
        raise AnnealerError(
            f"{n_reads} reads with times {times} us make no call; give one read or more and no negative time"
        )
    n_read_out = entry.n_qubits if n_qubits is None else n_qubits
    pause = 500.0 + anneal_us * 9500.0 / 2000.0 if reduce_intersample_correlation and entry.family == "pegasus" else 0.0
    return AccessTime(
        n_reads=n_reads,
        programming_us=entry.programming_us + programming_thermalization_us - DEFAULT_THERMALIZATION_US,
        anneal_us=anneal_us,
        readout_us=readout_time(entry, n_read_out) + readout_thermalization_us,
        delay_us=entry.delay_us + pause,
    )


def flux_to_fields(entry: Chip, flux_biases: ArrayLike, b_ghz: float | None = None) -> FloatArray:
    """Fields h that act like flux biases, in the same shape.

    Args:
        entry: The chip.
        flux_biases: In units of the flux quantum.
        b_ghz: B in GHz; that at freeze-out if None.
    """
    return np.asarray(flux_biases, dtype=np.float64) / _flux_of_unit_field(entry, b_ghz)


def fields_to_flux(entry: Chip, fields: ArrayLike, b_ghz: float | None = None) -> FloatArray:
    """Flux biases that act like fields h, of opposite sign, in units of the flux quantum.

    Args:
        entry: The chip.
        fields: h.
        b_ghz: B in GHz; that at freeze-out if None.
    """
    return np.asarray(fields, dtype=np.float64) * _flux_of_unit_field(entry, b_ghz)


def _flux_of_unit_field(entry: Chip, b_ghz: float | None) -> float:
    """Flux bias that acts like h = 1, negative."""
    energy = (entry.freeze_out_b_ghz if b_ghz is None else b_ghz) * 1e9 * PLANCK
    current = math.sqrt(energy / (2 * entry.m_afm_ph * 1e-12))
    return -energy / (2 * current) / FLUX_QUANTUM
