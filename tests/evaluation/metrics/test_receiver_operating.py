"""Areas against counting of pairs and closed forms; errors against repeats."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from calo4pqvae.evaluation.metrics.receiver_operating import auc_components, auc_difference, jensen_shannon


def labels(m: int, n: int) -> np.ndarray:
    return np.repeat([True, False], [m, n])


def test_area_is_the_share_of_pairs_in_order_ties_halved() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 23).astype(float)
    is_reference = rng.permutation(labels(9, 14))
    pairs = [(x > y) + 0.5 * (x == y) for x in scores[is_reference] for y in scores[~is_reference]]
    found = auc_components(scores, is_reference)
    assert found.estimate.value == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.generated.mean() == pytest.approx(np.mean(pairs), rel=1e-12)
    assert found.estimate.n == 23


def test_error_by_hand() -> None:
    # reference 1, 3; generated 0, 2: V = (1/2, 1), U = (1, 1/2), variances 1/8 each, over 2 each
    found = auc_components(np.array([1.0, 3.0, 0.0, 2.0]), labels(2, 2))
    assert found.estimate.value == 0.75
    assert found.estimate.error == pytest.approx(math.sqrt(0.125 / 2 + 0.125 / 2))


def test_quoted_errors_cover_the_closed_form() -> None:
    """300 repeats of two Gaussians a distance d apart: AUC = Phi(d / sqrt 2), pulls of unit width."""
    rng, d = np.random.default_rng(1), 0.7
    pulls = []
    for _ in range(300):
        found = auc_components(np.concatenate([rng.normal(d, 1, 150), rng.normal(0, 1, 250)]), labels(150, 250))
        pulls.append((found.estimate.value - norm.cdf(d / math.sqrt(2))) / found.estimate.error)
    assert abs(np.mean(pulls)) < 0.2
    assert 0.88 < np.std(pulls) < 1.13


def test_paired_difference_knows_what_is_common() -> None:
    rng = np.random.default_rng(2)
    pulls, errors = [], []
    for _ in range(200):
        common = np.concatenate([rng.normal(0.5, 1, 200), rng.normal(0, 1, 200)])
        other = common + 0.3 * rng.normal(size=400)
        parts = [auc_components(scores, labels(200, 200)) for scores in (common, other)]
        found = auc_difference(*parts)
        truth = norm.cdf(0.5 / math.sqrt(2)) - norm.cdf(0.5 / math.sqrt(2 * 1.09))
        pulls.append((found.value - truth) / found.error)
        errors.append(found.error / math.hypot(parts[0].estimate.error, parts[1].estimate.error))
    assert abs(np.mean(pulls)) < 0.25
    assert 0.85 < np.std(pulls) < 1.15
    assert np.mean(errors) < 0.5


def test_divergence_of_the_exact_posterior_is_the_integral() -> None:
    d = 1.3

    def density(x: float) -> float:
        p, q = norm.pdf(x, d), norm.pdf(x)
        m = (p + q) / 2
        return float((p * math.log2(p / m) + q * math.log2(q / m)) / 2)

    exact = quad(density, -8, 9)[0]
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(d, 1, 20_000), rng.normal(0, 1, 20_000)])
    found = jensen_shannon(norm.pdf(x, d) / (norm.pdf(x, d) + norm.pdf(x)), labels(20_000, 20_000))
    assert abs(found.value - exact) < 3 * found.error
    assert found.error < 0.01


def test_divergence_at_its_ends() -> None:
    assert jensen_shannon(np.full(10, 0.5), labels(5, 5)).value == 0.0
    sure = np.repeat([1 - 1e-6, 1e-6], 5)
    assert jensen_shannon(sure, labels(5, 5)).value == pytest.approx(1.0, abs=1e-5)
