r"""Variants of the model under equal budgets: the named runs of the October 2024 presentation, and some beside them.

Every variant of :data:`~calo4pqvae.studies.variants.training.VARIANTS` is trained from nothing on the same showers, for
the same epochs, with the same batches and sizes, over the same seeds, and its showers are judged at the same incident
energies against the same held-out Geant4 showers: FPD and KPD in both feature sets, separation powers, the acceptance
table, the energy gap between posterior bits and samples of the machine, and the seam, which shows whether showers know
that the last sector meets the first.

The full form is one command and wants a GPU (``device = "auto"`` takes it); the quick form has tiny networks and tiny
budgets, and shows that every switch works rather than which variant is best. Results stand in one table, also as a page
of their own (``table.html`` in the folder of the study).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from calo4pqvae.atomic import write_text
from calo4pqvae.config import load_config
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.pages.page import Section, page_html, paragraph, table_html
from calo4pqvae.seeds import derive_seed
from calo4pqvae.studies.frame.sample_quality import DISTANCES, Judge, Quality
from calo4pqvae.studies.frame.study import Findings, Progress, Study, StudyFigure, StudySettings, estimate, with_error
from calo4pqvae.studies.variants.figures import variants_figure
from calo4pqvae.studies.variants.training import VARIANTS, Trained, Variant, ended, seam, train_variant, variant_config
from calo4pqvae.workshop.data import resolve_file

__all__ = ["STUDY", "VariantsSettings"]

TABLE = "table.html"

_NAMES = tuple(one.name for one in VARIANTS)
_CONTRASTS = (
    ("periodicity fix", "skilled-gift-494", "devoted-lion-515"),
    ("linear attention", "devoted-lion-515", "worthy-paper-518"),
    ("removing the mask in training", "devoted-lion-515", "divine-dream-509"),
    ("exact gradient with its own SGD", "devoted-lion-515", "lively-grass-519"),
    ("Pegasus in place of Zephyr", "devoted-lion-515", "pegasus"),
    ("periodic decoder", "devoted-lion-515", "periodic"),
    ("canonical frame and staged training", "periodic", "staged"),
)
_PUBLISHED: Mapping[str, Any] = {"decoder.kind": "factorised", "latent.factors": 0}  # what the variants are of
_SMALL: Mapping[str, Any] = {
    "encoder.channels": [8, 8, 8],
    "encoder.hidden": 64,
    "decoder.base_channels": 8,
    "decoder.channels": 8,
    "decoder.hidden": 64,
    "decoder.position_channels": 4,
    "decoder.head_hidden": 16,
    "training.batch_size": 32,
}


class VariantsSettings(StudySettings):
    """Settings of the study."""

    config: str = Field("demo", description="preset or file that all variants start from")
    variants: tuple[str, ...] = Field(_NAMES, min_length=1, description="which variants are trained")
    n_seeds: int = Field(3, ge=1, description="trainings of every variant")
    epochs: int = Field(40, ge=1, description="epochs of every training")
    max_showers: int | None = Field(None, ge=100, description="showers of every training; default: all")
    updates: int = Field(800, ge=1, description="updates of a machine that is learned after the networks")
    small_networks: bool = Field(False, description="networks of a few channels and small batches")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where is trained; auto takes a GPU")
    n_showers: int = Field(1700, ge=100, description="showers of each sample that is judged")

    @model_validator(mode="after")
    def _known(self) -> "VariantsSettings":
        unknown = [name for name in self.variants if name not in _NAMES]
        if unknown:
            raise ValueError(f"there is no variant '{unknown[0]}': choose among {', '.join(_NAMES)}")
        return self


def work(settings: VariantsSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    """Does the study."""
    base = load_config(settings.config).replace(_PUBLISHED)
    chosen = [one for one in VARIANTS if one.name in settings.variants]
    judge = Judge(base, settings.n_showers, seed)
    trained = []
    for variant in chosen:
        for index in range(settings.n_seeds):
            changes = _budget(settings) | {"training.seed": derive_seed(seed, "variants", index) % 2**31}
            config = variant_config(base, variant, changes)
            path = folder / "runs" / f"{variant.name}-{index}"
            trained.append(train_variant(config, path, variant.name, judge, progress))
            progress("variants", len(trained), len(chosen) * settings.n_seeds)
    floor_seam = seam(judge.showers, judge.geometry, seed)
    numbers = {
        "floor": _quality_numbers(judge.floor, seed) | {"seam": _told(floor_seam, seed)},
        "variants": {one.name: _variant_numbers(one, trained, seed) for one in chosen},
        "changes": {
            label: _contrast(trained, before, after, seed)
            for label, before, after in _CONTRASTS
            if ended(trained, before) and ended(trained, after)
        },
    }
    text = _text(settings, numbers, resolve_file(base.data.train, "train")[1], judge)
    _write_table(folder, chosen, numbers, text)
    caption = (
        "Variants under equal budgets. Circles: generated showers; squares: showers of posterior bits of the same "
        "networks. Open symbols: seeds; filled: their mean with its standard error, or one training with its error "
        "within the sample. Band: Geant4 against Geant4 at the same sizes. The seam compares the step between the last "
        "and the first sector with the other steps."
    )
    figure = StudyFigure("variants", caption, lambda: variants_figure(chosen, trained, judge.floor, floor_seam))
    return Findings(numbers, [figure], text)


def _budget(settings: VariantsSettings) -> dict[str, Any]:
    """What all variants share."""
    changes: dict[str, Any] = {
        "training.epochs": settings.epochs,
        "training.device": settings.device,
        "prior.updates": settings.updates,
    }
    if settings.max_showers is not None:
        changes["data.max_showers"] = settings.max_showers
    return changes | (dict(_SMALL) if settings.small_networks else {})


def _told(number: Estimate, seed: int) -> dict[str, float | int | None]:
    return estimate(number.value, number.error, number.n, seed)


def _quality_numbers(quality: Quality, seed: int) -> dict[str, Any]:
    numbers: dict[str, Any] = {name: _told(value, seed) for name, value in quality.distances.items()}
    return numbers | {"acceptance passed": estimate(quality.passed, None, quality.n_rows, seed)}


def _variant_numbers(variant: Variant, trained: Sequence[Trained], seed: int) -> dict[str, Any]:
    own = ended(trained, variant.name)
    numbers: dict[str, Any] = {
        "what it is": variant.words,
        "verdict of the presentation": variant.verdict,
        "diverged": [one.diverged for one in trained if one.variant == variant.name and one.diverged],
    }
    if not own:
        return numbers
    for source in ("quality", "posterior"):
        qualities = [getattr(one, source) for one in own]
        prefix = "" if source == "quality" else "posterior bits, "
        for name in DISTANCES:
            numbers[prefix + name] = _over_seeds([quality.distances[name] for quality in qualities], seed)
    passed = [one.quality.passed for one in own if one.quality is not None]
    numbers["acceptance passed"] = estimate(float(np.mean(passed)), _spread(passed), len(passed), seed)
    for label, name in (("energy gap, nats", "gap"), ("slope of pair covariances", "slope"), ("seam", "seam")):
        numbers[label] = _over_seeds([getattr(one, name) for one in own], seed)
    return numbers | {
        "parameters": own[0].n_parameters,
        "seconds of training": estimate(
            float(np.mean([one.seconds for one in own])), _spread([one.seconds for one in own]), len(own), seed
        ),
        "device": own[0].device,
    }


def _over_seeds(values: Sequence[Estimate], seed: int) -> dict[str, float | int | None]:
    """Mean over trainings with its standard error; of one training, its error within the sample."""
    if len(values) == 1:
        return _told(values[0], seed)
    found = [value.value for value in values]
    return estimate(float(np.mean(found)), _spread(found), len(found), seed)


def _spread(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def _contrast(trained: Sequence[Trained], before: str, after: str, seed: int) -> dict[str, float | int | None]:
    """Difference of FPD (362 features) after - before, seed by seed."""
    values = {
        name: {one.seed: one.quality.distances["FPD 362"] for one in ended(trained, name) if one.quality is not None}
        for name in (before, after)
    }
    pairs = [(values[before][own], values[after][own]) for own in values[before] if own in values[after]]
    differences = [second.value - first.value for first, second in pairs]
    error = _spread(differences) if len(pairs) > 1 else math.hypot(pairs[0][0].error, pairs[0][1].error)
    return estimate(float(np.mean(differences)), error, len(pairs), seed)


def _text(settings: VariantsSettings, numbers: Mapping[str, Any], origin: str, judge: Judge) -> list[str]:
    size = "tiny budgets and networks: this shows that the switches work, not which variant is best"
    errors = "means over seeds with standard errors" if settings.n_seeds > 1 else "one training each, errors within it"
    budget = (
        f"{settings.epochs} epochs of {settings.max_showers or 'all'} showers, {settings.n_seeds} "
        f"{'seeds' if settings.n_seeds > 1 else 'seed'}{f' ({size})' if settings.small_networks else ''}"
    )
    floor = numbers["floor"]
    told = [
        f"{name} ({one['what it is']}): FPD {with_error(one['FPD 362'])}, with posterior bits "
        f"{with_error(one['posterior bits, FPD 362'])}, KPD {with_error(one['KPD 362'])}, energy gap "
        f"{with_error(one['energy gap, nats'])} nats, seam {with_error(one['seam'])}"
        for name, one in numbers["variants"].items()
        if "FPD 362" in one
    ]
    changes = [f"{label}: {_judged_change(change)}" for label, change in numbers["changes"].items()]
    lead = (
        f"{origin.rstrip('.')}. Equal budgets: {budget}; {errors}. The names are those of runs of the October 2024 "
        "presentation, whose switches are set here in this package's own networks: the numbers are of these variants, "
        "not of those runs."
    )
    results = (
        f"FPD and KPD x 1000 from {judge.n} showers, 362 features; Geant4 against Geant4: FPD "
        f"{with_error(floor['FPD 362'])}, KPD {with_error(floor['KPD 362'])}, seam {with_error(floor['seam'])}. "
        + "; ".join(told)
        + "."
    )
    text = [lead, results]
    if "lively-grass-519" in numbers["variants"]:
        rate = load_config(settings.config).prior.joint_learning_rate
        text.append(
            "In joint training the machine starts from fair coins. At the rate of the presentation (SGD, "
            f"{rate:g}) lively-grass-519 needs a long training to reach even the means of its bits: the distance "
            "between its generated showers and those of its posterior bits tells how far the machine has come, not how "
            "good the gradient is."
        )
    if changes:
        text.append(f"FPD x 1000, after minus before, one switch at a time: {'; '.join(changes)}.")
    failed = [f"{name} ({one['diverged'][0]})" for name, one in numbers["variants"].items() if one["diverged"]]
    return text + ([f"Diverged: {'; '.join(failed)}."] if failed else [])


def _judged_change(change: Mapping[str, float | int | None]) -> str:
    value, error = float(change["value"] or 0.0), float(change["error"] or 0.0)
    size = f"{abs(value) / error:.1f} standard errors" if error else "no error known"
    return f"{with_error(change)} ({size})"


def _write_table(folder: Path, chosen: Sequence[Variant], numbers: Mapping[str, Any], text: Sequence[str]) -> None:
    """The table of all variants as a page."""
    columns = [*DISTANCES, "acceptance passed", "energy gap, nats", "slope of pair covariances", "seam"]
    rows = [{"variant": "Geant4 against Geant4", "what it is": "floor"} | _cells(numbers["floor"], columns)]
    for variant in chosen:
        own = numbers["variants"][variant.name]
        cells = _cells(own, [*columns, "posterior bits, FPD 362"])
        extra = {"of the presentation": variant.verdict, "parameters": str(own.get("parameters", "diverged"))}
        rows.append({"variant": variant.name, "what it is": variant.words} | cells | extra)
    headings = list(rows[-1])
    table = table_html([{heading: row.get(heading, "") for heading in headings} for row in rows])
    lead = "".join(paragraph(one) for one in text)
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in DISTANCES.items())
    section = Section("variants", "All variants", table + paragraph(meanings, "note"), numbers)
    write_text(folder / TABLE, page_html("Variants of the model under equal budgets", lead, [section]))


def _cells(numbers: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    return {column: with_error(numbers[column]) if column in numbers else "" for column in columns}


STUDY = Study(
    name="variants",
    title="Variants of the model under equal budgets: periodicity, attention, mask, gradient, chip",
    settings=VariantsSettings,
    work=work,
    quick={
        "n_seeds": 1,
        "epochs": 4,
        "max_showers": 800,
        "updates": 200,
        "small_networks": True,
        "device": "cpu",
        "n_showers": 500,
    },
)
