r"""Relaxation of Boltzmann machines under block Gibbs: how long chains remember, and what that depends on.

A chain needs several relaxation times from any start to the law, and a sample that is used in learning must be older
than one. The study measures the relaxation time (the tail of the autocorrelation) and the integrated autocorrelation
time (what a mean is worth) of the energy and of the slowest modes, mode by mode beside the linear theory
(:mod:`~calo4pqvae.studies.relaxation.measurements`):

1. tiny machines, where the second eigenvalue of a sweep is exact: the check of all that follows;
2. size: random machines with couplings of one strength, dense and on chip patches;
3. training: a machine of images along its training, with nothing held and with half of the image held;
4. modes: measured against theory, for random machines, images and showers;
5. temperature: the same machines at several inverse temperatures;
6. showers: the prior of a trained shower model while it is learned, with the sweeps that were made, and mean energies
   of data and samples at the end (:mod:`~calo4pqvae.studies.relaxation.learning`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from scipy import stats

from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.seeds import stream
from calo4pqvae.standalone.settings import load_prior_config
from calo4pqvae.studies.frame.along_training import Training
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings
from calo4pqvae.studies.frame.trained import image_training, shower_prior
from calo4pqvae.studies.relaxation.figures import (
    exact_figure,
    learning_figure,
    modes_figure,
    size_figure,
    temperature_figure,
    training_figure,
)
from calo4pqvae.studies.relaxation.learning import (
    EnergyBalance,
    LearningCurve,
    energy_balance,
    learned_prior,
    learning_curve,
)
from calo4pqvae.studies.relaxation.measurements import ExactCheck, Times
from calo4pqvae.studies.relaxation.scans import (
    Situation,
    SizePoint,
    chip_patches,
    dense_graphs,
    exact_checks,
    image_situations,
    situations_of,
    size_scan,
    temperature_scan,
)
from calo4pqvae.studies.relaxation.text import relaxation_text
from calo4pqvae.studies.theory.modes import mode_machine

__all__ = ["STUDY", "RelaxationSettings"]

_PLANTED = (0.9, 0.8, 0.6, 0.4)  # amplitudes of the modes of the machine for which the theory is meant
_PLANTED_BULK = 0.02
_PLANTED_SIZE = 512
_IN_RELAXATION_TIMES = 10  # sweeps of fresh samples


class RelaxationSettings(StudySettings):
    """Settings of the study."""

    strengths: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="coupling spreads, tiny machines")
    betas: tuple[float, ...] = Field((0.25, 0.5, 0.75, 1.0), min_length=2, description="inverse temperatures")
    n_draws: int = Field(4, ge=2, description="random machines of each kind")
    tiny_chains: int = Field(1000, ge=20, description="chains of tiny machines")
    sizes: tuple[int, ...] = Field((16, 32, 64, 128, 256), min_length=2, description="units a side, dense machines")
    dense_std: float = Field(0.16, gt=0, description="spread of the couplings of dense machines")
    patches: tuple[int, ...] = Field((8, 32, 128, 302), min_length=2, description="nodes of a partition, chip patches")
    patch_std: float = Field(0.6, gt=0, description="spread of the couplings on chip patches")
    data: str = Field("mnist", description="images: 'mnist', 'fashion-mnist', or a folder of what was fetched")
    n_hidden: int = Field(128, gt=0, description="hidden bits of the machine of images")
    epochs: int = Field(60, gt=0, description="epochs of its training")
    n_machines: int = Field(12, ge=3, description="machines along that training")
    run: str | None = Field(None, description="finished run of a shower model; default: one is trained")
    preset: str = Field("zephyr-demo", description="what is trained; 'demo' shares the run of the other studies")
    is_short: bool = Field(False, description="whether a short training of the preset 'demo' will do")
    measure_every: int = Field(25, gt=0, description="updates between measurements, if the run has none")
    sweeps_growth: float = Field(2.0, gt=0, description="relaxation times to which sweeps grow, if the run has none")
    n_chains: int = Field(400, ge=64, description="chains that are followed")
    n_burn: int = Field(400, ge=1, description="sweeps before that at each machine")
    n_sweeps: int = Field(2000, ge=100, description="sweeps that are followed")
    n_modes: int = Field(6, ge=2, description="modes that are followed")
    kernel: KernelName = Field("auto", description="kernel of block Gibbs")


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that the study measures."""

    checks: Sequence[ExactCheck]
    sizes: Sequence[SizePoint]
    steps: Sequence[int]
    image_sweeps: int
    along: Mapping[str, Sequence[Times]]
    modes: Mapping[str, Times]
    temperatures: Mapping[str, Mapping[float, Times]]
    curve: LearningCurve
    balance: EnergyBalance
    origin: str

    def numbers(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        pulls = np.array([one.pull for one in self.checks])
        square = float((pulls**2).sum())
        return {
            "exact": {
                "chi_square": {
                    "value": square,
                    "machines": len(pulls),
                    "p_value": float(stats.chi2.sf(square, len(pulls))),
                },
                "machines": [one.as_data(seed) for one in self.checks],
            },
            "size": [one.as_data(seed) for one in self.sizes],
            "sweeps_of_an_update": self.image_sweeps,
            "training": {
                name: {f"step {step}": one.as_data(seed) for step, one in zip(self.steps, times, strict=True)}
                for name, times in self.along.items()
            },
            "modes": {name: one.as_data(seed) for name, one in self.modes.items()},
            "temperature": {
                name: {f"beta {beta:g}": one.as_data(seed) for beta, one in scan.items()}
                for name, scan in self.temperatures.items()
            },
            "learning": self.curve.as_data(seed) | self.balance.as_data(seed),
            "showers": self.origin,
        }


def work(settings: RelaxationSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study; what is trained comes first, so that input that cannot be used is told at once."""
    training = _images(settings, folder, seed, progress)
    path = learned_prior(
        folder,
        settings.run,
        settings.preset,
        {"prior.measure_every": settings.measure_every, "prior.sweeps_growth": settings.sweeps_growth},
        is_short=settings.is_short,
        seed=seed,
        progress=progress,
    )
    source, curve = shower_prior(path), learning_curve(path)
    checks = exact_checks(
        settings.strengths,
        (0.5, 1.0),
        settings.n_draws,
        settings.tiny_chains,
        settings.kernel,
        seed,
        lambda done, total: progress("tiny machines", done, total),
    )
    sizes = _sizes(settings, seed, progress)
    along, scans, modes = _image_times(settings, training, seed, progress)
    modes = {"planted modes, nothing held": _planted_times(settings, seed)} | modes
    showers = situations_of(source, settings, seed)
    for place, situation in enumerate(showers, 1):
        scans[situation.name] = temperature_scan(situation, settings.betas, settings, seed)
        modes[situation.name] = scans[situation.name][max(settings.betas)]
        progress("shower prior", place, len(showers))
    measured = _Measured(
        checks=checks,
        sizes=sizes,
        steps=training.steps,
        image_sweeps=training.config.n_sweeps,
        along=along,
        modes=modes,
        temperatures=scans,
        curve=curve,
        balance=energy_balance(source, max(source.model.config.generation.n_sweeps, _enough(curve)), seed),
        origin=source.origin,
    )
    numbers = measured.numbers(seed)
    return Findings(numbers, _figures(measured), relaxation_text(numbers))


def _sizes(settings: RelaxationSettings, seed: int, progress: Progress) -> list[SizePoint]:
    """Random machines by size, dense and on chip patches."""
    forms = {
        f"dense, two partitions, N(0, {settings.dense_std:g})": (dense_graphs(settings.sizes), settings.dense_std),
        f"Zephyr patch, four partitions, N(0, {settings.patch_std:g})": (
            chip_patches(settings.patches),
            settings.patch_std,
        ),
    }
    points = []
    for form, (topologies, std) in forms.items():
        points += size_scan(
            topologies,
            form,
            std,
            settings.n_draws,
            settings,
            seed,
            lambda done, total: progress("sizes", done, total),
        )
    return points


def _images(settings: RelaxationSettings, folder: Path, seed: int, progress: Progress) -> Training:
    changes = [f"data={settings.data}", f"n_hidden={settings.n_hidden}", f"epochs={settings.epochs}", f"seed={seed}"]
    training = image_training(folder, load_prior_config("quick", changes), "training (images)", progress)
    return training.thinned(settings.n_machines)


def _image_times(
    settings: RelaxationSettings, training: Training, seed: int, progress: Progress
) -> tuple[dict[str, list[Times]], dict[str, dict[float, Times]], dict[str, Times]]:
    """Times along the training, by temperature at its end, and mode by mode there."""
    along, scans = {}, {}
    situations = image_situations(training, settings, seed)
    for place, situation in enumerate(situations, 1):
        along[situation.name] = situation.along(
            training.machines, settings, stream(seed, "along training", situation.name)
        )
        scans[situation.name] = temperature_scan(situation, settings.betas, settings, seed)
        progress("images", place, len(situations))
    return along, scans, {name: times[-1] for name, times in along.items()}


def _planted_times(settings: RelaxationSettings, seed: int) -> Times:
    """Times of the machine for which the linear theory is meant."""
    machine = mode_machine((_PLANTED_SIZE,) * 2, _PLANTED, _PLANTED_BULK, np.random.default_rng(seed))
    generator = stream(seed, "planted")
    start = BlockGibbsSampler(machine, settings.kernel).init(settings.n_chains, generator)
    return Situation("planted", machine, start).along([machine], settings, generator)[0]


def _enough(curve: LearningCurve) -> int:
    """Sweeps from fair coins after which a start is forgotten, by the last measurement."""
    last = float(curve.relaxation[-1])
    return math.ceil(_IN_RELAXATION_TIMES * last) if math.isfinite(last) else 0


def _figures(found: _Measured) -> list[StudyFigure]:
    return [
        StudyFigure(
            "learning",
            f"Prior of the shower model while it is learned. Left: longest relaxation time of energy and leading modes "
            f"of the chains ({found.curve.n_chains} chains followed for {found.curve.measured_sweeps} sweeps, "
            "partition 0 held; bars: standard errors), integrated time of the energy, and the sweeps that an update "
            "made (dashed). Right: mean energy of data minus that of samples in units of the spread of the data: "
            "chains while learning, and fresh samples from fair coins at the end with two standard errors. Genuine "
            "Geant4 showers, but not the official data set 2 of the CaloChallenge, unless the run says otherwise.",
            lambda: learning_figure(found.curve, found.balance),
        ),
        StudyFigure(
            "exact",
            "Tiny machines of nine bits. Left: measured against exact relaxation time for the slowest eigenfunction of "
            "a sweep (filled), the leading mode of the couplings and the energy (open), which may be blind to it "
            "and, below a sweep, rest on one or two lags. Right: deviations of the slowest eigenfunction.",
            lambda: exact_figure(found.checks),
        ),
        StudyFigure(
            "training",
            "Machine of images along its training: relaxation time of energy and leading mode, integrated time of the "
            "energy, the linear theory of the leading mode where it has a time, and the sweeps of an update (dotted). "
            "Open symbols with arrows are limits.",
            lambda: training_figure(found.steps, found.along, found.image_sweeps),
        ),
        StudyFigure(
            "modes",
            "Relaxation times mode by mode: measured against the linear theory with measured gains; modes for which "
            "the theory has no time are left out; open symbols are limits.",
            lambda: modes_figure(found.modes),
        ),
        StudyFigure(
            "size",
            "Relaxation of the leading mode and of the energy of random machines with fair bits against their size, "
            "means over draws with standard errors, and the linear theory with measured gains and for fair bits, "
            "as far as it has a time.",
            lambda: size_figure(found.sizes),
        ),
        StudyFigure(
            "temperature",
            "Longest relaxation time of energy and modes (left; thin lines: linear theory with measured gains) and "
            "integrated time of the energy (right) against inverse temperature. Open symbols with arrows are limits.",
            lambda: temperature_figure(found.temperatures),
        ),
    ]


STUDY = Study(
    name="relaxation",
    title="Relaxation: how long chains remember, against training, size, temperature and mode",
    settings=RelaxationSettings,
    work=work,
    quick={
        "n_draws": 2,
        "strengths": (1.0, 2.0),
        "sizes": (16, 32, 64, 128),
        "patches": (8, 32, 128),
        "n_hidden": 64,
        "epochs": 30,
        "n_machines": 6,
        "preset": "demo",
        "is_short": True,
        "measure_every": 100,
        "n_chains": 200,
        "n_burn": 200,
        "n_sweeps": 600,
        "n_modes": 4,
    },
)
"""The study."""
