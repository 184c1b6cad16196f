import itertools
import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import GibbsState
from calo4pqvae.prior.sampling.treewidth import TreewidthSampler, elimination_order, treewidth_log_z
from calo4pqvae.testing import tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chain_topology(n_nodes: int) -> Topology:
    """A chain: node 2k in partition 0, 2k + 1 in partition 1."""
    half = (n_nodes + 1) // 2
    number = [index // 2 + (index % 2) * half for index in range(n_nodes)]
    return Topology("chain", (half, n_nodes - half), np.array(list(itertools.pairwise(number))))


def random_machine(topology: Topology, seed: int, n_condition: int = 0, scale: float = 1.0) -> BoltzmannMachine:
    machine = BoltzmannMachine(topology, n_condition)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(seed)))
    return machine


@pytest.mark.parametrize("sizes", [(3, 1, 2, 2), (1, 2, 1, 4), (4, 3), (2, 2, 3)])
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_log_z_equals_enumeration(sizes: tuple[int, ...], beta: float) -> None:
    machine = tiny_machine(sizes, seed=7, n_condition=1)
    rng = np.random.default_rng(1)
    for share in (0.0, 0.3, 1.0):
        mask = torch.from_numpy(rng.random(machine.n_nodes) < share)
        values = torch.from_numpy(rng.integers(0, 2, machine.n_nodes)).float()
        condition = torch.tensor([0.7])
        law = enumerate_machine(machine, condition, mask, values, beta)
        assert treewidth_log_z(machine, condition, mask, values, beta) == pytest.approx(law.log_z, rel=1e-12)


def test_log_z_of_chains_with_their_own_condition_and_held_bits() -> None:
    machine = tiny_machine(seed=2, n_condition=2)
    states = torch.randint(0, 2, (12, 8), generator=seeded()).float()
    mask = torch.arange(8) % 3 == 1
    condition = torch.randn(12, 2, generator=seeded(1))
    condition[6:] = condition[:6]
    log_z = TreewidthSampler(machine).log_z(GibbsState(states), mask, condition, beta=0.8)
    expected = [enumerate_machine(machine, c, mask, x, 0.8).log_z for x, c in zip(states, condition, strict=True)]
    assert log_z.dtype == torch.float64
    assert log_z.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_long_chain_by_transfer_matrices() -> None:
    """301 bits in a row: log Z by products of 2 x 2 matrices, and the draws' neighbours by the same."""
    machine = random_machine(chain_topology(301), 3)
    order = elimination_order(machine.topology)
    assert order.width == 1
    half = 151
    number = [index // 2 + (index % 2) * half for index in range(301)]
    couplings = dict(zip(map(tuple, machine.topology.edges.tolist()), machine.couplings.tolist(), strict=True))
    biases = machine.biases.double().tolist()
    vector, log_z = np.array([1.0, math.exp(biases[number[0]])]), 0.0
    for left, right in itertools.pairwise(number):
        coupling = couplings[min(left, right), max(left, right)]
        vector = vector @ np.array([[1.0, math.exp(biases[right])], [1.0, math.exp(biases[right] + coupling)]])
        log_z += math.log(vector.sum())
        vector /= vector.sum()
    assert treewidth_log_z(machine) == pytest.approx(log_z, rel=1e-12)
    sampler = TreewidthSampler(machine)
    last = sampler.sample(sampler.init(20_000, seeded()), 1, seeded(1)).states[:, number[-1]].mean()
    assert float(last) == pytest.approx(vector[1], abs=4.5 * 0.5 / math.sqrt(20_000))


def test_a_pegasus_chip_with_40_qubits() -> None:
    """Too many states to list: log Z against the sum over values of a held partition, moments against derivatives."""
    machine = random_machine(chip_topology("pegasus", 2), 4, scale=0.7)
    order = elimination_order(machine.topology)
    assert sorted(order.nodes) == list(range(40))
    assert order.width < 12
    log_z = treewidth_log_z(machine)
    mask = torch.zeros(40, dtype=torch.bool)
    mask[[0, 13, 22, 38]] = True
    parts = []
    for bits in itertools.product((0.0, 1.0), repeat=4):
        values = torch.zeros(40)
        values[mask] = torch.tensor(bits)
        parts.append(treewidth_log_z(machine, None, mask, values))
    assert float(torch.logsumexp(torch.tensor(parts, dtype=torch.float64), 0)) == pytest.approx(log_z, rel=1e-12)
    n, step = 40_000, 1e-3
    sampler = TreewidthSampler(machine)
    moments = machine.sufficient_statistics(sampler.sample(sampler.init(n, seeded()), 1, seeded(1)).states)
    for parameter, drawn in ((machine.biases, moments.first), (machine.couplings, moments.second)):
        for index in range(0, len(parameter), 9):
            sums = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[index] += sign * step
                sums.append((parameter[index].item(), treewidth_log_z(machine)))
                with torch.no_grad():
                    parameter[index] -= sign * step
            exact = (sums[0][1] - sums[1][1]) / (sums[0][0] - sums[1][0])
            error = math.sqrt(max(exact * (1 - exact), 1e-4) / n)
            assert float(drawn[index]) == pytest.approx(exact, abs=4.5 * error + 1e-4)


def test_many_laws_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tiny_machine(n_condition=1)
    condition = torch.randn(50, 1, generator=seeded())
    state = GibbsState(torch.zeros(50, 8))
    sampler = TreewidthSampler(machine)
    whole = sampler.log_z(state, None, condition)
    monkeypatch.setattr("calo4pqvae.prior.sampling.treewidth._MOST_ENTRIES", 100)
    assert torch.equal(sampler.log_z(state, None, condition), whole)
    states = sampler.sample(state, 1, seeded(), condition=condition).states
    assert states.shape == (50, 8)


def test_strong_couplings_do_not_overflow() -> None:
    machine = BoltzmannMachine(complete_topology((2, 2)))
    with torch.no_grad():
        machine.biases.fill_(1000.0)
        machine.couplings.fill_(-3000.0)
    assert treewidth_log_z(machine) == pytest.approx(2000 + math.log(2))


def test_orders_of_small_graphs() -> None:
    assert elimination_order(independent_topology((3, 2))).width == 0
    assert elimination_order(complete_topology((2, 3, 4))).width == 5  # all but the largest partition
    star = Topology("star", (1, 4), np.array([[0, node] for node in range(1, 5)]))
    assert elimination_order(star).width == 1
    ring = Topology("ring", (3, 3), np.array([[0, 3], [3, 1], [1, 4], [4, 2], [2, 5], [5, 0]]))
    order = elimination_order(ring)
    assert order.width == 2
    assert order.n_entries == 4 * 4 + 2 + 1
    everything = torch.ones(6, dtype=torch.bool)
    assert elimination_order(ring, everything).nodes == ()
    assert elimination_order(ring, everything).width == 0


def test_scopes_hold_later_bits_in_order() -> None:
    order = elimination_order(chip_topology("zephyr", 1))
    place = {node: index for index, node in enumerate(order.nodes)}
    for node, scope in zip(order.nodes, order.later, strict=True):
        places = [place[member] for member in scope]
        assert places == sorted(places)
        assert all(other > place[node] for other in places)


def test_graphs_that_are_too_wide_are_refused_and_clamping_helps() -> None:
    topology = chip_topology("pegasus", 3)
    with pytest.raises(PriorError, match=r"too wide.*the limit is 22"):
        elimination_order(topology)
    assert elimination_order(topology, topology.is_in_partition(0, 2)).width <= 22
    machine = tiny_machine()
    with pytest.raises(PriorError, match="the limit is 1"):
        TreewidthSampler(machine, max_width=1).sample(GibbsState(torch.zeros(2, 8)), 1, seeded())


def test_bad_input_is_refused() -> None:
    machine = tiny_machine()
    mask, values = torch.zeros(8, dtype=torch.bool), torch.zeros(8)
    for arguments in ((None, mask, None), (None, None, values), (None, mask[:7], values), (None, mask, values[:7])):
        with pytest.raises(PriorError):
            treewidth_log_z(machine, *arguments)
    with pytest.raises(PriorError, match="zeros and ones"):
        treewidth_log_z(machine, None, ~mask, values + 0.5)
    with pytest.raises(PriorError, match="takes no condition"):
        treewidth_log_z(machine, torch.zeros(1))
