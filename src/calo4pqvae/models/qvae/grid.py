"""How a regular grid is built up: base cells, parent cells, voxels.

The decoder works on parent cells, each of which holds a few voxels (3 layers x 2 sectors on the dataset-2 grid).
Parents are upsampled from a still coarser base grid that already has an angular axis, so that every step commutes with
rotations by whole base sectors. The plan also owns the one place where the order of voxels in a file, (layer, angle,
radius), meets the order of cells in the networks.

``scrambled`` is the misreading of older models, which took the 144 numbers of a layer as 9 angles x 16 radii (the
"periodicity bug"); it is kept as a named baseline for the study of its effect.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from calo4pqvae.showers.geometry import Geometry

__all__ = ["GridPlan"]


class GridPlan(nn.Module):
    """Sizes and index maps of a regular grid.

    Args:
        geometry: A regular geometry.
        layout: Order in which the voxels of a layer are read.

    Attributes:
        shape: Cells in (layer, angle, radius).
        cell: Voxels of a parent along the three axes.
        parents: Parents along the three axes.
        scale: Upsampling from base to parents.
        base: Base cells along the three axes.
    """

    voxel_of_cell: Tensor
    cell_of_voxel: Tensor
    parent_of_voxel: Tensor
    slot_of_voxel: Tensor
    ring_of_voxel: Tensor
    layer_of_voxel: Tensor

    def __init__(self, geometry: Geometry, layout: Literal["cylinder", "scrambled"] = "cylinder") -> None:
        super().__init__()
        self.threshold_mev = geometry.threshold_mev
        self.shape = layers, angles, radii = geometry.grid_shape
        self.cell = (
            _first_divisor(layers, (3, 2)),
            _first_divisor(angles, (2,)),
            _first_divisor(radii, (2,)) if radii > 12 else 1,
        )
        self.parents = tuple(n // c for n, c in zip(self.shape, self.cell, strict=True))
        self.scale = (1, _first_divisor(self.parents[1], (2, 3, 5, 7)), _first_divisor(self.parents[2], (3, 2, 5)))
        self.base = tuple(n // s for n, s in zip(self.parents, self.scale, strict=True))
        order = torch.arange(geometry.n_voxels).view(layers, angles, radii)
        if layout == "scrambled":
            order = order.reshape(layers, radii, angles).transpose(1, 2)
        voxel_of_cell = order.flatten()
        cell_of_voxel = torch.argsort(voxel_of_cell)
        self.in_file_order = layout == "cylinder"
        layer, angle, radius = torch.unravel_index(cell_of_voxel, self.shape)
        parent = _ravel([i // c for i, c in zip((layer, angle, radius), self.cell, strict=True)], self.parents)
        slot = _ravel([i % c for i, c in zip((layer, angle, radius), self.cell, strict=True)], self.cell)
        true_layer = torch.arange(geometry.n_voxels) // (angles * radii)
        true_ring = true_layer * radii + torch.arange(geometry.n_voxels) % radii
        maps = (voxel_of_cell, cell_of_voxel, parent, slot, true_ring, true_layer)
        for name, index in zip(_MAPS, maps, strict=True):
            self.register_buffer(name, index, persistent=False)

    @property
    def n_parents(self) -> int:
        """Number of parent cells."""
        return self.parents[0] * self.parents[1] * self.parents[2]

    @property
    def n_slots(self) -> int:
        """Voxels in a parent cell."""
        return self.cell[0] * self.cell[1] * self.cell[2]

    def to_grid(self, voxels: Tensor) -> Tensor:
        """Voxels (B, V) in file order as a field (B, 1, layer, angle, radius)."""
        return voxels[:, self.voxel_of_cell].view(-1, 1, *self.shape)

    def slots_to_voxels(self, slots: Tensor) -> Tensor:
        """Values (B, parents, slots) as voxels (B, V) in file order."""
        apart = slots.reshape(-1, *self.parents, *self.cell)
        cells = apart.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(slots), -1)
        return cells if self.in_file_order else cells.index_select(1, self.cell_of_voxel)

    def layers_to_parents(self, values: Tensor) -> Tensor:
        """Layer values (B, L, c) as parent channels (B, cell layers * c, layer, angle, radius)."""
        n_batch, _, n_channels = values.shape
        grouped = values.reshape(n_batch, self.parents[0], self.cell[0] * n_channels).transpose(1, 2)
        return grouped[..., None, None].expand(-1, -1, -1, *self.parents[1:])


_MAPS = ("voxel_of_cell", "cell_of_voxel", "parent_of_voxel", "slot_of_voxel", "ring_of_voxel", "layer_of_voxel")


def _first_divisor(n: int, candidates: Sequence[int]) -> int:
    return next((candidate for candidate in candidates if n % candidate == 0), 1)


def _ravel(indices: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    return (indices[0] * shape[1] + indices[1]) * shape[2] + indices[2]
