import numpy as np
import pytest
import torch
from scipy import stats

from calo4pqvae.models.qvae.layer_noise import LayerNoise, LayerValues

N_LAYERS = 4


def noise(seed: int = 1) -> LayerNoise:
    generator = torch.Generator().manual_seed(seed)
    law = LayerNoise(N_LAYERS).double()
    with torch.no_grad():
        law.coefficients.copy_(0.4 * torch.randn(law.coefficients.shape, generator=generator))
    return law


def known(n: int, t: float, floor: float = -50.0) -> LayerValues:
    mean = torch.tensor([[0.5, -1.0, 0.2, 0.0]], dtype=torch.float64).expand(n, -1)
    log_std = torch.tensor([[0.0, -0.5, 0.3, 0.1]], dtype=torch.float64).expand(n, -1)
    ones = torch.ones(n, N_LAYERS, dtype=torch.float64)
    return LayerValues(mean, log_std, ones, floor * ones, torch.full((n, 1), t, dtype=torch.float64))


def covariance(law: LayerNoise, t: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Of the uncut law: e = A e + xi, so that e = (1 - A)^-1 xi."""
    matrices = (law.coefficients * law.below).detach().numpy()
    mixing = np.linalg.inv(np.eye(N_LAYERS) - sum(matrices[k] * t**k for k in range(3)))
    scaled = np.diag(known(1, t).log_std[0].exp().numpy()) @ mixing
    return np.asarray(scaled @ scaled.T)


def test_density_is_that_of_the_normal_law_with_this_covariance() -> None:
    law, t = noise(), 0.7
    layers = torch.from_numpy(np.random.default_rng(2).normal(size=(5, N_LAYERS)))
    oracle = stats.multivariate_normal(known(1, t).mean[0].numpy(), covariance(law, t))
    np.testing.assert_allclose(law.nll(layers, known(5, t)).detach().numpy(), -oracle.logpdf(layers.numpy()), rtol=1e-9)


def test_draws_have_this_covariance() -> None:
    law, t = noise(), -0.6
    with torch.no_grad():
        drawn = law.sample(known(40_000, t), torch.Generator().manual_seed(3)).numpy()
    expected = covariance(law, t)
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / 40_000)
    assert (np.abs(np.cov(drawn, rowvar=False) - expected) < 5 * error).all()
    assert np.abs(expected - np.diag(np.diag(expected))).max() > 0.3  # there is something to see


def test_the_floor_cuts_draws_and_density_alike() -> None:
    law = LayerNoise(N_LAYERS).double()
    with torch.no_grad():
        drawn = law.sample(known(20_000, 0.3, floor=-0.5), torch.Generator().manual_seed(4))
    assert (drawn >= -0.5).all()
    grid = torch.linspace(-0.5, 12, 4001, dtype=torch.float64)
    values = known(4001, 0.3, floor=-0.5)
    for layer in range(N_LAYERS):
        alone = torch.zeros_like(values.layer_on)
        alone[:, layer] = 1
        density = torch.exp(-law.nll(grid[:, None].repeat(1, N_LAYERS), values._replace(layer_on=alone))).detach()
        assert float(torch.trapezoid(density, grid)) == pytest.approx(1, rel=1e-3)
        assert float(drawn[:, layer].mean()) == pytest.approx(float(torch.trapezoid(density * grid, grid)), abs=0.03)


def test_layers_without_energy_do_not_count_and_lead_nobody() -> None:
    law, t = noise(), 0.2
    layers = torch.from_numpy(np.random.default_rng(5).normal(size=(3, N_LAYERS)))
    off = known(3, t).layer_on.clone()
    off[:, 1] = 0
    values = known(3, t)._replace(layer_on=off)
    moved = layers.clone()
    moved[:, 1] += 3
    torch.testing.assert_close(law.nll(layers, values), law.nll(moved, values))
    assert not torch.allclose(law.nll(layers, known(3, t)), law.nll(moved, known(3, t)))
