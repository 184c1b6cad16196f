"""The published rules on exact toys: where they swing, diverge and converge, and the multipliers that say so."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from calo4pqvae.annealer.beta.energy_matching import EnergyRule, EnergySample, NewtonRule
from calo4pqvae.annealer.beta.temperature_rules import AdditiveRule, MultiplicativeRule
from calo4pqvae.errors import AnnealerError
from tests.annealer.toys import course, moments, reader, toy_energies

OF_18 = toy_energies(18, 1.2, seed=5)  # true 3.8, start 5
OF_14 = toy_energies(14, 1.6)  # true 4, start 3


@dataclass(frozen=True)
class Restless:
    """A rule that stops at a thousandth of the spread of the energy, whatever the number of reads."""

    rule: EnergyRule

    def step(self, beta: float, seen: EnergySample, wanted: EnergySample) -> float:
        return self.rule.step(beta, seen, wanted)

    def is_settled(self, seen: EnergySample, wanted: EnergySample) -> bool:
        return abs(seen.mean - wanted.mean) < 1e-3 * math.sqrt(wanted.variance)

    def multiplier(self, beta: float, mean: float, variance: float) -> float:
        return self.rule.multiplier(beta, mean, variance)


def test_fixed_power_four_ends_in_a_two_cycle_between_the_floor_and_five() -> None:
    mean, variance = moments(OF_18, 1.0)
    assert abs(mean) / variance < 2  # the condition of the swing
    rule = MultiplicativeRule()
    assert rule.multiplier(3.8, mean, variance) < -1
    found = course(OF_18, 3.8, 5.0, rule, steps=40)
    assert not found.is_converged
    assert found.betas[-1] == pytest.approx(found.betas[-3], rel=1e-9)
    assert found.betas[-2] == pytest.approx(found.betas[-4], rel=1e-9)
    low, high = sorted(found.betas[-2:])
    assert low == 2.0  # the floor
    assert high == pytest.approx(5.0, abs=0.3)


def test_fixed_power_four_swings_on_fourteen_spins() -> None:
    found = course(OF_14, 4.0, 3.0, Restless(MultiplicativeRule()), steps=40)
    low, high = sorted(found.betas[-2:])
    assert not found.is_converged
    assert 2.0 <= low < 2.8
    assert high == pytest.approx(5.5, abs=0.3)


def test_a_floor_under_the_power_makes_the_adaptive_rule_worse_than_the_fixed_one() -> None:
    found = course(OF_18, 3.8, 5.0, MultiplicativeRule(is_adaptive=True), steps=40)
    assert not found.is_converged
    assert found.betas.count(2.0) > 3
    assert max(found.betas) > 10


def test_without_that_floor_it_converges_in_a_few_steps() -> None:
    for energies, true, start in ((OF_18, 3.8, 5.0), (OF_14, 4.0, 3.0)):
        found = course(energies, true, start, Restless(MultiplicativeRule(power=0.01, is_adaptive=True)))
        assert found.is_converged
        assert len(found.betas) <= 5
        assert found.last_beta == pytest.approx(true, rel=1e-3)


def test_published_additive_gain_diverges_above_beta_two() -> None:
    for energies, true, start in ((OF_18, 3.8, 5.0), (OF_14, 4.0, 3.0)):
        rule = AdditiveRule(is_adaptive=True)
        assert rule.multiplier(true, *moments(energies, 1.0)) == pytest.approx(1 - true)
        found = course(energies, true, start, rule)
        assert found.has_diverged
        assert len(found.betas) <= 3
        assert found.last_beta < 0


def test_below_beta_two_the_same_gain_converges() -> None:
    found = course(OF_14, 1.5, 1.3, Restless(AdditiveRule(gain=1e-6, is_adaptive=True)))
    assert found.is_converged
    assert found.last_beta == pytest.approx(1.5, rel=1e-2)


def test_later_cap_and_floor_tame_the_additive_rule() -> None:
    found = course(OF_14, 4.0, 3.0, Restless(AdditiveRule(is_adaptive=True, cap=0.5, lowest=0.01)))
    assert found.is_converged
    assert 4 <= len(found.betas) <= 10
    assert found.last_beta == pytest.approx(4.0, rel=1e-2)


def test_small_fixed_additive_gain_is_slow() -> None:
    found = course(OF_18, 3.8, 5.0, Restless(AdditiveRule()))
    assert not found.is_converged
    assert 4.3 < found.last_beta < 4.8  # after 25 steps, from 5 to 3.8
    assert all(np.diff(found.betas) < 0)


@pytest.mark.parametrize(
    "rule",
    [AdditiveRule(), AdditiveRule(gain=0.05), MultiplicativeRule(1.0), MultiplicativeRule(1.7), MultiplicativeRule()],
)
def test_multiplier_is_the_slope_of_a_step(rule: AdditiveRule | MultiplicativeRule) -> None:
    true, size = 4.0, 1e-4
    read, wanted = reader(OF_14, true), EnergySample(*moments(OF_14, 1.0), 128)
    high, low = (rule.step(beta, read(beta), wanted) for beta in (true * (1 + size), true * (1 - size)))
    slope = (high - low) / (2 * size * true)
    assert slope == pytest.approx(rule.multiplier(true, wanted.mean, wanted.variance), rel=1e-4, abs=1e-5)


def test_steps_by_hand() -> None:
    seen, wanted = EnergySample(-8.0, 10.0, 128), EnergySample(-10.0, 12.0, 512)
    assert AdditiveRule().step(3.0, seen, wanted) == pytest.approx(3 - 0.01 * 2)
    assert AdditiveRule(is_adaptive=True).step(3.0, seen, wanted) == pytest.approx(3 - 0.9 * 2)
    assert AdditiveRule(is_adaptive=True, cap=0.5).step(3.0, seen, wanted) == pytest.approx(3 - 0.5 * 2)
    assert AdditiveRule(gain=2.0, lowest=0.01).step(3.0, seen, wanted) == 0.01
    assert MultiplicativeRule().step(4.0, seen, wanted) == 2.0  # 4 * 0.8^4 = 1.64, under the floor
    assert MultiplicativeRule(1.0).step(4.0, seen, wanted) == pytest.approx(3.2)
    assert MultiplicativeRule(1.0, is_adaptive=True).step(4.0, EnergySample(-8.0, 2.0, 9), wanted) == 2.0  # 4 * 0.8^4
    assert MultiplicativeRule(0.1, True).step(4.0, seen, wanted) == pytest.approx(4 * 0.8**0.8)


def test_published_stop_by_hand() -> None:
    wanted = EnergySample(-10.0, 9.0, 512)
    limit = 1.5 * 2 * 2 * 3 / (math.sqrt(64) * (2 + 3))  # 0.45
    for rule in (AdditiveRule(), MultiplicativeRule()):
        assert rule.is_settled(EnergySample(-10 + 0.99 * limit, 4.0, 64), wanted)
        assert not rule.is_settled(EnergySample(-10 + 1.01 * limit, 4.0, 64), wanted)
    assert not AdditiveRule(tolerance=0.3).is_settled(EnergySample(-9.6, 4.0, 64), wanted)
    assert AdditiveRule(tolerance=0.5).is_settled(EnergySample(-9.6, 4.0, 64), wanted)


def test_ratio_of_energies_of_both_signs_is_refused() -> None:
    with pytest.raises(AnnealerError, match="use the Newton rule"):
        MultiplicativeRule().step(4.0, EnergySample(0.5, 1.0, 64), EnergySample(-0.5, 1.0, 64))


def test_only_the_multiplicative_rule_depends_on_the_constant_of_the_energy() -> None:
    shifted = OF_14 + 100.0
    for rule in (AdditiveRule(), NewtonRule()):
        assert course(shifted, 4.0, 3.0, rule).betas == pytest.approx(course(OF_14, 4.0, 3.0, rule).betas)
    assert course(shifted, 4.0, 3.0, MultiplicativeRule()).betas != pytest.approx(
        course(OF_14, 4.0, 3.0, MultiplicativeRule()).betas
    )
