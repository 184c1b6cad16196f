import math

import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import DivergenceError, PriorError
from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.prior.learning.diagnostics import DivergenceGuard, watch
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import tiny_machine


def draws(machine: BoltzmannMachine, n: int, seed: int, beta: float = 1.0) -> Tensor:
    law = enumerate_machine(machine, beta=beta)
    picks = torch.multinomial(law.probabilities, n, True, generator=torch.Generator().manual_seed(seed))
    return law.states()[picks]


def strong_machine() -> BoltzmannMachine:
    return tiny_machine(seed=4, coupling_std=1.5)


def test_samples_of_the_law_of_the_data_agree_within_errors() -> None:
    machine = strong_machine()
    gaps, slopes, far = [], [], []
    for seed in range(20):
        report = watch(machine, draws(machine, 2000, seed), draws(machine, 3000, 100 + seed))
        gaps.append(report.gap / report.gap_error)
        slopes.append((report.slope - 1) / report.slope_error)
        far.append((report.far_slope - 1) / report.far_slope_error)
        assert report.mean_error_mean < report.mean_error_max < 0.08
    for scores in (gaps, slopes, far):
        assert max(map(abs, scores)) < 5
        assert 0.5 < math.sqrt(sum(score**2 for score in scores) / 20) < 1.8
    assert (report.n_data, report.n_model) == (2000, 3000)


def test_numbers_are_those_of_the_exact_law() -> None:
    machine = strong_machine()
    cold, law = enumerate_machine(machine, beta=2.0), enumerate_machine(machine)
    report = watch(machine, draws(machine, 40_000, 1), draws(machine, 40_000, 2, beta=2.0))
    assert report.gap == pytest.approx(law.energy_mean - cold.energy_mean, abs=5 * report.gap_error)
    assert report.energy_spread == pytest.approx(math.sqrt(law.energy_variance), rel=0.03)
    expected = (law.first - cold.first).abs()
    assert report.mean_error_max == pytest.approx(float(expected.max()), abs=0.02)
    i, j = torch.from_numpy(machine.topology.edges.copy()).unbind(1)
    of_data, of_model = (one.second - one.first[i] * one.first[j] for one in (law, cold))
    slope = float((of_data * of_model).sum() / (of_data**2).sum())
    assert report.slope == pytest.approx(slope, abs=5 * report.slope_error)
    assert report.slope_error < 0.05


def test_slope_is_not_bent_by_the_noise_of_few_states() -> None:
    """200 states: the naive slope would be far below one, because the data's noise enters its denominator."""
    machine = tiny_machine(seed=4, coupling_std=0.5)
    slopes = [watch(machine, draws(machine, 200, s), draws(machine, 200, 500 + s)).slope for s in range(60)]
    finite = sorted(slope for slope in slopes if math.isfinite(slope))
    assert len(finite) > 50
    assert 0.8 < finite[len(finite) // 2] < 1.25


def test_independent_samples_have_no_correlations() -> None:
    machine = strong_machine()
    data = draws(machine, 4000, 1)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([column[torch.randperm(4000, generator=generator)] for column in data.t()], dim=1)
    report = watch(machine, data, shuffled)
    assert abs(report.slope) < 0.1
    assert abs(report.far_slope) < 0.2
    assert report.gap < -5 * report.gap_error
    assert report.mean_error_max == pytest.approx(0, abs=1e-6)


def test_conditions_of_data_and_samples_may_differ() -> None:
    machine = tiny_machine(n_condition=1)
    states = draws(tiny_machine(), 100, 1)
    report = watch(machine, states, states[:50], torch.zeros(100, 1), torch.ones(50, 1))
    energy = machine.energy(states[:50], torch.ones(50, 1)).mean().item()
    assert report.energy_model == pytest.approx(energy, abs=1e-5)
    with pytest.raises(PriorError, match="100 conditions for 50"):
        watch(machine, states, states[:50], torch.zeros(100, 1))


def test_complete_pairs_leave_no_far_ones() -> None:
    machine = BoltzmannMachine(complete_topology((1, 1, 1)))
    states = torch.randint(0, 2, (40, 3), generator=torch.Generator().manual_seed(0))
    assert math.isnan(watch(machine, states, states).far_slope)


def test_too_few_states_are_refused() -> None:
    with pytest.raises(PriorError, match="too few to compare"):
        watch(tiny_machine(), torch.zeros(19, 8), torch.zeros(100, 8))


def test_guard_fires_after_some_checks_in_a_row() -> None:
    guard = DivergenceGuard(limit=5.0, floor=1.0, patience=3)
    for gap in (11.0, 11.0, 9.0, 11.0, -11.0):
        guard.check(gap, 0.0, 2.0)
    with pytest.raises(DivergenceError, match="3 checks in a row"):
        guard.check(11.0, 0.0, 2.0)


def test_guard_allows_a_floor_where_there_is_no_spread() -> None:
    guard = DivergenceGuard(limit=5.0, floor=1.0, patience=1)
    guard.check(0.9, 0.0, 0.0)
    with pytest.raises(DivergenceError, match="energy gap"):
        guard.check(1.1, 0.0, 0.0)


@pytest.mark.parametrize("numbers", [(math.nan, 0.0, 1.0), (0.0, math.inf, 1.0), (0.0, 0.0, math.nan)])
def test_guard_fires_at_once_when_a_number_is_not_finite(numbers: tuple[float, float, float]) -> None:
    with pytest.raises(DivergenceError, match="no longer finite"):
        DivergenceGuard().check(*numbers)
