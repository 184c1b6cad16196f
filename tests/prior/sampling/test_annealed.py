import math

import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.annealed import AnnealedSampler
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import GibbsState
from calo4pqvae.testing import assert_pairs_independent, tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ramps_by_hand() -> None:
    machine = tiny_machine()
    assert AnnealedSampler(machine, 3, 0.5).ramp == pytest.approx((0.5, 0.75, 1.0))
    assert AnnealedSampler(machine, 3, 0.25, "geometric").ramp == pytest.approx((0.25, 0.5, 1.0))
    assert AnnealedSampler(machine, 5, 0.0).ramp[-1] == 1.0
    assert AnnealedSampler(machine, 1, 0.3).ramp == (0.3,)


def test_draws_do_not_depend_on_the_state_before() -> None:
    sampler = AnnealedSampler(tiny_machine(), 5)
    zeros, ones = GibbsState(torch.zeros(50, 8)), GibbsState(torch.ones(50, 8))
    assert torch.equal(sampler.sample(zeros, 2, seeded()).states, sampler.sample(ones, 2, seeded()).states)


def test_two_calls_are_independent() -> None:
    machine = tiny_machine()
    sampler, generator = AnnealedSampler(machine, 20), seeded(1)
    first = sampler.sample(sampler.init(10_000, generator), 10, generator)
    second = sampler.sample(first, 10, generator)
    assert_pairs_independent(first.states, second.states, machine)


@pytest.mark.parametrize("start", ["coins", "fields"])
def test_the_start_is_as_named(start: str) -> None:
    """What a sweep would hide at once: odds of 3 and of 9 from the fields, or fair coins."""
    machine = BoltzmannMachine(independent_topology((2, 1)), n_condition=1)
    with torch.no_grad():
        machine.biases.fill_(math.log(3.0))
        machine.condition_weights.fill_(1.0)
    sampler = AnnealedSampler(machine, start=start)
    condition = torch.tensor([[0.0], [math.log(3.0)]]).repeat(10_000, 1)
    bits = sampler._fresh(20_000, seeded(), condition)
    means = [0.5, 0.5] if start == "coins" else [0.75, 0.9]
    assert bits[::2].mean(0).tolist() == pytest.approx([means[0]] * 3, abs=0.025)
    assert bits[1::2].mean(0).tolist() == pytest.approx([means[1]] * 3, abs=0.025)


def test_a_slow_ramp_ends_nearer_to_the_law_than_a_quench() -> None:
    """A frustrated machine at strong coupling, no sweeps after the ramp: mean energy against enumeration."""
    machine = tiny_machine((3, 3, 3, 3), seed=5, coupling_std=4.0)
    law = enumerate_machine(machine)
    gaps = []
    for n_steps in (2, 400):
        sampler = AnnealedSampler(machine, n_steps, 0.02, "geometric")
        states = sampler.sample(sampler.init(4000, seeded()), 0, seeded(1)).states
        gaps.append(float(machine.energy(states).detach().mean()) - law.energy_mean)
    assert gaps[0] > 5 * abs(gaps[1])
    assert abs(gaps[1]) < 0.2 * math.sqrt(law.energy_variance)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_steps": 0}, "0 steps"),
        ({"beta_start": -0.1}, "-0.1"),
        ({"beta_start": 1.5}, "1.5"),
        ({"beta_start": float("nan")}, "nan"),
        ({"schedule": "steep"}, "'steep' does not exist"),
        ({"schedule": "geometric", "beta_start": 0.0}, "cannot start at beta = 0"),
        ({"start": "zeros"}, "'zeros' does not exist"),
    ],
)
def test_ramps_that_do_not_exist_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        AnnealedSampler(tiny_machine(), **options)
