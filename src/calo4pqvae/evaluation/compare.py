"""From shower files to a report: what ``calo4pqvae evaluate`` and ``compare`` do, for any model's files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calo4pqvae.errors import ConfigError, DataError, OutputError
from calo4pqvae.evaluation.clock import Progress
from calo4pqvae.evaluation.features.screening import Sample, check_units, screened_sample
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.pages.canvas import REFERENCE_NAME
from calo4pqvae.evaluation.pages.displays import ExampleShower
from calo4pqvae.evaluation.pages.report import ReportExtras, build_report
from calo4pqvae.evaluation.pages.verdict import verdict
from calo4pqvae.evaluation.referee import judge_samples
from calo4pqvae.evaluation.result import Evaluation
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = ["EvaluationResult", "evaluate_files", "example_shower"]

_EXAMPLE_QUANTILES = (0.15, 0.4, 0.65, 0.9)


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation gave.

    Args:
        found: All numbers.
        summary: The verdict in words.
        report: The page.
        metrics: The JSON file.
    """

    found: Evaluation
    summary: str
    report: Path
    metrics: Path


def evaluate_files(
    reference: Path,
    generated: Mapping[str, Path],
    geometry: Geometry,
    out: Path,
    *,
    settings: RefereeSettings,
    extras: ReportExtras | None = None,
    bins: EnergyBins | None = None,
    context: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compares files of generated showers with a file of Geant4 showers and writes the report.

    Args:
        reference: Geant4 showers that no model saw.
        generated: Files of generated showers by the name of the sample, the main one first.
        geometry: The voxel grid of all files.
        out: Folder of ``report.html`` and ``metrics.json``.
        settings: What is computed, and how.
        extras: What else to show; without examples, showers of the first two samples are drawn.
        bins: Bins of incident energy; by default thirds of log E over the range of the reference.
        context: What else to record, such as the command.
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
    samples = {name: _read(name, path, geometry, progress) for name, path in generated.items()}
    check_units(expected.screening, {name: sample.screening for name, sample in samples.items()}, geometry)
    note = str(expected.screening.attributes.get("note", ""))
    if settings.is_official and "not the official" in note.lower():
        raise ConfigError(
            f"{expected.screening.file} is declared official, but says of itself '{note}'; leave the declaration out"
        )
    found = judge_samples(expected, samples, settings, bins=bins, context=context, progress=progress)
    more = extras or ReportExtras()
    if not more.examples:
        more = replace(more, examples=_examples(expected, samples[found.main], found.main))
    features = {name: sample.features for name, sample in samples.items()}
    page = build_report(out, expected.features, features, found, more)
    return EvaluationResult(found, " ".join(verdict(found)), page, page.with_name("metrics.json"))


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


def _check_place(out: Path) -> None:
    """Looks whether the report can be written before anything is computed; makes nothing."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise OutputError(f"cannot write {out}: {place} is a file; choose another folder")
    if not os.access(place, os.W_OK):
        raise OutputError(f"cannot write {out}: no permission to write into {place}; choose another folder")


def _examples(expected: Sample, found: Sample, name: str) -> dict[str, list[ExampleShower]]:
    """Showers of the reference and of a sample at four energies, spread over the range."""
    geometry = expected.features.geometry
    wanted = np.quantile(expected.features.incident_energy, _EXAMPLE_QUANTILES)
    paths = {REFERENCE_NAME: expected.path, name: found.path}
    return {key: [example_shower(path, geometry, float(energy)) for energy in wanted] for key, path in paths.items()}
