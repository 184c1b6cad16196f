"""A small calorimeter, showers in it and a small autoencoder for them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calo4pqvae.config import Config, load_config
from calo4pqvae.models.qvae.vae import ShowerAutoencoder
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.testing import synthetic_showers

LEVEL_SIZES = (6, 4, 5)  # unequal, so that a mistaken offset cannot pass

SMALL = (
    "data.energy_max_mev=1e5",
    "latent.factors=2",
    "encoder.channels=[4, 6, 8]",
    "encoder.hidden=24",
    "decoder.base_channels=4",
    "decoder.channels=8",
    "decoder.hidden=24",
    "decoder.position_channels=3",
    "decoder.head_hidden=12",
)

Build = Callable[..., ShowerAutoencoder]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture(scope="session")
def grid() -> Geometry:
    return Geometry.regular("tiny", 6, 8, 3, 20.0, threshold_mev=0.5e-3 / 0.033, energy_range=(1e3, 1e5))


@pytest.fixture(scope="session")
def sample(grid: Geometry) -> tuple[Tensor, Tensor]:
    """Showers (256, V) and incident energies (256, 1) in MeV, with empty voxels and empty first and last layers."""
    energies, showers = synthetic_showers(grid, 256, seed=3)
    showers[np.random.default_rng(4).random(showers.shape) < 0.4] = 0.0
    showers[::3, grid.layer_slices[-1]] = 0.0
    showers[::5, grid.layer_slices[0]] = 0.0
    return torch.from_numpy(showers), torch.from_numpy(energies)


def small_config(*overrides: str) -> Config:
    return load_config(None, [*SMALL, *overrides])


def shake(module: nn.Module, spread: float = 0.2, seed: int = 5) -> None:
    """Moves every parameter, so that layers that start at zero take part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.fixture
def build(grid: Geometry, sample: tuple[Tensor, Tensor]) -> Build:
    """Makes an autoencoder with fitted scales and shaken weights; arguments are settings."""

    def make(*overrides: str) -> ShowerAutoencoder:
        torch.manual_seed(0)
        autoencoder = ShowerAutoencoder(small_config(*overrides), grid, LEVEL_SIZES)
        autoencoder.fit_observables([sample])
        shake(autoencoder)
        return autoencoder

    return make
