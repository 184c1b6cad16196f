r"""The phase diagram of Sherrington and Kirkpatrick with machines on it: lines computed, placement checked by overlaps.

1. The lines are computed from the replica-symmetric equations (:mod:`~calo4pqvae.studies.sherrington_kirkpatrick`) and
   compared with their known limits.
2. Zero-field machines in two forms, bipartite and four-partite, are drawn over the diagram and their overlaps measured
   by parallel tempering: susceptibility in the paramagnet against its exact large-size value, order parameters against
   the replica-symmetric ones, transitions by Binder crossings.
3. Real machines are placed: 10 + 10 units with parameters from one law, and machines along a training on images, in the
   bipartite form with hidden bits and in the four-partite form without. Every machine stands there three times: with
   the couplings of its bits taken as they are, with those of its spins, a quarter, and by its leading mode. Its
   replica-symmetric law of bits is compared with overlaps that are measured (or summed exactly).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from calo4pqvae.prior_config import PriorRunConfig
from calo4pqvae.prior_runs import load_bits
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.along_training import Training, pooled_images, training_at, training_of
from calo4pqvae.studies.phase_figures import diagram_figure, order_figure, overlap_figure, placement_figure
from calo4pqvae.studies.phase_measurements import (
    PlacedMachine,
    Scan,
    binder_crossing,
    iid_machine,
    place_machine,
    scan,
)
from calo4pqvae.studies.placement import DiagramPoint
from calo4pqvae.studies.sherrington_kirkpatrick import (
    ZERO_TEMPERATURE_FERROMAGNET,
    almeida_thouless_line,
    glass_ferromagnet_line,
    phase_of,
    replica_symmetric,
)
from calo4pqvae.studies.small_machines import LAWS
from calo4pqvae.studies.study import Findings, Progress, Study, StudyFigure, StudySettings, estimate, with_error

__all__ = ["STUDY", "PhaseDiagramSettings"]

_WARM = 1.5  # kT / J~ from which on the susceptibility is compared with theory
_N_IID = 10  # units of each side of the small machines
_CORNERS = {"paramagnet": (0.0, 2.0), "spin glass": (0.0, 0.4), "ferromagnet": (2.0, 0.8)}


class PhaseDiagramSettings(StudySettings):
    """Settings of the study."""

    quarter_sizes: tuple[int, ...] = Field(
        (8, 16, 32, 64), min_length=2, description="units of zero-field machines / 4"
    )
    j0_ratios: tuple[float, ...] = Field((0.0, 0.5, 1.0, 1.4, 2.0), min_length=2, description="J0~ / J~; 0 among them")
    coldest: float = Field(0.4, gt=0, lt=1, description="lowest kT / J~")
    hottest: float = Field(2.5, gt=1.5, description="highest kT / J~")
    n_levels: int = Field(16, ge=4, description="temperatures")
    n_disorder: int = Field(40, ge=4, description="draws of the couplings")
    n_chains: int = Field(32, ge=2, multiple_of=2)
    n_burn: int = Field(1000, ge=1, description="sweeps before the first record")
    n_records: int = Field(60, ge=4)
    every: int = Field(10, ge=1, description="sweeps between records")
    data: str = Field("mnist", description="images to train on: 'mnist', 'fashion-mnist', or what was fetched")
    run: str | None = Field(None, description="finished run of a bipartite machine, in place of training one")
    n_hidden: int = Field(100, ge=2)
    epochs: int = Field(100, ge=1)
    n_machines: int = Field(10, ge=3, description="machines along each training")
    n_iid: int = Field(20, ge=2, description="small machines of each law")


def work(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    scans = _scans(settings, seed, progress)
    placed = _placed(settings, folder, seed, progress)
    limits = _limits()
    overlaps = _overlap_numbers(scans, seed)
    numbers = {
        "limits": limits,
        "zero-field machines": overlaps,
        "machines": [_machine_numbers(one, seed) for one in placed],
    }
    four = [one for one in scans if one.form == "four-partite"]
    figures = [
        StudyFigure(
            "phase-diagram",
            "Lines of the Sherrington-Kirkpatrick model, computed: paramagnet to ferromagnet (solid), paramagnet to "
            "spin glass (dashed), replica-symmetric border of spin glass and ferromagnet (dotted), true border (wide "
            "dots), de Almeida-Thouless line (dash-dotted). Symbols: zero-field machines measured by parallel "
            "tempering, grey value: root mean square overlap (left), mean modulus of the magnetisation (right).",
            lambda: diagram_figure(scans),
        ),
        StudyFigure(
            "order-parameters",
            "Spin-glass susceptibility and order parameters against temperature; curves: large-size theory, replica-"
            "symmetric; points: measured, bars: standard errors over disorder draws.",
            lambda: order_figure(scans),
        ),
        StudyFigure(
            "overlap-distributions",
            "Distribution of the overlap of independent replicas, averaged over disorder draws, four-partite form; "
            "vertical lines: replica-symmetric overlap.",
            lambda: overlap_figure(four, _CORNERS),
        ),
        StudyFigure(
            "placement",
            "Machines on the diagram at kT = 1. Left: by mean and spread of the couplings in the form of their graph, "
            "spins filled, bits open. Right: by the leading eigenvalue of the couplings of the spins and the spread of "
            "what is left. Lines join machines along one training.",
            lambda: placement_figure(placed),
        ),
    ]
    return Findings(numbers, figures, _text(scans, placed, limits, overlaps, seed))


def _scans(settings: PhaseDiagramSettings, seed: int, progress: Progress) -> list[Scan]:
    kt = np.geomspace(settings.coldest, settings.hottest, settings.n_levels).tolist()
    largest = max(settings.quarter_sizes)
    jobs = [("four-partite", n, j0) for n in sorted(settings.quarter_sizes) for j0 in settings.j0_ratios]
    jobs += [("bipartite", largest, j0) for j0 in settings.j0_ratios]
    done, total = 0, len(jobs) * settings.n_disorder

    def tell() -> None:
        nonlocal done
        done += 1
        progress("zero-field machines", done, total)

    return [
        scan(
            form, n, j0, kt, seed, n_disorder=settings.n_disorder, n_chains=settings.n_chains,
            n_burn=settings.n_burn, n_records=settings.n_records, every=settings.every, progress=tell,
        )
        for form, n, j0 in jobs
    ]  # fmt: skip


def _placed(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> list[PlacedMachine]:
    placed = []
    for law, draw in LAWS.items():
        for index in range(settings.n_iid):
            rng = np.random.default_rng(derive_seed(seed, "iid", law, index))
            machine = iid_machine(draw, _N_IID, rng)
            placed.append(place_machine(machine, f"10+10, {law}", 0, stream(seed, "unused"), 2, 2))
            progress("10 + 10 units", len(placed), len(LAWS) * settings.n_iid)
    for label, training in _trainings(settings, folder, seed, progress).items():
        kept = training.thinned(settings.n_machines)
        for index, (step, machine) in enumerate(zip(kept.steps, kept.machines, strict=True)):
            generator = stream(seed, "placed", label, step)
            placed.append(place_machine(machine, label, step, generator, settings.n_chains, settings.n_levels))
            progress(f"placing {label}", index + 1, len(kept.steps))
    return placed


def _trainings(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> dict[str, Training]:
    """Machines with hidden bits and of four partitions, on images of half the side."""
    base: dict[str, Any] = {"epochs": settings.epochs, "batch_size": 100, "n_chains": 100, "n_saved": 30, "seed": seed}
    source, _ = load_bits(PriorRunConfig(data=settings.data))
    pooled = str(pooled_images(source, 2, folder / "pooled.h5"))
    bipartite = PriorRunConfig(
        data=pooled, n_hidden=settings.n_hidden, n_sweeps=5, learning_rate=0.1, learning_rate_final=0.01, **base
    )
    four = PriorRunConfig(
        data=pooled, graph="complete", n_sweeps=5, learning_rate=0.03, learning_rate_final=0.003, **base
    )
    return {
        "bipartite, trained": training_at(Path(settings.run)) if settings.run else
        training_of(bipartite, folder / "bipartite", "training (bipartite)", progress),
        "four-partite, trained": training_of(four, folder / "four-partite", "training (four-partite)", progress),
    }  # fmt: skip


def _limits() -> dict[str, Any]:
    """Computed lines beside their known limits; nothing is sampled."""
    near, far = almeida_thouless_line([0.05]), almeida_thouless_line([300.0])
    glass = glass_ferromagnet_line([1e-3, 1e4])
    gaussian = 4 / (3 * math.sqrt(2 * math.pi))
    return {
        "overlap at kT = 1.001 J~, J0 = 0": replica_symmetric(0.0, 1.001).overlap,
        "overlap at kT = 0.999 J~, J0 = 0 over 1 - kT": replica_symmetric(0.0, 0.999).overlap / 1e-3,
        "magnetisation at J0~ = 1.99, kT = 2": replica_symmetric(1.99, 2.0).magnetisation,
        "magnetisation at J0~ = 2.01, kT = 2": replica_symmetric(2.01, 2.0).magnetisation,
        "J0~ / J~ of the RS glass-ferromagnet line at kT -> 1": float(glass[0][0]),
        "J0~ / J~ of the RS glass-ferromagnet line at kT -> 0": float(glass[0][1]),
        "the same, exact": ZERO_TEMPERATURE_FERROMAGNET,
        "AT line near kT = 1: h^2 over 4/3 (1 - kT)^3": float(near[2][0] ** 2 / (4 / 3 * (1 - near[0][0]) ** 3)),
        "AT line at large h: kT over its limit": float(far[0][0] / (gaussian * math.exp(-(far[2][0] ** 2) / 2))),
        "AT line at large J0: kT over its limit": float(far[0][0] / (gaussian * math.exp(-(far[1][0] ** 2) / 2))),
    }


def _overlap_numbers(scans: Sequence[Scan], seed: int) -> dict[str, Any]:
    """Measured susceptibilities, order parameters and transitions beside theory."""
    numbers: dict[str, Any] = {}
    for one in scans:
        name, n = f"{one.form}, N = {one.n_units}, J0~/J~ = {one.j0:g}", len(one.q2)
        coldest = replica_symmetric(one.j0, float(one.kt[0]))
        entry: dict[str, Any] = {
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
            entry["N <q^2> over theory, kT >= 1.5 J~"] = _mean(ratios.mean(axis=1), seed)
        numbers[name] = entry
    four = [one for one in scans if one.form == "four-partite"]
    for label, j0, quantity, expected in (
        ("spin glass", 0.0, "q", 1.0),
        ("ferromagnet", max(one.j0 for one in four), "m", max(one.j0 for one in four)),
    ):
        small, large = sorted((one for one in four if one.j0 == j0), key=lambda one: one.n_units)[-2:]
        rng = np.random.default_rng(derive_seed(seed, "binder", label))
        value, error = binder_crossing(small, large, quantity, rng)  # type: ignore[arg-type]
        numbers[f"Binder crossing, {label}"] = {
            "kT/J~": estimate(value, error, len(large.q2), seed), "expected": expected,
            "sizes": [small.n_units, large.n_units],
        }  # fmt: skip
    return numbers


def _mean(values: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> dict[str, float | int | None]:
    return estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values), seed)


def _machine_numbers(one: PlacedMachine, seed: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {"machine": one.label, "step": one.step}
    for point in one.points:
        numbers[point.units] = {
            "J0~, complete graph": point.j0, "J~, complete graph": point.j,
            "J0~, own form": point.j0_form, "J~, own form": point.j_form, "phase": _phase(point),
        }  # fmt: skip
    numbers["overlap of bits"] = [
        estimate(float(value), float(error), one.n_draws, seed)
        for value, error in zip(one.overlaps, one.overlap_errors, strict=True)
    ]
    if one.order is not None:
        numbers["RS overlap of bits"] = one.order.overlaps.tolist()
        numbers["RS stability"] = one.order.stability
    return numbers


def _phase(point: DiagramPoint) -> str:
    return phase_of(point.j0_form / point.j_form, 1 / point.j_form)


def _text(
    scans: Sequence[Scan], placed: Sequence[PlacedMachine], limits: dict[str, Any], overlaps: dict[str, Any], seed: int
) -> list[str]:
    largest = max(one.n_units for one in scans)
    ratio = "N <q^2> over theory, kT >= 1.5 J~"
    glass, magnet = overlaps["Binder crossing, spin glass"], overlaps["Binder crossing, ferromagnet"]
    names = [f"{form}, N = {largest}, J0~/J~ = 0" for form in ("four-partite", "bipartite")]
    return [
        "Lines: the replica-symmetric border of glass and ferromagnet starts at J0~/J~ = "
        f"{limits['J0~ / J~ of the RS glass-ferromagnet line at kT -> 1']:.4f} and ends at "
        f"{limits['J0~ / J~ of the RS glass-ferromagnet line at kT -> 0']:.4f} (exact: "
        f"{limits['the same, exact']:.4f}); the de Almeida-Thouless line is {_at(limits, 'near kT = 1: h^2 over')} of its "
        f"limit near the spin-glass point and {_at(limits, 'at large h: kT over')} of that in strong fields.",
        f"Overlaps at N = {largest}: the susceptibility N<q^2> of the paramagnet is {with_error(overlaps[names[0]][ratio])} "
        f"of theory in the four-partite form and {with_error(overlaps[names[1]][ratio])} in the bipartite one. Binder "
        f"ratios of N = {glass['sizes'][0]} and {glass['sizes'][1]} cross at kT/J~ = {with_error(glass['kT/J~'])} for the "
        f"spin glass (large size: {glass['expected']:g}) and at {with_error(magnet['kT/J~'])} for the ferromagnet (large "
        f"size: {magnet['expected']:g}).",
        *_placement_text(placed, seed),
    ]


def _at(limits: dict[str, Any], which: str) -> str:
    return next(f"{value:.4f}" for name, value in limits.items() if name.startswith(f"AT line {which}"))


def _placement_text(placed: Sequence[PlacedMachine], seed: int) -> list[str]:
    paragraphs = []
    for law in LAWS:
        group = [one for one in placed if one.label == f"10+10, {law}"]
        bits, spins = (
            np.array([(point.j, point.j_form) for one in group for point in one.points if point.units == units])
            for units in ("bits", "spins")
        )
        gap = np.array([np.abs(one.order.overlaps - one.overlaps).max() for one in group if one.order is not None])
        stability = np.array([one.order.stability for one in group if one.order is not None])
        text = (
            f"10+10 units, {law}: J~ of the complete graph is {_told(bits[:, 0], seed)} if bits are taken for spins and "
            f"{_told(spins[:, 0], seed)} after the map to spins; in the bipartite form {_told(spins[:, 1], seed)}"
        )
        if len(gap):
            text += (
                f". The largest difference of a partition's exact overlap from the replica-symmetric one is "
                f"{_told(gap, seed)}; stability {_told(stability, seed)} (one is the de Almeida-Thouless line)"
            )
        paragraphs.append(text + ".")
    for label in dict.fromkeys(one.label for one in placed if one.step or one.label.endswith("trained")):
        paragraphs.append(_training_text(label, [one for one in placed if one.label == label]))
    return paragraphs


def _training_text(label: str, group: Sequence[PlacedMachine]) -> str:
    first, last = group[0], group[-1]
    starts, ends = ({point.units: point for point in one.points} for one in (first, last))
    crossing = next((one.step for one in group if _phase(one.points[2]) != "paramagnet"), None)
    text = (
        f"{label.capitalize()}: over {last.step} steps the moments of the couplings move from J~ = "
        f"{starts['spins'].j_form:.3g}, J0~ = {starts['spins'].j0_form:.3g} to J~ = {ends['spins'].j_form:.3g}, J0~ = "
        f"{ends['spins'].j0_form:.3g} in spins ({_phase(starts['spins'])} to {_phase(ends['spins'])}), while the leading "
        f"mode goes from {starts['mode'].j0_form:.3g} to {ends['mode'].j0_form:.3g}; "
    )
    text += (
        "by its leading mode the machine stays a paramagnet. "
        if crossing is None
        else f"by its leading mode it has left the paramagnet at step {crossing}. "
    )
    if last.order is None:
        return text + "The replica-symmetric equations of its couplings have no stable fixed point at the end."
    pulls = np.abs(last.overlaps - last.order.overlaps)
    worst = int(pulls.argmax())
    told = with_error(estimate(float(last.overlaps[worst]), float(last.overlap_errors[worst]), last.n_draws))
    return text + (
        f"The measured overlap of bits differs most in partition {worst}: {told} against {last.order.overlaps[worst]:.4f} "
        "for independent couplings of the same moments."
    )


def _told(values: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> str:
    return with_error(_mean(values, seed))


STUDY = Study(
    name="phase-diagram",
    title="Sherrington-Kirkpatrick phase diagram with machines on it",
    settings=PhaseDiagramSettings,
    work=work,
    quick={
        "quarter_sizes": (8, 16, 32),
        "j0_ratios": (0.0, 1.2, 2.0),
        "n_levels": 10,
        "n_disorder": 10,
        "n_burn": 150,
        "n_records": 15,
        "n_hidden": 48,
        "epochs": 60,
        "n_machines": 5,
        "n_iid": 10,
    },
)
