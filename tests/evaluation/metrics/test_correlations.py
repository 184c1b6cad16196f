"""Layer energies with known widths and correlations."""

import json
from dataclasses import replace

import numpy as np
import pytest

from calo4pqvae.evaluation.features.showers import ShowerFeatures
from calo4pqvae.evaluation.metrics.correlations import layer_correlations, prior_comparison

MEANS = np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.1])


def with_fluctuations(
    sample: ShowerFeatures, rng: np.random.Generator, scale: float = 1.0, correlation: float = 0.6
) -> ShowerFeatures:
    """Eight layers, six of them large, whose fractions fluctuate around a trend with energy.

    Layers 0 and 1 are correlated; the last of the six takes up what the others leave.
    """
    n = sample.n_showers
    noise = rng.normal(size=(n, 5))
    noise[:, 1] = correlation * noise[:, 0] + np.sqrt(1 - correlation**2) * noise[:, 1]
    fractions = np.zeros((n, 8))
    trend = 0.005 * np.log(sample.incident_energy / 1e4)
    fractions[:, :5] = MEANS[:5] + 0.004 * scale * noise
    fractions[:, 2] += trend
    fractions[:, 5] = 1 - fractions[:, :5].sum(axis=1)
    energy = fractions * sample.incident_energy[:, None]
    return replace(sample, layer_energy=energy, total_energy=energy.sum(axis=1))


def test_correlations_are_the_planted_ones(generated: ShowerFeatures) -> None:
    sample = with_fluctuations(generated, np.random.default_rng(0))
    matrix = layer_correlations(sample, [0, 1, 2, 3, 4, 5])
    assert matrix[0, 1] == pytest.approx(0.6, abs=0.05)
    assert matrix[2, 3] == pytest.approx(0.0, abs=0.06)  # the common trend with energy is taken out
    # var f5 = (1 + 1 + 2 x 0.6 + 1 + 1 + 1) in units of one layer's variance
    assert matrix[3, 5] == pytest.approx(-1 / np.sqrt(6.2), abs=0.05)
    np.testing.assert_allclose(matrix, matrix.T)
    np.testing.assert_allclose(np.diag(matrix), 1.0)


def test_prior_rows_tell_good_from_bad(reference: ShowerFeatures, generated: ShowerFeatures) -> None:
    rng = np.random.default_rng(1)
    expected = with_fluctuations(reference, rng)
    samples = {
        "same law": with_fluctuations(generated, rng),
        "too narrow": with_fluctuations(generated, rng, scale=0.7),
        "uncorrelated": with_fluctuations(generated, rng, correlation=0.0),
    }
    rows = prior_comparison(expected, samples, n_splits=30)
    assert [row.sample for row in rows] == [name for name in samples for _ in range(3)]
    for row in rows:
        assert row.n_layers == 6
        width = 0.7 if row.sample == "too narrow" else 1.0
        slack = 0.06 if row.sample == "uncorrelated" else 0.0  # the sixth layer becomes narrower too
        assert abs(row.width_ratio.value - width) < 4 * row.width_ratio.error + slack
        assert 0 < row.width_ratio.error < 0.06
        if row.sample == "uncorrelated":
            # two entries of 0.6, and 0.24 against 0.41 twice for layers 0 and 1 with the sixth: distance about 0.95
            assert row.correlation_distance.value == pytest.approx(0.95, abs=0.3)
            assert row.correlation_matched.median > 1.5 * row.correlation_floor.quantile84
        else:
            assert row.correlation_matched.median < 1.5 * row.correlation_floor.median
    json.dumps([row.to_dict() for row in rows], allow_nan=False)


def test_a_layer_that_never_varies_is_uncorrelated(generated: ShowerFeatures) -> None:
    energy = np.zeros((generated.n_showers, 8))
    energy[:, 0] = 1.0
    frozen = replace(generated, layer_energy=energy, total_energy=energy.sum(axis=1))
    np.testing.assert_allclose(layer_correlations(frozen, [0, 1]), np.eye(2), atol=1e-6)
