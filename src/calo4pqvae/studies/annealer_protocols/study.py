r"""Protocols of sampling from an annealer whose temperature is unknown: accuracy and cost, on emulated chips.

Two machines (Model A: trained couplings, Model B: random ones with trained biases) lie on two families of chips, each
emulated in good order (``calibrated``) and badly (``stress``). Every protocol of
:mod:`~calo4pqvae.annealer.protocols.named` draws the same showers; what comes is compared with the law of the machine,
decoded and compared with Geant4, once as read and once after the same short polish for all, and the account is taken
from the ledger (:mod:`~calo4pqvae.studies.annealer_protocols.measurements`).

The protocols of the October 2024 presentation have Newton's rule in ln beta inside, which serves them best; they
program the chip for every shower. One more row gives ``before-each`` the freedom to group showers of one condition,
which tells apart what grouping gains and what the estimate does; another spreads the samples of ``same-reads`` over
more programmings. ``tiled`` draws on the full graph of the chip, of which the machine fills a small part; the others
have one copy of it. A machine that fills the chip gains nothing by copies.

The published rules are followed by themselves, on machines whose energies are exact and on the emulated chips
(:mod:`~calo4pqvae.studies.annealer_protocols.rule_courses`), and inside ``before-each``.

Nothing here is a measurement of a real chip: size and decay of the heat of programming and the drift are assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from calo4pqvae.annealer.beta.temperature_rules import MultiplicativeRule
from calo4pqvae.annealer.emulator.settings import EmulatorMode
from calo4pqvae.annealer.protocols.base import Protocol
from calo4pqvae.annealer.protocols.conditioning import Method
from calo4pqvae.annealer.protocols.named import BeforeEach, Once, OnceWithWait, OneReadPerCall, SameReads, Tracked
from calo4pqvae.annealer.protocols.tiled import Tiled
from calo4pqvae.atomic import write_text
from calo4pqvae.prior.graph.chips import Family
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.annealer_protocols.figures import cost_figure, courses_figure, errors_figure
from calo4pqvae.studies.annealer_protocols.machines import CHIP_OF, ModelName, StudyMachine, study_machine
from calo4pqvae.studies.annealer_protocols.measurements import (
    Geant4,
    Measured,
    ProtocolJudge,
    classical,
    geant4_showers,
    measure,
    requests_of,
)
from calo4pqvae.studies.annealer_protocols.rule_courses import RULES, TOYS, RuleCourse, emulated_course, toy_courses
from calo4pqvae.studies.annealer_protocols.summary import Cell, claims_of, numbers_of_cell, table_of, text_of
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings
from calo4pqvae.studies.frame.trained import ShowerPrior, shower_prior, shower_run

__all__ = ["STUDY", "AnnealerProtocolsSettings"]

TABLE = "table.txt"

_TOY_STEPS = 25
_PUBLISHED_START = 4.0
_PUBLISHED_STEPS = 10


class AnnealerProtocolsSettings(StudySettings):
    """Settings of the study."""

    run: str | None = Field(None, description="finished run of a shower model, in place of training one")
    short_training: bool = Field(False, description="whether the training of the shower model is the short one")
    models: tuple[ModelName, ...] = Field(("A", "B"), min_length=1, description="A: trained couplings, B: random ones")
    families: tuple[Family, ...] = Field(("zephyr", "pegasus"), min_length=1, description="families of chips")
    modes: tuple[EmulatorMode, ...] = Field(("calibrated", "stress"), min_length=1, description="of the emulator")
    n_showers: int = Field(384, ge=10, description="showers of every protocol and repeat")
    n_conditions: int = Field(8, ge=1, description="distinct conditions among them, evenly over the energies")
    n_repeats: int = Field(3, ge=2, description="emulated chips, over which errors are taken")
    method: Method = Field("fold", description="how conditions are imposed: fold, fields or flux")
    estimate_reads: int = Field(256, ge=20, description="reads of a programming of an estimate")
    tracked_reads: int = Field(64, ge=20, description="least reads of an estimate of the tracked protocol")
    spread_reads: int = Field(8, ge=1, description="most samples of a programming where same-reads is spread")
    single_reads: int = Field(128, ge=20, description="calls of an estimate with one read per call")
    polish_sweeps: int = Field(10, ge=1, description="sweeps of the polish")
    n_published: int = Field(24, ge=2, description="showers of before-each with the published rule inside")
    random_std: float = Field(1.0, gt=0, description="standard deviation of the couplings of Model B")
    updates: int | None = Field(None, ge=1, description="learning steps of Model A on the other family; default: run's")
    field_updates: int = Field(200, ge=1, description="learning steps of the biases of Model B")
    truth_rounds: int = Field(20, ge=2, description="classical sample that is taken for the truth, in n_showers")
    truth_sweeps: int = Field(300, ge=10, description="its sweeps")


@dataclass(frozen=True, eq=False)
class _Case:
    """One machine with what it is asked for."""

    machine: StudyMachine
    judge: ProtocolJudge


def work(settings: AnnealerProtocolsSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    path = shower_run(folder, settings.run, quick=settings.short_training, seed=seed, progress=progress)
    shower = shower_prior(path)
    geant4 = geant4_showers(shower.model)
    cases = [
        _case(settings, shower, geant4, model, family, seed, progress)
        for model in settings.models
        for family in settings.families
    ]
    cells = _cells(settings, cases, seed, progress)
    courses = [course for toy in TOYS for course in toy_courses(toy, _TOY_STEPS)]
    courses += _emulated_courses(settings, cases, seed, progress)
    claims = claims_of(cells, seed)
    table = table_of(cells)
    write_text(folder / TABLE, table)
    numbers = {
        "emulated": True,
        "showers": {
            "origin": shower.origin,
            "n": settings.n_showers,
            "conditions": len(cases[0].judge.requests.counts),
        },
        "machines": {one.machine.name: _machine_numbers(one.machine) for one in cases},
        "protocols": {cell.name: numbers_of_cell(cell, seed) for cell in cells},
        "claims": claims,
        "rules": [_course_numbers(course) for course in courses],
    }
    return Findings(numbers, _figures(settings, cells, courses), text_of(cells, courses, claims, shower.origin, TABLE))


def _case(
    settings: AnnealerProtocolsSettings,
    shower: ShowerPrior,
    geant4: Geant4,
    model: ModelName,
    family: Family,
    seed: int,
    progress: Progress,
) -> _Case:
    machine = study_machine(
        shower, model, family, random_std=settings.random_std, updates=settings.updates,
        field_updates=settings.field_updates, seed=seed, progress=progress,
    )  # fmt: skip
    requests = requests_of(machine.prior, geant4.energies, settings.n_showers, settings.n_conditions)
    generator = stream(seed, "truth", machine.name)
    truth = classical(machine.prior, requests, settings.truth_sweeps, settings.truth_rounds, generator)
    at_these = geant4.at(machine.prior, requests.conditions)
    return _Case(machine, ProtocolJudge(machine, requests, shower.model, at_these, truth))


def protocols_of(settings: AnnealerProtocolsSettings, machine: StudyMachine) -> dict[str, Protocol]:
    """The protocols by the names of the study; none corrects its reads, which is done to all alike afterwards.

    Args:
        settings: Settings of the study.
        machine: The machine.
    """
    conditioning = machine.conditioning(settings.method)
    matching: dict[str, Any] = {"conditioning": conditioning, "estimate_reads": settings.estimate_reads}
    return {
        "before-each": BeforeEach(**matching),
        "once": Once(**matching),
        "once-with-wait": OnceWithWait(**matching),
        "one-read-per-call": OneReadPerCall(conditioning=conditioning, estimate_reads=settings.single_reads),
        "before-each, grouped": BeforeEach(reads_per_call=0, **matching),
        "same-reads": SameReads(conditioning=conditioning, correction="none", least_reads=settings.estimate_reads),
        "same-reads, spread": SameReads(
            conditioning=conditioning,
            correction="none",
            reads_per_call=settings.spread_reads,
            least_reads=settings.tracked_reads,
        ),
        "tracked": Tracked(conditioning=conditioning, correction="none", least_reads=settings.tracked_reads),
        "tiled": Tiled(
            conditioning=machine.conditioning("fold"), correction="none", least_reads=settings.estimate_reads
        ),
    }


def _cells(settings: AnnealerProtocolsSettings, cases: Sequence[_Case], seed: int, progress: Progress) -> list[Cell]:
    cells = []
    names = list(protocols_of(settings, cases[0].machine))
    done, total = 0, len(cases) * len(settings.modes) * settings.n_repeats * (len(names) + 2)
    for case in cases:
        for mode in settings.modes:
            cell = Cell(case.machine, mode, CHIP_OF[case.machine.family], {}, [], [])
            for repeat in range(settings.n_repeats):
                chip_seed = derive_seed(seed, "repeat", case.machine.name, mode, repeat)
                for name, protocol in protocols_of(settings, case.machine).items():
                    found = measure(
                        case.machine, case.judge.requests, protocol, mode, chip_seed, case.judge, settings.polish_sweeps
                    )
                    cell.protocols.setdefault(name, []).append(found)
                    done += 1
                    progress("protocols", done, total)
                published = _published(settings, case, mode, chip_seed)
                cell.protocols.setdefault("before-each, published rule", []).append(published)
                _add_floor(settings, case, cell, chip_seed)
                done += 2
                progress("protocols", done, total)
            cells.append(cell)
    return cells


def _published(settings: AnnealerProtocolsSettings, case: _Case, mode: EmulatorMode, seed: int) -> Measured:
    """``before-each`` as it was published, for a few showers: only beta and the cost are judged."""
    few = case.judge.requests.thinned(settings.n_published)
    protocol = BeforeEach(
        conditioning=case.machine.conditioning(settings.method),
        estimate_reads=settings.estimate_reads,
        rule=MultiplicativeRule(is_adaptive=True),
        start=_PUBLISHED_START,
        max_programmings=_PUBLISHED_STEPS,
    )
    return measure(case.machine, few, protocol, mode, seed)


def _add_floor(settings: AnnealerProtocolsSettings, case: _Case, cell: Cell, seed: int) -> None:
    states = classical(
        case.machine.prior, case.judge.requests, settings.truth_sweeps, 1, stream(seed, "classical floor")
    )
    cell.classical.append(case.judge.errors(states, seed))
    cell.geant4.append(case.judge.geant4_floor(stream(seed, "Geant4 floor")))


def _emulated_courses(
    settings: AnnealerProtocolsSettings, cases: Sequence[_Case], seed: int, progress: Progress
) -> list[RuleCourse]:
    """All rules on every machine, the chips in the first mode, at the middle condition."""
    courses: list[RuleCourse] = []
    total = len(cases) * len(RULES)
    for case in cases:
        rows = case.judge.requests.conditions
        for rule in RULES:
            courses.append(
                emulated_course(
                    case.machine, rule, rows[[len(rows) // 2]], mode=settings.modes[0], start=_PUBLISHED_START,
                    n_reads=settings.estimate_reads, most=_TOY_STEPS, seed=derive_seed(seed, case.machine.name),
                )
            )  # fmt: skip
            progress("rules", len(courses), total)
    return courses


def _machine_numbers(machine: StudyMachine) -> dict[str, Any]:
    parameters = machine.prior.machine
    return {
        "graph": machine.prior.topology.name,
        "emulated chip": CHIP_OF[machine.family],
        "origin": machine.origin,
        "couplers": machine.prior.topology.n_edges,
        "spread of couplings": float(parameters.couplings.detach().std()),
        "spread of biases": float(parameters.biases.detach().std()),
        "energy gap (nats)": {"value": machine.gap, "error": machine.gap_error, "n": machine.gap_n, "seed": None},
    }


def _course_numbers(course: RuleCourse) -> dict[str, Any]:
    return {
        "setting": course.setting,
        "rule": course.rule,
        "betas": [beta if math.isfinite(beta) else None for beta in course.betas],
        "true": course.true,
        "multiplier": course.multiplier,
        "two-cycle": course.is_two_cycle,
        "diverged": course.has_diverged,
        "settled": course.is_settled,
        "verdict": course.verdict,
    }


def _figures(
    settings: AnnealerProtocolsSettings, cells: Sequence[Cell], courses: Sequence[RuleCourse]
) -> list[StudyFigure]:
    emulated = (
        "Emulated chips. Symbols: machine and family of chips; filled: first mode of the emulator, open: the second; "
        f"bars: standard errors over {settings.n_repeats} emulated chips. Dashed: the true energy, and a classical "
        "sample of the same size by which the others are divided; dotted: Geant4 showers of the training set, as many."
    )
    return [
        StudyFigure(
            "protocol-errors",
            f"Errors of {settings.n_showers} samples as they are read, protocol by protocol. {emulated}",
            lambda: errors_figure(cells, "raw"),
        ),
        StudyFigure(
            "protocol-errors-polished",
            f"The same after {settings.polish_sweeps} sweeps of block Gibbs for all protocols alike. {emulated}",
            lambda: errors_figure(cells, "polished"),
        ),
        StudyFigure(
            "protocol-cost",
            "Programmings and access time a shower, estimates included, by the ledger of the emulated chips. Symbols "
            "as in the figures of the errors.",
            lambda: cost_figure(cells),
        ),
        StudyFigure(
            "rule-courses",
            "Temperature rules, programming by programming. First two panels: machines whose energies are exact, no "
            "noise, not stopped. Others: emulated chips, the rules stop by themselves. Grey line: true beta (on "
            "emulated chips its mean). Values beyond the axis are drawn at its end.",
            lambda: courses_figure(courses),
        ),
    ]


STUDY = Study(
    name="annealer-protocols",
    title="Protocols of sampling from an annealer whose temperature is unknown (emulated)",
    settings=AnnealerProtocolsSettings,
    work=work,
    quick={
        "short_training": True,
        "n_showers": 48,
        "n_conditions": 4,
        "n_repeats": 2,
        "tracked_reads": 32,
        "single_reads": 48,
        "n_published": 4,
        "updates": 200,
        "field_updates": 100,
        "truth_rounds": 30,
        "truth_sweeps": 200,
    },
)
