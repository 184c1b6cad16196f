"""What a training through an annealer leaves: the prior, what it is worth beside another one, what it cost.

The prior is written as any other, with the calibration of layers, so that ``generate`` and ``report`` take the run. The
energy gap on the validation bits is compared, event by event, with that of the prior of the run that the training
started from, if it has one, and so is the slope of the correlations, without which a gap of zero says little. Access
time is that of the ledger, and the same calls are costed on every chip of the table. Numbers are in
``annealer/metrics.json``, figures beside it and in ``annealer/report.html``.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.annealed.conditioned_sample import ConditionedSample
from calo4pqvae.annealed.page import write_annealer_report
from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.chip.table import CHIPS
from calo4pqvae.annealer.learning.negative_phase import NegativePhase
from calo4pqvae.annealer.planner import PlanRow, plain_hours, plan_calls
from calo4pqvae.atomic import write_json
from calo4pqvae.errors import CheckpointError
from calo4pqvae.models.qvae.calibration import calibrate_layers
from calo4pqvae.models.qvae.latent_prior import LatentPrior, independent_baseline
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.models.qvae.validation_gap import EnergyGap, correlation_slope, energy_gap, paired_difference
from calo4pqvae.showers.transforms import apply_threshold
from calo4pqvae.workshop.checkpoints import load_module, prefixed, with_prefix
from calo4pqvae.workshop.data import TrainingData
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["Outcome", "finish", "read_outcome"]

_CALIBRATION_SHOWERS = 5000
_SLOPE_STATES = 4500
_FINAL_DRAWS = 4  # times those of a look during training


@dataclass(frozen=True)
class Outcome:
    """What a training came to.

    Args:
        numbers: Everything, as it stands in ``annealer/metrics.json``.
    """

    numbers: Mapping[str, Any]

    def __str__(self) -> str:
        own, other = self.numbers["gap"], self.numbers["reference_gap"]
        text = f"validation energy gap {_gap(own)}, correlation slope {_slope(self.numbers['correlation'])}"
        if other is None:
            return text
        change, error = self.numbers["difference"], self.numbers["difference_error"]
        return (
            f"{text}; of the Gibbs-trained prior {_gap(other)} and {_slope(self.numbers['reference_correlation'])}; "
            f"gaps differ by {change:+.2f} +- {error:.2f} on the same events"
        )


def _gap(row: Mapping[str, Any]) -> str:
    return (
        f"{row['gap']:+.2f} +- {row['gap_error']:.2f} nats ({row['n_data']} events, {row['n_model']} samples, seed "
        f"{row['seed']})"
    )


def _slope(row: Mapping[str, Any]) -> str:
    if row["slope"] is None:
        return "unknown"
    return f"{row['slope']:.2f} +- {row['slope_error']:.2f} ({row['n_states']} training states)"


def read_outcome(run: RunDirectory) -> Outcome:
    """The outcome of a finished training.

    Raises:
        CheckpointError: If its file is missing or damaged.
    """
    path = run.path / "annealer" / "metrics.json"
    try:
        return Outcome(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({type(error).__name__}): restore it") from error


def finish(
    run: RunDirectory,
    source: RunDirectory,
    prior: LatentPrior,
    sample: ConditionedSample,
    annealer: Annealer,
    phase: NegativePhase,
    settings: Mapping[str, Any],
    report: Callable[[str, int, int], None],
) -> Outcome:
    """Writes everything that a finished training leaves.

    Args:
        run: The run.
        source: The run that it started from.
        prior: The trained prior.
        sample: What it learned from.
        annealer: The annealer.
        phase: How it was read.
        settings: Settings of the training.
        report: Told (what, done, total).

    Raises:
        DataError: If the training showers cannot be used.
        OutputError: If something cannot be written.
    """
    report("calibration", 0, 1)
    _save_prior(run, prior, sample.bits.mean(dim=0), annealer.name)
    report("calibration", 1, 1)
    priors = _priors(source, prior)
    gaps = _gaps(run, priors, settings)
    calls = [call.asked for call in annealer.ledger.calls if call.programmings]
    rows = [plan_calls(calls, phase.n_qubits, entry, step="the same calls") for entry in CHIPS.values()]
    numbers = _numbers(run, sample, annealer, phase, settings, gaps, rows) | _slopes(run, priors, settings)
    folder = run.path / "annealer"
    write_json(folder / "metrics.json", numbers)
    outcome = Outcome(numbers)
    energies = {name: (gap.data, gap.model.ravel()) for name, gap in gaps.items()}
    looks = [row for row in run.metrics() if row["stage"] == "prior"]
    write_annealer_report(folder, f"{outcome}.", numbers, energies, RunDirectory(folder).metrics(), looks)
    known = ("annealer", "emulated", "graph_id", "programmings", "reads", "access_seconds", "steps")
    told = {key: numbers[key] for key in known} | {"started_from": source.path.name, "settings": dict(settings)}
    run.write_provenance(run.provenance() | {"finished": True, "prior_trained_through": told})
    run.tensor_path("checkpoint").unlink(missing_ok=True)
    return outcome


def _save_prior(run: RunDirectory, prior: LatentPrior, bit_means: Tensor, annealer: str) -> None:
    """Writes graph, parameters, mean bits, and the calibration of layers for both sources of bits.

    What the prior was trained through stands with the name of the graph, and so in every file of showers.
    """
    config = run.config()
    data = TrainingData(config)
    autoencoder = ShowerAutoencoder(config, data.geometry, prior.level_sizes)
    load_module(autoencoder, run.load_tensors("autoencoder")[0])
    autoencoder.eval()
    graph = {name: torch.from_numpy(array) for name, array in prior.topology.to_arrays().items()}
    stored = prefixed("machine.", prior.machine.state_dict()) | prefixed("graph.", graph) | {"bit_means": bit_means}
    split = autoencoder.observables.split
    parts = [
        (split.layer_energies(apply_threshold(showers, data.geometry.threshold_mev)), energies)
        for showers, energies in data.chunks(data.train[:_CALIBRATION_SHOWERS])
    ]
    layers, incident = (torch.cat(own) for own in zip(*parts, strict=True))
    baseline = independent_baseline(prior, config, bit_means)
    for name, own, n_sweeps in (("boltzmann", prior, config.generation.n_sweeps), ("independent", baseline, 1)):
        gain = torch.zeros(3, layers.shape[1])
        if config.prior.calibrate:
            gain = calibrate_layers(autoencoder, own, layers, incident, n_sweeps=n_sweeps, seed=config.training.seed)
        stored[f"layer_gain.{name}"] = gain
    run.save_tensors("prior", stored, graph=f"{prior.topology.name}, prior trained through {annealer}")


def _priors(source: RunDirectory, prior: LatentPrior) -> dict[str, LatentPrior]:
    """The trained prior and, if there is one, that of the source."""
    if not source.has("prior"):
        return {"annealer": prior}
    other = LatentPrior(source.config(), prior.topology)
    load_module(other.machine, with_prefix(source.load_tensors("prior")[0], "machine."))
    return {"annealer": prior, "gibbs": other}


def _slopes(
    run: RunDirectory, priors: Mapping[str, LatentPrior], settings: Mapping[str, Any]
) -> dict[str, dict[str, float | int | None]]:
    """Correlation slopes of the priors against posterior bits of training showers; None where none can be seen."""
    posterior, _ = run.load_tensors("posterior")
    bits, energies = (posterior[name][:_SLOPE_STATES] for name in ("bits", "energies"))
    n_sweeps, seed = run.config().generation.n_sweeps, int(settings["seed"])
    told: dict[str, dict[str, float | int | None]] = {}
    for name, own in priors.items():
        found = correlation_slope(own, bits, energies, n_sweeps=n_sweeps, seed=seed)
        slope, error = (value if math.isfinite(value) else None for value in found)
        told[name] = {"slope": slope, "slope_error": error, "n_states": len(bits), "n_sweeps": n_sweeps, "seed": seed}
    return {"correlation": told["annealer"], "reference_correlation": told.get("gibbs", {})}


def _gaps(run: RunDirectory, priors: Mapping[str, LatentPrior], settings: Mapping[str, Any]) -> dict[str, EnergyGap]:
    """Gaps of the priors on the same events."""
    posterior, _ = run.load_tensors("posterior")
    draws, n_sweeps = _FINAL_DRAWS * int(settings["validation_draws"]), run.config().generation.n_sweeps
    bits, energies, seed = posterior["validation_bits"], posterior["validation_energies"], int(settings["seed"])
    return {
        name: energy_gap(own, bits, energies, draws=draws, n_sweeps=n_sweeps, seed=seed) for name, own in priors.items()
    }


def _numbers(
    run: RunDirectory,
    sample: ConditionedSample,
    annealer: Annealer,
    phase: NegativePhase,
    settings: Mapping[str, Any],
    gaps: Mapping[str, EnergyGap],
    rows: Sequence[PlanRow],
) -> dict[str, Any]:
    history = RunDirectory(run.path / "annealer").metrics()
    stepped = [row for row in history if "energy_data" in row]
    difference = paired_difference(gaps["annealer"], gaps["gibbs"]) if "gibbs" in gaps else (None, None)
    totals = annealer.ledger.totals
    return {
        "annealer": annealer.name,
        "emulated": annealer.is_emulated,
        "graph_id": annealer.graph_id,
        "documented_beta": annealer.chip.beta if annealer.has_chip else None,
        "gap": gaps["annealer"].to_dict(),
        "reference_gap": gaps["gibbs"].to_dict() if "gibbs" in gaps else None,
        "difference": difference[0],
        "difference_error": difference[1],
        "steps": len(stepped),
        "phases": len(history),
        "phases_for_beta_alone": len(history) - len(stepped),
        "reads_used": sum(row["n_reads"] for row in history),
        "programmings": totals.programmings,
        "reads": totals.reads,
        "access_seconds": totals.access_seconds,
        "faults": totals.faults,
        "ledger": annealer.ledger.to_dict(),
        "last_beta": {key: history[-1][key] for key in ("beta", "beta_error", "misfit")},
        "mean_effective_share": float(np.mean([row["effective_share"] for row in history])),
        "least_effective_share": min(row["effective_share"] for row in history),
        "events": sample.n_events,
        "conditions": len(sample.rows),
        "energy_binning": str(sample.binned) if settings["energy_shift"] else "none",
        "qubits": phase.n_qubits,
        "left_out": str(phase.patch),
        "settings": dict(settings),
        "projection": [row.to_dict() for row in rows],
        "plain_hours": plain_hours(),
    }
