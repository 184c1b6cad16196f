"""The report of a run: its showers beside held-out Geant4 ones that it never saw.

Three samples are compared with the held-out file: showers generated with the Boltzmann prior, showers generated with
the same decoder from independent bits (what the couplings are worth), and the held-out showers encoded and decoded
again (what the decoder alone can do).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.evaluation.compare import EvaluationResult, evaluate_files
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.pages.report import ReportExtras
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.runs.generation import TrainedModel, generate, load_model, parse_energies, reconstruct
from calo4pqvae.seeds import stream
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.workshop.data import resolve_file
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["SAMPLES", "LatentStates", "RunReport", "generated_files", "latent_states", "report_run"]

SAMPLES = {
    "boltzmann": "Boltzmann prior",
    "independent": "independent bits",
    "reconstruction": "posterior bits",
}
"""Names of the samples as the report shows them."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunReport:
    """What :func:`report_run` gives.

    Attributes:
        evaluation: Scores, page and JSON.
        information: Mean and standard error, in nats, of ln 2 a bit minus the posterior entropy; None if the
            run has exported no posterior bits.
        showers_per_second: Rate of generation with the Boltzmann prior.
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
    files = {name: path / f"{kind}.hdf5" for kind, name in SAMPLES.items()}

    def tell(name: str) -> Callable[[int, int], None]:
        return lambda done, total: progress(name, done, total)

    rate = 0.0
    for kind in ("boltzmann", "independent"):
        name = SAMPLES[kind]
        source = "independent" if kind == "independent" else "boltzmann"
        speed = generate(model, energies, files[name], seed=seed, source=source, progress=tell(name))  # type: ignore[arg-type]
        rate = speed if kind == "boltzmann" else rate
    name = SAMPLES["reconstruction"]
    reconstruct(model, heldout, files[name], seed=seed, progress=tell(name))
    latent = latent_states(model, heldout, seed)
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
        model.autoencoder.geometry,
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
            name, path = entry.resolve().name, RunDirectory.open(entry).path / "boltzmann.hdf5"
            if not path.is_file():
                raise CheckpointError(f"{entry} has no generated showers yet; run `calo4pqvae report {entry}` first")
        if name in files:
            raise ConfigError(f"two models have the same name '{name}', which would name both samples: rename one")
        files[name] = path
    return files


@dataclass(frozen=True)
class LatentStates:
    """Latent bits of held-out showers and of the priors at the same incident energies.

    Attributes:
        bits: Bits (N, n_bits) by source, "encoded" first.
        energies: Energies (N,) in nats, under the Boltzmann prior, of encoded and of sampled bits.
    """

    bits: Mapping[str, NDArray[np.uint8]]
    energies: Mapping[str, NDArray[np.float64]]


def latent_states(model: TrainedModel, showers: Path, seed: int) -> LatentStates:
    """Encodes a file of showers, and draws bits from the priors at its incident energies.

    Args:
        model: Networks and prior.
        showers: Shower file.
        seed: Seed of the encoder's noise and of the draws.
    """
    size, n_sweeps = model.config.generation.chunk, model.config.generation.n_sweeps
    bits: dict[str, list[Tensor]] = {"encoded": [], SAMPLES["boltzmann"]: [], SAMPLES["independent"]: []}
    encoded, sampled = [], []
    with ShowerFile(showers, model.autoencoder.geometry) as file, torch.no_grad():
        for chunk, (energies, voxels) in enumerate(file.chunks(size)):
            incident = torch.from_numpy(energies.astype(np.float32)).to(model.device)
            noise = torch.rand(len(incident), model.prior.n_bits, generator=stream(seed, "latent noise", chunk))
            true = torch.from_numpy(voxels).to(model.device)
            bits["encoded"].append(model.autoencoder.encode(true, incident, noise.to(model.device)).bits)
            drawing = stream(seed, "latent bits", chunk, device=model.device)
            bits[SAMPLES["boltzmann"]].append(model.draw_bits(incident, "boltzmann", n_sweeps, drawing))
            drawing = stream(seed, "independent latent bits", chunk, device=model.device)
            bits[SAMPLES["independent"]].append(model.draw_bits(incident, "independent", n_sweeps, drawing))
            encoded.append(model.prior.energy(bits["encoded"][-1], incident))
            sampled.append(model.prior.energy(bits[SAMPLES["boltzmann"]][-1], incident))
    return LatentStates(
        bits={name: torch.cat(parts).to(torch.uint8).cpu().numpy() for name, parts in bits.items()},
        energies={
            "encoded": torch.cat(encoded).double().cpu().numpy(),
            "sampled": torch.cat(sampled).double().cpu().numpy(),
        },
    )


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
