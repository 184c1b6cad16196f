"""Every documented limit of a chip, checked before a call is made.

A call outside a limit is refused by the chip after a journey through the queue, or is scaled silently, which changes
the temperature that the reads belong to. Here it is refused before it is sent, and the worst offender is named.

Limits come as the ``properties`` of a solver, real or emulated: ``h_range``, ``extended_j_range``,
``per_qubit_coupling_range`` (Advantage) or ``per_group_coupling_range`` (Advantage2; the groups follow from the graph),
``num_reads_range``, ``annealing_time_range``, ``fast_anneal_time_range``, ``problem_run_duration_range`` and the ranges
of the two thermalisations. A property that a solver does not have is not checked; :func:`checked_limits` says which
are.

Flux biases have no published range; up to 0.01 flux quanta they are known to be taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.annealer.chip.problem import FloatArray, IntArray, IsingProblem
from calo4pqvae.errors import AnnealerError

__all__ = [
    "FLUX_LIMIT",
    "Call",
    "check_call",
    "check_problem",
    "checked_limits",
    "coupling_groups",
    "smallest_beta",
    "smallest_scale",
]

FLUX_LIMIT = 0.01
"""Largest flux bias in flux quanta that is known to be taken."""

_SLACK = 1e-9  # of rounding, relative to the range
_PROPERTIES = (
    "h_range",
    "extended_j_range",
    "per_qubit_coupling_range",
    "per_group_coupling_range",
    "num_reads_range",
    "annealing_time_range",
    "fast_anneal_time_range",
    "programming_thermalization_range",
    "readout_thermalization_range",
    "problem_run_duration_range",
)

Properties = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Call:
    """Everything of a call that a limit is about, but the problem.

    Args:
        n_reads: Reads.
        anneal_us: Anneal in microseconds.
        readout_us: Readout a read in microseconds, without thermalisation.
        programming_thermalization_us: Wait after programming.
        readout_thermalization_us: Wait after a read.
        flux_biases: Flux quanta, one for every qubit of the ideal chip, working or not; None for none.
        is_scaled: Whether the chip shall rescale the problem (``auto_scale``).
        is_fast: Whether the fast-anneal protocol is used.
    """

    n_reads: int
    anneal_us: float = 20.0
    readout_us: float = 0.0
    programming_thermalization_us: float = 1000.0
    readout_thermalization_us: float = 0.0
    flux_biases: FloatArray | None = None
    is_scaled: bool = False
    is_fast: bool = False


def checked_limits(properties: Properties) -> tuple[str, ...]:
    """Names of the limits that the properties of a solver allow to check."""
    return tuple(name for name in _PROPERTIES if properties.get(name) is not None)


def check_problem(problem: IsingProblem, properties: Properties) -> None:
    """Refuses a problem that the chip would refuse.

    Args:
        problem: The problem as it would be programmed.
        properties: Properties of the solver.

    Raises:
        AnnealerError: If a field, a coupling or a sum of couplings is out of range; the worst one is named, with a beta
            at which it fits.
    """
    for quantity in _quantities(problem, properties):
        excess = quantity.excess()
        if excess.size and excess.max() > 1 + _SLACK:
            worst = int(excess.argmax())
            low, high = quantity.bounds
            raise AnnealerError(
                f"{quantity.label(worst)} is {quantity.values[worst]:.4g}, outside [{low:g}, {high:g}] "
                f"({int((excess > 1 + _SLACK).sum())} of {excess.size} out of range); divide the machine by beta of "
                f"{problem.beta * smallest_scale(problem, properties):.4g} or more, or train it with smaller parameters"
            )


def smallest_scale(problem: IsingProblem, properties: Properties) -> float:
    """What the problem must be divided by at least to fit; at most 1 if it fits."""
    excesses = [quantity.excess() for quantity in _quantities(problem, properties)]
    return float(max((excess.max() for excess in excesses if excess.size), default=0.0))


def smallest_beta(problem: IsingProblem, properties: Properties) -> float:
    """Smallest beta by which the machine can be divided and still be programmed.

    Args:
        problem: The machine divided by any beta.
        properties: Properties of the solver.
    """
    return problem.beta * smallest_scale(problem, properties)


def check_call(
    call: Call, properties: Properties, problem: IsingProblem, flux_limit: float | None = FLUX_LIMIT
) -> None:
    """Refuses a call that the chip would refuse for anything but its problem's numbers.

    Args:
        call: The call.
        properties: Properties of the solver.
        problem: The problem, for the rules that join both.
        flux_limit: Largest flux bias; None for no limit.

    Raises:
        AnnealerError: If a number is out of range or two options exclude each other.
    """
    _check_range("num_reads", call.n_reads, properties.get("num_reads_range"))
    name = "fast_anneal_time_range" if call.is_fast else "annealing_time_range"
    _check_range("the annealing time in microseconds", call.anneal_us, properties.get(name))
    for option in ("programming_thermalization", "readout_thermalization"):
        _check_range(f"{option} in microseconds", getattr(call, f"{option}_us"), properties.get(f"{option}_range"))
    _check_duration(call, properties.get("problem_run_duration_range"))
    if call.is_fast and np.any(problem.fields != 0):
        worst = int(np.abs(problem.fields).argmax())
        raise AnnealerError(
            f"a fast anneal takes no fields, and h = {problem.fields[worst]:.4g} on qubit {problem.qubits[worst]}; "
            "give them as flux biases"
        )
    _check_flux(call, properties.get("num_qubits"), flux_limit)


def _check_range(name: str, value: float, bounds: Sequence[float] | None) -> None:
    if not np.isfinite(value) or (bounds is not None and not bounds[0] <= value <= bounds[1]):
        allowed = "a finite number" if bounds is None else f"a number in [{bounds[0]:g}, {bounds[1]:g}]"
        raise AnnealerError(f"{name} is {value:g}; give {allowed}")


def _check_duration(call: Call, bounds: Sequence[float] | None) -> None:
    """(anneal + readout with thermalisation) x reads + programming thermalisation within the run limit."""
    per_read = call.anneal_us + call.readout_us + call.readout_thermalization_us
    duration = call.programming_thermalization_us + per_read * call.n_reads
    if bounds is not None and duration > bounds[1]:
        most = int((bounds[1] - call.programming_thermalization_us) // per_read)
        raise AnnealerError(
            f"{call.n_reads} reads run for {duration * 1e-6:.3f} s, more than the {bounds[1] * 1e-6:g} s of a call; "
            f"ask for {max(most, 0)} reads at most"
        )


def _check_flux(call: Call, n_entries: int | None, flux_limit: float | None) -> None:
    if call.flux_biases is None:
        return
    flux = np.asarray(call.flux_biases, dtype=np.float64)
    if flux.ndim != 1 or (n_entries is not None and len(flux) != n_entries):
        raise AnnealerError(
            f"flux biases have shape {flux.shape}; give one for each of the {n_entries} qubits, working or not"
        )
    if not np.isfinite(flux).all():
        raise AnnealerError(
            f"the flux bias of qubit {int((~np.isfinite(flux)).argmax())} is not a number; give zero or more"
        )
    if call.is_scaled:
        raise AnnealerError(
            "flux biases and auto_scale exclude each other, the bias would not be scaled; switch it off"
        )
    worst = int(np.abs(flux).argmax()) if flux.size else 0
    if flux_limit is not None and flux.size and abs(flux[worst]) > flux_limit:
        raise AnnealerError(
            f"the flux bias of qubit {worst} is {flux[worst]:.3g} flux quanta, beyond {flux_limit:g}; "
            "use a weaker clamp"
        )


@dataclass(frozen=True, eq=False)
class _Quantity:
    """Numbers with one range."""

    values: FloatArray
    bounds: tuple[float, float]
    names: Sequence[Any] | NDArray[Any]
    text: str

    def excess(self) -> FloatArray:
        """Value over the bound on its side; above 1 is out of range."""
        low, high = self.bounds
        bound = np.where(self.values < 0, low, high)
        return np.asarray(self.values / np.where(bound == 0, np.nan, bound), dtype=np.float64)

    def label(self, index: int) -> str:
        return self.text.format(self.names[index])


def _quantities(problem: IsingProblem, properties: Properties) -> list[_Quantity]:
    found = []
    labels = problem.qubits
    if (bounds := _bounds(properties, "h_range")) is not None:
        found.append(_Quantity(problem.fields, bounds, labels, "h of qubit {}"))
    pairs = labels[problem.edges].reshape(-1, 2)
    if (bounds := _bounds(properties, "extended_j_range", "j_range")) is not None:
        found.append(_Quantity(problem.couplings, bounds, pairs, "J of coupler {}"))
    if (bounds := _bounds(properties, "per_qubit_coupling_range")) is not None:
        sums = np.zeros(problem.n_qubits)
        for ends in problem.edges.T:
            sums += np.bincount(ends, weights=problem.couplings, minlength=problem.n_qubits)
        found.append(_Quantity(sums, bounds, labels, "the sum of J at qubit {}"))
    if (bounds := _bounds(properties, "per_group_coupling_range")) is not None:
        sums, names = _group_sums(problem, properties)
        found.append(_Quantity(sums, bounds, names, "the sum of J in the coupling group of {}"))
    return found


def _bounds(properties: Properties, *names: str) -> tuple[float, float] | None:
    for name in names:
        if properties.get(name) is not None:
            low, high = properties[name]
            return float(low), float(high)
    return None


def _group_sums(problem: IsingProblem, properties: Properties) -> tuple[FloatArray, list[str]]:
    """Sum of J in every coupling group: by the geometry of Zephyr graphs, else by the list of the solver."""
    topology = properties.get("topology") or {}
    if topology.get("type") != "zephyr":
        return _listed_sums(problem, properties.get("coupling_groups") or ())
    m, *tile = topology["shape"]
    groups = coupling_groups(problem.qubits[problem.edges].reshape(-1, 2), int(m), int(tile[0]) if tile else 4)
    kinds, index = np.unique(groups.ravel(), return_inverse=True)
    sums = np.bincount(index, weights=np.repeat(problem.couplings, 2), minlength=len(kinds))
    return np.asarray(sums, dtype=np.float64), [f"half {kind % 2} of qubit {kind // 2}" for kind in kinds.tolist()]


def _listed_sums(problem: IsingProblem, groups: Sequence[Sequence[Sequence[int]]]) -> tuple[FloatArray, list[str]]:
    ends = np.sort(problem.qubits[problem.edges].reshape(-1, 2), axis=1).tolist()
    value = {(a, b): number for (a, b), number in zip(ends, problem.couplings.tolist(), strict=True)}
    sums = [sum(value.get((min(a, b), max(a, b)), 0.0) for a, b in group) for group in groups]
    return np.array(sums, dtype=np.float64), [f"couplers {list(map(tuple, group))}" for group in groups]


def coupling_groups(couplers: IntArray, m: int, t: int = 4) -> NDArray[np.int64]:
    """Groups of the couplers of a Zephyr chip: each qubit has two, one for either half of its length.

    A qubit (u, w, k, j, z) reaches along its line over two cells. A coupler belongs to the half of the qubit on which
    its other end lies: crossing qubits by their own line, qubits on the same line by their place on it.

    Args:
        couplers: Pairs of linear labels, shape (M, 2).
        m: Size of the chip.
        t: Its tile parameter.

    Returns:
        Groups 2 q + half of the first and of the second end of every coupler, shape (M, 2).
    """
    shape = (2, 2 * m + 1, t, 2, m)
    pairs = np.asarray(couplers, dtype=np.int64).reshape(-1, 2)
    orientation, line, _, j, z = np.unravel_index(pairs, shape)
    along = 2 * z + j
    is_crossing = orientation[:, 0] != orientation[:, 1]
    half = np.empty_like(pairs)
    for own, other in ((0, 1), (1, 0)):
        crossing = line[:, other] > along[:, own]
        half[:, own] = np.where(is_crossing, crossing, along[:, other] > along[:, own])
    return 2 * pairs + half
