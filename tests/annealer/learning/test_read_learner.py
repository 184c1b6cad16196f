"""The update from weighted samples against derivatives of the enumerated log-likelihood."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.annealer.learning.negative_phase import ChipPatch
from calo4pqvae.annealer.learning.read_learner import ReadLearner, programmable_range, weighted_moments
from calo4pqvae.annealer.placing.placement import Placement
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.learning.constraints import ProgrammableRange
from calo4pqvae.prior.learning.gradients import Offsets
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import all_states

Sample = tuple[Tensor, Tensor, Tensor | None]

EDGES = np.array([[0, 2], [0, 3], [1, 3], [1, 5], [2, 4], [3, 4], [3, 5]])


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def machine(n_condition: int = 0) -> BoltzmannMachine:
    """Six bits in partitions of 2, 2 and 2, no coupling of bits 4 and 5 with bit 0."""
    generator = torch.Generator().manual_seed(3)
    made = BoltzmannMachine(Topology("small", (2, 2, 2), EDGES), n_condition)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.7, generator=generator)
    return made


def patch_of(made: BoltzmannMachine, held: tuple[int, ...] = (), dead: tuple[int, ...] = ()) -> ChipPatch:
    topology = made.topology
    nodes, couplers = np.arange(6), np.setdiff1d(np.arange(len(EDGES)), dead)
    mask = np.isin(nodes, held)
    return ChipPatch(Placement(topology, nodes, couplers), mask, np.array(dead, dtype=np.int64), np.empty(0, dtype=int))


def random_data(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(n, generator=generator)
    return torch.randint(0, 2, (n, 6), generator=generator).double(), weights / weights.sum()


def centred_by_autograd(
    made: BoltzmannMachine, data: Sample, offsets: Offsets, dead: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    """Gradient in the centred parameters by automatic differentiation of ln p summed over all states, taken back.

    A dead coupler has no coupling and is no parameter.
    """
    mu, states = offsets.bits, all_states(6).double()
    alive = np.setdiff1d(np.arange(len(EDGES)), dead)
    first, second = torch.from_numpy(EDGES[alive].T.copy())
    values = made.couplings.detach()[torch.from_numpy(alive)]
    own = (made.biases + torch.zeros(6).index_add(0, first, values * mu[second])).detach()
    own = own.index_add(0, second, values * mu[first]).requires_grad_()
    couplings = values.clone().requires_grad_()

    def log_weight(z: Tensor) -> Tensor:
        z = z - mu
        return z @ own + (z[:, first] * z[:, second]) @ couplings

    likelihood = data[1] @ log_weight(data[0]) - torch.logsumexp(log_weight(states), dim=0)
    bias, coupling = torch.autograd.grad(likelihood, (own, couplings))
    shift = torch.zeros(6).index_add(0, first, coupling * mu[second]).index_add(0, second, coupling * mu[first])
    full = torch.zeros(len(EDGES)).index_add(0, torch.from_numpy(alive), coupling)
    return {"biases": bias - shift, "couplings": full}


@pytest.mark.parametrize("dead", [(), (1, 4)])
def test_a_step_follows_the_exact_centred_gradient(dead: tuple[int, ...]) -> None:
    made = machine()
    patch_of(made, dead=dead).prune(made)
    data: Sample = (*random_data(9), None)
    law = enumerate_machine(made)
    offsets = Offsets(torch.tensor([0.1, 0.3, 0.5, 0.7, 0.2, 0.9]))
    wanted = centred_by_autograd(made, data, offsets, dead)
    before = {name: value.detach().clone() for name, value in made.named_parameters() if value is not None}
    learner = ReadLearner(made, patch_of(made, dead=dead), offsets, (0.5, 0.1), 10)
    numbers = learner.step(data, (law.states().double(), law.probabilities, None))
    for name, direction in wanted.items():
        torch.testing.assert_close(getattr(made, name).detach() - before[name], 0.5 * direction)
    energies = -(data[0] @ before["biases"])
    for row, (i, j) in enumerate(EDGES):
        energies -= data[0][:, i] * data[0][:, j] * before["couplings"][row]
    assert numbers.energy_data == pytest.approx(float(data[1] @ energies))
    assert numbers.energy_model == pytest.approx(law.energy_mean)
    assert (numbers.learning_rate, learner.n_done) == (0.5, 1)
    assert learner.learning_rate == pytest.approx(0.5 * 0.2**0.1)


def test_weights_stand_for_repeated_states() -> None:
    made = machine(n_condition=2)
    states, _ = random_data(4)
    condition = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    repeats = torch.tensor([3, 1, 0, 4])
    weighted = weighted_moments(made, states, repeats / 8, condition)
    plain = made.sufficient_statistics(states.repeat_interleave(repeats, 0), condition.repeat_interleave(repeats, 0))
    for name in ("first", "second", "cross", "condition"):
        torch.testing.assert_close(getattr(weighted, name), getattr(plain, name))


def test_learning_with_exact_phases_reaches_the_data() -> None:
    made, target = machine(), machine()
    with torch.no_grad():
        target.biases.mul_(-1.0)
        target.couplings.mul_(1.5)
    wanted = enumerate_machine(target)
    learner = ReadLearner(made, patch_of(made), Offsets(wanted.first), (2.0, 2.0), 1)
    for _ in range(600):
        law = enumerate_machine(made)
        learner.step(
            (wanted.states().double(), wanted.probabilities, None), (law.states().double(), law.probabilities, None)
        )
    torch.testing.assert_close(made.couplings.detach(), target.couplings.detach(), atol=1e-3, rtol=0)
    torch.testing.assert_close(made.biases.detach(), target.biases.detach(), atol=1e-3, rtol=0)


def test_held_bits_and_dead_couplers_do_not_move() -> None:
    made = machine(n_condition=1)
    before = {name: value.detach().clone() for name, value in made.named_parameters()}
    states, weights = random_data(7)
    others, other_weights = random_data(8, seed=2)
    learner = ReadLearner(
        made, patch_of(made, held=(0, 1), dead=(4,)), Offsets(torch.full((6,), 0.5), torch.zeros(1)), (1.0, 1.0), 1
    )
    learner.step((states, weights, torch.ones(7, 1)), (others, other_weights, torch.zeros(8, 1)))
    moved = {name: value.detach() != before[name] for name, value in made.named_parameters()}
    assert moved["biases"].tolist() == [False, False, True, True, True, True]
    assert moved["couplings"].tolist() == [True, True, True, True, False, True, True]
    assert moved["condition_weights"].tolist() == [[False, False, True, True, True, True]]


def test_parameters_stay_in_the_programmable_range() -> None:
    made = machine()
    limits = programmable_range({"extended_j_range": [-2, 1], "h_range": [-4, 4]}, 0.1)
    assert limits == ProgrammableRange((-2.0, 1.0), (-4.0, 4.0), 0.1)
    learner = ReadLearner(made, patch_of(made), Offsets(torch.full((6,), 0.5)), (20.0, 20.0), 1)
    numbers = learner.step((*random_data(5), None), (*random_data(5, seed=2), None), limits)
    j = -made.couplings.detach() / (4 * 0.1)
    assert (float(j.min()), float(j.max())) == pytest.approx((-2.0, 1.0))
    assert numbers.at_limit[0] > 0
    assert programmable_range({"h_range": [-4, 4]}, 1.0) is None
