"""What a refiner is: a stage from drawn showers to better ones, learned after the model whose showers it takes.

A refiner is named in ``model.refiners``; it is fitted to showers that the finished model draws at the energies of
training showers, and to those, in a stage of its own after the model's; its tensors are the part ``refiner-NAME`` of
the run. In generation and reconstruction the refiners work on every chunk in the order of their names in the settings.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from torch import Tensor

from calo4pqvae.config import Config
from calo4pqvae.showers.geometry import Geometry

__all__ = ["Refiner", "part_name"]


def part_name(name: str) -> str:
    """The part of a run that holds a refiner."""
    return f"refiner-{name}"


class Refiner(ABC):
    """Showers to showers.

    Args:
        config: Settings of the run; those of the refiner are in the section of its name.
        geometry: The grid.
    """

    def __init__(self, config: Config, geometry: Geometry) -> None:
        self.config, self.geometry = config, geometry

    @abstractmethod
    def fit(self, pairs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Learns from showers.

        Args:
            pairs: Chunks of true showers (B, V), drawn showers (B, V) at the same energies, and those (B, 1), in MeV;
                the showers of a row have nothing in common but their incident energy.
        """

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """All that has been learned, by name."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`tensors` gave.

        Raises:
            CheckpointError: If it does not fit.
        """

    @abstractmethod
    def refine(self, showers: Tensor, incident_energies: Tensor) -> Tensor:
        """Refined showers (B, V) in MeV; every voxel is 0 or at least the read-out threshold."""
