"""The exact symmetries of showers, by which a classifier learns more from the same showers.

Without a magnetic field nothing prefers a direction around the axis: a shower turned by whole cells of the grid, or
mirrored, is another shower of the same law. Voxels are only put in another order. Each shower of a batch gets a turn of
its own; layers with different numbers of cells in angle turn together by a common part of the circle.

Of features, which are no voxels, nothing is turned: centres and widths along one axis would mix with another's.
"""

import math

import numpy as np
import torch
from torch import Tensor

from calo4pqvae.evaluation.classifiers.data import ClassifierInput, VoxelInput
from calo4pqvae.showers.geometry import Geometry

__all__ = ["Symmetry"]


class Symmetry:
    """Turns and mirrors rows of log10 energy and voxels.

    Args:
        orders: For each symmetry, from which voxel every voxel comes, (symmetries, V).
    """

    def __init__(self, orders: Tensor) -> None:
        self.orders = orders

    @classmethod
    def of(cls, sample: ClassifierInput) -> "Symmetry | None":
        """The symmetries of a sample's grid; None if it is not made of voxels or has a single angle."""
        if not isinstance(sample, VoxelInput):
            return None
        orders = _orders(sample.geometry)
        return cls(torch.from_numpy(orders)) if len(orders) > 1 else None

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Every row of (batch, 1 + V) in a random one of the orders."""
        chosen = torch.randint(len(self.orders), (len(inputs),), generator=generator)
        places = self.orders[chosen].to(inputs.device)
        return torch.cat([inputs[:, :1], inputs[:, 1:].gather(1, places)], dim=1)


def _orders(geometry: Geometry) -> np.ndarray:
    cells = [layer.n_alpha for layer in geometry.layers if layer.n_alpha > 1]
    n_turns = math.gcd(*cells) if cells else 1
    orders = []
    for turn in range(n_turns):
        for is_mirrored in (False, True) if cells else (False,):
            parts = []
            for layer, where in zip(geometry.layers, geometry.layer_slices, strict=True):
                grid = np.arange(where.start, where.stop).reshape(layer.n_alpha, layer.n_radial)
                grid = grid[::-1] if is_mirrored else grid
                parts.append(np.roll(grid, turn * layer.n_alpha // n_turns, axis=0).reshape(-1))
            orders.append(np.concatenate(parts))
    return np.stack(orders)
