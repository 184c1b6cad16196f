import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.prior.learning.pseudo_likelihood import maximise_pseudo_likelihood
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import all_states


def machine_on(topology: Topology, n_condition: int = 0, seed: int | None = None) -> BoltzmannMachine:
    machine = BoltzmannMachine(topology, n_condition).double()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in machine.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return machine


def states_in_shares(machine: BoltzmannMachine, n: int) -> torch.Tensor:
    """States of a machine repeated in proportion to their probability: data without sampling noise."""
    states = all_states(machine.n_nodes).double()
    energies = machine.energy(states).detach()
    shares = torch.softmax(-energies, 0)
    return states.repeat_interleave((n * shares).round().long(), dim=0)


def test_a_machine_is_found_again_from_its_own_law() -> None:
    truth = machine_on(complete_topology((2, 3, 2)), seed=1)
    found = machine_on(truth.topology)
    report = maximise_pseudo_likelihood(found, states_in_shares(truth, 50_000), ridge=0.0)
    torch.testing.assert_close(found.couplings, truth.couplings, atol=0.03, rtol=0)
    torch.testing.assert_close(found.biases, truth.biases, atol=0.03, rtol=0)
    assert report.end > report.start
    assert report.largest_coupling == pytest.approx(float(found.couplings.detach().abs().max()))


def test_large_couplings_of_a_wall_are_found() -> None:
    """A chain with couplings of 8, which contrastive learning from zero is far from after as many steps."""
    n = 8
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    edges = np.sort(np.array([(order[k], order[k + 1]) for k in range(n - 1)]), axis=1)
    truth = machine_on(Topology("chain", (4, 4), edges))
    with torch.no_grad():
        truth.couplings.fill_(8.0)
        truth.biases.fill_(-8.0)
        truth.biases[[0, 7]] = -4.0
    found = machine_on(truth.topology)
    maximise_pseudo_likelihood(found, states_in_shares(truth, 60_000), ridge=1e-6)
    assert float(found.couplings.detach().min()) > 6
    law, exact = enumerate_machine(found), enumerate_machine(truth)
    assert float((law.probabilities - exact.probabilities).abs().sum()) < 0.05


def test_a_condition_in_the_fields_is_found() -> None:
    truth = machine_on(complete_topology((2, 2)), 2, seed=3)
    generator = torch.Generator().manual_seed(4)
    condition = (torch.rand(60_000, 2, generator=generator) < 0.5).double()
    states = torch.zeros(60_000, 4, dtype=torch.float64)
    every = all_states(4).double()
    for case in torch.unique(condition, dim=0):
        rows = (condition == case).all(1)
        energies = truth.energy(every, case.expand(16, -1)).detach()
        drawn = torch.multinomial(torch.softmax(-energies, 0), int(rows.sum()), True, generator=generator)
        states[rows] = every[drawn]
    found = machine_on(truth.topology, 2)
    maximise_pseudo_likelihood(found, states, condition)
    assert truth.condition_weights is not None
    assert found.condition_weights is not None
    torch.testing.assert_close(found.condition_weights, truth.condition_weights, atol=0.15, rtol=0)


def test_laws_of_clamped_bits_do_not_count() -> None:
    truth = machine_on(complete_topology((2, 3)), seed=5)
    states = states_in_shares(truth, 50_000)
    clamped = torch.tensor([True, True, False, False, False])
    found = machine_on(truth.topology)
    maximise_pseudo_likelihood(found, states[states[:, 0] > 0], clamped=clamped)
    assert not found.biases.detach()[:2].any()
    torch.testing.assert_close(found.couplings[3:], truth.couplings[3:], atol=0.1, rtol=0)  # those of the second bit


def test_the_result_does_not_depend_on_the_start() -> None:
    truth = machine_on(complete_topology((2, 2, 2)), seed=6)
    states = states_in_shares(truth, 20_000)
    first, second = machine_on(truth.topology), machine_on(truth.topology, seed=7)
    for machine in (first, second):
        maximise_pseudo_likelihood(machine, states, ridge=1e-3)
    torch.testing.assert_close(first.couplings, second.couplings, atol=1e-2, rtol=0)


def test_no_states_are_refused() -> None:
    with pytest.raises(PriorError, match="no states"):
        maximise_pseudo_likelihood(machine_on(complete_topology((1, 1))), torch.zeros(0, 2))
