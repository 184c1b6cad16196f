import math
from dataclasses import replace

import pytest
import torch

from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.learning.mixing import MixingReport, grown_sweeps, measure_mixing
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler


def coupled_pair(strength: float) -> BoltzmannMachine:
    """Two bits with energy -w z_1 z_2 + (w / 2) (z_1 + z_2), which are equal with probability sigma(w / 2)."""
    machine = BoltzmannMachine(bipartite_topology(1, 1))
    with torch.no_grad():
        machine.couplings.fill_(strength)
        machine.biases.fill_(-strength / 2)
    return machine


def measured(strength: float, n_sweeps: int) -> tuple[MixingReport, torch.Generator]:
    machine, generator = coupled_pair(strength), torch.Generator().manual_seed(1)
    sampler = BlockGibbsSampler(machine)
    state = sampler.init(200, generator)
    before = generator.get_state()
    report = measure_mixing(machine, sampler, state, generator, measured_sweeps=1000, n_sweeps=n_sweeps)
    assert torch.equal(before, generator.get_state())
    return report, generator


@pytest.mark.parametrize("strength", [4.0, 8.0])
def test_the_relaxation_time_of_two_bits_and_its_warning(strength: float) -> None:
    """A sweep multiplies the correlation of a bit with its start by (2 sigma(w / 2) - 1)^2 = tanh(w / 4)^2."""
    exact = -1 / math.log(math.tanh(strength / 4) ** 2)
    few, _ = measured(strength, n_sweeps=1)
    assert few.relaxation_time == pytest.approx(exact, abs=5 * few.relaxation_error + 0.02 * exact)
    assert few.warning is not None
    assert "1 sweeps a step are fewer than the relaxation time" in few.warning
    enough, _ = measured(strength, n_sweeps=math.ceil(1.5 * exact))
    assert enough.warning is None
    assert enough.relaxation_time == few.relaxation_time


def test_sweeps_follow_the_relaxation_time_upwards_only() -> None:
    report, _ = measured(4.0, n_sweeps=3)
    slow = replace(report, relaxation_time=10.0)
    assert grown_sweeps(slow, 2.5, 100) == 25
    assert grown_sweeps(slow, 2.5, 20) == 20
    assert grown_sweeps(replace(slow, relaxation_time=0.5), 2.5, 100) == 3
    assert grown_sweeps(replace(slow, relaxation_time=math.inf), 2.5, 100) == 100
