"""The law of a split: a probability law, by quadrature; draws from it, by both codes; power by planted faults."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from calo4pqvae.models.qvae.cascade.kernels.draws import draw_left, uniform, uniforms
from calo4pqvae.models.qvae.cascade.law import BIN_WIDTH, N_BINS, Spectra, SplitLaw, n_outputs

K, S = 3, 2
ENERGIES = (1.0, 1.7, 2.0, 2.05, 3.0, 10.0, 400.0, 2e4)


def spectra(seed: int = 1) -> Spectra:
    return Spectra.of(2 * torch.randn(S, N_BINS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def raw(n: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1.5 * torch.randn(1, n_outputs(K, S), generator=generator, dtype=torch.float64).expand(n, -1)


def likelihood(energy: float, left: Any, seed: int = 2) -> np.ndarray:
    """exp(log-likelihood) of left children of a block, with the density in y."""
    value = torch.as_tensor(np.atleast_1d(left), dtype=torch.float64)
    whole = torch.full_like(value, energy)
    law = SplitLaw(raw(len(value), seed), spectra(), K)
    return law.log_likelihood(whole, value, whole - value).exp().numpy()


def of_share(energy: float, y: Any) -> np.ndarray:
    """Density in y."""
    return likelihood(energy, energy / (1 + np.exp(-np.asarray(y))))


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("energy", ENERGIES)
def test_outcomes_and_densities_sum_to_one(energy: float, seed: int) -> None:
    alone = likelihood(energy, energy, seed)[0] + likelihood(energy, 0.0, seed)[0]
    if energy <= 2:
        assert alone == pytest.approx(1, abs=1e-9) if energy < 2 else alone <= 1
        return
    bound = np.log(energy - 1)
    # a spectrum jumps where either child crosses an edge of its bins
    edges = np.arange(0, bound, BIN_WIDTH)
    ys = np.log(np.exp(edges) / (energy - np.exp(edges)))
    breaks = np.unique(np.concatenate([ys, -ys, [-bound, bound]]))
    breaks = breaks[(breaks >= -bound) & (breaks <= bound)]
    nodes, weights = np.polynomial.legendre.leggauss(8)
    low, high = breaks[:-1, None], breaks[1:, None]
    points = 0.5 * (low + high) + 0.5 * (high - low) * nodes
    told = SplitLaw(raw(points.size, seed), spectra(), K)
    whole = torch.full((points.size,), energy, dtype=torch.float64)
    left = torch.as_tensor(energy / (1 + np.exp(-points.flatten())))
    density = told.log_likelihood(whole, left, whole - left).exp().numpy().reshape(points.shape)
    both = float((0.5 * (high - low) * weights * density).sum())
    assert alone + both == pytest.approx(1, abs=2e-4)
    assert both > 0.01


def draws(energy: float, n: int, seed: int = 5) -> np.ndarray:
    """Left children by the law in PyTorch."""
    keys = np.arange(n, dtype=np.uint64) + np.uint64(1000 * seed)
    numbers = torch.from_numpy(uniforms(keys, np.zeros(n, dtype=np.int64)))
    left = SplitLaw(raw(n), spectra(), K).draw(torch.full((n,), energy, dtype=torch.float64), numbers)
    return left.numpy()


@pytest.mark.parametrize("energy", [2.05, 3.0, 10.0, 400.0])
def test_draws_follow_the_density(energy: float) -> None:
    left = draws(energy, 40_000)
    shares = [(left == energy).mean(), (left == 0).mean()]
    for share, place in zip(shares, (energy, 0.0), strict=True):
        expected = likelihood(energy, place)[0]
        assert abs(share - expected) < 5 * (expected * (1 - expected) / len(left)) ** 0.5
    assert kstest(shares_of(left, energy), cumulative(energy)).pvalue > 1e-3


def shares_of(left: np.ndarray, energy: float) -> np.ndarray:
    both = left[(left > 0) & (left < energy)]
    return np.log(both / (energy - both))


def cumulative(energy: float, change: float = 0.0) -> Any:
    """Distribution function of y given both, by summing the density on a fine grid; ``change`` tilts it."""
    bound = np.log(energy - 1)
    grid = np.linspace(-bound, bound, 20_001)
    density = of_share(energy, 0.5 * (grid[1:] + grid[:-1])) * np.exp(change * grid[1:] / max(bound, 1e-9))
    summed = np.concatenate([[0], density.cumsum()])
    return lambda y: np.interp(y, grid, summed / summed[-1])


@pytest.mark.parametrize("energy", [3.0, 10.0, 400.0])
def test_a_density_that_is_a_little_wrong_is_seen(energy: float) -> None:
    """Power of the test above: a tilt of a tenth over the interval is rejected."""
    assert kstest(shares_of(draws(energy, 40_000), energy), cumulative(energy, 0.2)).pvalue < 1e-3


@pytest.mark.parametrize("energy", ENERGIES)
def test_compiled_draws_are_those_of_the_law(energy: float) -> None:
    n = 2000
    keys = np.arange(n, dtype=np.uint64) + np.uint64(77)
    numbers = torch.from_numpy(uniforms(keys, np.full(n, 5)))
    expected = SplitLaw(raw(n), spectra(), K).draw(torch.full((n,), energy, dtype=torch.float64), numbers).numpy()
    row, table = raw(1)[0].numpy().copy(), spectra().cumulative.numpy()
    found = np.array([draw_left(row, energy, K, table, BIN_WIDTH, key, 5) for key in keys])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
def test_children_have_the_threshold_and_the_energy(energy: float) -> None:
    left = draws(energy, 5000)
    right = energy - left
    for child in (left, right):
        assert ((child == 0) | (child >= 1 - 1e-12)).all()
    if energy < 2:
        assert set(np.unique(left)) <= {0.0, energy}


def test_uniform_numbers_are_uniform_and_differ() -> None:
    numbers = uniforms(np.arange(20_000, dtype=np.uint64), np.zeros(20_000, dtype=np.int64)).flatten()
    assert kstest(numbers, "uniform").pvalue > 1e-3
    along = np.array([uniform(np.uint64(12345), counter) for counter in range(20_000)])
    assert kstest(along, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(along[1:], along[:-1])[0, 1]) < 0.03
    assert len(np.unique(along)) == len(along)


def test_gradients_reach_all_parameters() -> None:
    logits = torch.zeros(S, N_BINS, requires_grad=True)
    values = torch.randn(200, n_outputs(K, S), requires_grad=True)
    energy = torch.linspace(2.5, 60, 200)
    left = torch.where(torch.arange(200) % 3 == 0, energy, 1.2 + 0.2 * energy)
    SplitLaw(values, Spectra.of(logits), K).log_likelihood(energy, left, energy - left).sum().backward()
    assert logits.grad is not None
    assert values.grad is not None
    assert bool(torch.isfinite(values.grad).all())
    assert (logits.grad.abs().sum(1) > 0).all()
    assert (values.grad.abs().sum(0) > 0).all()
