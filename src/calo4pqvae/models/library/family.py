r"""A shower library: frozen Geant4 showers, drawn again; the oldest fast simulation, and the one with nothing learned.

For a wanted incident energy E one of the ``neighbours`` training showers that are nearest in :math:`\ln E` is chosen at
random, its voxels are scaled by :math:`E / E'` of its own energy, it is turned about the beam and mirrored at random,
and what falls below the read-out threshold is dropped.

As a rival it is instructive in both directions: its showers are genuine, so that no classifier finds a fault in a
single one, and they repeat themselves as soon as more are drawn than were kept, which a test of diversity (coverage)
shows and a comparison of distributions does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from calo4pqvae.config import Config, Section
from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.models.model import Draws, Family, Model, Part, Source, Trainee
from calo4pqvae.showers.energies import check_energies
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.store import ShowerStore
from calo4pqvae.showers.transforms import apply_threshold
from calo4pqvae.workshop.bench import Bench, Stage
from calo4pqvae.workshop.data import TrainingData, training_grid

__all__ = ["LibraryFamily", "LibraryModel", "LibrarySettings"]

NAME = "library"


class LibrarySettings(Section):
    """The section ``[library]``."""

    neighbours: int = Field(20, gt=0, description="showers nearest in ln E that one is drawn from")


class LibraryFamily(Family):
    """Training showers, kept."""

    parts: ClassVar[Sequence[str]] = (NAME,)
    sources: ClassVar[Mapping[str, Source]] = {NAME: Source("shower library")}

    def trainee(self, config: Config, data: TrainingData) -> Trainee:
        """What keeps the training showers.

        Raises:
            ConfigError: If there are fewer of them than neighbours to draw from.
        """
        settings = config.section(NAME, LibrarySettings)
        if settings.neighbours > len(data.train):
            raise ConfigError(
                f"library.neighbours = {settings.neighbours} is more than the {len(data.train)} training showers: "
                "lower it"
            )
        return _LibraryTrainee(data)

    def load(self, config: Config, parts: Mapping[str, Part], origin: str, device: torch.device) -> Model:
        """The library of a finished run.

        Raises:
            CheckpointError: If showers are missing.
        """
        tensors, grid = parts[NAME].tensors, training_grid(config)
        try:
            energies, values, voxels, offsets = (
                tensors[name].numpy() for name in ("incident_energies", "values", "voxels", "offsets")
            )
        except KeyError as error:
            raise CheckpointError(f"the library of {origin} lacks {error}: restore it or train again") from error
        neighbours = config.section(NAME, LibrarySettings).neighbours
        return LibraryModel(
            config, origin, grid, ShowerStore(energies, values, voxels, offsets, grid.n_voxels), neighbours, device
        )


class _LibraryTrainee(Trainee):
    def __init__(self, data: TrainingData) -> None:
        self._n_showers = len(data.train)

    @property
    def stages(self) -> Sequence[Stage]:
        return [Stage(NAME, _keep)]

    def start(self, bench: Bench) -> None:
        """Nothing: there is nothing to learn."""

    def facts(self) -> dict[str, Any]:
        return {"n_parameters": {NAME: 0}, "n_kept_showers": self._n_showers}


def _keep(bench: Bench) -> None:
    kept = bench.data.store.subset(bench.data.train)
    arrays = {
        "incident_energies": kept.incident_energies,
        "values": kept.values,
        "voxels": kept.voxels.astype("int32"),
        "offsets": kept.offsets,
    }
    bench.save_part(NAME, {name: torch.from_numpy(array) for name, array in arrays.items()})
    bench.report(NAME, len(kept), len(kept), {})


@dataclass(frozen=True, eq=False)
class LibraryModel(Model):
    """Kept showers, ready to be drawn.

    Attributes:
        grid: The grid.
        store: The showers.
        neighbours: How many of them one is drawn from.
        place: Where drawn showers are.
    """

    sources: ClassVar[Mapping[str, Source]] = LibraryFamily.sources

    grid: Geometry
    store: ShowerStore
    neighbours: int
    place: torch.device

    @property
    def geometry(self) -> Geometry:
        """The grid."""
        return self.grid

    @property
    def device(self) -> torch.device:
        """Where drawn showers are."""
        return self.place

    def generate(self, incident_energies: Tensor, source: str, draws: Draws) -> Tensor:
        """Showers (B, V) of neighbours in energy, scaled, turned and mirrored."""
        self.random_source(source)
        wanted = incident_energies.cpu()
        check_energies(wanted, self.config.data.energy_min_mev, self.config.data.energy_max_mev)
        generator = draws.stream_on_cpu(NAME)
        chosen = self._neighbours(wanted[:, 0], generator)
        showers, energies = self.store.batch(chosen)
        turned = self._turned(showers * (wanted / energies), generator)
        return apply_threshold(turned, self.geometry.threshold_mev).to(self.device)

    def _neighbours(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (B,) of showers, each drawn from those whose energies are nearest in ratio."""
        logs = torch.from_numpy(self.store.incident_energies).log()
        distances = (wanted.log()[:, None] - logs[:, 0]).abs()
        nearest = distances.topk(self.neighbours, largest=False).indices
        pick = torch.randint(self.neighbours, (len(wanted), 1), generator=generator)
        return nearest.gather(1, pick)[:, 0]

    def _turned(self, showers: Tensor, generator: torch.Generator) -> Tensor:
        """Showers (B, V), each turned by a whole number of cells and mirrored or not."""
        layers, angles, rings = self.geometry.grid_shape
        shift = torch.randint(angles, (len(showers), 1), generator=generator)
        sign = 1 - 2 * torch.randint(2, (len(showers), 1), generator=generator)
        places = (sign * (torch.arange(angles) - shift)) % angles
        index = places[:, None, :, None].expand(-1, layers, -1, rings)
        return showers.view(-1, layers, angles, rings).gather(2, index).flatten(1)
