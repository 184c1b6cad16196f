r"""Couplers against fields: the ratio of the sum of a spin's couplers to its field, and what it means on a chip.

The October 2024 presentation asked for :math:`\frac{1}{h_i} \sum_j J_{ij}` of every spin. The map from bits to spins
puts the couplers into the fields, so the ratio says little by itself; it is shown beside the one without that share
(:mod:`~calo4pqvae.studies.couplers_and_fields.measurements`), for every partition, on Zephyr, Pegasus and complete
graphs: machines of images before and after their training, the prior of a trained shower model and its start, and
machines with all parameters from N(0, 1), at which training began in earlier work. Each machine on a chip graph is
then divided by the inverse temperature of that chip and compared with the chip's ranges and errors.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from calo4pqvae.prior.graph.chips import chip_topology, smallest_chip
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.standalone.runs import load_bits
from calo4pqvae.standalone.settings import PriorRunConfig
from calo4pqvae.studies.couplers_and_fields.figures import partition_figure, range_figure, ratio_figure
from calo4pqvae.studies.couplers_and_fields.measurements import (
    KINDS,
    SUMMARIES,
    Kind,
    RangeUse,
    SpinRatios,
    Stage,
    Summary,
    range_use,
    spin_ratios,
)
from calo4pqvae.studies.frame.along_training import pooled_images
from calo4pqvae.studies.frame.shower_training import held_machine
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings, estimate, with_error
from calo4pqvae.studies.frame.trained import ShowerPrior, image_training, shower_prior, shower_run

__all__ = ["STUDY", "CouplersAndFieldsSettings"]

_GRAPHS = ("zephyr", "pegasus", "complete")
_ROOM = 0.5  # use of a range below which there is room to grow
_MANY_BELOW = 25.0  # % of the couplers below their error that are many
_SMOOTHING = 0.01  # of the means that the biases of a shower prior start at

Stages = Sequence[tuple[Stage, BoltzmannMachine]]


class CouplersAndFieldsSettings(StudySettings):
    """Settings of the study."""

    data: str = Field("mnist", description="images: bundled ('mnist', 'fashion-mnist'), a fetched folder, or a file")
    dataset: str | None = Field(None, description="name of the images in such a file")
    threshold: float | None = Field(None, description="grey value above which a pixel of such a file is one")
    pooling: int = Field(2, ge=1, description="side of the pixels that become one")
    epochs: int = Field(300, ge=1, description="epochs of the trainings on images")
    run: str | None = Field(None, description="finished run of a shower model, in place of training one")
    is_short: bool = Field(False, description="whether a short training of the shower model will do")
    random_std: float = Field(1.0, gt=0, description="spread of all parameters of the random machines")
    zephyr_size: int = Field(302, ge=4, description="units of each partition of the random machine on Zephyr")
    pegasus_size: int = Field(512, ge=4, description="the same on Pegasus")
    complete_size: int = Field(128, ge=4, description="the same on the complete graph")
    n_bootstrap: int = Field(200, ge=10, description="bootstrap replicas over spins")


def work(settings: CouplersAndFieldsSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    machines, origin = _machines(settings, folder, seed, progress)
    ratios = {
        label: [spin_ratios(machine, label, stage) for stage, machine in stages] for label, stages in machines.items()
    }
    uses = [
        range_use(machine, label, stage)
        for label, stages in machines.items()
        for stage, machine in stages
        if not machine.topology.name.startswith("complete")
    ]
    numbers: dict[str, Any] = {label: {} for label in machines}
    points: dict[str, list[tuple[Stage, Kind, int, Summary]]] = {}
    for label, stages in ratios.items():
        for one in stages:
            rng = np.random.default_rng(derive_seed(seed, "bootstrap", label, one.stage))
            numbers[label][one.stage], found = _numbers(one, rng, settings.n_bootstrap, seed)
            if stages[0].stage == "start":
                points.setdefault(label, []).extend(found)
    for use in uses:
        numbers[use.label][use.stage]["range use"] = _use_numbers(use)
    numbers["origin of the showers"] = origin
    return Findings(numbers, _figures(ratios, points, uses), _text(ratios, numbers, uses, origin))


def _machines(
    settings: CouplersAndFieldsSettings, folder: Path, seed: int, progress: Progress
) -> tuple[dict[str, Stages], str]:
    """All machines in their stages by label, and where the showers come from."""
    source, _ = load_bits(PriorRunConfig(data=settings.data, dataset=settings.dataset, threshold=settings.threshold))
    pooled = str(pooled_images(source, settings.pooling, folder / "pooled.h5"))
    machines: dict[str, Stages] = {}
    for graph in _GRAPHS:
        config = PriorRunConfig(
            data=pooled, graph=graph, epochs=settings.epochs, batch_size=100, n_chains=100, n_sweeps=5,
            learning_rate=0.1, learning_rate_final=0.01, n_saved=2, seed=seed,
        )  # fmt: skip
        training = image_training(folder, config, f"training ({graph})", progress)
        random = _random_machine(settings, graph, seed)
        machines[f"normal parameters, {graph}"] = (("random", random),)
        machines[f"images, {graph}"] = (("start", training.machines[0]), ("trained", training.final))
    path = shower_run(folder, settings.run, quick=settings.is_short, seed=seed, progress=progress)
    shower = shower_prior(path)
    return machines | _shower_machines(shower), shower.origin


def _shower_machines(shower: ShowerPrior) -> dict[str, Stages]:
    """The prior as a whole, if the condition is a partition of its graph, and at both ends of the energies."""
    graph, data = shower.machine.topology.name.split("-")[0], shower.model.config.data
    stages: Stages = (("start", _shower_start(shower)), ("trained", shower.machine))
    machines: dict[str, Stages] = {}
    if shower.model.prior.is_clamped:
        machines[f"showers, {graph}"] = stages
    for energy in (data.energy_min_mev, data.energy_max_mev):
        at_energy = tuple((stage, _at_energy(machine, shower, energy)) for stage, machine in stages)
        kept = at_energy[1:] if shower.model.prior.is_clamped else at_energy
        machines[f"showers at {energy / 1000:g} GeV, {graph}"] = kept
    return machines


def _at_energy(machine: BoltzmannMachine, shower: ShowerPrior, energy_mev: float) -> BoltzmannMachine:
    """The machine of the free bits with an incident energy folded into their fields: what an annealer is given."""
    prior, energies = shower.model.prior, torch.tensor([[energy_mev]])
    condition = prior.condition(energies)
    state = prior.states(torch.zeros(1, prior.n_bits), energies)[0]
    return held_machine(machine, prior.clamped, state, None if condition is None else condition[0])


def _random_machine(settings: CouplersAndFieldsSettings, graph: str, seed: int) -> BoltzmannMachine:
    """All parameters from a normal law, in the size of earlier work."""
    machine, generator = BoltzmannMachine(_topology(settings, graph)), stream(seed, "random", graph)
    with torch.no_grad():
        for parameter in (machine.biases, machine.couplings):
            parameter.copy_(settings.random_std * torch.randn(parameter.shape, generator=generator))
    return machine


def _topology(settings: CouplersAndFieldsSettings, graph: str) -> Topology:
    if graph == "complete":
        return complete_topology((settings.complete_size,) * 4)
    if graph == "zephyr":
        sizes = (settings.zephyr_size,) * 4
        return chip_topology("zephyr", smallest_chip("zephyr", sizes), sizes)
    sizes = (settings.pegasus_size,) * 4
    return chip_topology("pegasus", smallest_chip("pegasus", sizes), sizes)


def _shower_start(shower: ShowerPrior) -> BoltzmannMachine:
    """The machine of a shower model as its training on posterior bits began."""
    prior, config = shower.model.prior, shower.model.config
    machine = BoltzmannMachine(prior.topology, prior.machine.n_condition)
    held = torch.full((machine.n_nodes - prior.n_bits,), 0.5)
    generator = stream(config.training.seed, "couplings")
    machine.initialise(
        torch.cat([held, shower.bits.mean(0)]), config.prior.coupling_std, generator, smoothing=_SMOOTHING
    )
    return machine


def _numbers(
    one: SpinRatios, rng: np.random.Generator, n_bootstrap: int, seed: int
) -> tuple[dict[str, Any], list[tuple[Stage, Kind, int, Summary]]]:
    """Numbers of a machine, and its points for the figure of partitions."""
    numbers: dict[str, Any] = {}
    points: list[tuple[Stage, Kind, int, Summary]] = []
    for kind in KINDS:
        numbers[kind] = _summary_numbers(one.summary(kind, rng, None, n_bootstrap), seed)
        for partition in np.unique(one.partition).tolist():
            summary = one.summary(kind, rng, partition, n_bootstrap)
            numbers[kind][f"partition {partition}"] = _summary_numbers(summary, seed)
            if kind != "in bits":
                points.append((one.stage, kind, partition, summary))
    return numbers, points


def _summary_numbers(summary: Summary, seed: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: estimate(float(value), float(error), summary.n_spins, seed)
        for name, value, error in zip(SUMMARIES, summary.values, summary.errors, strict=True)
    }
    return told | {"spins without a field": summary.n_infinite}


def _use_numbers(use: RangeUse) -> dict[str, Any]:
    return {
        "chip": use.chip,
        "beta": use.beta,
        "largest value over the range": dict(use.largest),
        "smallest beta that fits": use.smallest_beta,
        "factor by which the machine may grow": use.margin,
        "median size of h": use.median_field,
        "median size of J": use.median_coupling,
        "error of h of one programming": use.field_error,
        "error of J of one programming": use.coupling_error,
        "share of couplers below the error": use.share_below_error,
    }


def _figures(
    ratios: Mapping[str, Sequence[SpinRatios]],
    points: Mapping[str, Sequence[tuple[Stage, Kind, int, Summary]]],
    uses: Sequence[RangeUse],
) -> list[StudyFigure]:
    return [
        StudyFigure(
            "ratios",
            "Size of the ratio of the sum of couplers to the field of every spin, as programmed (top) and without the "
            "share of the field that the map from bits to spins puts there (bottom): at the start of the training "
            "(grey), after it (lines, by sign), and for independent normal parameters on a larger graph of the same "
            "kind (dotted). What lies outside is counted in the outermost bins.",
            lambda: ratio_figure(_columns(ratios)),
        ),
        StudyFigure(
            "partitions",
            "Median size of the ratio in every partition, at the start (squares) and after the training (circles), "
            "with (filled) and without (open) the share of the couplers. Bars: bootstrap errors over spins. Medians "
            "that are infinite (spins without a bias) are not shown.",
            lambda: partition_figure(list(points), list(points.values())),
        ),
        StudyFigure(
            "ranges",
            "Machines on the graph of a chip, divided by the inverse temperature of its single qubits. Left: largest "
            "value relative to its range (one is the limit). Right: median size relative to the error with which a "
            "programming realises it.",
            lambda: range_figure(uses),
        ),
    ]


def _columns(ratios: Mapping[str, Sequence[SpinRatios]]) -> list[list[SpinRatios]]:
    """Every machine with its stages, with the random machine on a graph of its kind."""
    random = {label.rpartition(" ")[2]: stages for label, stages in ratios.items() if stages[0].stage == "random"}
    return [
        [*stages, *random[label.rpartition(" ")[2]]] for label, stages in ratios.items() if stages[0].stage == "start"
    ]


def _text(
    ratios: Mapping[str, Sequence[SpinRatios]], numbers: Mapping[str, Any], uses: Sequence[RangeUse], origin: str
) -> list[str]:
    lead = (
        "The map from bits to spins gives h_i = -b_i / 2 + sum_j J_ij, so that the ratio of couplers and field is "
        "exactly one for every bit without a bias, whatever its couplings. Without that share the ratio says whether "
        "couplers or biases are stronger. Partitions of images are bands of rows from top to bottom."
    )
    paragraphs = [_ratio_text(label, stages, numbers[label]) for label, stages in ratios.items()]
    paragraphs += [_use_text(use) for use in uses if use.stage != "start"]
    return [lead, *paragraphs, _chip_text([use for use in uses if use.stage == "trained"]), f"Showers: {origin}"]


def _ratio_text(label: str, stages: Sequence[SpinRatios], numbers: Mapping[str, Any]) -> str:
    parts = []
    for one in stages:
        told, unshared, bits = (numbers[one.stage][kind] for kind in KINDS)
        text = (
            f"{one.stage}: median ratio as programmed {with_error(told['median'])} "
            f"({100 * (told['share negative']['value'] or 0.0):.0f} % negative), median size without the share "
            f"{with_error(unshared['median size'])}, of the root of summed squares {with_error(bits['median size'])}"
        )
        if one.stage == "random":
            text += f" (without the share, independent parameters: sqrt(d) / 2 = {math.sqrt(one.mean_degree) / 2:.2f})"
        parts.append(text)
    text = f"{label[0].upper()}{label[1:]}; {'; '.join(parts)}."
    if "trained" not in numbers:
        return text
    sizes = [
        "infinite, no biases" if part["median size"]["value"] is None else with_error(part["median size"])
        for name, part in numbers["trained"]["without the share"].items()
        if name.startswith("partition")
    ]
    return f"{text} Trained, partition by partition without the share: {', '.join(sizes)}."


def _use_text(use: RangeUse) -> str:
    worst = max(use.largest, key=lambda name: use.largest[name])
    shares = ", ".join(f"{name} {100 * value:.2g} %" for name, value in use.largest.items())
    fit = f"it fits and could grow by a factor of {use.margin:.1f}"
    if use.margin < 1:
        fit = (
            f"it does not fit: it must be divided by a beta of {use.smallest_beta:.1f} at least, {1 / use.margin:.1f} "
            "times the chip's own, or be trained with smaller parameters"
        )
    return (
        f"Range use of {use.name}, on {use.chip} at beta = {use.beta:.2f}: the largest values use "
        f"{shares} of their ranges, {worst} most; {fit}. Median sizes are {use.median_field:.3g} of h and "
        f"{use.median_coupling:.3g} of J, where a programming realises them with errors of {use.field_error:g} and "
        f"{use.coupling_error:g}: {100 * use.share_below_error:.0f} % of the couplers are smaller than the error."
    )


def _chip_text(uses: Sequence[RangeUse]) -> str:
    """What the trained machines have in common on a chip."""
    n_fit = sum(use.margin >= 1 for use in uses)
    most = max(max(use.largest.values()) for use in uses)
    below = [100 * use.share_below_error for use in uses]
    meaning = "Both ranges and errors must be watched"
    if most < _ROOM and min(below) > _MANY_BELOW:
        meaning = "It is the errors, not the ranges, that limit them"
    elif most >= 1:
        meaning = "Ranges limit them"
    return (
        f"Trained machines on chips: {n_fit} of {len(uses)} fit, the largest use of any range is {100 * most:.3g} %, "
        f"and {min(below):.0f} to {max(below):.0f} % of the couplers are smaller than the error of J. {meaning}."
    )


STUDY = Study(
    name="couplers-and-fields",
    title="Couplers against fields of every spin, and the ranges of a chip",
    settings=CouplersAndFieldsSettings,
    work=work,
    quick={"epochs": 100, "is_short": True, "n_bootstrap": 50},
)
