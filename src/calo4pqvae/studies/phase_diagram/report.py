"""What the phase-diagram study tells: its numbers as plain data, and the text that is written from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.seeds import derive_seed
from calo4pqvae.studies.frame.study import estimate, with_error
from calo4pqvae.studies.phase_diagram.measurements import PlacedMachine, Scan, scaling_crossing
from calo4pqvae.studies.theory.placement import DiagramPoint
from calo4pqvae.studies.theory.sherrington_kirkpatrick import (
    ZERO_TEMPERATURE_FERROMAGNET,
    almeida_thouless_line,
    glass_ferromagnet_line,
    phase_of,
    replica_symmetric,
)

__all__ = ["PhaseResults", "phase_numbers", "phase_text"]

FloatArray = NDArray[np.float64]

_WARM = 1.5  # kT / J~ from which on the susceptibility is compared with theory
_EXCESS = "energy against link overlap, excess at kT/J~"
_RATIO = "N <q^2> over theory, kT >= 1.5 J~"
_FAR = 3.0  # standard errors


@dataclass(frozen=True)
class PhaseResults:
    """What was measured.

    Args:
        scans: Zero-field machines over the diagram.
        placed: Real machines, along a training one after the other.
        laws: Labels of the machines that were drawn from one law.
        shower_graph: Name of the graph of the shower prior.
        shower_points: Coordinates of the whole graph of the shower prior, with couplings of bits and of spins.
        shower_origin: Where the showers come from.
        shower_deviation: Largest difference of a coupling between the run's prior and the one that was learned again.
        seed: Seed of the study.
    """

    scans: Sequence[Scan]
    placed: Sequence[PlacedMachine]
    laws: tuple[str, ...]
    shower_graph: str
    shower_points: tuple[DiagramPoint, DiagramPoint]
    shower_origin: str
    shower_deviation: float
    seed: int

    def along(self, label: str) -> list[PlacedMachine]:
        """Machines of one label."""
        return [one for one in self.placed if one.label == label]

    @property
    def trainings(self) -> tuple[str, ...]:
        """Labels of the machines along trainings."""
        return tuple(dict.fromkeys(one.label for one in self.placed if one.label not in self.laws))


def phase_numbers(results: PhaseResults) -> dict[str, Any]:
    """All numbers of the study as plain data."""
    return {
        "limits": _limits(),
        "zero-field machines": _overlap_numbers(results.scans, results.seed),
        "machines": [_machine_numbers(one, results.seed) for one in results.placed],
        "shower prior, whole graph": {
            "graph": results.shower_graph,
            **{point.units: _point_numbers(point) for point in results.shower_points},
            "largest difference of a coupling when learned again": results.shower_deviation,
        },
    }


def phase_text(results: PhaseResults, numbers: Mapping[str, Any]) -> list[str]:
    """Paragraphs written from the numbers."""
    return [
        _line_text(numbers["limits"]),
        _overlap_text(results.scans, numbers["zero-field machines"]),
        _law_text(results),
        *(_training_text(label, results.along(label)) for label in results.trainings),
        _shower_text(results),
    ]


def _limits() -> dict[str, float]:
    """Computed lines beside their known limits; nothing is sampled."""
    near, far = almeida_thouless_line([0.05]), almeida_thouless_line([300.0])
    glass = glass_ferromagnet_line([1e-3, 1e4])
    gaussian = 4 / (3 * math.sqrt(2 * math.pi))
    return {
        "overlap at kT = 1.001 J~, J0 = 0": replica_symmetric(0.0, 1.001).overlap,
        "overlap at kT = 0.999 J~, J0 = 0, over 1 - kT": replica_symmetric(0.0, 0.999).overlap / 1e-3,
        "magnetisation at J0~ = 1.99, kT = 2": replica_symmetric(1.99, 2.0).magnetisation,
        "magnetisation at J0~ = 2.01, kT = 2": replica_symmetric(2.01, 2.0).magnetisation,
        "RS glass-ferromagnet line at kT -> 1: J0~ / J~": float(glass[0][0]),
        "RS glass-ferromagnet line at kT -> 0: J0~ / J~": float(glass[0][1]),
        "RS glass-ferromagnet line at kT = 0, exact": ZERO_TEMPERATURE_FERROMAGNET,
        "AT line near kT = 1: h^2 over 4/3 (1 - kT)^3": float(near[2][0] ** 2 / (4 / 3 * (1 - near[0][0]) ** 3)),
        "AT line near kT = 1: kT": float(near[0][0]),
        "AT line at large h: kT over its limit": float(far[0][0] / (gaussian * math.exp(-(far[2][0] ** 2) / 2))),
        "AT line at large J0: kT over its limit": float(far[0][0] / (gaussian * math.exp(-(far[1][0] ** 2) / 2))),
    }


def _overlap_numbers(scans: Sequence[Scan], seed: int) -> dict[str, Any]:
    """Measured susceptibilities, order parameters and transitions beside theory."""
    numbers: dict[str, Any] = {_scan_name(one): _scan_numbers(one, seed) for one in scans}
    four = [one for one in scans if one.form == "four-partite"]
    strongest = max(one.j0 for one in four)
    cases: tuple[tuple[str, float, Literal["q", "m"], float], ...] = (
        ("spin glass", 0.0, "q", 1.0),
        ("ferromagnet", strongest, "m", strongest),
    )
    for label, j0, quantity, expected in cases:
        sizes = sorted((one for one in four if one.j0 == j0), key=lambda one: one.n_units)
        small, large = sizes[0], sizes[-1]
        rng = np.random.default_rng(derive_seed(seed, "crossing", label))
        value, error = scaling_crossing(small, large, quantity, rng)
        numbers[f"crossing of scaled moments, {label}"] = {
            "kT/J~": estimate(value, error, len(large.q2), seed),
            "large size": expected,
            "sizes": [small.n_units, large.n_units],
        }
    return numbers


def _scan_name(one: Scan) -> str:
    return f"{one.form}, N = {one.n_units}, J0~/J~ = {one.j0:g}"


def _scan_numbers(one: Scan, seed: int) -> dict[str, Any]:
    coldest = replica_symmetric(one.j0, float(one.kt[0]))
    numbers: dict[str, Any] = {
        "kT/J~": float(one.kt[0]),
        "rms q, coldest": _mean(np.sqrt(one.q2[:, 0]), seed),
        "RS q": coldest.overlap,
        "|m|, coldest": _mean(one.m_abs[:, 0], seed),
        "RS m": coldest.magnetisation,
        "RS stability": coldest.stability,
        "lowest acceptance": one.least_acceptance,
        "overlaps a draw": one.n_pairs,
    }
    if one.j0 == 0:
        warm = one.kt >= _WARM
        ratios = one.n_units * one.q2[:, warm] * (1 - 1 / one.kt[warm] ** 2)
        numbers[_RATIO] = _mean(ratios.mean(axis=1), seed)
        excess = one.thermal_excess()
        numbers[_EXCESS] = {f"{kt:.3g}": _mean(excess[:, k], seed) for k, kt in enumerate(one.kt)}
    return numbers


def _machine_numbers(one: PlacedMachine, seed: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {"machine": one.label, "step": one.step}
    numbers |= {point.units: _point_numbers(point) for point in one.points}
    numbers["overlap of bits"] = [
        estimate(float(value), float(error), one.n_draws, seed if error else None)
        for value, error in zip(one.overlaps, one.overlap_errors, strict=True)
    ]
    numbers["overlap of spins"] = estimate(*one.spin_overlap, one.n_draws, seed if one.spin_overlap[1] else None)
    if len(one.histogram):
        numbers["N times variance of the overlap"] = estimate(*one.spread, one.n_draws, seed)
        numbers["lowest acceptance"] = one.least_acceptance
    if one.order is not None:
        numbers["RS overlap of bits"] = one.order.overlaps.tolist()
        numbers["RS overlap of spins"] = one.symmetric_spin_overlap
        numbers["RS stability"] = one.order.stability
    return numbers


def _point_numbers(point: DiagramPoint) -> dict[str, Any]:
    return {
        "J0~, complete graph": point.j0,
        "J~, complete graph": point.j,
        "J0~, own form": point.j0_form,
        "J~, own form": point.j_form,
        "phase": _phase(point),
    }


def _phase(point: DiagramPoint) -> str:
    return phase_of(point.j0_form / point.j_form, 1 / point.j_form)


def _mean(values: FloatArray, seed: int) -> dict[str, float | int | None]:
    return estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values), seed)


def _line_text(limits: Mapping[str, float]) -> str:
    near, high_field = (
        limits[f"AT line {key}"] for key in ("near kT = 1: h^2 over 4/3 (1 - kT)^3", "at large h: kT over its limit")
    )
    return (
        "Lines: the replica-symmetric border of glass and ferromagnet starts at J0~/J~ = "
        f"{limits['RS glass-ferromagnet line at kT -> 1: J0~ / J~']:.4f} and ends at "
        f"{limits['RS glass-ferromagnet line at kT -> 0: J0~ / J~']:.4f} (exact: "
        f"{limits['RS glass-ferromagnet line at kT = 0, exact']:.4f}). On the de Almeida-Thouless line h^2 is "
        f"{near:.3f} of "
        f"4/3 (1 - kT)^3 at kT/J~ = {limits['AT line near kT = 1: kT']:.3f}, and kT is {high_field:.4f} of its limit "
        "in "
        "strong fields."
    )


def _overlap_text(scans: Sequence[Scan], numbers: Mapping[str, Any]) -> str:
    largest = max(one.n_units for one in scans)
    glass, magnet = (
        numbers["crossing of scaled moments, spin glass"],
        numbers["crossing of scaled moments, ferromagnet"],
    )
    four, two = (numbers[f"{form}, N = {largest}, J0~/J~ = 0"] for form in ("four-partite", "bipartite"))
    coldest = next(iter(four[_EXCESS]))
    excesses = [part[_EXCESS][kt] for part in numbers.values() if _EXCESS in part for kt in part[_EXCESS]]
    pulls = [abs(one["value"]) / one["error"] for one in excesses]
    return (
        f"Overlaps at N = {largest}: the susceptibility N<q^2> of the paramagnet is {with_error(four[_RATIO])} of the "
        f"large-size theory in the four-partite form and {with_error(two[_RATIO])} in the bipartite one. Scaled second "
        "moments of "
        f"N = {glass['sizes'][0]} and {glass['sizes'][1]} cross at kT/J~ = {with_error(glass['kT/J~'])} for the spin "
        "glass "
        f"(large size: {glass['large size']:g}) and at {with_error(magnet['kT/J~'])} for the ferromagnet at J0~/J~ = "
        f"{magnet['large size']:g} (large size: {magnet['large size']:g}). At kT/J~ = {coldest}, J0 = 0, the root mean "
        "square "
        f"overlap is {with_error(four['rms q, coldest'])}, the replica-symmetric one {four['RS q']:.3f}, with "
        "stability "
        f"{four['RS stability']:.2f}: one order parameter is not enough there. Equilibrium: energy and link overlap "
        "differ "
        f"from their identity by {with_error(four[_EXCESS][coldest])} of its size at the lowest temperature; over all "
        f"{len(pulls)} sizes, forms and temperatures the largest deviation is {max(pulls):.1f} standard errors "
        f"({sum(pull > _FAR for pull in pulls)} beyond {_FAR:g}; levels of one ladder are not independent)."
    )


def _law_text(results: PhaseResults) -> str:
    parts = []
    for label in results.laws:
        group, seed = results.along(label), results.seed
        bits, spins = (
            np.array([(point.j, point.j_form) for one in group for point in one.points if point.units == units])
            for units in ("bits", "spins")
        )
        text = (
            f"{label}: J~ = sqrt(N) J is {_told(bits[:, 0], seed)} with bits taken for spins, "
            f"{_told(spins[:, 0], seed)} "
            f"after the map to spins and {_told(spins[:, 1], seed)} in the bipartite form"
        )
        solved = [one for one in group if one.order is not None]
        if len(solved) > 1:
            gap = np.array([one.spin_overlap[0] - one.symmetric_spin_overlap for one in solved])
            stability = np.array([one.order.stability for one in solved if one.order is not None])
            text += f" (exact minus replica-symmetric overlap {_told(gap, seed)}, stability {_told(stability, seed)})"
        parts.append(text)
    return (
        f"Small machines. {'; '.join(parts)}. Only the last of the three coordinates is that of the diagram; kT = 1 "
        "is a glass if it is above one and there is no field, and one order parameter is enough while the stability is "
        "below one."
    )


def _training_text(label: str, group: Sequence[PlacedMachine]) -> str:
    first, last = group[0], group[-1]
    starts, ends = first.points, last.points
    crossed = next((one for one in group if _phase(one.points[2]) != "paramagnet"), None)
    text = (
        f"{label[0].upper()}{label[1:]}: over {last.step} steps the moments of the couplings move from J~ = "
        f"{starts[1].j_form:.3g}, J0~ = {starts[1].j0_form:.3g} to J~ = {ends[1].j_form:.3g}, J0~ = "
        f"{ends[1].j0_form:.3g} in "
        f"spins ({_phase(starts[1])} to {_phase(ends[1])}; with bits taken for spins {_phase(ends[0])}), while the "
        "leading "
        f"mode goes from {starts[2].j0_form:.3g} to {ends[2].j0_form:.3g} in a bulk of {ends[2].j_form:.3g}; "
    )
    text += (
        "by its leading mode, fields not counted, the machine stays a paramagnet. "
        if crossed is None
        else f"by its leading mode, fields not counted, it is a {_phase(crossed.points[2])} from step {crossed.step} "
        "on at the latest. "
    )
    text += (
        f"Measured overlap of the spins {_pair(first.spin_overlap)} at the start and {_pair(last.spin_overlap)} at the "
        f"end, N times its variance {_pair(first.spread)} and {_pair(last.spread)}. "
    )
    if last.order is None:
        return text + "The replica-symmetric equations of its couplings have no stable fixed point at the end."
    return text + (
        f"Independent couplings of the same moments would have the overlap {last.symmetric_spin_overlap:.3f} at the "
        "end, "
        f"with stability {last.order.stability:.2f}."
    )


def _shower_text(results: PhaseResults) -> str:
    bits, spins = results.shower_points
    return (
        f"The whole graph of the shower prior ({results.shower_graph}, the code of the energy included) stands at J~ = "
        f"sqrt(N) J = {bits.j:.3g}, J0~ = {bits.j0:.3g} with bits taken for spins, at {spins.j:.3g} and {spins.j0:.3g} "
        "after "
        f"the map to spins, and at {spins.j_form:.3g} and {spins.j0_form:.3g} in the form of its graph, where a "
        "coupler "
        f"that the chip does not have counts as zero. {results.shower_origin}"
    )


def _pair(number: tuple[float, float]) -> str:
    return with_error(estimate(*number, 1))


def _told(values: FloatArray, seed: int) -> str:
    return with_error(_mean(values, seed))
