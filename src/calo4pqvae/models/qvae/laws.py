"""What the decoder is made of: a law of the layers and a law of the voxels, each behind a small protocol.

The layer law is that of :class:`~calo4pqvae.models.qvae.decoder.LayerHead`: means from the bits, so that what is common
to the layers has no other way than through the prior. The voxel law is chosen by ``decoder.kind``:

* ``factorised``: hits and energies of voxels independent given bits and layers;
* ``cascade``: an exact likelihood that splits each layer's energy down a tree, which needs no bits and is learned apart
  from encoder and prior, from true showers.

A new kind is a class with the four members of :class:`VoxelLaw`, a line in :func:`voxel_law` and a word in the setting.
"""

from typing import Protocol

from torch import Generator, Tensor, nn

from calo4pqvae.config import Config
from calo4pqvae.models.qvae.cascade.cascade import Cascade
from calo4pqvae.models.qvae.decoder import VoxelHead
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.models.qvae.observables import Observables, ShowerView

__all__ = ["VoxelLaw", "voxel_law"]


class VoxelLaw(Protocol):
    """Law of hits and voxel energies given bits, incident energy and layers; also a module."""

    is_learned_apart: bool
    """Whether it has a stage of its own, and no part in the bound that encoder and layer law are trained with."""

    def start(self, observables: Observables) -> None:
        """Takes starting values from fitted observables."""

    def nll(self, bits: Tensor, view: ShowerView) -> tuple[Tensor, Tensor]:
        """Minus the log-likelihood of true hits, and of true energies at the hits, in nats, batch means."""

    def draw(self, bits: Tensor, view: ShowerView, layer_energies: Tensor, generator: Generator) -> Tensor:
        """Draws voxels (B, V) in MeV whose layers have the given energies (B, L).

        Args:
            bits: (B, n_bits).
            view: Energies and layers as drawn; its voxels and hits are empty.
            layer_energies: (B, L) in MeV.
            generator: Source of randomness.
        """


def voxel_law(config: Config, plan: GridPlan, observables: Observables, n_bits: int) -> nn.Module:
    """The voxel law of the settings, fresh."""
    if config.decoder.kind == "cascade":
        return Cascade(config.cascade, observables.geometry, observables.energy_range)
    return VoxelHead(config.decoder, plan, n_bits, observables.ring_occupancy, observables.ring_voxels)
