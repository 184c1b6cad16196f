import numpy as np
import pytest
import torch
from scipy import stats

from calo4pqvae.models.qvae.factors import LayerFactors, supported_factors


def layers_of(n: int, seed: int, n_layers: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Two factors that grow with the energy, the second bent and widened by the first, in the noise of every layer."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, (n, 1))
    first = rng.normal(size=n)
    second = (0.5 * (first**2 - 1) + rng.normal(size=n) * np.exp(0.3 * first)) / 1.5
    strength = np.exp(0.4 * position)
    place = np.linspace(0, np.pi, n_layers)
    signal = first[:, None] * np.cos(place) * 2.0 + second[:, None] * np.cos(2 * place)
    values = signal * strength + 0.4 * rng.normal(size=(n, n_layers))
    return torch.from_numpy(values), torch.from_numpy(position)


def fitted(n_factors: int = 2) -> LayerFactors:
    factors = LayerFactors(12, n_factors).double()
    factors.fit(*layers_of(8000, 1))
    return factors


def test_factors_are_uniform_and_independent_at_every_energy() -> None:
    layers, position = layers_of(9000, 2)
    found = fitted()(layers, position).numpy()
    assert found.min() >= 0
    assert found.max() <= 1
    for third in np.array_split(np.argsort(position[:, 0].numpy()), 3):
        part = found[third]
        for k in range(2):
            assert stats.kstest(part[:, k], "uniform").statistic < 0.04
        first, second = part.T
        assert abs(stats.spearmanr(first, second).statistic) < 0.05
        assert abs(stats.spearmanr(np.abs(first - 0.5), second).statistic) < 0.06  # the bend is taken out
        assert abs(stats.spearmanr(first, np.abs(second - 0.5)).statistic) < 0.06  # and the widening


def test_plain_components_would_follow_each_other() -> None:
    """The power of the test above: scores that are scaled by the energy alone are bent."""
    layers, _position = layers_of(9000, 2)
    scores = (layers @ fitted().directions.double()).numpy()
    assert abs(stats.spearmanr(np.abs(scores[:, 0]), scores[:, 1]).statistic) > 0.2


def test_directions_are_those_of_largest_variance() -> None:
    layers, _position = layers_of(8000, 1)
    directions = fitted(3).directions.double().numpy()
    covariance = np.cov(layers.numpy(), rowvar=False)
    largest = np.sort(np.linalg.eigvalsh(covariance))[::-1][:3]
    np.testing.assert_allclose(np.diag(directions.T @ covariance @ directions), largest, rtol=1e-4)


def test_factors_grow_with_their_score() -> None:
    layers, position = layers_of(500, 3)
    factors = fitted(1)
    scores = (layers @ factors.directions.double())[:, 0].numpy()
    near = np.abs(position[:, 0].numpy()) < 0.05
    assert stats.spearmanr(scores[near], factors(layers, position)[:, 0].numpy()[near]).statistic > 0.99


def test_number_of_factors_is_read_from_the_data() -> None:
    generator = torch.Generator().manual_seed(1)
    assert supported_factors(*layers_of(4000, 4), generator) == 2
    noise = torch.from_numpy(np.random.default_rng(5).normal(size=(4000, 12)))
    position = torch.from_numpy(np.random.default_rng(6).uniform(-1, 1, (4000, 1)))
    assert supported_factors(noise, position, generator) <= 1


def test_a_fit_goes_with_the_weights() -> None:
    layers, position = layers_of(50, 7)
    first, second = fitted(), LayerFactors(12, 2).double()
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second(layers, position), first(layers, position))
    assert not list(first.parameters())


def test_more_factors_than_layers_are_constant() -> None:
    layers, position = layers_of(500, 8, n_layers=2)
    factors = LayerFactors(2, 3).double()
    factors.fit(layers, position)
    assert factors(layers, position)[:, 2].std() == pytest.approx(0, abs=1e-6)
