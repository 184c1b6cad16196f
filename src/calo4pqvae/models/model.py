"""The seam between whole jobs and model families.

A **family** is a kind of generative model: it reads its own settings, makes a **trainee** (networks and whatever else
is learned, with the stages in which it is learned) and loads a finished **model** from the named parts of a run. A
model draws showers at incident energies from one of its **sources**, the rows of a report. Training, generation and
report in :mod:`calo4pqvae.runs` know the classes of this module only.

**Randomness.** Showers are made chunk by chunk; whatever a model draws for a chunk comes from streams that are named by
their purpose (:class:`Draws`), so that a file is the same however its chunks are shared among processes.

**Parts** are named groups of tensors, one file each. What a family calls a part is saved, loaded, hashed and counted by
walking their names; a part may hold more than one module.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from calo4pqvae.config import Config
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.refiners.refiner import Refiner
from calo4pqvae.seeds import stream
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.workshop.bench import Bench, Stage
from calo4pqvae.workshop.data import TrainingData

__all__ = ["Draws", "Family", "LatentStates", "Model", "Part", "Source", "Trainee"]


@dataclass(frozen=True)
class Draws:
    """The random streams of one chunk of showers.

    Attributes:
        seed: Seed of the whole file.
        chunk: Number of the chunk in it.
        device: Where the generators are.
    """

    seed: int
    chunk: int
    device: torch.device | str = "cpu"

    def stream(self, name: str) -> Generator:
        """A fresh generator for one purpose."""
        return stream(self.seed, name, self.chunk, device=self.device)

    def stream_on_cpu(self, name: str) -> Generator:
        """The same for draws that are the same on every device."""
        return stream(self.seed, name, self.chunk)


@dataclass(frozen=True)
class Source:
    """One way of a model to make showers; a row of its report.

    Attributes:
        title: Its name in tables and figures.
        from_showers: It needs true showers: an encoder's reconstruction.
    """

    title: str
    from_showers: bool = False


@dataclass(frozen=True)
class Part:
    """A named group of tensors with notes, as a run directory keeps it."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LatentStates:
    """Latent bits of held-out showers and of the priors at the same incident energies.

    Attributes:
        bits: Bits (N, n_bits) by source, "encoded" first.
        energies: Energies (N,) in nats, under the prior, of encoded and of sampled bits.
    """

    bits: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    energies: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model(ABC):
    """A finished model, ready to generate; its subclasses are dataclasses.

    Attributes:
        config: Settings of the run.
        origin: Name of the run, for messages and files.
        refiners: What works on its showers, in this order.
    """

    sources: ClassVar[Mapping[str, Source]]
    """Its sources by name; the first is the model itself, others are what its own report compares it with."""

    config: Config
    origin: str
    refiners: tuple[Refiner, ...] = field(default=(), kw_only=True)

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """The grid of its showers."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the model is."""

    @abstractmethod
    def generate(self, incident_energies: Tensor, source: str, draws: Draws) -> Tensor:
        """Draws showers.

        Args:
            incident_energies: (B, 1) in MeV.
            source: One of :attr:`sources` that needs no true showers.
            draws: Random streams of these showers.

        Returns:
            Showers (B, V) in MeV, in the order of files; every voxel is 0 or at least the read-out threshold.

        Raises:
            DataError: If an energy is out of range.
        """

    def reconstruct(self, showers: Tensor, incident_energies: Tensor, draws: Draws) -> Tensor:
        """Encodes true showers (B, V) and decodes them again.

        Raises:
            ConfigError: If the family has no encoder.
        """
        del showers, incident_energies, draws
        raise ConfigError(f"{self.origin} has no encoder: showers cannot be reconstructed, use generate")

    def latent_states(self, file: Path, seed: int) -> LatentStates:
        """Latent bits of a file's showers and of the sources; none in a family without latent bits."""
        del file, seed
        return LatentStates()

    def attributes(self, source: str, n: int) -> dict[str, str | int | float]:
        """What a file of ``n`` showers of a source shall say beside seed and versions."""
        del n
        return {"prior": source}

    def random_source(self, name: str) -> Source:
        """The source of a name, for drawing.

        Raises:
            ConfigError: If there is none, or it needs true showers.
        """
        names = [key for key, source in self.sources.items() if not source.from_showers]
        if name not in names:
            raise ConfigError(f"the source '{name}' is unknown: this model draws from {', '.join(names)}")
        return self.sources[name]


class Trainee(ABC):
    """What is learned: fresh, or restored by its stages."""

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages of the training, in their order; each saves the parts that it finishes."""

    @abstractmethod
    def start(self, bench: Bench) -> None:
        """Sets scales and first values from the training showers; only where nothing is resumed."""

    def place(self, device: torch.device) -> None:
        """Puts on a device what is not taken there by an optimiser; nothing by default."""
        del device

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the provenance of a run shall say: numbers of parameters by module, graph and the like."""


class Family(ABC):
    """A kind of generative model, found by name (:mod:`calo4pqvae.models.registry`).

    Settings of its own are a subclass of :class:`~calo4pqvae.config.Section` that it reads with
    :meth:`~calo4pqvae.config.Config.section` from the section of its name.
    """

    parts: ClassVar[Sequence[str]]
    """Names of the parts that :meth:`load` needs."""

    sources: ClassVar[Mapping[str, Source]]
    """Sources of its models."""

    @abstractmethod
    def trainee(self, config: Config, data: TrainingData) -> Trainee:
        """A trainee with fresh values.

        Raises:
            ConfigError: If settings do not fit the data, or something that they name is missing.
        """

    @abstractmethod
    def load(self, config: Config, parts: Mapping[str, Part], origin: str, device: torch.device) -> Model:
        """The model of a finished run.

        Args:
            config: Settings of the run.
            parts: The parts named in :attr:`parts`.
            origin: Name of the run, for messages and files.
            device: Where it shall be.

        Raises:
            CheckpointError: If the parts do not fit the settings.
        """
