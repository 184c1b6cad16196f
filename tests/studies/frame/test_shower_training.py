"""Held machines against the conditional law by enumeration; a training made again against the run that it came from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.runs.training import train
from calo4pqvae.studies.frame.shower_training import ShowerTraining, held_machine, shower_training
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import shower_prior
from calo4pqvae.testing import tiny_machine
from tests.small_runs import tiny_config, tiny_file


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> ShowerTraining:
    folder: Path = tmp_path_factory.mktemp("shower")
    train(tiny_config(tiny_file(folder)), folder / "run")
    return shower_training(shower_prior(folder / "run"), 5, "again", silent)


def test_the_training_that_is_made_again_ends_at_the_machine_of_the_run(again: ShowerTraining) -> None:
    assert again.deviation == 0.0
    updates = again.source.model.config.prior.updates
    assert (again.steps[0], again.steps[1], again.steps[-1]) == (0, 1, updates)
    final = again.source.machine
    assert torch.equal(again.machines[-1].biases, final.biases)
    assert not torch.equal(again.machines[0].couplings, final.couplings)


def test_machines_at_an_energy_leave_out_the_code(again: ShowerTraining) -> None:
    low, high = (again.at_energy(energy)[-1] for energy in (2e3, 8e4))
    source = again.source
    assert low.topology.sizes == source.machine.topology.sizes[1:]
    assert torch.equal(low.couplings, high.couplings)
    assert not torch.equal(low.biases, high.biases)
    bits = (torch.rand(4, low.n_nodes, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    gap = low.energy(bits) - source.model.prior.energy(bits, torch.full((4, 1), 2e3))
    assert float(gap.detach().std()) < 1e-4  # equal but for a constant


def test_held_machine_has_the_conditional_law() -> None:
    """Free bits of four unequal partitions, one of them held in part, one as a whole; a condition besides."""
    machine = tiny_machine((2, 3, 1, 2), seed=2, n_condition=2)
    clamped = np.array([True, True, False, True, False, False, False, True])
    state, condition = torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 1]), torch.tensor([0.7, -1.1])
    smaller = held_machine(machine, clamped, state, condition)
    assert smaller.topology.sizes == (2, 1, 1)
    exact = enumerate_machine(machine, condition, torch.from_numpy(clamped), state)
    found = enumerate_machine(smaller)
    assert found.probabilities.numpy() == pytest.approx(exact.probabilities.numpy(), abs=1e-6)
    assert found.first.numpy() == pytest.approx(exact.first.numpy()[~clamped], abs=1e-6)


def test_labels_of_a_chip_stay_with_their_nodes() -> None:
    graph = Topology("labelled", (2, 2), np.array([[0, 2], [0, 3], [1, 2], [1, 3]]), (7, 5, 9, 4))
    held = np.array([False, True, False, False])
    assert held_machine(BoltzmannMachine(graph), held, torch.zeros(4)).topology.node_labels == (7, 9, 4)
