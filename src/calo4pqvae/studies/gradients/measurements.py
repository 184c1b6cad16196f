r"""What the gradient study measures: machines learned in several ways, alone or beside the networks, and their showers.

The ways (:data:`ARMS`) differ in the direction of the step, in the optimiser, and in its rate:

* ``loss``: the energies of posterior bits and of samples stand inside the loss, samples held fixed. Automatic
  differentiation then gives the contrastive gradient exactly, and the networks' Adam moves the machine.
* ``loss-covariance``: the same loss with the law of the samples differentiated too, which adds
  :math:`\mathrm{Cov}(E, \partial_\theta E)`: what "high-temperature gradient" means if it means anything.
* ``exact``: the contrastive gradient from block Gibbs statistics, with plain SGD of its own.
* ``centred``: the same direction of learning in centred variables.
* ``centred, fast``: the same at a rate that suits the length of the training.

**Alone**: networks frozen, posterior bits of a trained shower model, so that nothing but the machine differs.
**Joint**: networks and machine from nothing, as in the original scheme, where the machine also acts on the encoder.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import DivergenceError
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.prior.learning.gradients import GradientForm
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.runs.generation import load_model
from calo4pqvae.seeds import stream
from calo4pqvae.studies.frame.sample_quality import Judge, Quality, compare_machine
from calo4pqvae.studies.frame.study import Progress
from calo4pqvae.studies.frame.trained import ShowerPrior, finished_run
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["ARMS", "Arm", "Budget", "Outcome", "Part", "learn_alone", "learn_jointly", "sources_of"]

Part = Literal["alone", "joint"]

_WATCHED = 2000  # posterior states whose energies are compared with those of samples
_COURSE = 40  # points of the course of a training
_SMOOTHING = 0.01  # of the means that the biases start at, as in the training of a shower model


@dataclass(frozen=True)
class Arm:
    """A way of learning the machine.

    Args:
        name: Short name.
        words: What it is, for a figure; ``{rate}`` stands for the rate of SGD.
        update: ``prior.joint_update`` of the joint training.
        gradient: Direction.
        optimizer: Optimiser.
        rate: Which rate of the :class:`Budget`.
    """

    name: str
    words: str
    update: Literal["loss", "loss-covariance", "direct"]
    gradient: GradientForm
    optimizer: Literal["adam", "sgd"]
    rate: Literal["adam", "slow", "fast"]


ARMS: tuple[Arm, ...] = (
    Arm("loss", "energies in the loss,\nsamples fixed (Adam)", "loss", "plain", "adam", "adam"),
    Arm("loss-covariance", "with covariance term\n(Adam)", "loss-covariance", "mean-energy", "adam", "adam"),
    Arm("exact", "exact gradient,\nSGD {rate:g}", "direct", "plain", "sgd", "slow"),
    Arm("centred", "exact and centred,\nSGD {rate:g}", "direct", "centred", "sgd", "slow"),
    Arm("centred, fast", "exact and centred,\nSGD {rate:g}", "direct", "centred", "sgd", "fast"),
)
"""The ways in the order in which they are shown."""


@dataclass(frozen=True)
class Budget:
    """What every way is given alike.

    Args:
        updates: Updates of a machine alone.
        n_chains: Persistent chains and states of a batch of a machine alone.
        rates: Learning rates ``adam``, ``slow`` and ``fast``.
    """

    updates: int
    n_chains: int
    rates: Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """A learned machine and its showers.

    Args:
        part: Whether the machine was learned alone or jointly.
        arm: Name of the way.
        seed: Seed of the training.
        diverged: What stopped the training; empty if it came to its end.
        quality: Distances of generated showers; None without any.
        posterior: Distances of showers of posterior bits of the same networks.
        gap: Mean energy of posterior bits minus that of samples at the same incident energies, in nats.
        slope: Slope of the pair covariances of the samples on those of the posterior bits, over couplers.
        moved: Root mean square change of the couplings since the start.
        biases_moved: Root mean square change of the biases that are learned.
        course: Updates and energy gaps of batch and chains on the way, of a machine alone.
    """

    part: Part
    arm: str
    seed: int
    diverged: str = ""
    quality: Quality | None = None
    posterior: Quality | None = None
    gap: Estimate | None = None
    slope: Estimate | None = None
    moved: float = math.nan
    biases_moved: float = math.nan
    course: tuple[tuple[int, float], ...] = ()


def sources_of(source: ShowerPrior, judge: Judge, seeds: Sequence[int]) -> Mapping[str, tuple[Quality, ...]]:
    """Distances with the networks of a run alone: of posterior bits, and of independent bits with the same means."""
    model = source.model
    posterior = judge.posterior_bits(model)
    found: dict[str, list[Quality]] = {"posterior bits": [], "independent bits": []}
    for seed in seeds:
        independent = model.baseline.sample(judge.energies, 1, stream(seed, "judged"))
        for name, bits in (("posterior bits", posterior), ("independent bits", independent)):
            found[name].append(judge.judge(judge.decoded(model, bits, seed)))
    return MappingProxyType({name: tuple(qualities) for name, qualities in found.items()})


def learn_alone(source: ShowerPrior, arm: Arm, budget: Budget, judge: Judge, seed: int) -> Outcome:
    """Learns a machine on the posterior bits of a run, from nothing, and judges its showers.

    Args:
        source: The run; its own machine is not used.
        arm: The way.
        budget: What it is given.
        judge: Judge of the showers.
        seed: Seed of the training and of the showers.
    """
    model, config = source.model, source.model.config
    prior = LatentPrior(config, model.prior.topology)
    held = torch.full((prior.machine.n_nodes - prior.n_bits,), 0.5)
    means = torch.cat([held, source.bits.mean(0)])
    prior.machine.initialise(means, config.prior.coupling_std, stream(seed, "couplings"), _SMOOTHING)
    start = {name: value.clone() for name, value in prior.machine.state_dict().items()}
    settings = LearningSettings(
        learning_rate=budget.rates[arm.rate],
        n_sweeps=config.prior.n_sweeps,
        n_chains=budget.n_chains,
        gradient=arm.gradient,
        optimizer=arm.optimizer,
    )
    learner = PriorLearner(prior.machine, settings, stream(seed, "chains"), prior.clamped, sampler=prior.sampler)
    course: list[tuple[int, float]] = []
    every = max(1, budget.updates // _COURSE)
    for update in range(1, budget.updates + 1):
        rows = torch.randint(len(source.bits), (budget.n_chains,), generator=stream(seed, "batch", update))
        energies = source.incident_energies[rows]
        report = learner.step(prior.states(source.bits[rows], energies), prior.condition(energies))
        if not math.isfinite(report.energy_gap):
            return Outcome("alone", arm.name, seed, f"energies not finite at update {update}", course=tuple(course))
        if update % every == 0:
            course.append((update, report.energy_gap))
    learned = TrainedModel(config, arm.name, model.autoencoder, prior, model.baseline, {})
    return _judged("alone", arm.name, seed, learned, source.bits, source.incident_energies, start, judge, tuple(course))


def learn_jointly(config: Config, path: Path, arm: Arm, budget: Budget, judge: Judge, progress: Progress) -> Outcome:
    """Trains networks and machine together and judges the showers; a training that diverges is told as such.

    Args:
        config: Settings of the training but for the way.
        path: Run directory; what stands there with equal settings is used.
        arm: The way.
        budget: Learning rates.
        judge: Judge of the showers.
        progress: Told about every step.

    Raises:
        CheckpointError: If a run that stands there is damaged.
    """
    changes: dict[str, Any] = {"training.mode": "joint", "prior.joint_update": arm.update, "prior.calibrate": False}
    if arm.update == "direct":
        changes |= {"prior.gradient": arm.gradient, "prior.joint_learning_rate": budget.rates[arm.rate]}
    own, seed = config.replace(changes), config.training.seed
    try:
        finished_run(own, path, f"joint, {arm.name}", progress)
    except DivergenceError as error:
        return Outcome("joint", arm.name, seed, str(error))
    model = as_qvae(load_model(path))
    posterior, _ = RunDirectory.open(path).load_tensors("posterior")
    first = LatentPrior(own, model.prior.topology).machine
    first.initialise(torch.full((first.n_nodes,), 0.5), own.prior.coupling_std, stream(seed, "couplings"))
    bits, energies = posterior["bits"].float(), posterior["energies"]
    start = first.state_dict()
    return _judged("joint", arm.name, seed, model, bits, energies, start, judge)


@torch.no_grad()
def _judged(
    part: Part,
    arm: str,
    seed: int,
    model: TrainedModel,
    bits: Tensor,
    energies: Tensor,
    start: Mapping[str, Tensor],
    judge: Judge,
    course: Sequence[tuple[int, float]] = (),
) -> Outcome:
    prior, n_sweeps = model.prior, model.config.generation.n_sweeps
    found = compare_machine(prior, bits[:_WATCHED], energies[:_WATCHED], n_sweeps, seed)
    drawn = prior.sample(judge.energies, n_sweeps, stream(seed, "judged"))
    free = torch.from_numpy(~prior.clamped)
    joint = part == "joint"
    return Outcome(
        part=part,
        arm=arm,
        seed=seed,
        quality=judge.judge(judge.decoded(model, drawn, seed)),
        posterior=judge.judge(judge.decoded(model, judge.posterior_bits(model), seed)) if joint else None,
        gap=Estimate(found.gap, found.gap_error, found.n_model),
        slope=Estimate(found.slope, found.slope_error, found.n_model),
        moved=_rms(prior.machine.couplings - start["couplings"]),
        biases_moved=_rms((prior.machine.biases - start["biases"])[free]),
        course=tuple(course),
    )


def _rms(values: Tensor) -> float:
    return float(np.sqrt(values.detach().double().square().mean().item()))
