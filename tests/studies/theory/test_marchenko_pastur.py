"""The law of random couplings against eigenvalues of real random matrices, and the power of its test."""

import numpy as np
import pytest
from scipy.integrate import quad

from calo4pqvae.errors import PriorError
from calo4pqvae.studies.theory.marchenko_pastur import (
    RandomBlocks,
    bulk_edges,
    fit_bulk,
    random_blocks,
    singular_value_cdf,
    singular_value_density,
)

SHAPE = (196, 60)


@pytest.fixture(scope="module")
def blocks() -> RandomBlocks:
    return random_blocks(SHAPE, 399, np.random.default_rng(1))


def gaussian_values(seed: int, scale: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    block = np.random.default_rng(seed).normal(0, scale, shape)
    return np.linalg.svd(block, compute_uv=False)


@pytest.mark.parametrize("shape", [(300, 100), (60, 60), (40, 200)])
def test_density_has_the_moments_of_the_matrix(shape: tuple[int, int]) -> None:
    """Mass one, mean of sigma^2 = s^2 max(n, m), of sigma^4 = s^4 n m (n + m) / min: traces of Gaussian matrices."""
    scale, (large, small) = 0.3, (max(shape), min(shape))
    lower, upper = bulk_edges(shape, scale)

    def moment(power: int) -> float:
        density = lambda x: x**power * float(singular_value_density(x, shape, scale))  # noqa: E731
        return float(quad(density, lower, upper, limit=400)[0])

    assert moment(0) == pytest.approx(1.0, abs=1e-6)
    assert moment(2) == pytest.approx(scale**2 * large, rel=1e-6)
    assert moment(4) == pytest.approx(scale**4 * large * (large + small), rel=1e-6)
    middle = (lower + upper) / 2
    mass = quad(lambda x: float(singular_value_density(x, shape, scale)), lower, middle, limit=400)[0]
    assert float(singular_value_cdf(middle, shape, scale)) == pytest.approx(mass, abs=1e-6)
    assert singular_value_cdf([lower, upper], shape, scale).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)


def test_law_is_that_of_a_large_matrix() -> None:
    shape, scale = (1200, 400), 0.7
    values = np.sort(gaussian_values(2, scale, shape))
    steps = (np.arange(400) + 0.5) / 400
    assert np.abs(singular_value_cdf(values, shape, scale) - steps).max() < 0.01


def test_bidiagonal_draws_have_the_singular_values_of_gaussian_blocks(blocks: RandomBlocks) -> None:
    """Distances of dense random matrices are distributed like those of the draws."""
    dense = np.array([fit_bulk(gaussian_values(seed, 1.0), blocks).distance for seed in range(100)])
    spread = blocks.distances.std() / 10
    assert dense.mean() == pytest.approx(blocks.distances.mean(), abs=4 * spread)
    stated = np.array([fit_bulk(gaussian_values(seed, 1.0), blocks, 1.0).distance for seed in range(100)])
    assert stated.mean() == pytest.approx(blocks.stated_distances.mean(), abs=4 * blocks.stated_distances.std() / 10)


def test_pure_bulk_passes_as_often_as_it_should(blocks: RandomBlocks) -> None:
    p_values = np.array([fit_bulk(gaussian_values(seed, 0.01), blocks).p_value for seed in range(1000, 1200)])
    assert 0.01 <= (p_values < 0.05).mean() <= 0.10
    assert 0.4 < p_values.mean() < 0.6


def test_wrong_variance_is_found(blocks: RandomBlocks) -> None:
    """A law with a variance ten per cent too large or too small fails in every one of 50 matrices."""
    for seed in range(50):
        values = gaussian_values(seed, 0.01)
        for factor in (0.9, 1.1):
            assert fit_bulk(values, blocks, 0.01 * factor**0.5).p_value < 0.01
    passed = [fit_bulk(gaussian_values(seed, 0.01), blocks, 0.01).p_value >= 0.05 for seed in range(50)]
    assert sum(passed) >= 42


def test_planted_mode_leaves_the_bulk_and_is_counted(blocks: RandomBlocks) -> None:
    rng = np.random.default_rng(3)
    block = rng.normal(0, 0.01, SHAPE)
    upper = bulk_edges(SHAPE, 0.01)[1]
    left, right = (np.linalg.qr(rng.normal(size=(size, 3)))[0] for size in SHAPE)
    planted = block + (left * [6 * upper, 4 * upper, 2 * upper]) @ right.T
    assert fit_bulk(np.linalg.svd(planted, compute_uv=False), blocks).n_outside == 3
    assert fit_bulk(np.linalg.svd(block, compute_uv=False), blocks).n_outside == 0


def test_correlated_rows_are_found(blocks: RandomBlocks) -> None:
    """Rows of unequal variance keep the mean square and lose the law."""
    block = np.random.default_rng(4).normal(0, 0.01, SHAPE) * np.linspace(0.4, 1.6, SHAPE[0])[:, None]
    assert fit_bulk(np.linalg.svd(block, compute_uv=False), blocks).p_value < 0.01


def test_bad_shapes_are_refused(blocks: RandomBlocks) -> None:
    with pytest.raises(PriorError, match="give them all"):
        fit_bulk(np.ones(5), blocks)
    with pytest.raises(PriorError, match="at least 19"):
        random_blocks((10, 10), 5, np.random.default_rng(0))
