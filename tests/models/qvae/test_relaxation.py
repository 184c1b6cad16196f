import math

import pytest
import torch
from scipy import stats

from calo4pqvae.models.qvae.relaxation import TauSchedule, bit_entropy, draw_bits, relax_bits


def noise(n: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("logit", [-2.0, 0.0, 0.7, 3.0])
def test_bits_are_bernoulli(logit: float) -> None:
    n = 20_000
    bits = draw_bits(torch.full((n,), logit, dtype=torch.float64), noise(n))
    assert set(bits.unique().tolist()) <= {0.0, 1.0}
    assert stats.binomtest(int(bits.sum()), n, 1 / (1 + math.exp(-logit))).pvalue > 1e-4


def test_gumbolt_follows_the_binary_concrete_law() -> None:
    """P(zeta < x) = P(noise < tau logit(x) - l) is a logistic distribution function."""
    logit, tau, n = 0.8, 0.5, 20_000
    soft = relax_bits(torch.full((n,), logit, dtype=torch.float64), noise(n), tau, "gumbolt").numpy()

    def law(x: object) -> object:
        return stats.logistic.cdf(tau * stats.logistic.ppf(x) - logit)

    assert stats.kstest(soft, law).pvalue > 1e-4
    assert stats.kstest(soft, lambda x: stats.logistic.cdf(2 * tau * stats.logistic.ppf(x) - logit)).pvalue < 1e-4


def test_relaxed_and_hard_bits_agree_on_the_side() -> None:
    logits, uniform = torch.linspace(-4, 4, 500), noise(500).float()
    hard = draw_bits(logits, uniform)
    assert torch.equal(relax_bits(logits, uniform, 0.7), hard)
    soft = relax_bits(logits, uniform, 0.7, "gumbolt")
    assert torch.equal((soft > 0.5).float(), hard)
    torch.testing.assert_close(relax_bits(logits, uniform, 1e-4, "gumbolt"), hard, rtol=0, atol=1e-3)


def test_both_kinds_pass_the_gradient_of_the_relaxed_value() -> None:
    uniform, tau = noise(50), 0.6
    for kind in ("straight-through", "gumbolt"):
        logits = torch.linspace(-3, 3, 50, dtype=torch.float64, requires_grad=True)
        relax_bits(logits, uniform, tau, kind).sum().backward()  # type: ignore[no-untyped-call]
        soft = 1 / (1 + torch.exp(-(logits.detach() + torch.log(uniform / (1 - uniform))) / tau))
        torch.testing.assert_close(logits.grad, soft * (1 - soft) / tau)


def test_hard_bits_pass_no_gradient() -> None:
    assert not draw_bits(torch.zeros(3, requires_grad=True), noise(3)).requires_grad


@pytest.mark.parametrize("kind", ["straight-through", "gumbolt"])
def test_noise_at_the_ends_and_large_logits_stay_finite(kind: str) -> None:
    logits = torch.tensor([-80.0, -1.0, 1.0, 80.0, 0.0], requires_grad=True)
    uniform = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0])
    bits = relax_bits(logits, uniform, 0.05, kind)  # type: ignore[arg-type]
    bits.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(bits).all()
    assert torch.isfinite(logits.grad).all()
    assert bits.tolist() == pytest.approx([0, 0, 1, 1, 0], abs=1e-6)


@pytest.mark.parametrize("tau", [0.0, -1.0, math.nan])
def test_tau_must_be_positive(tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be positive"):
        relax_bits(torch.zeros(2), torch.rand(2), tau)


def test_entropy_is_that_of_a_coin() -> None:
    logits = torch.linspace(-9, 9, 37, dtype=torch.float64)
    p = stats.logistic.cdf(logits.numpy())
    torch.testing.assert_close(bit_entropy(logits), torch.from_numpy(stats.bernoulli.entropy(p)), rtol=1e-9, atol=1e-12)
    wide = bit_entropy(torch.linspace(-200, 200, 100_001))
    assert torch.isfinite(wide).all()
    assert wide.min() >= 0
    assert wide.max() <= math.log(2) + 1e-6


def test_tau_falls_geometrically() -> None:
    schedule = TauSchedule(2.0, 0.5)
    assert [schedule(x) for x in (-1.0, 0.0, 0.5, 1.0, 7.0)] == pytest.approx([2.0, 2.0, 1.0, 0.5, 0.5])
