import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.chain_diagnosis import chain_diagnosis
from calo4pqvae.prior.estimates.transition import exact_sweep
from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.testing import tiny_machine


def balanced(coupling: float, n_condition: int = 0) -> BoltzmannMachine:
    """Ferromagnetic couplings, zeros and ones in balance: slow for strong couplings."""
    machine = BoltzmannMachine(complete_topology((2, 1, 2, 1)), n_condition)
    degrees = torch.from_numpy(machine.topology.degrees.astype(np.float32))
    with torch.no_grad():
        machine.couplings.fill_(coupling)
        machine.biases.copy_(-coupling * degrees / 2)
    return machine


def stationary(machine: BoltzmannMachine, n_chains: int, seed: int) -> GibbsState:
    law, generator = enumerate_machine(machine), torch.Generator().manual_seed(seed)
    return GibbsState(law.states()[torch.multinomial(law.probabilities, n_chains, True, generator=generator)])


@pytest.mark.parametrize("every", [1, 3])
def test_times_are_in_sweeps_and_agree_with_the_exact_gap(every: int) -> None:
    machine = balanced(1.8)
    exact = exact_sweep(machine).relaxation_time
    n_sweeps = 40 * math.ceil(exact)
    found = chain_diagnosis(
        machine,
        BlockGibbsSampler(machine),
        stationary(machine, 300, 1),
        n_sweeps,
        every,
        torch.Generator().manual_seed(2),
    )
    assert abs(found.slowest.relaxation.value - exact) < 3.5 * found.slowest.relaxation.error + 0.05 * exact
    assert found.slowest.name == "mode 1"
    assert [one.name for one in found.series] == ["energy", "mode 1", "mode 2", "mode 3"]
    assert found.is_converged
    assert found.tau == pytest.approx(2 * exact, rel=0.3)
    n_records = 300 * (n_sweeps // every)
    assert found.ess == pytest.approx(n_records * every / found.tau)
    assert (found.n_chains, found.n_sweeps, found.every, found.seed, found.n_laws) == (300, n_sweeps, every, 2, 1)


def test_enough_sweeps_and_the_warning() -> None:
    machine = balanced(1.8)
    found = chain_diagnosis(
        machine, BlockGibbsSampler(machine), stationary(machine, 300, 1), 1500, 1, torch.Generator().manual_seed(2)
    )
    few, many = int(found.slowest.relaxation.value), int(10 * found.slowest.relaxation.value)
    assert not found.sweeps_are_enough(few)
    assert found.sweeps_are_enough(many)
    assert found.warning(many) is None
    message = found.warning(few)
    assert message is not None
    assert f"{few} sweeps are fewer than 5 relaxation times" in message


def test_chains_stuck_in_two_modes_are_seen() -> None:
    machine = balanced(7.0)
    halves = torch.cat([torch.zeros(20, 6), torch.ones(20, 6)])
    found = chain_diagnosis(
        machine, BlockGibbsSampler(machine), GibbsState(halves), 200, 1, torch.Generator().manual_seed(1)
    )
    assert found.r_hat > 2
    assert not found.is_converged
    assert "not in equilibrium" in str(found.warning(10**9))
    assert exact_sweep(machine).relaxation_time > 1000


def test_chains_with_conditions_and_held_bits_are_compared_within_their_law() -> None:
    machine = balanced(0.5, n_condition=1)
    with torch.no_grad():
        machine.condition_weights.fill_(3.0)
    n_chains = 60
    condition = torch.tensor([[1.0], [-1.0]]).repeat_interleave(n_chains // 2, 0)
    clamped = machine.topology.is_in_partition(1)
    generator = torch.Generator().manual_seed(4)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(n_chains, generator), 50, generator, clamped, condition)
    found = chain_diagnosis(machine, sampler, state, 200, 1, generator, clamped, condition)
    assert found.n_laws == 4
    assert found.r_hat < 1.05
    assert found.is_converged
    assert (found.state.states[:, clamped] == state.states[:, clamped]).all()


def test_the_state_goes_on_as_the_sampler_would() -> None:
    machine = tiny_machine(seed=3)
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(5)
    state = sampler.init(30, generator)
    found = chain_diagnosis(machine, sampler, state, 16, 2, torch.Generator().manual_seed(6))
    going = torch.Generator().manual_seed(6)
    for _ in range(8):
        state = sampler.sample(state, 2, going)
    torch.testing.assert_close(found.state.states, state.states)


def test_what_does_not_move_is_named() -> None:
    """Two bits of partition 1 that are always one carry the leading mode together with the others of their block."""
    machine = BoltzmannMachine(complete_topology((1, 1, 2)))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([60.0, 60.0, 0.0, 0.0]))
        machine.couplings.copy_(torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0]))
    found = chain_diagnosis(
        machine,
        BlockGibbsSampler(machine),
        GibbsState(torch.ones(20, 4)),
        50,
        1,
        torch.Generator().manual_seed(1),
        None,
    )
    assert "mode 1" in found.constant
    frozen = BoltzmannMachine(complete_topology((1, 2)))
    with torch.no_grad():
        frozen.biases.fill_(60.0)
    with pytest.raises(PriorError, match="nothing to diagnose"):
        chain_diagnosis(
            frozen, BlockGibbsSampler(frozen), GibbsState(torch.ones(20, 3)), 50, 1, torch.Generator().manual_seed(1)
        )


def test_bad_input_is_told() -> None:
    machine = tiny_machine()
    sampler, generator = BlockGibbsSampler(machine), torch.Generator().manual_seed(1)
    state = sampler.init(10, generator)
    for n_sweeps, every in ((7, 1), (20, 3), (20, 0)):
        with pytest.raises(PriorError, match="fewer than 8 records"):
            chain_diagnosis(machine, sampler, state, n_sweeps, every, generator)
    with pytest.raises(PriorError, match="clamp mask"):
        chain_diagnosis(machine, sampler, state, 20, 1, generator, np.ones(3, dtype=bool))
    with torch.no_grad():
        machine.biases[0] = math.nan
    with pytest.raises(PriorError, match="NaN"):
        chain_diagnosis(machine, sampler, state, 20, 1, generator)
