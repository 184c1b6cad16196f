"""Small samples with a known law: two independent draws of the same synthetic showers stand for Geant4 and a model."""

import numpy as np
import pytest
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.showers import ShowerFeatures, shower_features
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.testing import synthetic_showers

Showers = tuple[NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture(scope="session")
def tiny() -> Geometry:
    return Geometry.regular("tiny", 8, 6, 4, 10.0, threshold_mev=0.5e-3 / 0.033, energy_range=(1e3, 1e5))


@pytest.fixture(scope="session")
def reference_showers(tiny: Geometry) -> Showers:
    return synthetic_showers(tiny, 1500, seed=1)


@pytest.fixture(scope="session")
def generated_showers(tiny: Geometry) -> Showers:
    return synthetic_showers(tiny, 3000, seed=2)


@pytest.fixture(scope="session")
def reference(tiny: Geometry, reference_showers: Showers) -> ShowerFeatures:
    energies, showers = reference_showers
    return shower_features(showers, energies, tiny)


@pytest.fixture(scope="session")
def generated(tiny: Geometry, generated_showers: Showers) -> ShowerFeatures:
    energies, showers = generated_showers
    return shower_features(showers, energies, tiny)
