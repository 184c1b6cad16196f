import itertools
import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.transition import ExactSweep, exact_sweep
from calo4pqvae.prior.graph.topology import Topology, complete_topology, independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.testing import tiny_machine


def sweep_by_hand(machine: BoltzmannMachine) -> np.ndarray:
    """Product of conditional probabilities, bit by bit, over all pairs of states."""
    states = list(itertools.product((0, 1), repeat=machine.n_nodes))
    biases, couplings = machine.biases.tolist(), machine.couplings.tolist()
    edges = machine.topology.edges.tolist()
    matrix = np.ones((len(states), len(states)))
    for (row, before), (column, after) in itertools.product(enumerate(states), repeat=2):
        current = list(before)
        for part in machine.topology.slices:
            frozen = list(current)
            for node in range(part.start, part.stop):
                field = biases[node]
                for (i, j), w in zip(edges, couplings, strict=True):
                    field += w * frozen[j] * (i == node) + w * frozen[i] * (j == node)
                one = 1 / (1 + math.exp(-field))
                matrix[row, column] *= one if after[node] else 1 - one
                current[node] = after[node]
    return matrix


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1, 2), (2, 1, 1, 2)])
def test_matrix_equals_the_product_of_conditionals(sizes: tuple[int, ...]) -> None:
    machine = tiny_machine(sizes, seed=2, coupling_std=1.5)
    sweep = exact_sweep(machine)
    np.testing.assert_allclose(sweep.matrix, sweep_by_hand(machine), atol=1e-12)
    np.testing.assert_allclose(sweep.stationary @ sweep.matrix, sweep.stationary, atol=1e-14)


def test_frequencies_of_the_sampler_follow_the_matrix() -> None:
    machine = tiny_machine((2, 1, 2), seed=6, n_condition=1)
    condition, clamped = torch.tensor([0.7]), np.array([False, False, True, False, False])
    start = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    sweep = exact_sweep(machine, clamped=clamped, values=start, condition=condition)
    n_chains, generator = 40_000, torch.Generator().manual_seed(3)
    state = GibbsState(start.repeat(n_chains, 1))
    drawn = BlockGibbsSampler(machine).sample(state, 2, generator, clamped, condition.repeat(n_chains, 1))
    places = (drawn.states[:, ~clamped] @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    counts = np.bincount(places.numpy(), minlength=16)
    expected = n_chains * np.linalg.matrix_power(sweep.matrix, 2)[0b1010]
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 15 + 5 * math.sqrt(30)
    assert (sweep.states[:, 2] == 1).all()


def test_two_bits_in_closed_form() -> None:
    """Two coupled bits without bias: the second bit is a chain of two states with known flip rates."""
    machine = BoltzmannMachine(Topology("pair", (1, 1), np.array([[0, 1]])))
    with torch.no_grad():
        machine.couplings.fill_(3.0)
        machine.biases.fill_(-1.5)
    sweep = exact_sweep(machine)
    up = 1 / (1 + math.exp(-1.5))
    memory = (2 * up - 1) ** 2
    assert sweep.gap == pytest.approx(1 - memory)
    assert sweep.relaxation_time == pytest.approx(-1 / math.log(memory))
    assert exact_sweep(machine, beta=0.5).relaxation_time < sweep.relaxation_time


def test_mixing_time_is_the_first_sweep_within_the_distance() -> None:
    sweep = exact_sweep(tiny_machine((3, 2, 1, 2), seed=1, coupling_std=2.5))
    distances = [sweep.distance(n) for n in range(60)]
    assert (np.diff(distances) <= 1e-12).all()
    for epsilon in (0.6, 0.25, 0.01, 1e-6):
        assert sweep.mixing_time(epsilon) == next(n for n, d in enumerate(distances) if d <= epsilon)


def test_a_sweep_that_forgets_everything() -> None:
    sweep = exact_sweep(BoltzmannMachine(independent_topology((2, 1))))
    assert sweep.gap == pytest.approx(1, abs=1e-10)
    assert sweep.relaxation_time == 0
    assert sweep.mixing_time() == 1
    held = exact_sweep(tiny_machine((1, 2)), clamped=np.ones(3, dtype=bool), values=torch.ones(3))
    assert (held.gap, held.mixing_time()) == (1, 0)


def test_a_sweep_that_forgets_nothing_has_no_finite_time() -> None:
    sweep = ExactSweep(torch.zeros(2, 1), np.eye(2), np.full(2, 0.5))
    assert sweep.relaxation_time == math.inf
    with pytest.raises(PriorError, match="does not mix"):
        sweep.mixing_time()


def test_limits_are_told() -> None:
    with pytest.raises(PriorError, match="12 free bits is too large"):
        exact_sweep(BoltzmannMachine(complete_topology((6, 6))))
    sweep = exact_sweep(tiny_machine((1, 2)))
    with pytest.raises(PriorError, match="ask for 0 or more"):
        sweep.distance(-1)
    for epsilon in (0.0, 1.0):
        with pytest.raises(PriorError, match="distance"):
            sweep.mixing_time(epsilon)
    broken = tiny_machine((1, 2))
    with torch.no_grad():
        broken.biases[0] = math.nan
    with pytest.raises(PriorError, match="NaN"):
        exact_sweep(broken)
