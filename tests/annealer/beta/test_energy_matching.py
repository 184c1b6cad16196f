"""Energy matching: Newton's rule on exact toys, its error by coverage, and what ends a course."""

import math

import numpy as np
import pytest

from calo4pqvae.annealer.beta.energy_matching import EnergySample, NewtonRule, match_energy
from calo4pqvae.errors import AnnealerError
from tests.annealer.toys import FloatArray, course, moments, toy_energies

TOYS = (toy_energies(18, 1.2), toy_energies(14, 1.6), toy_energies(12, 0.6, seed=3))
EXACT = NewtonRule(n_errors=1e-6)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.6, 4.0, 8.9, 10.0])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_newton_converges_from_twice_above_and_below(true: float, factor: float) -> None:
    for energies in TOYS:
        found = course(energies, true, true * factor, EXACT)
        assert found.is_converged
        assert len(found.betas) <= 9
        assert found.last_beta == pytest.approx(true, rel=1e-6)


def test_newton_needs_three_programmings_where_it_is_near() -> None:
    found = course(TOYS[1], 4.0, 3.0, NewtonRule(n_errors=0.1))
    assert len(found.betas) == 3
    assert found.last_beta == pytest.approx(4.0, rel=2e-3)


def test_constant_of_the_energy_does_not_matter() -> None:
    plain, moved = (course(energies, 4.0, 8.0, EXACT).betas for energies in (TOYS[1], TOYS[1] + 77.0))
    assert moved == pytest.approx(plain)


def test_steps_are_cut() -> None:
    rule = NewtonRule(longest_step=0.2)
    high, low = EnergySample(50.0, 1.0, 100), EnergySample(-50.0, 1.0, 100)
    assert rule.step(4.0, high, low) == pytest.approx(4 * math.exp(-0.2))
    assert rule.step(4.0, low, high) == pytest.approx(4 * math.exp(0.2))
    assert rule.step(4.0, EnergySample(1.0, 10.0, 100), EnergySample(0.0, 10.0, 100)) == pytest.approx(4 / math.e**0.1)


def drawn(energies: FloatArray, ratio: float, n: int, rng: np.random.Generator) -> FloatArray:
    weights = np.exp(-ratio * (energies - energies.min()))
    return rng.choice(energies, n, p=weights / weights.sum())


def test_error_covers_the_truth() -> None:
    energies, true, pulls = TOYS[2], 3.0, []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        wanted = EnergySample.of(drawn(energies, 1.0, 400, rng))
        found = match_energy(
            lambda beta, rng=rng: EnergySample.of(drawn(energies, true / beta, 200, rng)), wanted, start=3.3
        )
        pulls.append((found.value - true) / found.error)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.25)  # 6.5 % of spread in 120 repeats
    assert abs(np.mean(pulls)) < 0.4


def test_pooling_beats_the_last_programming() -> None:
    """All programmings near the answer enter the value; the rule alone ends within one error by chance."""
    energies, true, pooled, last = TOYS[2], 3.0, [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        wanted = EnergySample(*moments(energies, 1.0), math.inf)
        found = match_energy(
            lambda beta, rng=rng: EnergySample.of(drawn(energies, true / beta, 100, rng)),
            wanted,
            NewtonRule(n_errors=0.0),
            start=3.0,
            max_programmings=6,
        )
        pooled.append(found.value)
        last.append(found.last_beta)
    assert np.std(pooled) < 0.6 * np.std(last)


def test_course_tells_how_it_ended() -> None:
    energies = TOYS[1]
    short = course(energies, 4.0, 8.0, EXACT, steps=1)
    assert (short.is_converged, short.has_diverged, short.betas) == (False, False, (8.0,))
    assert short.is_extrapolated
    done = course(energies, 4.0, 3.0, EXACT)
    assert not done.is_extrapolated
    estimate = done.estimate(14, 3, seed=5)
    assert (estimate.n_programmings, estimate.n_spins, estimate.n_excluded) == (len(done.betas), 14, 3)
    assert estimate.n_reads == 128 * len(done.betas)
    assert (estimate.error_source, estimate.is_converged, estimate.seed) == ("energies", True, 5)
    assert estimate.programmed_beta == done.betas[-1]


def test_exact_means_give_the_last_programming_and_no_error() -> None:
    found = course(TOYS[1], 4.0, 3.0, EXACT, n=math.inf, steps=8)
    assert found.value == pytest.approx(4.0, rel=1e-6)
    assert found.error == 0.0


@pytest.mark.parametrize(("start", "steps"), [(0.0, 5), (-1.0, 5), (math.nan, 5), (math.inf, 5), (1.0, 0)])
def test_starts_that_lead_nowhere(start: float, steps: int) -> None:
    with pytest.raises(AnnealerError, match="give positive numbers"):
        course(TOYS[1], 4.0, start, None, steps=steps)


def test_energies_without_a_spread_are_refused() -> None:
    with pytest.raises(AnnealerError, match="take two reads or more"):
        EnergySample.of([1.0])
    with pytest.raises(AnnealerError, match="not frozen"):
        EnergySample.of([1.0, 1.0])
    assert EnergySample.of([0.0, 2.0], 1.5) == EnergySample(1.0, 2.0, 1.5)
    assert EnergySample(0.0, 8.0, 2.0).error == 2.0
