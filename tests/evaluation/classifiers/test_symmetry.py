"""Turned and mirrored showers: what stays the same does, and all symmetries occur."""

import numpy as np
import torch

from calo4pqvae.evaluation.classifiers.data import FeatureInput, VoxelInput
from calo4pqvae.evaluation.classifiers.symmetry import Symmetry
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.showers.store import ShowerStore
from calo4pqvae.testing import synthetic_showers


def voxels(grid: Geometry, n: int) -> VoxelInput:
    energies, showers = synthetic_showers(grid, n, 4)
    return VoxelInput(ShowerStore.from_arrays(showers, energies), grid)


def test_every_turn_and_mirror_image_of_a_shower(tiny: Geometry) -> None:
    sample = voxels(tiny, 1)
    turn = Symmetry.of(sample)
    assert turn is not None
    row = sample.batch(np.zeros(600, dtype=np.int64), torch.float64)
    turned = turn(row, torch.Generator().manual_seed(1))
    assert torch.equal(turned[:, 0], row[:, 0])
    cells = row[0, 1:].reshape(8, 6, 4).numpy()
    expected = {np.roll(image, k, axis=1).tobytes() for image in (cells, cells[:, ::-1]) for k in range(6)}
    assert len(expected) == 12
    assert {each.numpy().reshape(8, 6, 4).tobytes() for each in turned[:, 1:]} == expected


def test_layers_of_other_numbers_of_cells_turn_together() -> None:
    grid = geometry("ds1-photons")  # 10 cells or one
    turn = Symmetry.of(voxels(grid, 2))
    assert turn is not None
    assert turn.orders.shape == (20, grid.n_voxels)
    assert (turn.orders.sort(dim=1).values == torch.arange(grid.n_voxels)).all()
    first = grid.layer_slices[0]
    assert (turn.orders[:, first] == torch.arange(first.start, first.stop)).all()  # whole rings stay


def test_features_are_not_turned() -> None:
    assert Symmetry.of(FeatureInput(np.zeros((3, 2)))) is None
