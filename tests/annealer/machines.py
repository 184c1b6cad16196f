"""Machines and annealers that the tests of the device, campaigns and commands share."""

import warnings
from typing import Any

import pytest
import torch

from calo4pqvae.annealer.calls.annealer import Annealer
from calo4pqvae.annealer.chip.problem import IsingProblem, ising_problem
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.machine import BoltzmannMachine

CHIP = "emulator:advantage2:2"  # a graph of 160 qubits, fewer of them working


def machine_on(topology: Topology, n_condition: int = 0, coupling_std: float = 0.3, seed: int = 1) -> BoltzmannMachine:
    """A machine with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    machine = BoltzmannMachine(topology, n_condition)
    machine.initialise(torch.full((topology.n_nodes,), 0.4), coupling_std, generator)
    if machine.condition_weights is not None:
        with torch.no_grad():
            machine.condition_weights.normal_(0.0, 0.5, generator=generator)
    return machine


def small_problem(annealer: Annealer, beta: float = 8.93) -> IsingProblem:
    """A patch of 4 x 6 qubits that work, with random parameters."""
    family, shape = (annealer.properties["topology"][key] for key in ("type", "shape"))
    topology = chip_topology(family, shape[0], 6)
    return ising_problem(
        machine_on(topology), beta, placement=place(topology, annealer.nodelist, annealer.edgelist, prune=True)
    )


def mock(**arguments: Any) -> Any:
    """D-Wave's mock of a Zephyr chip, if it is installed; its packages warn of each other when they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pytest.importorskip("dwave.system", reason="dwave-system is not installed (extra qpu)")
        from dwave.system.testing import MockDWaveSampler

        return MockDWaveSampler(topology_type="zephyr", topology_shape=[2, 4], **arguments)
