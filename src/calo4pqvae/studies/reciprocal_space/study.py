r"""Boltzmann machines in reciprocal space: spectra, energy and dynamics of modes, and the order of learning.

1. **Spectra.** Singular values of a machine with hidden bits along its training against the law of Marchenko and
   Pastur; eigenvalues of the coupling matrices of two four-partite machines, one of images and the prior of a shower
   model, against random couplings on the same graph (:mod:`~calo4pqvae.studies.reciprocal_space.spectra`).
2. **Dynamics.** Modes under block Gibbs as processes of Ornstein and Uhlenbeck: memory, noise, later lags, drift and
   the way from coins to the law (:mod:`~calo4pqvae.studies.reciprocal_space.dynamics`), on machines for which the
   theory is meant and on those that were trained.
3. **Partition function.** Gaussian modes give :math:`\ln Z = \ln Z_0 - \tfrac12 \sum_k \ln (1 - \alpha_k^2)`, with
   gains of a quarter for fair bits, which is compared with annealed importance sampling.
4. **Learning.** Growth of the eigenvectors of the data in the couplings, and its order
   (:mod:`~calo4pqvae.studies.reciprocal_space.learning`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calo4pqvae.prior.estimates.partition_function import ais
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.studies.frame.along_training import Training, carried_chains
from calo4pqvae.studies.frame.image_machines import ImageMachineSettings, bipartite_training, four_partite_training
from calo4pqvae.studies.frame.shower_training import shower_training
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure
from calo4pqvae.studies.frame.trained import shower_prior, shower_run
from calo4pqvae.studies.reciprocal_space.dynamics import (
    ModeDynamics,
    Transient,
    correlation_energy,
    from_coins,
    measure_dynamics,
)
from calo4pqvae.studies.reciprocal_space.figures import (
    drift_figure,
    dynamics_figure,
    learning_figure,
    spectra_figure,
)
from calo4pqvae.studies.reciprocal_space.learning import learn_modes
from calo4pqvae.studies.reciprocal_space.report import (
    GraphPart,
    ReciprocalResults,
    reciprocal_numbers,
    reciprocal_text,
)
from calo4pqvae.studies.reciprocal_space.spectra import block_spectra, graph_spectra, random_graphs
from calo4pqvae.studies.theory.marchenko_pastur import random_blocks
from calo4pqvae.studies.theory.modes import coupling_block, linear_modes, mean_gains, mode_machine, pattern_machine

__all__ = ["STUDY", "ReciprocalSpaceSettings"]

FloatArray = NDArray[np.float64]

_AMPLITUDES = (0.9, 0.8, 0.65, 0.5, 0.35)  # alpha of the planted modes
_BULK, _DENSE, _PATTERN = 0.02, 0.7, 0.7  # spread of the bulk; J~ of the dense machine; kappa of the pattern
_N_LAGS = 20
_N_COINS = 40  # sweeps from coins


class ReciprocalSpaceSettings(ImageMachineSettings):
    """Settings of the study."""

    n_hidden: int = Field(100, ge=16, description="hidden bits of the bipartite machine")
    run: str | None = Field(None, description="finished run of a shower model, in place of training one")
    is_short: bool = Field(False, description="whether a short training of the shower model will do")
    n_machines: int = Field(12, ge=3, description="machines along each training whose dynamics is followed")
    n_random: int = Field(999, ge=99, description="random blocks and graphs behind each test of a spectrum")
    n_modes: int = Field(6, ge=2, description="modes whose dynamics is followed")
    n_learned: int = Field(16, ge=2, description="modes of the data whose growth is followed")
    n_chains: int = Field(1024, ge=64)
    n_burn: int = Field(500, ge=1, description="sweeps at each machine before it is followed")
    n_sweeps: int = Field(1000, ge=40, description="sweeps that are followed")
    planted_sizes: tuple[int, int] = Field((400, 300), description="bits of the machine with planted modes")
    n_temperatures: int = Field(2000, ge=10, description="of the estimate of the partition function")


def work(settings: ReciprocalSpaceSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    showers = shower_run(folder, settings.run, quick=settings.is_short, seed=seed, progress=progress)
    training = bipartite_training(settings, folder, seed, progress)
    graphs = _graphs(settings, showers, folder, seed, progress)
    planted = _planted(settings, seed)
    fair = [_dynamics(settings, label, [0], [machine], seed, progress)[0] for label, machine in planted.items()]
    modes_machine = next(iter(planted.values()))
    shape = training.final.topology.sizes
    blocks = random_blocks((shape[0], shape[1]), settings.n_random, np.random.default_rng(derive_seed(seed, "blocks")))
    thinned = training.thinned(settings.n_machines)
    results = ReciprocalResults(
        fair=fair,
        transient=_transient(settings, modes_machine, seed),
        log_z=_log_z(settings, modes_machine, seed),
        blocks=blocks,
        spectra=block_spectra(training.steps, training.machines, blocks),
        stated_scale=training.config.coupling_std,
        trained=_dynamics(settings, "bipartite, images", thinned.steps, thinned.machines, seed, progress),
        energies=_energies(settings, thinned, seed),
        learning=learn_modes(training, settings.n_learned),
        graphs=graphs,
        seed=seed,
    )
    numbers = reciprocal_numbers(results)
    return Findings(numbers, _figures(results), reciprocal_text(results, numbers))


def _planted(settings: ReciprocalSpaceSettings, seed: int) -> dict[str, BoltzmannMachine]:
    """Machines of fair bits: planted modes, dense and random near the glass, four partitions with a pattern."""
    rng = np.random.default_rng(derive_seed(seed, "planted"))
    n_visible, n_hidden = settings.planted_sizes
    spread = 4 * _DENSE / (n_visible * n_hidden) ** 0.25
    quarter = (n_visible + n_hidden) // 4
    bulk = 4 * 0.3 / math.sqrt(3 * quarter)
    return {
        "planted modes": mode_machine((n_visible, n_hidden), _AMPLITUDES, _BULK, rng),
        f"dense, J~ = {_DENSE:g}": mode_machine((n_visible, n_hidden), (), spread, rng),
        "four-partite pattern": pattern_machine((quarter,) * 4, _PATTERN, bulk, rng),
    }


def _dynamics(
    settings: ReciprocalSpaceSettings,
    label: str,
    steps: Sequence[int],
    machines: Sequence[BoltzmannMachine],
    seed: int,
    progress: Progress,
) -> list[ModeDynamics]:
    """Dynamics of machines along a training, with chains carried from one to the next."""
    generator, found = stream(seed, "dynamics", label), []
    carried = carried_chains(machines, settings.n_chains, settings.n_burn, generator)
    for step, (machine, state) in zip(steps, carried, strict=True):
        one, _ = measure_dynamics(
            machine, state, generator, label=label, step=step, n_modes=settings.n_modes, n_sweeps=settings.n_sweeps,
            n_lags=min(_N_LAGS, settings.n_sweeps - 1),
        )  # fmt: skip
        found.append(one)
        progress(f"dynamics ({label})", len(found), len(machines))
    return found


def _transient(settings: ReciprocalSpaceSettings, machine: BoltzmannMachine, seed: int) -> Transient:
    """Planted modes from coins, with the gains of the law that they come to."""
    generator, sampler = stream(seed, "coins"), BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(4 * settings.n_chains, generator), settings.n_burn, generator)
    modes, n = linear_modes(machine, mean_gains(machine, state.states)), len(_AMPLITUDES)
    return from_coins(machine, modes.directions[:n], modes.amplitudes[:n], _N_COINS, 4 * settings.n_chains, generator)


def _log_z(settings: ReciprocalSpaceSettings, machine: BoltzmannMachine, seed: int) -> tuple[float, float, float]:
    """Share of ln Z that is due to the modes: measured, its error, and that of Gaussian modes."""
    found = ais(
        machine, n_chains=settings.n_chains, betas=settings.n_temperatures, seed=derive_seed(seed, "ais") % 2**32
    )
    without = machine.n_nodes * math.log(2) - float(machine.couplings.detach().double().sum()) / 4
    alpha = np.linalg.svd(coupling_block(machine), compute_uv=False) / 4
    return float(found.value[0]) - without, float(found.error[0]), float(-np.log1p(-(alpha**2)).sum() / 2)


def _energies(settings: ReciprocalSpaceSettings, training: Training, seed: int) -> list[FloatArray]:
    """Energy of correlations of every mode, in parts of the chains, for every machine."""
    generator = stream(seed, "energies")
    carried = carried_chains(training.machines, max(512, settings.n_chains), settings.n_burn, generator)
    return [correlation_energy(machine, state.states) for machine, state in carried]


def _graphs(
    settings: ReciprocalSpaceSettings, run: Path, folder: Path, seed: int, progress: Progress
) -> list[GraphPart]:
    """Spectra and dynamics of the two four-partite machines along their trainings."""
    images = four_partite_training(settings, folder, seed, progress)
    showers = shower_training(shower_prior(run), 30, "learning the shower prior again", progress)
    energy = showers.energy_mev
    cases = (
        ("four-partite, images", images.steps, images.machines, images.machines, ""),
        (f"shower prior at {energy / 1000:g} GeV", showers.steps, showers.machines, showers.at_energy(energy),
         showers.source.origin),
    )  # fmt: skip
    parts = []
    for label, steps, machines, free, origin in cases:
        rng = np.random.default_rng(derive_seed(seed, "graphs", label))
        graphs = random_graphs(machines[0].topology, settings.n_random, rng)
        picks = np.unique(np.linspace(0, len(steps) - 1, min(settings.n_machines, len(steps))).round().astype(int))
        followed = _dynamics(settings, label, [steps[k] for k in picks], [free[k] for k in picks], seed, progress)
        spectra = graph_spectra(steps, machines, graphs)
        parts.append(GraphPart(label, graphs, spectra, followed, machines[-1], origin))
    return parts


def _figures(results: ReciprocalResults) -> list[StudyFigure]:
    return [
        StudyFigure(
            "spectra",
            "Singular values of the machine with hidden bits at the start and at the end of its training (histograms), "
            "with the Marchenko-Pastur law of those within the bulk (line); eigenvalues of the four-partite coupling "
            "matrices at the end (histograms) with those of random couplings of the same size on the same graph "
            "(line). "
            "Right: the largest values along two trainings, with the edge of the bulk at the start (dashed). Shower "
            "prior: "
            "genuine Geant4 showers, not the official CaloChallenge dataset 2.",
            lambda: spectra_figure(results.blocks, results.spectra, results.graphs),
        ),
        StudyFigure(
            "dynamics",
            "Modes under block Gibbs. Top: memory per sweep of machines of fair bits against the theory, with measured "
            "gains (filled) and gains of a quarter (open; those of one or more are drawn at the right edge); variance "
            "of "
            "planted modes from fair coins on; autocorrelation of planted modes. Bottom: memory of the slowest modes "
            "along three trainings (points) with the theory (lines).",
            lambda: dynamics_figure(
                results.fair, results.transient, [results.trained, *(p.dynamics for p in results.graphs)]
            ),
        ),
        StudyFigure(
            "drift",
            "Drift and noise of a mode in one sweep as functions of its value, in standard deviations: a planted mode "
            "and "
            "the mode of a trained machine whose drift is farthest from a line. Lines: process of Ornstein and "
            "Uhlenbeck "
            "with the fitted memory; theory with measured gains (dotted).",
            lambda: drift_figure(results.fair[0], results.least_gaussian),
        ),
        StudyFigure(
            "learning",
            "Left: length of the couplings along eigenvectors of the data against the time of the gradient flow, with "
            "the "
            "linear theory (dotted) and the edge of the bulk at the start (dashed). Middle: growth rates against the "
            "theory. Right: excess kurtosis of the slowest modes along the training; 0 for a Gaussian, -2 for two "
            "points.",
            lambda: learning_figure(results.learning, results.trained),
        ),
    ]


STUDY = Study(
    name="reciprocal-space",
    title="Modes of Boltzmann machines: spectra, dynamics as diffusion, and the order of learning",
    settings=ReciprocalSpaceSettings,
    work=work,
    quick={
        "n_hidden": 64,
        "epochs": 60,
        "is_short": True,
        "n_machines": 6,
        "n_random": 199,
        "n_modes": 5,
        "n_learned": 12,
        "n_chains": 512,
        "n_burn": 200,
        "n_sweeps": 200,
        "n_temperatures": 500,
    },
)
