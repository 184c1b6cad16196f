"""The variants of the model, how one is trained, and what is measured of it.

The seven named runs of the October 2024 presentation differ in five switches: the reading of a layer's voxels (before
and after the periodicity fix), the chip, linear attention, the mask on the activation in training, and the update of
the machine. They stand here as these switches set in this package's own networks; sizes, data and length of training
are not those of the runs. Decoders of those days were not periodic even after the fix, so their variants are not
either; which of the two runs before the fix was on which chip is inferred.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import DivergenceError
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.models.qvae.trained import as_qvae
from calo4pqvae.runs.generation import load_model
from calo4pqvae.seeds import stream
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.studies.frame.sample_quality import Judge, Quality, compare_machine
from calo4pqvae.studies.frame.study import Progress
from calo4pqvae.studies.frame.trained import finished_run
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["VARIANTS", "Trained", "Variant", "ended", "seam", "train_variant", "variant_config"]

_COMMON: Mapping[str, Any] = {
    "training.mode": "joint",
    "prior.joint_update": "loss",
    "prior.calibrate": False,
    "data.canonical_frame": False,
    "decoder.periodic": False,
}
_ATTENTION: Mapping[str, Any] = {"encoder.attention": True, "decoder.attention": True}
_WATCHED = 2000
_BOOTSTRAP = 50


@dataclass(frozen=True)
class Variant:
    """A variant of the model.

    Args:
        name: Name of the run, or what it is.
        words: What it is.
        changes: Settings in which it differs from the fixed Zephyr model of the presentation (devoted-lion-515).
        verdict: What the presentation said of the run.
    """

    name: str
    words: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    verdict: str = ""


VARIANTS: tuple[Variant, ...] = (
    Variant(
        "stilted-disco-503",
        "Pegasus, before the fix",
        {"data.layout": "scrambled", "prior.graph": "pegasus"},
        "baseline",
    ),
    Variant("skilled-gift-494", "Zephyr, before the fix", {"data.layout": "scrambled"}, "baseline"),
    Variant("divine-dream-509", "Zephyr, fix, mask removed in training", {"decoder.mask": False}, "bad RBM"),
    Variant(
        "hearty-moon-514",
        "Zephyr, fix, linear attention, mask removed in training",
        {**_ATTENTION, "decoder.mask": False},
        "bad RBM, struck out",
    ),
    Variant("devoted-lion-515", "Zephyr, fix", {}, "kept"),
    Variant("worthy-paper-518", "Zephyr, fix, linear attention", _ATTENTION, "kept"),
    Variant(
        "lively-grass-519",
        "Zephyr, fix, exact gradient with SGD of its own",
        {"prior.joint_update": "direct", "prior.gradient": "plain"},
        "kept",
    ),
    Variant("pegasus", "Pegasus, fix", {"prior.graph": "pegasus"}),
    Variant("periodic", "Zephyr, fix, periodic decoder", {"decoder.periodic": True}),
    Variant(
        "staged",
        "Zephyr, fix, periodic decoder, canonical frame, machine learned after the networks",
        {"decoder.periodic": True, "data.canonical_frame": True, "training.mode": "staged"},
    ),
)
"""The named runs in the order of their numbers, and what can be set beside them."""


@dataclass(frozen=True)
class Trained:
    """A trained variant.

    Args:
        variant: Its name.
        seed: Seed of the training.
        diverged: What stopped the training; empty if it came to its end.
        quality: Distances of generated showers; None without any.
        posterior: Distances of showers of posterior bits.
        gap: Mean energy of posterior bits minus that of samples, in nats.
        slope: Slope of the pair covariances of the samples on those of the posterior bits.
        seam: See :func:`seam`.
        n_parameters: Parameters of networks and machine.
        seconds: Wall time of the last start of the training.
        device: Where it was trained.
    """

    variant: str
    seed: int
    diverged: str = ""
    quality: Quality | None = None
    posterior: Quality | None = None
    gap: Estimate | None = None
    slope: Estimate | None = None
    seam: Estimate | None = None
    n_parameters: int = 0
    seconds: float = 0.0
    device: str = ""


def variant_config(base: Config, variant: Variant, changes: Mapping[str, Any]) -> Config:
    """Settings of a variant.

    Args:
        base: Settings that all variants share.
        variant: The variant.
        changes: Budget, sizes and seed, the same for all variants.

    Raises:
        ConfigError: If settings do not fit together.
    """
    return base.replace({**_COMMON, **variant.changes, **changes})


def train_variant(config: Config, path: Path, name: str, judge: Judge, progress: Progress) -> Trained:
    """Trains a variant, unless its run is there, and measures it; a training that diverges is told as such.

    Args:
        config: Settings of the variant.
        path: Run directory.
        name: Name of the variant.
        judge: Judge of the showers.
        progress: Told about every step.

    Raises:
        CheckpointError: If a run that stands there is damaged.
    """
    seed = config.training.seed
    try:
        finished_run(config, path, name, progress)
    except DivergenceError as error:
        return Trained(name, seed, str(error))
    run, model = RunDirectory.open(path), as_qvae(load_model(path, config.training.device))
    prior, n_sweeps = model.prior, config.generation.n_sweeps
    posterior, _ = run.load_tensors("posterior")
    bits, energies = (posterior[key][:_WATCHED].to(model.device) for key in ("bits", "energies"))
    found = compare_machine(prior, bits.float(), energies, n_sweeps, seed)
    drawing = stream(seed, "judged", device=model.device)
    drawn = prior.sample(judge.energies.to(model.device), n_sweeps, drawing)
    showers = judge.decoded(model, drawn, seed)
    provenance = run.provenance()
    return Trained(
        variant=name,
        seed=seed,
        quality=judge.judge(showers),
        posterior=judge.judge(judge.decoded(model, judge.posterior_bits(model), seed)),
        gap=Estimate(found.gap, found.gap_error, found.n_model),
        slope=Estimate(found.slope, found.slope_error, found.n_model),
        seam=seam(showers, judge.geometry, seed),
        n_parameters=sum(provenance["n_parameters"].values()),
        seconds=float(provenance["seconds_of_last_start"] or 0.0),
        device=str(provenance["device"]),
    )


def seam(showers: Tensor, geometry: Geometry, seed: int) -> Estimate:
    r"""How much neighbouring sectors differ across the seam, from last to first, over how they do elsewhere.

    .. math:: s = \frac{\delta_{n-1}}{\frac{1}{n-1} \sum_{a=0}^{n-2} \delta_a}, \qquad
        \delta_a = \Big\langle \sum_l |E_{l,a} - E_{l,a+1}| \big/ E_\mathrm{tot} \Big\rangle

    with the energy :math:`E_{l,a}` of sector a in layer l, and sector n the same as sector 0. It is 1 for showers that
    know of no seam; the error is a bootstrap one over showers.

    Args:
        showers: (B, V) in MeV.
        geometry: A regular grid.
        seed: Seed of the bootstrap.
    """
    layers, angles, radii = geometry.grid_shape
    sectors = showers.double().cpu().view(len(showers), layers, angles, radii).sum(-1)
    total = sectors.sum((1, 2)).clamp(min=1e-12)
    steps = ((sectors - sectors.roll(-1, dims=2)).abs().sum(1) / total[:, None]).numpy()
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(steps), (_BOOTSTRAP, len(steps)))
    drawn = [_seam_ratio(steps[own]) for own in rows]
    return Estimate(_seam_ratio(steps), float(np.std(drawn, ddof=1)), len(steps))


def _seam_ratio(steps: NDArray[np.float64]) -> float:
    """Mean step from the last sector to the first over the mean of the other steps, of steps (B, sectors)."""
    means = steps.mean(axis=0)
    return float(means[-1] / max(means[:-1].mean(), 1e-300))


def ended(trained: Sequence[Trained], name: str) -> list[Trained]:
    """Trainings of a variant that came to their end."""
    return [one for one in trained if one.variant == name and not one.diverged]
