"""The protocol study in numbers, a table and words, all from the same measurements."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.studies.annealer_protocols.machines import StudyMachine
from calo4pqvae.studies.annealer_protocols.measurements import Errors, Measured
from calo4pqvae.studies.annealer_protocols.rule_courses import RuleCourse
from calo4pqvae.studies.frame.study import estimate, with_error

__all__ = ["METRICS", "OURS", "PRESENTED", "WINNER", "Cell", "claims_of", "numbers_of_cell", "table_of", "text_of"]

WINNER = "before-each"
PRESENTED = ("before-each", "once", "once-with-wait", "one-read-per-call")
OURS = ("same-reads", "tracked", "tiled")

Stage = Literal["raw", "polished"]

METRICS: Mapping[str, Callable[[Measured], float]] = {
    "beta, as drawn": lambda one: one.drawn,
    "beta, as known": lambda one: one.known,
    "energy": lambda one: abs(one.raw.energy),
    "energy, polished": lambda one: abs(one.polished.energy),
    "moments": lambda one: one.raw.moments,
    "moments, polished": lambda one: one.polished.moments,
    "FPD": lambda one: one.raw.distance,
    "FPD, polished": lambda one: one.polished.distance,
}
"""What protocols are compared by; smaller is better."""

_SURE = 2.0  # standard errors of a difference that is noticed
_WANTED_SPEED = 50.0
_ROUNDING = 1e-12

Number = dict[str, float | int | None]


@dataclass(frozen=True, eq=False)
class Cell:
    """One machine on chips of one mode.

    Args:
        machine: The machine.
        mode: Mode of the emulator.
        chip: Name of the emulated chip.
        protocols: Measurements by the name of the protocol, one a repeat.
        classical: Errors of classical samples of the same size, one a repeat.
        geant4: Fréchet distances of Geant4 samples of the same size, one a repeat.
    """

    machine: StudyMachine
    mode: EmulatorMode
    chip: str
    protocols: dict[str, list[Measured]]
    classical: list[Errors]
    geant4: list[float]

    @property
    def name(self) -> str:
        """Machine and mode."""
        return f"{self.machine.name}, {self.mode}"

    def values(self, protocol: str, value: Callable[[Measured], float]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """A number of every repeat."""
        return np.array([value(one) for one in self.protocols[protocol]], dtype=np.float64)


def mean_of(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]], seed: int | None = None) -> Number:
    """Mean with its standard error over repeats; those that came to no end are left out."""
    found = np.array([value for value in values if math.isfinite(value)])
    if not len(found):
        return estimate(math.nan, None, 0, seed)
    mean = float(found.mean())
    error = None if len(found) < 2 else float(found.std(ddof=1)) / math.sqrt(len(found))
    if error is not None and error < _ROUNDING * abs(mean):  # all repeats are equal
        error = 0.0
    return estimate(mean, error, len(found), seed)


def numbers_of_cell(cell: Cell, seed: int) -> dict[str, Any]:
    """All numbers of a cell, for JSON."""
    numbers: dict[str, Any] = {"emulated": True}
    for name, repeats in cell.protocols.items():
        rows: dict[str, Any] = {
            metric: mean_of([value(one) for one in repeats], seed) for metric, value in METRICS.items()
        }
        rows |= {
            "mean energy less the true one (nats)": mean_of([one.raw.energy for one in repeats], seed),
            "the same, polished": mean_of([one.polished.energy for one in repeats], seed),
            "bias of ln beta, as known": mean_of([one.bias for one in repeats], seed),
            "programmings a shower": mean_of([one.programmings for one in repeats], seed),
            "reads a shower": mean_of([one.reads for one in repeats], seed),
            "access time a shower (ms)": mean_of([1e3 * one.access_s for one in repeats], seed),
            "showers a repeat": repeats[0].n,
        }
        failures = [one.failure for one in repeats if one.failure]
        numbers[name] = rows | ({"failures": failures} if failures else {})
    numbers["classical sample of the same size"] = {
        "energy": mean_of([abs(one.energy) for one in cell.classical], seed),
        "moments": mean_of([one.moments for one in cell.classical], seed),
        "FPD": mean_of([one.distance for one in cell.classical], seed),
    }
    numbers["Geant4 sample of the same size"] = {"FPD": mean_of(cell.geant4, seed)}
    return numbers


def claims_of(cells: Sequence[Cell], seed: int) -> dict[str, Any]:
    """Ours against the winner of the presentation: paired differences over all cells and repeats, and speed."""
    claims: dict[str, Any] = {}
    for ours in OURS:
        differences = {}
        for metric, value in METRICS.items():
            pairs = np.concatenate([cell.values(ours, value) - cell.values(WINNER, value) for cell in cells])
            differences[metric] = mean_of(pairs, seed)
        speed = [
            mean_of(cell.values(WINNER, _access) / cell.values(ours, _access), seed)["value"] or math.nan
            for cell in cells
        ]
        claims[f"{ours} less {WINNER}"] = {
            "difference": differences,
            "worse": [metric for metric, number in differences.items() if _pull(number) > _SURE],
            "better": [metric for metric, number in differences.items() if _pull(number) < -_SURE],
            "least gain in access time": min(speed),
            "largest gain in access time": max(speed),
        }
    return claims


def table_of(cells: Sequence[Cell]) -> str:
    """The table in plain text, one block a cell."""
    head = (
        f"{'protocol':32} {'beta drawn %':>14} {'beta known %':>14} {'energy, nats':>15} {'moments /1000':>14} "
        f"{'FPD':>17} {'polished: energy':>17} {'moments /1000':>14} {'FPD':>17} {'prog./shower':>13} {'ms/shower':>12}"
    )
    lines = ["All chips are emulated. Errors: standard errors over emulated chips. FPD: Fréchet distance at this size."]
    for cell in cells:
        repeats = len(cell.classical)
        n = cell.protocols[WINNER][0].n
        lines += ["", f"{cell.name}: emulated {cell.chip}, {n} showers, {repeats} repeats", head]
        lines += [_line(name, found) for name, found in cell.protocols.items()]
        floor = [Measured(one, one, *(math.nan,) * 6, n) for one in cell.classical]
        lines.append(_line("classical, same size (floor)", floor))
        lines.append(f"{'Geant4, same size (floor)':32} {'':14} {'':14} {'':15} {'':14} {_told(cell.geant4):>17}")
    return "\n".join(lines) + "\n"


def text_of(
    cells: Sequence[Cell], courses: Sequence[RuleCourse], claims: Mapping[str, Any], origin: str, table: str
) -> list[str]:
    """Paragraphs, written from the numbers."""
    machines = {cell.machine.name: cell.machine for cell in cells}
    return [
        f"All chips are emulated: nothing here was measured on a real one. {origin} "
        + " ".join(
            f"{name}: {one.origin}; unseen posterior bits lie {one.gap:.1f} ± {one.gap_error:.1f} nats above it."
            for name, one in machines.items()
        ),
        f"The full table is in {table}. " + " ".join(_cell_text(cell) for cell in cells),
        _presented_text(cells),
        *[_claim_text(cells, ours, claims[f"{ours} less {WINNER}"]) for ours in OURS],
        _rules_text(courses),
    ]


def _access(one: Measured) -> float:
    return one.access_s


def _pull(number: Number) -> float:
    value, error = number["value"], number["error"]
    if value is None or error is None or value == 0:
        return 0.0
    return value / error if error else math.copysign(math.inf, value)


def _stages(found: Sequence[Measured]) -> tuple[list[Errors], list[Errors]]:
    return [one.raw for one in found], [one.polished for one in found]


def _told(values: Sequence[float] | np.ndarray[Any, np.dtype[np.float64]], scale: float = 1.0) -> str:
    number = mean_of([scale * value for value in values])
    return "-" if number["value"] is None else with_error(number)


def _line(name: str, found: Sequence[Measured]) -> str:
    if all(one.failure for one in found):
        return f"{name:32} failed: {found[0].failure}"
    cells = (
        (14, [100 * one.drawn for one in found]),
        (14, [100 * one.known for one in found]),
        (15, [one.raw.energy for one in found]),
        (14, [1e3 * one.raw.moments for one in found]),
        (17, [one.raw.distance for one in found]),
        (17, [one.polished.energy for one in found]),
        (14, [1e3 * one.polished.moments for one in found]),
        (17, [one.polished.distance for one in found]),
        (13, [one.programmings for one in found]),
        (12, [1e3 * one.access_s for one in found]),
    )
    return f"{name:32} " + " ".join(f"{_told(values):>{width}}" for width, values in cells)


def _cell_text(cell: Cell) -> str:
    told = []
    for name in (WINNER, *OURS):
        found = cell.protocols[name]
        raw, polished = (_told([part.energy for part in parts]) for parts in _stages(found))
        told.append(
            f"{name} knows beta to {_told([one.known for one in found], 100)} %, its mean energy is off by {raw} nats "
            f"as read and {polished} polished, {_told([one.access_s for one in found], 1e3)} ms a shower"
        )
    return f"{cell.name}: {'; '.join(told)}."


def _presented_text(cells: Sequence[Cell]) -> str:
    """Which of the presented protocols samples nearest to the right beta, counted."""
    wins = dict.fromkeys(PRESENTED, 0)
    for cell in cells:
        means = {name: mean_of(cell.values(name, METRICS["beta, as drawn"]))["value"] for name in PRESENTED}
        known = {name: value for name, value in means.items() if value is not None}
        if known:
            wins[min(known, key=lambda name: known[name])] += 1
    told = ", ".join(f"{name} in {count}" for name, count in wins.items())
    drawn = METRICS["beta, as drawn"]
    pooled = "; ".join(
        f"{name} {_told(np.concatenate([cell.values(name, drawn) for cell in cells]), 100)} %" for name in PRESENTED
    )
    return (
        "Of the four protocols of the October 2024 presentation, with Newton's rule inside, the samples lie nearest to "
        f"the right beta with {told} of {len(cells)} cells; root mean square of ln(true beta / what the machine was "
        f"divided by), mean over cells: {pooled}."
    )


def _claim_text(cells: Sequence[Cell], ours: str, claim: Mapping[str, Any]) -> str:
    n = claim["difference"]["beta, as known"]["n"]
    speed = claim["least gain in access time"]
    worse, better = claim["worse"], claim["better"]
    verdict = (
        "is nowhere worse"
        if not worse
        else "is worse in " + ", ".join(f"{name} (by {with_error(claim['difference'][name])})" for name in worse)
    )
    held = "at least" if speed >= _WANTED_SPEED else "not at least"
    grouped = min(
        mean_of(cell.values("before-each, grouped", _access) / cell.values(ours, _access))["value"] or math.nan
        for cell in cells
    )
    return (
        f"{ours} against {WINNER}, {n} paired emulated chips: by more than {_SURE:g} standard errors it {verdict} and "
        f"better in {', '.join(better) if better else 'nothing'}. Its access time a shower is {speed:.0f} to "
        f"{claim['largest gain in access time']:.0f} times shorter ({held} {_WANTED_SPEED:g} everywhere), of which "
        f"grouping alone accounts for all but a factor of {grouped:.1f} where it gains least."
    )


def _rules_text(courses: Sequence[RuleCourse]) -> str:
    told = []
    for setting in dict.fromkeys(course.setting for course in courses):
        group = [course for course in courses if course.setting == setting]
        low, high = min(course.true for course in group), max(course.true for course in group)
        true = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f} from rule to rule"
        parts = "; ".join(f"{course.rule} {course.verdict}" for course in group)
        told.append(f"{setting} (true beta {true}): {parts}.")
    return "Temperature rules. " + " ".join(told)
