"""Courses of the temperature rules on the exact machines of the study."""

import itertools
import math

import numpy as np
import pytest

from calo4pqvae.studies.annealer_protocols.rule_courses import RULES, TOYS, RuleCourse, Toy, toy_courses


@pytest.fixture(scope="module")
def courses() -> dict[tuple[int, str], RuleCourse]:
    return {(toy.n_spins, course.rule): course for toy in TOYS for course in toy_courses(toy, 25)}


def test_energies_of_a_toy_by_the_formula() -> None:
    toy = Toy(4, 1.3, 7, 3.0, 2.0)
    rng = np.random.default_rng(7)
    couplings = rng.normal(0, 1.3 / 2, (4, 4))
    fields = rng.normal(0, 0.13, 4)
    expected = []
    for spins in itertools.product((-1, 1), repeat=4):
        s = spins[::-1]  # the first spin changes fastest
        pairs = sum(couplings[i, j] * s[i] * s[j] for i in range(4) for j in range(i + 1, 4))
        expected.append(pairs + sum(fields[i] * s[i] for i in range(4)))
    assert toy.energies() == pytest.approx(expected)


def test_published_two_cycle_and_divergence_are_there(courses: dict[tuple[int, str], RuleCourse]) -> None:
    swing = courses[18, "multiplicative, 4"]
    assert swing.is_two_cycle
    assert swing.multiplier < -1
    assert swing.verdict.startswith("swings between 2.00 and 5.")
    for n_spins in (18, 14):
        diverging = courses[n_spins, "additive, adaptive"]
        assert diverging.has_diverged
        assert diverging.verdict.startswith("diverges in")
        assert diverging.multiplier == pytest.approx(1 - diverging.true)
        newton = courses[n_spins, "Newton in ln beta"]
        assert newton.is_settled
        assert newton.verdict == f"ends at {newton.true:.2f} after 25 programmings"
        assert not newton.is_two_cycle
    assert max(courses[18, "multiplicative, adaptive"].betas) > 10
    assert not courses[18, "additive, 0.01"].is_settled


def test_every_rule_is_tried_on_every_toy(courses: dict[tuple[int, str], RuleCourse]) -> None:
    assert set(courses) == {(toy.n_spins, rule) for toy in TOYS for rule in RULES}
    for (n_spins, _), course in courses.items():
        assert course.betas[0] == {18: 5.0, 14: 3.0}[n_spins]
        assert len(course.betas) <= 26


def test_verdicts() -> None:
    def told(*betas: float, failure: str = "") -> str:
        return RuleCourse("", "", betas, 4.0, False, 0.0, failure).verdict

    assert told(4.0, 2.0, 5.0, 2.0, 5.0) == "swings between 2.00 and 5.00"
    assert told(4.0, 2.0, 5.0, 2.0, 5.2) == "ends at 5.20 after 4 programmings, not settled"
    assert told(4.0, 4.0, 4.0, 4.0, 4.0).startswith("ends at 4.00")
    assert told(4.0, -1.0) == told(4.0, math.inf) == "diverges in 1 programmings"
    assert told(4.0, failure="no meaning") == "gives up"
