"""The report of a run: its showers beside held-out Geant4 ones that it never saw.

Each source of the model's showers is compared with the held-out file. For a variational autoencoder with a Boltzmann
prior these are showers generated with that prior, showers generated with the same decoder from independent bits (what
the couplings are worth), and the held-out showers encoded and decoded again (what the decoder alone can do).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.evaluation.compare import EvaluationResult, evaluate_files
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.pages.report import ReportExtras
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.models.model import Model
from calo4pqvae.models.registry import find_family
from calo4pqvae.runs.generation import generate, load_model, parse_energies, reconstruct
from calo4pqvae.workshop.data import resolve_file
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["RunReport", "generated_files", "report_run"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunReport:
    """What :func:`report_run` gives.

    Attributes:
        evaluation: Scores, page and JSON.
        information: Mean and standard error, in nats, of ln 2 a bit minus the posterior entropy; None if the
            run has exported no posterior bits.
        showers_per_second: Rate of generation from the first source.
    """

    evaluation: EvaluationResult
    information: tuple[float, float] | None
    showers_per_second: float


def report_run(path: Path, *, n_generated: int, seed: int, device: str = "cpu", progress: Progress) -> RunReport:
    """Generates, compares and writes ``report.html`` and ``metrics.json`` into the run directory.

    Args:
        path: Run directory of a finished training.
        n_generated: Showers generated with each prior.
        seed: Seed of generation and of the bootstraps.
        device: Where to generate.
        progress: Told (what, done, total).

    Raises:
        CheckpointError: If the run is not finished.
        DataError: If the held-out file cannot be used.
        OutputError: If something cannot be written.
    """
    run = RunDirectory.open(path)
    model = load_model(path, device)
    heldout, origin = resolve_file(model.config.data.heldout, "heldout")
    data = model.config.data
    spec = f"{data.energy_min_mev}:{data.energy_max_mev}:log"
    energies = parse_energies(spec, n_generated, seed, (data.energy_min_mev, data.energy_max_mev))
    files, rate = _samples(model, path, energies, heldout, seed, progress)
    latent = model.latent_states(heldout, seed)
    extras = ReportExtras(
        title=f"Calo4pQVAE: generated showers against Geant4 ({path.name})",
        data_note=origin,
        training_rows=run.metrics(),
        latent_energies=latent.energies,
        latent_bits=latent.bits,
        latent_seed=seed,
        provenance=_provenance(run, seed, n_generated, rate),
    )
    bins = EnergyBins.logarithmic(data.energy_min_mev, data.energy_max_mev)
    evaluation = evaluate_files(
        heldout,
        files,
        model.geometry,
        path,
        extras=extras,
        bins=bins,
        settings=RefereeSettings(
            groups=model.config.evaluation.metrics,
            classifiers=model.config.evaluation.classifiers,
            seed=seed,
            device=model.device.type,
        ),
        progress=lambda sample, done, total: progress(f"features of {sample}", done, total),
    )
    return RunReport(evaluation, _information(run), rate)


def generated_files(entries: Sequence[Path]) -> dict[str, Path]:
    """Files of generated showers by name: of a run directory those of its Boltzmann prior, otherwise the file itself.

    Args:
        entries: Run directories that have been reported, and shower files.

    Raises:
        CheckpointError: If a run has no generated showers yet.
        ConfigError: If two entries have the same name.
    """
    files: dict[str, Path] = {}
    for entry in entries:
        name, path = entry.stem, entry
        if entry.is_dir():
            run = RunDirectory.open(entry)
            source = next(iter(find_family(run.config().model.family).sources))
            name, path = entry.resolve().name, run.path / f"{source}.hdf5"
            if not path.is_file():
                raise CheckpointError(f"{entry} has no generated showers yet; run `calo4pqvae report {entry}` first")
        if name in files:
            raise ConfigError(f"two models have the same name '{name}', which would name both samples: rename one")
        files[name] = path
    return files


def _samples(
    model: Model, path: Path, energies: Tensor, heldout: Path, seed: int, progress: Progress
) -> tuple[dict[str, Path], float]:
    """Files of showers of all sources by title, and the rate of the first in showers per second."""
    files, rates = {}, []
    for name, source in model.sources.items():
        out = files[source.title] = path / f"{name}.hdf5"
        tell = partial(progress, source.title)
        if source.from_showers:
            rates.append(reconstruct(model, heldout, out, seed=seed, progress=tell))
        else:
            rates.append(generate(model, energies, out, seed=seed, source=name, progress=tell))
    return files, rates[0]


def _information(run: RunDirectory) -> tuple[float, float] | None:
    rows = [row for row in run.metrics() if row["stage"] == "export"]
    return (rows[-1]["information"], rows[-1]["information_error"]) if rows else None


def _provenance(run: RunDirectory, seed: int, n_generated: int, rate: float) -> dict[str, Any]:
    information = _information(run)
    nats = "unknown" if information is None else f"{information[0]:.1f} ± {information[1]:.1f} nats"
    return {
        "run": run.path.name,
        "seed of generation": seed,
        "showers generated with each prior": n_generated,
        "showers per second (Boltzmann prior, this machine)": f"{rate:.0f}",
        "information of posterior bits": f"{nats} (ln 2 a bit minus the posterior entropy)",
        "training": run.provenance(),
        "configuration": run.config().model_dump(mode="json"),
    }
