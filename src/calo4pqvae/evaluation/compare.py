"""From shower files to a report: what ``calo4pqvae evaluate`` does, for any model's files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.canvas import REFERENCE_NAME
from calo4pqvae.evaluation.displays import ExampleShower
from calo4pqvae.evaluation.features import EnergyBins, ShowerFeatures, file_features
from calo4pqvae.evaluation.report import ReportExtras, build_report, summary_sentence
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
    """

    scores: Scores
    summary: str
    warnings: list[str]
    report: Path
    metrics: Path


def evaluate_files(
    reference: Path,
    generated: Mapping[str, Path],
    geometry: Geometry,
    out: Path,
    *,
    extras: ReportExtras | None = None,
    bins: EnergyBins | None = None,
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
        seed: Seed of splits and bootstraps.
        progress: Called with (sample, showers read, showers in all).

    Raises:
        DataError: If a file cannot be read or does not fit the geometry, a sample has fewer than 100 showers, or
            incident energies lie outside the range of the reference.
        OutputError: If the report cannot be written.
    """
    if not generated:
        raise DataError("there is no generated file to evaluate; give at least one")
    if REFERENCE_NAME in generated:
        raise DataError(f"{REFERENCE_NAME} is the name of the reference; give the generated sample another name")
    expected = _features(REFERENCE_NAME, reference, geometry, progress)
    found = {name: _features(name, path, geometry, progress) for name, path in generated.items()}
    scores = score_samples(expected, found, bins, seed=seed)
    more = extras or ReportExtras()
    if not more.examples:
        main = scores.main
        energy = _display_energy(expected)
        examples = {
            REFERENCE_NAME: example_shower(reference, geometry, energy),
            main: example_shower(generated[main], geometry, energy),
        }
        more = replace(more, examples=examples)
    page = build_report(out, expected, found, scores, more)
    return EvaluationResult(
        scores, summary_sentence(scores), list(scores.warnings), page, page.with_name("metrics.json")
    )


def example_shower(path: Path, geometry: Geometry, incident_energy: float) -> ExampleShower:
    """The shower of a file whose incident energy, in MeV, is nearest to the one asked for; thresholded."""
    with ShowerFile(path, geometry) as file:
        energies = file.incident_energies().reshape(-1)
        row = int(np.argmin(np.abs(np.log(energies / incident_energy))))
        voxels = file.read(row, row + 1)[0].astype(np.float64)
    return ExampleShower(float(energies[row]), np.where(voxels >= geometry.threshold_mev, voxels, 0.0))


def _features(name: str, path: Path, geometry: Geometry, progress: Progress | None) -> ShowerFeatures:
    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(name, done, total)

    try:
        return file_features(path, geometry, progress=tell)
    except DataError as error:
        raise DataError(f"{name} ({path}): {error}") from error


def _display_energy(reference: ShowerFeatures) -> float:
    """High in the range, where a shower has much to show: the 85 % quantile of the incident energy."""
    return float(np.quantile(reference.incident_energy, 0.85))
