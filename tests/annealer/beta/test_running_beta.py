"""The running estimate: coverage while beta drifts, and Kalman's formulas by hand."""

import math

import numpy as np
import pytest

from calo4pqvae.annealer.beta.pseudo_likelihood import BetaEstimate
from calo4pqvae.annealer.beta.running_beta import RunningBeta
from calo4pqvae.errors import AnnealerError


def estimate(value: float, error: float) -> BetaEstimate:
    return BetaEstimate(value, error, "bootstrap", 100, 1, 50, 0, 4, True, 1.0, error, 0, value)


def pulls(increments: str, drift: float, assumed: float, noise: float, seed: int) -> np.ndarray:
    """Errors of the running estimate in units of the quoted ones, and its surprises, over 400 programmings."""
    rng = np.random.default_rng(seed)
    running = RunningBeta.start(9.0, 0.2, assumed)
    memory = 0.9
    position, rows = drift * rng.normal(), []
    for _ in range(400):
        if increments == "walk":
            position += drift * rng.normal()
        else:
            position = memory * position + math.sqrt(1 - memory**2) * drift * rng.normal()
        true = 8.93 * math.exp(position)
        seen = true * math.exp(noise * rng.normal())
        running = running.predict().update(estimate(seen, noise * seen))
        rows.append((math.log(running.value / true) * running.value / running.error, running.surprise))
    return np.array(rows[20:])


@pytest.mark.parametrize("noise", [0.004, 0.02])
def test_quoted_error_covers_a_random_walk(noise: float) -> None:
    found = np.concatenate([pulls("walk", 0.01, 0.01, noise, seed) for seed in range(6)])
    assert found.std(axis=0) == pytest.approx([1.0, 1.0], abs=0.06)
    assert np.abs(found.mean(axis=0)) == pytest.approx([0.0, 0.0], abs=0.15)


@pytest.mark.parametrize("noise", [0.004, 0.02])
def test_quoted_error_covers_the_drift_of_a_chip(noise: float) -> None:
    """AR(1) of 2 % with memory 0.9: its changes have a spread of 0.9 %, which is what the filter is told."""
    step = 0.02 * math.sqrt(2 * (1 - 0.9))
    found = np.concatenate([pulls("chip", 0.02, step, noise, seed) for seed in range(6)])
    inside = np.mean(np.abs(found[:, 0]) < 1)
    assert found[:, 0].std() == pytest.approx(1.0, abs=0.1)
    assert inside == pytest.approx(0.683, abs=0.07)


def test_a_drift_that_is_assumed_too_small_is_noticed() -> None:
    """Power of the two tests above, and of the surprise."""
    found = pulls("walk", 0.01, 0.001, 0.004, 1)
    assert found[:, 0].std() > 2
    assert found[:, 1].std() > 1.5


def test_running_estimate_beats_single_ones() -> None:
    rng = np.random.default_rng(5)
    running, position, single, kept = RunningBeta.start(9.0, 0.2, 0.002), 0.0, [], []
    for _ in range(300):
        position += 0.002 * rng.normal()
        true = 8.93 * math.exp(position)
        seen = true * math.exp(0.03 * rng.normal())
        running = running.predict().update(estimate(seen, 0.03 * seen))
        single.append(math.log(seen / true))
        kept.append(math.log(running.value / true))
    assert np.std(kept[30:]) < 0.4 * np.std(single[30:])


def test_two_steps_by_hand() -> None:
    running = RunningBeta.start(4.0, 0.1, 0.05).predict(2)
    assert running.variance == pytest.approx(0.01 + 2 * 0.0025)
    after = running.update(estimate(5.0, 0.5))
    gain = 0.015 / (0.015 + 0.01)
    assert after.value == pytest.approx(4 * (5 / 4) ** gain)
    assert after.error == pytest.approx(after.value * math.sqrt((1 - gain) * 0.015))
    assert after.surprise == pytest.approx(math.log(5 / 4) / math.sqrt(0.025))
    assert (running.n_estimates, after.n_estimates) == (0, 1)
    assert math.isnan(running.surprise)


@pytest.mark.parametrize(("value", "error", "drift"), [(0, 0.1, 0), (1, 0, 0), (1, 0.1, -1), (math.inf, 0.1, 0)])
def test_starts_that_are_none(value: float, error: float, drift: float) -> None:
    with pytest.raises(AnnealerError, match="are no start"):
        RunningBeta.start(value, error, drift)


def test_estimates_that_tell_nothing() -> None:
    running = RunningBeta.start(4.0, 0.1)
    for value, error in ((4.0, 0.0), (0.0, 1.0), (math.nan, 1.0), (4.0, math.inf)):
        with pytest.raises(AnnealerError, match="tells nothing"):
            running.update(estimate(value, error))
