import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import all_states, tiny_machine


def sparse_machine(n_condition: int = 0) -> BoltzmannMachine:
    """A Zephyr patch: so few couplers that sums walk over them instead of multiplying matrices."""
    machine = BoltzmannMachine(chip_topology("zephyr", 2, (9, 20, 14, 17)), n_condition)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return machine


def machines(n_condition: int = 0) -> list[BoltzmannMachine]:
    return [tiny_machine(n_condition=n_condition), sparse_machine(n_condition)]


def random_batch(machine: BoltzmannMachine, n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    rng = np.random.default_rng(seed)
    states = torch.from_numpy(rng.integers(0, 2, (n, machine.n_nodes)).astype(np.float32))
    condition = torch.from_numpy(rng.normal(size=(n, machine.n_condition)).astype(np.float32))
    return states, condition if machine.n_condition else None


def energy_by_hand(machine: BoltzmannMachine, state: list[float], condition: list[float]) -> float:
    energy = -sum(b * z for b, z in zip(machine.biases.tolist(), state, strict=True))
    for (i, j), w in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
        energy -= w * state[i] * state[j]
    for a, c in enumerate(condition):
        energy -= sum(c * w * z for w, z in zip(machine.condition_weights[a].tolist(), state, strict=True))
    return energy


def test_energy_of_a_machine_small_enough_for_paper() -> None:
    machine = BoltzmannMachine(Topology("triangle", (1, 1, 1), np.array([[0, 1], [0, 2], [1, 2]])))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([1.0, -2.0, 0.5]))
        machine.couplings.copy_(torch.tensor([3.0, -1.0, 0.25]))
    states = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]])
    assert machine.energy(states).tolist() == [0.0, -1.0, -2.0, 1.25, -1.75]
    assert machine.local_fields(states[-1:]).tolist() == [[3.0, 1.25, -0.25]]


@pytest.mark.parametrize("n_condition", [0, 2])
def test_energy_follows_the_formula(n_condition: int) -> None:
    for machine in machines(n_condition):
        states, condition = random_batch(machine)
        rows = condition.tolist() if condition is not None else [[]] * len(states)
        expected = [energy_by_hand(machine, z, c) for z, c in zip(states.tolist(), rows, strict=True)]
        np.testing.assert_allclose(machine.energy(states, condition).tolist(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("n_condition", [0, 2])
def test_local_field_is_the_energy_difference_of_a_flip(n_condition: int) -> None:
    for machine in machines(n_condition):
        states, condition = random_batch(machine)
        fields = machine.local_fields(states, condition)
        for node in range(machine.n_nodes):
            low, high = states.clone(), states.clone()
            low[:, node], high[:, node] = 0, 1
            difference = machine.energy(low, condition) - machine.energy(high, condition)
            torch.testing.assert_close(fields[:, node], difference, rtol=1e-4, atol=2e-4)


def test_derivatives_of_the_energy_in_relaxed_states_parameters_and_condition() -> None:
    for machine in machines(n_condition=2):
        machine.double()
        generator = torch.Generator().manual_seed(2)
        relaxed = torch.rand(3, machine.n_nodes, generator=generator, dtype=torch.float64, requires_grad=True)
        condition = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
        arguments = (relaxed, condition, *machine.parameters())

        def energy(states: Tensor, c: Tensor, *parameters: Tensor, machine: BoltzmannMachine = machine) -> Tensor:
            names = [name for name, _ in machine.named_parameters()]
            values = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(machine, values, (states, c), tie_weights=False)

        machine.forward = machine.energy
        assert torch.autograd.gradcheck(energy, arguments, fast_mode=True)


def test_sufficient_statistics_are_batch_means() -> None:
    for machine in machines(n_condition=2):
        states, condition = random_batch(machine, n=11)
        moments = machine.sufficient_statistics(states.to(torch.uint8), condition)
        z, c = states.numpy(), condition.numpy()
        np.testing.assert_allclose(moments.first, z.mean(0), atol=1e-6)
        expected = [np.mean(z[:, i] * z[:, j]) for i, j in machine.topology.edges]
        np.testing.assert_allclose(moments.second, expected, atol=1e-6)
        np.testing.assert_allclose(
            moments.cross, [[np.mean(c[:, a] * z[:, i]) for i in range(z.shape[1])] for a in (0, 1)], atol=1e-6
        )
        np.testing.assert_allclose(moments.condition, c.mean(0), atol=1e-6)


def test_moments_of_many_states_do_not_depend_on_the_chunking(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = sparse_machine()
    states, _ = random_batch(machine, n=50)
    whole = machine.sufficient_statistics(states).second
    monkeypatch.setattr("calo4pqvae.prior.graph.pairs._CHUNK", 120)
    assert torch.equal(machine.sufficient_statistics(states).second, whole)


def test_initialise_puts_biases_at_the_data_and_couplings_small() -> None:
    machine = BoltzmannMachine(complete_topology((40, 30, 30)))
    means = torch.full((100,), 0.25)
    means[0], means[1] = 0.0, 1.0
    machine.initialise(means, 0.01, torch.Generator().manual_seed(0), smoothing=1e-2)
    assert machine.biases[5].item() == pytest.approx(math.log(0.2525 / 0.7475), abs=1e-4)
    assert machine.biases[0].item() == pytest.approx(math.log(0.005 / 0.995), abs=1e-4)
    assert machine.biases[1].item() == pytest.approx(-machine.biases[0].item(), abs=1e-4)
    assert machine.couplings.std().item() == pytest.approx(0.01, rel=0.1)
    again = BoltzmannMachine(machine.topology)
    again.initialise(means, 0.01, torch.Generator().manual_seed(0), smoothing=1e-2)
    assert torch.equal(again.couplings, machine.couplings)


def test_a_machine_without_couplers_is_independent_bits() -> None:
    machine = BoltzmannMachine(independent_topology((2, 1)))
    machine.initialise(torch.tensor([0.2, 0.5, 0.9]), 0.1, torch.Generator().manual_seed(0), smoothing=0.0)
    weights = torch.exp(-machine.energy(all_states(3)))
    expected = [
        math.prod(p if z else 1 - p for p, z in zip((0.2, 0.5, 0.9), state, strict=True))
        for state in itertools.product((0, 1), repeat=3)
    ]
    np.testing.assert_allclose((weights / weights.sum()).tolist(), expected, rtol=1e-5)
    assert machine.sufficient_statistics(all_states(3)).second.shape == (0,)


def test_there_is_one_number_a_coupler_and_state_dict_restores_them() -> None:
    machine = tiny_machine(n_condition=2)
    shapes = {name: tuple(parameter.shape) for name, parameter in machine.named_parameters()}
    assert shapes == {"biases": (8,), "couplings": (machine.topology.n_edges,), "condition_weights": (2, 8)}
    assert set(dict(tiny_machine().named_parameters())) == {"biases", "couplings"}
    other = BoltzmannMachine(machine.topology, 2)
    other.load_state_dict(machine.state_dict())
    states, condition = random_batch(machine)
    assert torch.equal(other.energy(states, condition), machine.energy(states, condition))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoltzmannMachine(complete_topology((1, 1)), -1), "length -1"),
        (lambda: tiny_machine().energy(torch.zeros(2, 7)), "must be"),
        (lambda: tiny_machine().local_fields(torch.zeros(8)), "must be"),
        (lambda: tiny_machine().energy(torch.zeros(2, 8), torch.zeros(2, 1)), "takes no condition"),
        (lambda: tiny_machine(n_condition=2).energy(torch.zeros(2, 8)), "needs a condition"),
        (lambda: tiny_machine(n_condition=2).energy(torch.zeros(2, 8), torch.zeros(2, 3)), r"\(states, 2\)"),
        (lambda: tiny_machine(n_condition=2).energy(torch.zeros(2, 8), torch.zeros(1, 2)), "1 conditions for 2"),
        (lambda: tiny_machine().sufficient_statistics(torch.zeros(0, 8)), "no states"),
        (lambda: tiny_machine().initialise(torch.zeros(3), 0.1, torch.Generator()), "data means"),
        (lambda: tiny_machine().initialise(torch.full((8,), 1.5), 0.1, torch.Generator()), "data means"),
    ],
)
def test_bad_input_is_refused(call: Callable[..., object], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        call()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_are_not_numbers_are_refused(value: float) -> None:
    machine = tiny_machine()
    machine.check_finite()
    with torch.no_grad():
        machine.couplings[3] = value
    with pytest.raises(PriorError, match="couplings of the machine hold NaN or infinity"):
        machine.check_finite()
