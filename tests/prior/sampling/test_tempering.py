import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.replicas import ReplicaState, SwapBook, exchange
from calo4pqvae.prior.sampling.samplers import with_values
from calo4pqvae.prior.sampling.tempering import TemperingSampler, tuned_ladder
from calo4pqvae.testing import tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_bit(bias: float) -> BoltzmannMachine:
    machine = BoltzmannMachine(Topology("one", (1,), np.empty((0, 2))))
    with torch.no_grad():
        machine.biases.fill_(bias)
    return machine


def test_swaps_of_a_two_state_machine_keep_detailed_balance() -> None:
    """pi(x, y) a(x, y) = pi(y, x) a(y, x) for the joint law of two levels, by hand."""
    bias, ladder = 1.3, (0.2, 1.0)
    sampler = TemperingSampler(one_bit(bias), ladder)
    for x, y in itertools.product((0.0, 1.0), repeat=2):

        def flow(x: float, y: float) -> float:
            weight = math.exp(ladder[0] * bias * x + ladder[1] * bias * y)
            log_ratio = float(sampler.log_ratios(torch.tensor([[[x]], [[y]]])))
            by_hand = (ladder[0] - ladder[1]) * (-bias * x + bias * y)
            assert log_ratio == pytest.approx(by_hand, abs=1e-6)
            return weight * min(1.0, math.exp(log_ratio))

        assert flow(x, y) == pytest.approx(flow(y, x), rel=1e-6)


def test_exchanges_happen_as_often_as_they_should() -> None:
    n = 40_000
    replicas = torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, n, 1)
    log_ratios = torch.tensor([math.log(0.3)]).expand(1, n)
    book = SwapBook.blank(3, n, torch.device("cpu"))
    swapped, book = exchange(replicas, book, torch.tensor([1]), log_ratios, seeded())
    share = float(swapped[2].mean())
    assert share == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / n))
    assert torch.equal(swapped[1], 1 - swapped[2])
    assert swapped[0].max() == 0
    assert book.accepts.float().mean(1).tolist() == pytest.approx([0.0, share])
    assert book.attempts.tolist() == [0, 1]


def test_states_of_equal_energy_always_swap() -> None:
    machine = one_bit(0.0)
    sampler = TemperingSampler(machine, (0.1, 0.4, 1.0))
    state = sampler.sample(sampler.init(500, seeded()), 10, seeded(1))
    assert state.report().acceptance == (1.0, 1.0)


def test_exchanges_alone_keep_the_joint_law() -> None:
    """Exact draws of every level, exchanged many times without a sweep, are still exact draws of every level."""
    bias, ladder, n = 2.0, (0.0, 0.4, 1.0), 60_000
    sampler = TemperingSampler(one_bit(bias), ladder)
    odds = torch.sigmoid(bias * torch.tensor(ladder))
    generator = seeded(2)
    replicas = (torch.rand(3, n, 1, generator=generator) < odds[:, None, None]).float()
    book = SwapBook.blank(3, n, torch.device("cpu"))
    for gap in (0, 1, 1, 0, 1, 0, 0, 1):
        gaps = torch.tensor([gap])
        replicas, book = exchange(replicas, book, gaps, sampler.log_ratios(replicas)[gaps], generator)
    assert replicas.mean((1, 2)).tolist() == pytest.approx(odds.tolist(), abs=4.5 * 0.5 / math.sqrt(n))
    joint = replicas[..., 0] - replicas[..., 0].mean(1, keepdim=True)
    assert (joint @ joint.t() / n - torch.diag(odds * (1 - odds))).abs().max() < 4.5 * 0.25 / math.sqrt(n) * 1.5


def test_round_trips_by_hand() -> None:
    """Three levels, one chain; every exchange is made: 0 -> 1 -> 2 and back takes four exchanges."""
    book = SwapBook.blank(3, 1, torch.device("cpu"))
    yes = torch.ones(1, 1, dtype=torch.bool)
    walkers, trips = [], []
    for gap in (0, 1, 0, 1, 0, 1):
        book = book.after(torch.tensor([gap]), yes)
        walkers.append(book.walkers[:, 0].tolist())
        trips.append(int(book.round_trips))
    assert walkers == [[1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2]]
    assert trips == [0, 0, 0, 0, 1, 1]
    refused = book.after(torch.tensor([0]), ~yes)
    assert torch.equal(refused.walkers, book.walkers)
    assert refused.attempts.tolist() == [4, 3]
    assert refused.accepts[:, 0].tolist() == [3, 3]


def test_walkers_that_start_in_the_middle_make_no_trip_before_they_were_at_the_first_level() -> None:
    book = SwapBook.blank(2, 1, torch.device("cpu"))
    yes = torch.ones(1, 1, dtype=torch.bool)
    trips = []
    for _ in range(4):
        book = book.after(torch.tensor([0]), yes)
        trips.append(int(book.round_trips))
    assert trips == [0, 1, 2, 3]  # walker 0 comes home with the second exchange, walker 1 with the third


@pytest.mark.parametrize("sweeps_per_swap", [1, 3])
def test_twelve_sweeps_equal_three_and_then_nine(sweeps_per_swap: int) -> None:
    sampler = TemperingSampler(tiny_machine(), (0.2, 0.6, 1.0), sweeps_per_swap)
    start = sampler.init(40, seeded())
    whole, pieces = seeded(1), seeded(1)
    twelve = sampler.sample(start, 12, whole)
    nine = sampler.sample(sampler.sample(start, 3, pieces), 9, pieces)
    assert torch.equal(twelve.replicas, nine.replicas)
    assert twelve.report() == nine.report()
    assert twelve.n_sweeps == nine.n_sweeps == 12


def test_exchanges_stay_in_step_when_calls_are_no_whole_rounds() -> None:
    sampler = TemperingSampler(tiny_machine(), (0.2, 0.6, 1.0), sweeps_per_swap=3)
    state = sampler.init(40, seeded())
    attempts = []
    for n_sweeps in (2, 2, 1, 1, 5):
        state = sampler.sample(state, n_sweeps, seeded(1))
        attempts.append(state.book.attempts.tolist())
    assert attempts == [[0, 0], [1, 0], [1, 0], [1, 1], [2, 1]]


def test_gaps_are_tried_in_turn_and_zero_sweeps_change_nothing() -> None:
    sampler = TemperingSampler(tiny_machine(), (0.1, 0.3, 0.6, 1.0))
    state = sampler.sample(sampler.init(5, seeded()), 7, seeded())
    assert state.book.attempts.tolist() == [4, 3, 4]
    assert sampler.sample(state, 0, seeded()) is state


def test_all_levels_hold_the_bits_of_the_last() -> None:
    machine = tiny_machine(n_condition=1)
    sampler = TemperingSampler(machine, (0.0, 0.5, 1.0))
    mask = torch.arange(8) % 2 == 0
    values = torch.randint(0, 2, (30, 8), generator=seeded(3)).float()
    start = with_values(sampler.init(30, seeded()), mask, values)
    state = sampler.sample(start, 5, seeded(1), mask, torch.randn(30, 1, generator=seeded(4)))
    assert torch.equal(state.replicas[:, :, mask], values[:, mask].expand(3, -1, -1))


def test_every_chain_has_its_own_condition_in_energies() -> None:
    machine = tiny_machine(n_condition=2)
    sampler = TemperingSampler(machine, (0.25, 1.0))
    replicas = torch.randint(0, 2, (2, 6, 8), generator=seeded()).float()
    condition = torch.randn(6, 2, generator=seeded(1))
    energies = [machine.energy(bits, condition) for bits in replicas]
    expected = -0.75 * (energies[0] - energies[1])
    torch.testing.assert_close(sampler.log_ratios(replicas, condition)[0].float(), expected, rtol=1e-4, atol=1e-5)


def frozen_machine() -> BoltzmannMachine:
    """A ferromagnet whose energy varies most near its transition, at about a third of full coupling."""
    machine = BoltzmannMachine(complete_topology((4, 4, 4, 4)))
    with torch.no_grad():
        machine.couplings.fill_(1.2)
        machine.biases.fill_(-0.6 * 12)
    return machine


def test_a_tuned_ladder_has_even_acceptances() -> None:
    machine = frozen_machine()
    ladder = tuned_ladder(machine, 6, seeded(), n_chains=100)
    assert ladder[0] == 0
    assert ladder[-1] == 1
    assert all(low < high for low, high in itertools.pairwise(ladder))
    spread, trips = [], []
    for betas in (tuple(np.linspace(0, 1, 6)), ladder):
        sampler = TemperingSampler(machine, betas)
        state = sampler.sample(sampler.init(200, seeded(1)), 100, seeded(2))
        state = sampler.sample(ReplicaState.start(state.replicas), 300, seeded(3))
        report = state.report()
        spread.append(max(report.acceptance) - min(report.acceptance))
        trips.append(report.round_trips)
        assert (report.n_chains, report.n_sweeps) == (200, 300)
        assert all(0 < error < 0.02 for error in report.acceptance_error)
    assert spread[1] < 0.08
    assert spread[1] < spread[0] / 3
    assert trips[1] > trips[0]


def test_a_ladder_is_tuned_for_held_bits() -> None:
    machine = tiny_machine(n_condition=1)
    mask = torch.arange(8) < 4
    values = torch.ones(20, 8)
    condition = torch.zeros(20, 1)
    options = {"n_chains": 20, "n_sweeps": 20, "clamped": mask, "condition": condition}
    ladder = tuned_ladder(machine, 3, seeded(), beta_start=0.1, values=values, **options)
    assert (ladder[0], ladder[-1]) == (0.1, 1.0)
    with pytest.raises(PriorError, match="values have shape"):
        tuned_ladder(machine, 3, seeded(), values=values[:5], **options)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        ((1.0,), "1 replicas"),
        ((), "0 replicas"),
        ((0.5, 0.4, 1.0), "do not increase"),
        ((0.5, 0.5, 1.0), "do not increase"),
        ((0.2, float("nan"), 1.0), "do not increase"),
        ((0.2, 0.9), "end at 1"),
        ((0.5, 1.0, 1.5), "end at 1"),
        ((-0.1, 1.0), "start at 0"),
    ],
)
def test_ladders_that_are_none_are_refused(betas: tuple[float, ...], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        TemperingSampler(tiny_machine(), betas)


def test_other_bad_input_is_refused() -> None:
    machine = tiny_machine()
    with pytest.raises(PriorError, match="0 sweeps between"):
        TemperingSampler(machine, sweeps_per_swap=0)
    two, three = TemperingSampler(machine, (0.5, 1.0)), TemperingSampler(machine, (0.2, 0.5, 1.0))
    with pytest.raises(PriorError, match="2 levels, the sampler 3"):
        three.sample(two.init(4, seeded()), 1, seeded())
    state = two.init(4, seeded())
    with pytest.raises(PriorError, match="zeros and ones"):
        two.sample(replace(state, others=state.others + 0.5), 1, seeded())
    with pytest.raises(PriorError, match="levels have shapes"):
        replace(state, states=state.states[:2])
    for options in ({"n_levels": 1}, {"beta_start": 1.0}, {"n_sweeps": 1}, {"n_rounds": 0}, {"n_chains": 0}):
        with pytest.raises(PriorError):
            tuned_ladder(machine, generator=seeded(), **({"n_levels": 3} | options))
