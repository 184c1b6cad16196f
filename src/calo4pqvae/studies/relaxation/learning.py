r"""The prior of a shower model while it is learned: relaxation time against the sweeps that are made, and its energies.

With ``prior.measure_every`` the training of a shower model writes what it measures into its metrics
(:mod:`~calo4pqvae.prior.learning.mixing`). A run without such rows has its machine learned once more from the same
posterior bits, with measurements.

At the end of a training in equilibrium the mean energies of data and of samples agree: with a flat gradient,

.. math:: \langle E \rangle_{data} - \langle E \rangle_{model} = -\sum_\theta \theta \, \Delta_\theta \to 0 ,

:math:`\Delta_\theta` the difference of the moments. Data and samples are compared at the same incident energies, pair
by pair, so that what the energies have in common does not count as error; several posterior draws of a shower are one
datum.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.config import load_config
from calo4pqvae.seeds import stream
from calo4pqvae.studies.frame.study import Progress, estimate
from calo4pqvae.studies.frame.trained import ShowerPrior, finished_run, shower_run
from calo4pqvae.workshop.rundir import RunDirectory

__all__ = ["EnergyBalance", "LearningCurve", "energy_balance", "learned_prior", "learning_curve"]

FloatArray = NDArray[np.float64]

_DEMO = "demo"  # the preset that all studies share
_CHUNK = 1000


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Measurements of the chains along the learning of a prior; times in sweeps, arrays (measurements,).

    Args:
        updates: Updates before each measurement.
        epochs: The same in passes through the posterior bits.
        sweeps: Sweeps that an update made.
        relaxation: Longest relaxation time of energy and leading modes.
        relaxation_error: Its error.
        integrated: Integrated autocorrelation time of the energy.
        is_limit: Where the measurement was too short for more than a lower limit.
        n_chains: Chains followed.
        measured_sweeps: Sweeps they were followed for.
        watched_epochs: Passes at which moments were compared, (W,).
        gaps: Mean energy of data minus that of the chains there, in standard deviations of the data, (W,).
    """

    updates: FloatArray
    epochs: FloatArray
    sweeps: FloatArray
    relaxation: FloatArray
    relaxation_error: FloatArray
    integrated: FloatArray
    is_limit: NDArray[np.bool_]
    n_chains: int
    measured_sweeps: int
    watched_epochs: FloatArray
    gaps: FloatArray

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        return {
            "updates": self.updates.tolist(),
            "epochs": self.epochs.round(3).tolist(),
            "sweeps": self.sweeps.tolist(),
            "relaxation": [
                estimate(value, error, self.n_chains, seed)
                for value, error in zip(self.relaxation, self.relaxation_error, strict=True)
            ],
            "is_lower_limit": self.is_limit.tolist(),
            "integrated_energy": [None if math.isnan(one) else round(one, 3) for one in self.integrated.tolist()],
            "measured_sweeps": self.measured_sweeps,
        }


@dataclass(frozen=True)
class EnergyBalance:
    """Mean energies of posterior bits and of fresh samples at the same incident energies, in nats.

    Args:
        data: Mean energy of the training bits.
        data_error: Its standard error.
        samples: Mean energy of samples.
        samples_error: Its standard error.
        gap: Mean of the paired differences, data minus samples.
        gap_error: Its standard error.
        validation_gap: The same for showers that were not learned.
        validation_error: Its standard error.
        spread: Standard deviation of the energy of the data.
        n: Showers that were learned and compared.
        n_validation: Showers that were not learned.
        n_sweeps: Sweeps of every sample, from fair coins.
    """

    data: float
    data_error: float
    samples: float
    samples_error: float
    gap: float
    gap_error: float
    validation_gap: float
    validation_error: float
    spread: float
    n: int
    n_validation: int
    n_sweeps: int

    def as_data(self, seed: int) -> dict[str, Any]:
        """Plain data."""
        return {
            "energy_data": estimate(self.data, self.data_error, self.n),
            "energy_samples": estimate(self.samples, self.samples_error, self.n, seed),
            "gap": estimate(self.gap, self.gap_error, self.n, seed),
            "gap_validation": estimate(self.validation_gap, self.validation_error, self.n_validation, seed),
            "energy_spread": estimate(self.spread, self.spread / math.sqrt(2 * self.n), self.n),
            "sweeps_from_coins": self.n_sweeps,
        }


def learned_prior(
    folder: Path,
    run: str | None,
    preset: str,
    changes: dict[str, Any],
    *,
    is_short: bool,
    seed: int,
    progress: Progress,
) -> Path:
    """A finished run whose prior was learned with measurements of its mixing.

    Args:
        folder: Folder of the study.
        run: A finished run, or None to train one.
        preset: Preset of the run that is trained; the preset ``demo`` is shared with the other studies.
        changes: Settings of the learning with measurements, for a run that has none.
        is_short: Whether a short training of the networks will do.
        seed: Seed of the trainings.
        progress: Told about every step.

    Raises:
        CheckpointError: If the run that is named is not finished.
        ConfigError: If there is no such preset.
        DivergenceError: If a training leaves finite values.
    """
    if run is None and preset != _DEMO:
        config = load_config(preset).replace({"training.seed": seed})
        path = finished_run(config, folder.parent / "trained" / preset, "training (showers)", progress)
    else:
        path = shower_run(folder, run, quick=is_short, seed=seed, progress=progress)
    if any(row["stage"] == "mixing" for row in RunDirectory(path).metrics()):
        return path
    start = {"training.mode": "prior", "training.start_from": str(path), "prior.calibrate": False}
    config = RunDirectory(path).config().replace(start | changes)
    return finished_run(config, folder / "prior", "learning the prior", progress)


def learning_curve(path: Path) -> LearningCurve:
    """What a run has written about the mixing of its chains.

    Args:
        path: A run with measurements, as of :func:`learned_prior`.

    Raises:
        CheckpointError: If the run is damaged.
    """
    run = RunDirectory.open(path)
    rows = run.metrics()
    posterior, _ = run.load_tensors("posterior")
    found = [row for row in rows if row["stage"] == "mixing"]
    seen = [row for row in rows if row["stage"] == "prior"]
    per_update = min(run.config().prior.batch_size, len(posterior["bits"])) / len(posterior["bits"])

    def column(name: str) -> FloatArray:
        return np.array([math.nan if row[name] is None else row[name] for row in found], dtype=np.float64)

    updates = column("update")
    return LearningCurve(
        updates=updates,
        epochs=updates * per_update,
        sweeps=column("n_sweeps"),
        relaxation=column("relaxation_time"),
        relaxation_error=column("relaxation_error"),
        integrated=column("tau_energy"),
        is_limit=np.array([not row["is_converged"] for row in found]),
        n_chains=int(found[0]["n_chains"]),
        measured_sweeps=int(found[0]["measured_sweeps"]),
        watched_epochs=np.array([row["update"] for row in seen]) * per_update,
        gaps=np.array([(row["energy_data"] - row["energy_model"]) / row["energy_spread"] for row in seen]),
    )


@torch.no_grad()
def energy_balance(source: ShowerPrior, n_sweeps: int, seed: int) -> EnergyBalance:
    """Compares mean energies at the incident energies of the showers.

    Args:
        source: A trained shower model.
        n_sweeps: Sweeps of a sample from fair coins.
        seed: Seed of the samples.
    """
    n_draws = source.model.config.training.posterior_draws
    n = len(source.bits) // n_draws
    incident = source.incident_energies[:n]
    data = _energies(source, source.bits, source.incident_energies).reshape(n_draws, n).mean(axis=0)
    samples = _sampled(source, incident, n_sweeps, stream(seed, "energy balance"))
    held_out = _energies(source, source.validation_bits, source.validation_energies)
    its_samples = _sampled(source, source.validation_energies, n_sweeps, stream(seed, "energy balance", "validation"))
    (mean, error), (drawn, drawn_error) = _mean(data), _mean(samples)
    (gap, gap_error), (other, other_error) = _mean(data - samples), _mean(held_out - its_samples)
    return EnergyBalance(
        data=mean,
        data_error=error,
        samples=drawn,
        samples_error=drawn_error,
        gap=gap,
        gap_error=gap_error,
        validation_gap=other,
        validation_error=other_error,
        spread=float(data.std(ddof=1)),
        n=n,
        n_validation=len(held_out),
        n_sweeps=n_sweeps,
    )


def _energies(source: ShowerPrior, bits: Tensor, incident_energies: Tensor) -> FloatArray:
    """Energy in nats of latent bits at incident energies, (n,)."""
    parts = [slice(start, start + _CHUNK) for start in range(0, len(bits), _CHUNK)]
    return np.concatenate(
        [source.model.prior.energy(bits[part], incident_energies[part]).double().numpy() for part in parts]
    )


def _sampled(source: ShowerPrior, incident_energies: Tensor, n_sweeps: int, generator: torch.Generator) -> FloatArray:
    """Energies of one sample at each incident energy."""
    prior = source.model.prior
    starts = range(0, len(incident_energies), _CHUNK)
    bits = torch.cat([prior.sample(incident_energies[at : at + _CHUNK], n_sweeps, generator) for at in starts])
    return _energies(source, bits, incident_energies)


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
