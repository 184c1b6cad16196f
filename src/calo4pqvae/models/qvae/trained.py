"""A trained quantum-assisted variational autoencoder: its sources of showers, its encoder, its latent bits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from calo4pqvae.errors import ConfigError
from calo4pqvae.models.model import Draws, LatentStates, Model, Source
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.seeds import stream
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.showers.geometry import Geometry

__all__ = ["SOURCES", "TrainedModel", "as_qvae"]

SOURCES: Mapping[str, Source] = {
    "boltzmann": Source("Boltzmann prior"),
    "independent": Source("independent bits"),
    "reconstruction": Source("posterior bits", from_showers=True),
}
"""Bits of the machine, bits of the same means without couplings (what the couplings are worth), encoded bits."""


@dataclass(frozen=True, eq=False)
class TrainedModel(Model):
    """Networks and prior of a finished run, ready to generate.

    Attributes:
        autoencoder: Encoder and decoder.
        prior: Boltzmann machine of the latent bits.
        baseline: Independent bits of the same means.
        gains: Calibration of layers (3, L) for each source of bits.
    """

    sources: ClassVar[Mapping[str, Source]] = SOURCES

    autoencoder: ShowerAutoencoder
    prior: LatentPrior
    baseline: LatentPrior
    gains: Mapping[str, Tensor]

    @property
    def geometry(self) -> Geometry:
        """The grid of the showers."""
        return self.autoencoder.geometry

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.prior.machine.device

    def draw_bits(self, energies: Tensor, source: str, n_sweeps: int, generator: Generator) -> Tensor:
        """Latent bits (B, n_bits) at incident energies (B, 1) in MeV."""
        if source == "independent":
            return self.baseline.sample(energies, 1, generator)
        return self.prior.sample(energies, n_sweeps, generator)

    def generate(self, incident_energies: Tensor, source: str, draws: Draws) -> Tensor:
        """Showers (B, V) from bits of a source, decoded."""
        n_sweeps = self.config.generation.n_sweeps
        bits = self.draw_bits(incident_energies, source, n_sweeps, draws.stream("bits"))
        return self.decode(bits, incident_energies, source, draws)

    def decode(self, bits: Tensor, incident_energies: Tensor, source: str, draws: Draws) -> Tensor:
        """Showers (B, V) from latent bits (B, n_bits), with the calibration of their source."""
        return self.autoencoder.decode(bits, incident_energies, draws.stream("decode"), self.gains.get(source))

    @torch.no_grad()
    def reconstruct(self, showers: Tensor, incident_energies: Tensor, draws: Draws) -> Tensor:
        """Showers (B, V) from the posterior bits of true ones."""
        bits = self._encoded(showers, incident_energies, draws.stream_on_cpu("posterior"))
        return self.decode(bits, incident_energies, "reconstruction", draws)

    def latent_states(self, file: Path, seed: int) -> LatentStates:
        """Encodes a file of showers, and draws bits from both priors at its incident energies.

        Args:
            file: Shower file.
            seed: Seed of the encoder's noise and of the draws.
        """
        size, n_sweeps = self.config.generation.chunk, self.config.generation.n_sweeps
        drawn = {name: source.title for name, source in SOURCES.items() if not source.from_showers}
        streams = {"boltzmann": "latent bits", "independent": "independent latent bits"}
        bits: dict[str, list[Tensor]] = {"encoded": [], **{title: [] for title in drawn.values()}}
        energies: dict[str, list[Tensor]] = {"encoded": [], "sampled": []}
        with ShowerFile(file, self.geometry) as showers, torch.no_grad():
            for chunk, (given, voxels) in enumerate(showers.chunks(size)):
                incident = torch.from_numpy(given.astype(np.float32)).to(self.device)
                true = torch.from_numpy(voxels).to(self.device)
                bits["encoded"].append(self._encoded(true, incident, stream(seed, "latent noise", chunk)))
                for source, title in drawn.items():
                    drawing = stream(seed, streams[source], chunk, device=self.device)
                    bits[title].append(self.draw_bits(incident, source, n_sweeps, drawing))
                energies["encoded"].append(self.prior.energy(bits["encoded"][-1], incident))
                energies["sampled"].append(self.prior.energy(bits[drawn["boltzmann"]][-1], incident))
        return LatentStates(
            {name: torch.cat(parts).to(torch.uint8).cpu().numpy() for name, parts in bits.items()},
            {name: torch.cat(parts).double().cpu().numpy() for name, parts in energies.items()},
        )

    def attributes(self, source: str, n: int) -> dict[str, str | int | float]:
        """Source of the bits, sweeps and kernel."""
        if SOURCES[source].from_showers:
            return {"prior": "posterior bits (reconstruction)"}
        kernel = self.prior.sampler.choose(min(n, self.config.generation.chunk), self.prior.clamped)
        return {"prior": source, "n_sweeps": self.config.generation.n_sweeps, "sampling_kernel": str(kernel)}

    def _encoded(self, showers: Tensor, incident_energies: Tensor, generator: Generator) -> Tensor:
        noise = torch.rand(len(showers), self.prior.n_bits, generator=generator)
        return self.autoencoder.encode(showers, incident_energies, noise.to(self.device)).bits


def as_qvae(model: Model) -> TrainedModel:
    """The model, if it has latent bits with a Boltzmann machine.

    Raises:
        ConfigError: If it is of another family.
    """
    if not isinstance(model, TrainedModel):
        raise ConfigError(f"{model.origin} has no Boltzmann machine: give a run of the family 'qvae'")
    return model
