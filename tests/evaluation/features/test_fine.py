"""Fine features by hand on a grid of a few cells, and planted defects where they belong."""

import numpy as np
import pytest

from calo4pqvae.evaluation.features.fine import fine_features
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import synthetic_showers

GRID = Geometry.regular("hand", 2, 4, 3, 10.0, threshold_mev=1.0, energy_range=(1e3, 1e5))


def of(shower: np.ndarray, incident: float = 1000.0) -> dict[str, float]:
    found = fine_features([(np.array([incident]), shower.reshape(1, -1).astype(np.float32))], GRID)
    return dict(zip(found.names, found.matrix[0].tolist(), strict=True))


def test_pairs_and_spectrum_by_hand() -> None:
    shower = np.zeros((2, 4, 3))  # layers, angles, rings
    shower[0, 0, 0], shower[0, 3, 0] = np.e, np.e**2  # neighbours around the circle, 3 before 0
    shower[0, 0, 1] = np.e**3  # the next ring
    shower[1, 0, 1] = np.e  # the next layer
    shower[1, 2, 2] = 0.5  # below the threshold: no hit
    shower[1, 2, 0] = 1.0  # at the threshold, without a neighbour
    found = of(shower)
    assert found["hits"] == 5
    assert found["co-hits along angle, inner"] == pytest.approx(1 / 3)  # of three hits in ring 0
    assert found["mean |d ln e| along angle, inner"] == pytest.approx(1.0)
    assert found["co-hits along radius, inner"] == pytest.approx(1 / 3)
    assert found["mean |d ln e| along radius, inner"] == pytest.approx(2.0)
    assert found["co-hits along depth, middle"] == pytest.approx(1 / 2)
    assert found["mean square d ln e along depth, middle"] == pytest.approx(4.0)
    assert found["co-hits along angle, outer"] == 0
    assert np.isnan(found["mean |d ln e| along angle, outer"])
    assert found["hits without a hit neighbour"] == pytest.approx(1 / 5)
    assert found["share of hits at 1-1.11 MeV"] == pytest.approx(1 / 5)
    assert found["share of hits in ring 1"] == pytest.approx(2 / 5)
    assert found["mean ln e in ring 0"] == pytest.approx(1.0)
    assert found["spread of ln e in ring 1"] == pytest.approx(1.0)
    assert found["response"] == pytest.approx((2 * np.e + np.e**2 + np.e**3 + 1) / 1000, rel=1e-5)
    assert found["largest voxel 1"] == pytest.approx(3 - np.log(2 * np.e + np.e**2 + np.e**3 + 1), rel=1e-5)


def test_all_shares_of_a_shower_are_one() -> None:
    energies, showers = synthetic_showers(GRID, 30, 1)
    found = fine_features([(energies, showers)], GRID)
    for start in ("share of hits at", "share of hits in ring", "share of hits from layer", "share of energy in ring"):
        columns = [column for column, name in enumerate(found.names) if name.startswith(start)]
        np.testing.assert_allclose(found.matrix[:, columns].sum(axis=1), 1.0, rtol=1e-5)
    assert sum(len(members) for members in found.families.values()) == len(set(found.names)) == found.matrix.shape[1]


def test_turned_and_mirrored_showers_have_the_same_features() -> None:
    energies, showers = synthetic_showers(GRID, 20, 2)
    cells = showers.reshape(20, 2, 4, 3)
    first = fine_features([(energies, showers)], GRID).matrix
    for other in (np.roll(cells, 1, axis=2), cells[:, :, ::-1]):
        again = fine_features([(energies, other.reshape(20, -1))], GRID).matrix
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_stretches_and_irregular_grids() -> None:
    grid = geometry("ds1-photons")
    energies, showers = synthetic_showers(grid, 25, 3)
    whole = fine_features([(energies, showers)], grid)
    parts = fine_features([(energies[:10], showers[:10]), (energies[10:], showers[10:])], grid)
    np.testing.assert_array_equal(whole.matrix, parts.matrix)
    assert "co-hits along angle, inner" in whole.names
    assert not any("along depth" in name for name in fine_features([(energies, showers)], grid).names)
