"""Boosted trees reach a known AUC, see nothing where there is nothing, and name the feature that they live on."""

import numpy as np
import pytest
from scipy.stats import norm

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.classifiers.trees import grow_trees


def sample(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)
    values[:, 2] += shift
    values[::50, 4] = np.nan
    return values


def test_shifted_gaussians_are_near_the_closed_form() -> None:
    grown = grow_trees(sample(800, 1, 1.0), sample(800, 2), seed=3, rounds=40)
    ideal = norm.cdf(1 / np.sqrt(2))
    assert ideal - 0.05 < grown.result.auc.value < ideal + 3 * grown.result.auc.error
    assert grown.result.auc.n == 1600
    names = [f"f{k}" for k in range(6)]
    first, *others = grown.importance(names, {name: (name,) for name in names})
    assert first.group == "f2"
    assert first.auc_drop.value > 0.15
    assert max(abs(other.auc_drop.value) for other in others) < 0.02


@pytest.mark.slow
def test_one_law_is_not_told_apart_and_errors_cover() -> None:
    """Folds share the showers that they are grown on, so that errors come out about a fifth too small."""
    found = [grow_trees(sample(200, 2 * k), sample(200, 2 * k + 1), seed=k, rounds=8).result.auc for k in range(40)]
    pulls = np.array([(auc.value - 0.5) / auc.error for auc in found])
    assert abs(pulls.mean()) < 4 * 1.2 / np.sqrt(len(pulls))
    assert 0.8 < pulls.std() < 1.6


def test_sizes_are_made_equal_and_seeds_repeat() -> None:
    first, again = (grow_trees(sample(200, 1), sample(320, 2, 0.5), seed=5, rounds=10).result for _ in range(2))
    assert first == again
    assert first.auc.n == 400
    assert first != grow_trees(sample(200, 1), sample(320, 2, 0.5), seed=6, rounds=10).result
    with pytest.raises(DataError, match="at least 50 showers"):
        grow_trees(sample(20, 1), sample(60, 2), seed=1)
    with pytest.raises(DataError, match="same features"):
        grow_trees(sample(60, 1), sample(60, 2)[:, 1:], seed=1)
