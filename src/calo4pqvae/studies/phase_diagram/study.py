r"""The phase diagram of Sherrington and Kirkpatrick with machines on it: lines computed, placement checked by overlaps.

1. The lines are computed from the replica-symmetric equations
   (:mod:`~calo4pqvae.studies.theory.sherrington_kirkpatrick`) and compared with their known limits.
2. Zero-field machines in two forms, bipartite and four-partite, are drawn over the diagram and their overlaps measured
   by parallel tempering: susceptibility in the paramagnet against its exact large-size value, order parameters against
   the replica-symmetric ones, transitions by crossings of scaled moments, equilibrium by an identity of energy and
   link overlap.
3. Real machines are placed: 10 + 10 units with parameters from one law, and machines along three trainings: on images
   in the bipartite form with hidden bits, on images in the four-partite form without, and the prior of a shower model
   at one incident energy. Every machine stands there three times: with the couplings of its bits taken as they are,
   with those of its spins, a quarter, and by its leading mode. Its replica-symmetric law of bits is compared with
   overlaps that are measured (or summed exactly).
"""

from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.image_machines import ImageMachineSettings, bipartite_training, four_partite_training
from calo4pqvae.studies.frame.shower_training import ShowerTraining, shower_training
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure
from calo4pqvae.studies.frame.trained import shower_prior, shower_run
from calo4pqvae.studies.phase_diagram.figures import (
    diagram_figure,
    order_figure,
    overlap_figure,
    placement_figure,
    replica_figure,
)
from calo4pqvae.studies.phase_diagram.measurements import Form, PlacedMachine, Scan, iid_machine, place_machine, scan
from calo4pqvae.studies.phase_diagram.report import PhaseResults, phase_numbers, phase_text
from calo4pqvae.studies.small_machines.measurements import LAWS
from calo4pqvae.studies.theory.placement import block_statistics, place

__all__ = ["STUDY", "PhaseDiagramSettings"]

_N_IID = 10  # units of each side of the small machines
_CORNERS = {"paramagnet": (0.0, 2.0), "spin glass": (0.0, 0.4), "ferromagnet": (2.0, 0.8)}


class PhaseDiagramSettings(ImageMachineSettings):
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
    run: str | None = Field(None, description="finished run of a shower model, in place of training one")
    is_short: bool = Field(False, description="whether a short training of the shower model will do")
    n_machines: int = Field(10, ge=3, description="machines along each training")
    n_iid: int = Field(20, ge=2, description="small machines of each law")

    @field_validator("j0_ratios")
    @classmethod
    def _with_zero(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if 0 not in ratios or min(ratios) < 0 or max(ratios) <= 1:
            raise ValueError("j0_ratios need 0, for the spin glass, and one above 1, for the ferromagnet; add them")
        return tuple(sorted(set(ratios)))


def work(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    showers = _showers(settings, folder, seed, progress)
    trainings = _trainings(settings, folder, seed, progress)
    scans = _scans(settings, seed, progress)
    placed = _small_machines(settings, seed, progress)
    for label, training in trainings.items():
        placed += _along(label, training.steps, training.machines, settings, seed, progress)
    label = f"shower prior at {showers.energy_mev / 1000:g} GeV"
    placed += _along(label, showers.steps, showers.at_energy(showers.energy_mev), settings, seed, progress)
    whole = block_statistics(showers.source.machine)
    results = PhaseResults(
        scans=scans,
        placed=placed,
        laws=tuple(f"10+10, {law}" for law in LAWS),
        shower_graph=showers.source.machine.topology.name,
        shower_points=(place(whole, "bits"), place(whole, "spins")),
        shower_origin=showers.source.origin,
        shower_deviation=showers.deviation,
        seed=seed,
    )
    numbers = phase_numbers(results)
    return Findings(numbers, _figures(results), phase_text(results, numbers))


def _figures(results: PhaseResults) -> list[StudyFigure]:
    scans, placed = results.scans, results.placed
    four = [one for one in scans if one.form == "four-partite"]
    return [
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
            "spins filled, bits open. Right: by the strength of the leading mode of the spins and the spread of what "
            "is "
            "left. Lines join machines along one training. Shower prior: genuine Geant4 showers, not the official "
            "CaloChallenge dataset 2.",
            lambda: placement_figure(placed),
        ),
        StudyFigure(
            "machine-overlaps",
            "Distribution of the overlap of the spins of two replicas of machines along each training, by parallel "
            "tempering; vertical lines: replica-symmetric overlap of machines with independent couplings of the same "
            "moments and the same biases.",
            lambda: replica_figure(placed),
        ),
    ]


def _scans(settings: PhaseDiagramSettings, seed: int, progress: Progress) -> list[Scan]:
    kt = np.geomspace(settings.coldest, settings.hottest, settings.n_levels).tolist()
    sizes = sorted(set(settings.quarter_sizes))
    jobs: list[tuple[Form, int, float]] = [("four-partite", n, j0) for n in sizes for j0 in settings.j0_ratios]
    jobs += [("bipartite", sizes[-1], j0) for j0 in settings.j0_ratios]
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


def _small_machines(settings: PhaseDiagramSettings, seed: int, progress: Progress) -> list[PlacedMachine]:
    placed = []
    for law, draw in LAWS.items():
        for index in range(settings.n_iid):
            rng = np.random.default_rng(derive_seed(seed, "iid", law, index))
            machine = iid_machine(draw, _N_IID, rng)
            placed.append(place_machine(machine, f"10+10, {law}", 0, stream(seed, "not used: enumerated"), 2, 2))
            progress("10 + 10 units", len(placed), len(LAWS) * settings.n_iid)
    return placed


def _trainings(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> dict[str, Training]:
    bipartite = bipartite_training(settings, folder, seed, progress)
    four = four_partite_training(settings, folder, seed, progress)
    return {
        "bipartite, images": bipartite.thinned(settings.n_machines),
        "four-partite, images": four.thinned(settings.n_machines),
    }


def _showers(settings: PhaseDiagramSettings, folder: Path, seed: int, progress: Progress) -> ShowerTraining:
    path = shower_run(folder, settings.run, quick=settings.is_short, seed=seed, progress=progress)
    return shower_training(shower_prior(path), settings.n_machines - 1, "learning the shower prior again", progress)


def _along(
    label: str,
    steps: tuple[int, ...],
    machines: tuple[BoltzmannMachine, ...],
    settings: PhaseDiagramSettings,
    seed: int,
    progress: Progress,
) -> list[PlacedMachine]:
    placed = []
    for step, machine in zip(steps, machines, strict=True):
        generator = stream(seed, "placed", label, step)
        placed.append(place_machine(machine, label, step, generator, settings.n_chains, settings.n_levels))
        progress(f"placing {label}", len(placed), len(machines))
    return placed


STUDY = Study(
    name="phase-diagram",
    title="Sherrington-Kirkpatrick phase diagram with machines on it",
    settings=PhaseDiagramSettings,
    work=work,
    quick={
        "quarter_sizes": (8, 16, 32),
        "j0_ratios": (0.0, 1.2, 2.0),
        "n_levels": 10,
        "n_disorder": 18,
        "n_burn": 200,
        "n_records": 20,
        "n_hidden": 64,
        "epochs": 60,
        "is_short": True,
        "n_machines": 5,
        "n_iid": 10,
    },
)
