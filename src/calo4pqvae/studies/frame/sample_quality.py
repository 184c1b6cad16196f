r"""Distances of generated showers from Geant4 ones, each beside the floor at the same sizes and incident energies.

A judge holds two samples of Geant4: the reference (held-out showers) and the floor, training showers at whose incident
energies a model has to generate. Floor and model are compared with the reference at the same number of showers and at
the same incident energies: what the floor shows is what a perfect model would show. Geant4 showers of the training are
in no way favoured by that, as no model is between them and the reference.

FPD and KPD are of both feature sets, the 362 of the CaloChallenge and the 226 of Calo4pQVAE, and are estimated from far
fewer showers than their standard settings want: they are to be compared with the floor and with each other, and with no
published number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import ConfigError
from calo4pqvae.evaluation.features.highlevel import feature_vector
from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures, shower_features
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import FrechetSettings, fpd
from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings, kpd
from calo4pqvae.evaluation.metrics.separation import separation_powers
from calo4pqvae.evaluation.metrics.targets import check_targets
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.trained import TrainedModel
from calo4pqvae.prior.learning.diagnostics import WatchReport, watch
from calo4pqvae.seeds import derive_seed, stream
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.workshop.data import resolve_file, training_grid

__all__ = ["DISTANCES", "Judge", "Quality", "compare_machine"]

FeatureKind = Literal["challenge", "calo4pqvae-226"]

DISTANCES: Mapping[str, str] = {
    "FPD 362": "Fréchet physics distance, x 1000, features of the CaloChallenge",
    "FPD 226": "Fréchet physics distance, x 1000, features of Calo4pQVAE",
    "KPD 362": "kernel physics distance, x 1000, features of the CaloChallenge",
    "KPD 226": "kernel physics distance, x 1000, features of Calo4pQVAE",
    "separation": "separation power, mean of all observables, x 1000",
}
"""Distances of a :class:`Quality` by name, and what they are."""

_KINDS: Mapping[str, FeatureKind] = {"362": "challenge", "226": "calo4pqvae-226"}
_LEAST = 100
_CHUNK = 500
_SHARE = 5  # smallest batch of FPD: a fifth of the sample
_POINTS, _BATCHES = 5, 4


@dataclass(frozen=True)
class Quality:
    """How far a sample is from the reference.

    Args:
        distances: Value and error of every one of :data:`DISTANCES`; the error is within the sample.
        n_passed: Rows of the acceptance table that pass.
        n_rows: Rows of the acceptance table.
    """

    distances: Mapping[str, Estimate]
    n_passed: int
    n_rows: int

    @property
    def passed(self) -> float:
        """Share of the acceptance table that passes."""
        return self.n_passed / self.n_rows


class Judge:
    """Reference and floor, and the distances of a sample from the reference.

    Args:
        config: Where the showers come from: ``data.train``, ``data.heldout`` and the geometry.
        n: Showers of each sample; fewer if a file has fewer.
        seed: Seed of the choice of showers and of the batches.

    Attributes:
        n: Showers of each sample.
        showers: Showers of the floor (n, V) in MeV.
        energies: Their incident energies (n, 1) in MeV, at which samples are generated.
        floor: How far the floor is from the reference.

    Raises:
        DataError: If the files cannot be used.
        ConfigError: If a file holds too few showers.
    """

    def __init__(self, config: Config, n: int, seed: int) -> None:
        self.seed = seed
        self.geometry = training_grid(config)
        files = {part: resolve_file(getattr(config.data, part), part)[0] for part in ("train", "heldout")}
        energies: dict[str, NDArray[Any]] = {}
        rows: dict[str, NDArray[Any]] = {}
        for part, path in files.items():
            with ShowerFile(path, self.geometry) as file:
                energies[part] = file.incident_energies().reshape(-1)
        self.n = min(n, *(len(found) for found in energies.values()))
        if self.n < _LEAST:
            raise ConfigError(f"{self.n} showers are too few to compare: give files and a number of {_LEAST} or more")
        for part, found in energies.items():
            order = np.random.default_rng(derive_seed(seed, "judge", part)).permutation(len(found))
            rows[part] = np.sort(order[: self.n])
        self.energies = torch.from_numpy(energies["train"][rows["train"]].astype(np.float32)).view(-1, 1)
        features = {}
        for part, path in files.items():
            with ShowerFile(path, self.geometry) as file:
                showers = file.read(0, len(energies[part]))[rows[part]]
            features[part] = shower_features(showers, energies[part][rows[part]], self.geometry)
            if part == "train":
                self.showers = torch.from_numpy(showers)
        self._reference = features["heldout"]
        self.floor = self._judged(features["train"])

    def judge(self, showers: Tensor) -> Quality:
        """Distances of showers (n, V) in MeV, generated at :attr:`energies`."""
        return self._judged(shower_features(showers.cpu().numpy(), self.energies.numpy(), self.geometry))

    def decoded(self, model: TrainedModel, bits: Tensor, seed: int) -> Tensor:
        """Showers (n, V) in MeV of latent bits (n, n_bits) at :attr:`energies`, without a calibration of layers."""
        device, decoded = model.device, []
        parts = zip(torch.split(bits, _CHUNK), torch.split(self.energies, _CHUNK), strict=True)
        for chunk, (own, energies) in enumerate(parts):
            drawing = stream(seed, "decode", chunk, device=device)
            decoded.append(model.autoencoder.decode(own.to(device), energies.to(device), drawing).cpu())
        return torch.cat(decoded)

    @torch.no_grad()
    def posterior_bits(self, model: TrainedModel) -> Tensor:
        """Posterior bits (n, n_bits) of the showers of the floor: what a perfect prior would draw."""
        uniform = torch.rand(self.n, model.prior.n_bits, generator=stream(self.seed, "judge", "posterior"))
        parts = zip(*(torch.split(part, _CHUNK) for part in (self.showers, self.energies, uniform)), strict=True)
        return torch.cat([model.autoencoder.encode(*(one.to(model.device) for one in part)).bits for part in parts])

    def _judged(self, sample: ShowerFeatures) -> Quality:
        reference, distances = self._reference, {}
        fpd_settings = FrechetSettings(max(2, self.n // _SHARE), self.n, _POINTS, _BATCHES)
        kpd_settings = KernelSettings(max(2, self.n // 2))
        for label, kind in _KINDS.items():
            vectors: dict[str, Any] = {
                "reference": feature_vector(reference, kind),
                "generated": feature_vector(sample, kind),
            }
            frechet = fpd(**vectors, settings=fpd_settings, seed=self.seed)
            kernel = kpd(**vectors, settings=kpd_settings, seed=self.seed)
            distances[f"FPD {label}"] = Estimate(1e3 * frechet.value, 1e3 * frechet.error_total, self.n)
            distances[f"KPD {label}"] = Estimate(1e3 * kernel.value, 1e3 * kernel.error, self.n)
        powers = [power.value for power in separation_powers(reference, sample, seed=self.seed)]
        mean, spread = (np.mean([getattr(power, name) for power in powers]) for name in ("value", "error"))
        distances["separation"] = Estimate(1e3 * float(mean), 1e3 * float(spread), self.n)
        table = check_targets(reference, sample, EnergyBins.thirds_of(reference.incident_energy), seed=self.seed)
        ordered = {name: distances[name] for name in DISTANCES}
        return Quality(ordered, table.n_passed, len(table.rows))


@torch.no_grad()
def compare_machine(prior: LatentPrior, bits: Tensor, energies: Tensor, n_sweeps: int, seed: int) -> WatchReport:
    """Posterior bits beside samples of the machine from fair coins at the same incident energies.

    Args:
        prior: The machine.
        bits: Posterior bits (n, n_bits).
        energies: Their incident energies (n, 1) in MeV.
        n_sweeps: Block Gibbs sweeps of the samples.
        seed: Seed of the samples.
    """
    drawing = stream(seed, "watched", device=prior.machine.device)
    samples = prior.states(prior.sample(energies, n_sweeps, drawing), energies)
    condition = prior.condition(energies)
    return watch(prior.machine, prior.states(bits, energies), samples, condition, held=prior.clamped)
