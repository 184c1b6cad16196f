import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from calo4pqvae.models.qvae.likelihood import (
    LogisticMixture,
    normal_nll,
    sample_normal,
    sample_truncated_normal,
    truncated_normal_nll,
)

WEIGHTS = [0.5, 0.2, 0.3]
CENTRES = [3.0, -0.5, 1.2]
WIDTHS = [0.4, 1.0, 0.15]
N = 20_000
LIMIT = 1e-4


def mixture(n: int = 1) -> LogisticMixture:
    rows = [torch.tensor(values, dtype=torch.float64).expand(n, -1) for values in (WEIGHTS, CENTRES, WIDTHS)]
    return LogisticMixture(rows[0].log(), rows[1], rows[2])


def distribution_function(values: np.ndarray) -> np.ndarray:
    parts = zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
    return np.sum([w * stats.logistic.cdf(values, loc=c, scale=s) for w, c, s in parts], axis=0)


def cut_distribution_function(values: np.ndarray) -> np.ndarray:
    below = distribution_function(np.zeros(1))
    return (distribution_function(values) - below) / (1 - below)


def filled(value: float, n: int = N) -> Tensor:
    return torch.full((n,), value, dtype=torch.float64)


def test_mixture_density_is_that_of_scipy() -> None:
    values = torch.linspace(-8, 12, 101, dtype=torch.float64)
    parts = zip(WEIGHTS, CENTRES, WIDTHS, strict=True)
    expected = np.sum([w * stats.logistic.pdf(values.numpy(), loc=c, scale=s) for w, c, s in parts], axis=0)
    np.testing.assert_allclose(mixture(101).log_density(values).exp().numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("cut", [False, True])
def test_mixture_integrates_to_one(cut: bool) -> None:
    law = mixture()

    def density(value: float) -> float:
        log_density = law.log_density(torch.tensor([value], dtype=torch.float64))
        return float((log_density - law.log_above() if cut else log_density).exp())

    total, _ = integrate.quad(density, 0 if cut else -40, 40, points=CENTRES, limit=200)
    assert total == pytest.approx(1, abs=1e-7)


def test_probabilities_of_both_sides_of_the_threshold() -> None:
    below = float(distribution_function(np.zeros(1))[0])
    assert float(mixture().log_below().exp()) == pytest.approx(below, rel=1e-12)
    assert float(mixture().log_above().exp()) == pytest.approx(1 - below, rel=1e-12)


def test_uncut_draws_follow_the_mixture(generator: torch.Generator) -> None:
    values = mixture(N).sample(generator, cut=False).numpy()
    assert stats.kstest(values, distribution_function).pvalue > LIMIT
    assert stats.kstest(values, cut_distribution_function).pvalue < LIMIT


def test_cut_draws_follow_the_cut_mixture_and_not_the_uncut_one(generator: torch.Generator) -> None:
    """A component that lies half below the cut must lose weight, not only its lower half."""
    values = mixture(N).sample(generator).numpy()
    assert values.min() >= 0
    assert stats.kstest(values, cut_distribution_function).pvalue > LIMIT
    above = [1 - stats.logistic.cdf(0, loc=c, scale=s) for c, s in zip(CENTRES, WIDTHS, strict=True)]

    def weights_not_cut(points: np.ndarray) -> np.ndarray:
        parts = zip(WEIGHTS, CENTRES, WIDTHS, above, strict=True)
        return np.sum(
            [w * (stats.logistic.cdf(points, loc=c, scale=s) - 1 + a) / a for w, c, s, a in parts],
            axis=0,
        )

    assert stats.kstest(values, weights_not_cut).pvalue < LIMIT


def test_draws_in_single_precision_follow_the_law_too(generator: torch.Generator) -> None:
    single = LogisticMixture(*(part.float() for part in mixture(N)))
    assert stats.kstest(single.sample(generator).double().numpy(), cut_distribution_function).pvalue > LIMIT


def test_each_row_has_its_own_law(generator: torch.Generator) -> None:
    centres = torch.tensor([[2.0], [7.0], [50.0]])
    law = LogisticMixture(torch.zeros(3, 1), centres, torch.full((3, 1), 1e-3))
    np.testing.assert_allclose(law.sample(generator).numpy(), [2, 7, 50], atol=0.05)


@pytest.mark.parametrize("centre", [-60.0, -5.0, 0.0, 60.0])
@pytest.mark.parametrize("width", [0.03, 3.3])
def test_extreme_mixtures_stay_finite(centre: float, width: float, generator: torch.Generator) -> None:
    centres = torch.full((4, 2), centre, requires_grad=True)
    law = LogisticMixture(torch.tensor([0.0, -90.0]).expand(4, 2), centres, torch.full((4, 2), width))
    terms = law.log_density(torch.tensor([0.0, 1e-6, 5.0, 18.0])) - law.log_above() + law.log_below()
    terms.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(terms).all()
    assert torch.isfinite(centres.grad).all()
    for cut in (False, True):
        values = law.sample(generator, cut=cut)
        assert torch.isfinite(values).all()
        assert not cut or values.min() >= 0


def test_normal_density_and_draws(generator: torch.Generator) -> None:
    values, mean, log_std = torch.linspace(-3, 5, 41, dtype=torch.float64), torch.tensor(0.7), torch.tensor(-0.4)
    expected = -stats.norm.logpdf(values.numpy(), loc=0.7, scale=math.exp(-0.4))
    np.testing.assert_allclose(normal_nll(values, mean.double(), log_std.double()).numpy(), expected, rtol=1e-6)
    draws = sample_normal(filled(0.7), filled(-0.4), generator).numpy()
    assert stats.kstest(draws, stats.norm(loc=0.7, scale=math.exp(-0.4)).cdf).pvalue > LIMIT


@pytest.mark.parametrize(("mean", "log_std", "floor"), [(0.5, 0.3, -1.0), (0.0, 0.0, 2.5), (2.0, -1.0, -9.0)])
def test_truncated_normal_is_that_of_scipy(
    mean: float, log_std: float, floor: float, generator: torch.Generator
) -> None:
    std = math.exp(log_std)
    oracle = stats.truncnorm((floor - mean) / std, np.inf, loc=mean, scale=std)
    values = torch.linspace(floor + 1e-6, floor + 6, 50, dtype=torch.float64)
    nll = truncated_normal_nll(values, filled(mean, 50), filled(log_std, 50), filled(floor, 50))
    np.testing.assert_allclose(nll.numpy(), -oracle.logpdf(values.numpy()), rtol=1e-8, atol=1e-10)
    draws = sample_truncated_normal(filled(mean), filled(log_std), filled(floor), generator).numpy()
    assert draws.min() >= floor
    assert stats.kstest(draws, oracle.cdf).pvalue > LIMIT


def test_far_truncation_stays_finite(generator: torch.Generator) -> None:
    mean = torch.tensor([-60.0, 0.0, 60.0, 3.0], requires_grad=True)
    log_std, floor = torch.tensor([-4.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 30.0, 0.0, 3.0])
    nll = truncated_normal_nll(floor + 0.1, mean, log_std, floor)
    nll.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(nll).all()
    assert torch.isfinite(mean.grad).all()
    draws = sample_truncated_normal(mean.detach(), log_std, floor, generator)
    assert torch.isfinite(draws).all()
    assert (draws >= floor).all()
