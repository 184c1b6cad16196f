"""From shower files to a report: what ``calo4pqvae evaluate`` and ``compare`` do, for any model's files."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calo4pqvae.errors import ConfigError, DataError, OutputError
from calo4pqvae.evaluation.features.screening import Sample, Screening, check_units, find_warnings, screened_sample
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.report import ReportExtras, build_report, summary_sentence
from calo4pqvae.evaluation.pages.table import drivers_section, histogram_sections, summary_section
from calo4pqvae.evaluation.referee import RefereeResult, RefereeSettings
from calo4pqvae.evaluation.refereeing import run_referee
from calo4pqvae.evaluation.scores import Scores, score_samples
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = ["EvaluationResult", "evaluate_files", "example_shower"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation gave.

    Args:
        scores: All numbers.
        summary: One or two sentences on the main sample.
        warnings: What makes the comparison doubtful; also on the page.
        report: The page.
        metrics: The JSON file.
        referee: The full set of metrics, if it was asked for.
    """

    scores: Scores
    summary: str
    warnings: list[str]
    report: Path
    metrics: Path
    referee: RefereeResult | None = None


def evaluate_files(
    reference: Path,
    generated: Mapping[str, Path],
    geometry: Geometry,
    out: Path,
    *,
    extras: ReportExtras | None = None,
    bins: EnergyBins | None = None,
    referee: RefereeSettings | None = None,
    context: Mapping[str, object] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compares files of generated showers with a file of Geant4 showers and writes the report.

    Args:
        reference: Geant4 showers that no model saw.
        generated: Files of generated showers by the name of the sample, the main one first.
        geometry: The voxel grid of all files.
        out: Folder of ``report.html`` and ``metrics.json``.
        extras: What else to show; without examples, a shower of each of the first two samples is drawn.
        bins: Bins of incident energy; by default thirds of log E over the range of the reference.
        referee: What of the full set of metrics to compute, and how; by default nothing of it.
        context: What else to record with the full set of metrics, such as the command.
        seed: Seed of splits and bootstraps of the other numbers.
        progress: Called with (sample or step, done, in all).

    Raises:
        DataError: If a file cannot be read or does not fit the geometry, a sample has fewer than 100 showers, energies
            are not in MeV, or incident energies lie outside the range of the reference.
        ConfigError: If the reference is declared official and says of itself that it is not.
        OutputError: If the report cannot be written.
    """
    if not generated:
        raise DataError("there is no generated file to evaluate; give at least one")
    if REFERENCE_NAME in generated:
        raise DataError(f"{REFERENCE_NAME} is the name of the reference; give the generated sample another name")
    _check_place(out)
    expected = _read(REFERENCE_NAME, reference, geometry, progress)
    found = {name: _read(name, path, geometry, progress) for name, path in generated.items()}
    doubts = _screen(expected, found, geometry, referee)
    features = {name: sample.features for name, sample in found.items()}
    scores = score_samples(expected.features, features, bins, seed=seed)
    scores = replace(scores, warnings=(*doubts, *scores.warnings))
    more = extras or ReportExtras()
    if not more.examples:
        more = replace(more, examples=_examples(expected, found[scores.main], scores.main))
    judged = None
    if referee is not None:
        judged = run_referee(expected, found, referee, context=context, progress=progress)
        judged = replace(judged, warnings=scores.warnings)
        first = (summary_section(judged), drivers_section(judged, geometry))
        more = replace(more, leading=(*first, *more.leading), sections=(*histogram_sections(judged), *more.sections))
    page = build_report(out, expected.features, features, scores, more)
    return EvaluationResult(
        scores, summary_sentence(scores), list(scores.warnings), page, page.with_name("metrics.json"), judged
    )


def example_shower(path: Path, geometry: Geometry, incident_energy: float) -> ExampleShower:
    """The shower of a file whose incident energy, in MeV, is nearest to the one asked for; thresholded."""
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies().reshape(-1)
        row = int(np.argmin(np.abs(np.log(energies / incident_energy))))
        voxels = file.read(row, row + 1)[0].astype(np.float64)
    return ExampleShower(float(energies[row]), np.where(voxels >= geometry.threshold_mev, voxels, 0.0))


def _read(name: str, path: Path, geometry: Geometry, progress: Progress | None) -> Sample:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    try:
        return screened_sample(path, geometry, tell)
    except DataError as error:
        raise DataError(f"{name} ({path}): {error}") from error


def _screen(
    expected: Sample, found: Mapping[str, Sample], geometry: Geometry, referee: RefereeSettings | None
) -> list[str]:
    """Refuses what cannot be compared at all; gives sentences on what is doubtful."""
    seen: dict[str, Screening] = {name: sample.screening for name, sample in found.items()}
    check_units(expected.screening, seen, geometry)
    note = str(expected.screening.attributes.get("note", ""))
    if referee is not None and referee.is_official and "not the official" in note.lower():
        raise ConfigError(
            f"{expected.screening.file} is declared official, but says of itself '{note}'; leave the declaration out"
        )
    return find_warnings(expected.screening, seen)


def _provenance(judged: RefereeResult) -> dict[str, object]:
    """What must be known to repeat the full set of metrics."""
    files = {"reference": judged.reference, **judged.generated}
    return {
        **judged.context,
        "metrics": ", ".join(judged.settings.groups),
        "classifiers": judged.settings.classifiers,
        "seed": judged.settings.seed,
        "reference declared official": judged.settings.is_official,
        "files": {name: f"{seen.file}, SHA-256 of its numbers {seen.content_sha256}" for name, seen in files.items()},
    }


def _check_place(out: Path) -> None:
    """Looks whether the report can be written before anything is computed; makes nothing."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"cannot write {out}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK):
        raise OutputError(f"cannot write {out}: no permission to write into {place}; choose another folder")


def _examples(expected: Sample, found: Sample, name: str) -> dict[str, ExampleShower]:
    """A shower of the reference and of a sample at one energy, high in the range where there is much to see."""
    energy = float(np.quantile(expected.features.incident_energy, 0.85))
    geometry = expected.features.geometry
    return {
        REFERENCE_NAME: example_shower(expected.path, geometry, energy),
        name: example_shower(found.path, geometry, energy),
    }
