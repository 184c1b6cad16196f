"""Contrastive gradients against autograd through the log-likelihood, summed over all states in this file."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.learning.gradients import (
    Gradient,
    Offsets,
    contrastive_gradient,
    energy_covariance,
    mean_energy_gradient,
    mean_field_gradient,
    twin_covariance,
)
from calo4pqvae.prior.machine import BoltzmannMachine, Moments
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import all_states, tiny_machine

N_EVENTS = 6
HELD = [0, 1, 2]  # partition 0 of the tiny machine


@dataclass(frozen=True)
class Problem:
    """A machine, data with their conditions, and which bits the events give."""

    machine: BoltzmannMachine
    states: Tensor
    condition: Tensor
    clamped: Tensor

    @property
    def ends(self) -> Tensor:
        return torch.from_numpy(self.machine.topology.edges.copy())

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        weights = self.machine.condition_weights
        assert weights is not None
        return self.machine.biases.detach(), self.machine.couplings.detach(), weights.detach()

    @property
    def offsets(self) -> Offsets:
        generator = torch.Generator().manual_seed(9)
        bits = torch.rand(self.machine.n_nodes, generator=generator, dtype=torch.float64)
        return Offsets(bits, torch.randn(2, generator=generator, dtype=torch.float64))


def problem(*, is_clamped: bool, seed: int = 0) -> Problem:
    machine = tiny_machine(seed=seed, n_condition=2).double()
    rng = np.random.default_rng(seed)
    clamped = torch.zeros(8, dtype=torch.bool)
    clamped[HELD] = is_clamped
    states = torch.from_numpy(rng.integers(0, 2, (N_EVENTS, 8)).astype(np.float64))
    return Problem(machine, states, torch.from_numpy(rng.normal(size=(N_EVENTS, 2))), clamped)


def log_likelihood(
    task: Problem,
    biases: Tensor,
    couplings: Tensor,
    weights: Tensor,
    mu: Tensor | None = None,
    nu: Tensor | None = None,
) -> Tensor:
    """Mean log p(free bits | clamped bits, c), with bits and conditions counted from offsets."""
    mu = torch.zeros(8, dtype=torch.float64) if mu is None else mu
    nu = torch.zeros(2, dtype=torch.float64) if nu is None else nu
    i, j = task.ends.unbind(1)

    def minus_energy(states: Tensor, condition: Tensor) -> Tensor:
        z = states - mu
        return z @ biases + (z[..., i] * z[..., j]) @ couplings + z @ (weights.t() @ (condition - nu))

    support = all_states(8).double()
    total = torch.zeros((), dtype=torch.float64)
    for state, condition in zip(task.states, task.condition, strict=True):
        allowed = (support[:, task.clamped] == state[task.clamped]).all(dim=1)
        total = total + minus_energy(state, condition) - torch.logsumexp(minus_energy(support[allowed], condition), 0)
    return total / N_EVENTS


def model_moments(task: Problem) -> Moments:
    """Exact moments of the model, averaged over the clamped values and conditions of the events."""
    laws = [
        enumerate_machine(task.machine, c, task.clamped, z) for z, c in zip(task.states, task.condition, strict=True)
    ]
    first = torch.stack([law.first for law in laws])
    second = torch.stack([law.second for law in laws])
    return Moments(first.mean(0), second.mean(0), task.condition.t() @ first / N_EVENTS, task.condition.mean(0))


def ascent(task: Problem, form: str, offsets: Offsets | None = None) -> Gradient:
    data = task.machine.sufficient_statistics(task.states, task.condition)
    gradient = contrastive_gradient(data, model_moments(task), task.machine.neighbours, form, offsets)
    return gradient.hold(task.clamped, task.ends)


def assert_equal(gradient: Gradient, expected: tuple[Tensor, Tensor, Tensor], clamped: Tensor) -> None:
    torch.testing.assert_close(gradient.biases[~clamped], expected[0][~clamped], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient.couplings, expected[1], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient.condition_weights[:, ~clamped], expected[2][:, ~clamped], rtol=1e-9, atol=1e-12)
    assert (gradient.biases[clamped] == 0).all()
    assert (gradient.condition_weights[:, clamped] == 0).all()


@pytest.mark.parametrize("is_clamped", [False, True])
def test_plain_gradient_is_that_of_the_log_likelihood(is_clamped: bool) -> None:
    task = problem(is_clamped=is_clamped)
    parameters = tuple(parameter.clone().requires_grad_() for parameter in task.parameters)
    expected = torch.autograd.grad(log_likelihood(task, *parameters), parameters)
    assert_equal(ascent(task, "plain"), expected, task.clamped)
    if is_clamped:
        to_clamped = task.clamped[task.ends].any(dim=1)
        assert (expected[1][to_clamped].abs() > 1e-6).any()


@pytest.mark.parametrize("is_clamped", [False, True])
def test_centred_gradient_is_the_gradient_of_the_centred_machine_brought_back(is_clamped: bool) -> None:
    task = problem(is_clamped=is_clamped)
    mu, nu = task.offsets.bits, task.offsets.condition
    i, j = task.ends.unbind(1)

    def shift(couplings: Tensor, weights: Tensor) -> Tensor:
        """What centring adds to the biases: b of the bits = b of the centred bits - shift."""
        per_node = [
            couplings[i == node] @ mu[j[i == node]] + couplings[j == node] @ mu[i[j == node]] for node in range(8)
        ]
        return torch.stack(per_node) + nu @ weights

    biases, couplings, weights = task.parameters
    centred = tuple(
        value.clone().requires_grad_() for value in (biases + shift(couplings, weights), couplings, weights)
    )
    likelihood = log_likelihood(task, *centred, mu=mu, nu=nu)
    torch.testing.assert_close(likelihood, log_likelihood(task, *task.parameters))
    of_biases, of_couplings, of_weights = torch.autograd.grad(likelihood, centred)
    expected = (of_biases - shift(of_couplings, of_weights), of_couplings, of_weights)
    assert_equal(ascent(task, "centred", task.offsets), expected, task.clamped)


def test_centred_step_does_not_depend_on_which_state_is_called_one() -> None:
    """Flip bit k of data, machine and offset: the step flips with it. The plain gradient does not have this."""
    task, k = problem(is_clamped=False), 5
    offsets = task.offsets

    def flip_machine(values: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        biases, couplings, weights = (value.clone() for value in values)
        for number, (i, j) in enumerate(task.ends.tolist()):
            if k in (i, j):
                biases[i + j - k] += couplings[number]
                couplings[number] *= -1
        biases[k] *= -1
        weights[:, k] *= -1
        return biases, couplings, weights

    flipped_machine = BoltzmannMachine(task.machine.topology, 2).double()
    with torch.no_grad():
        for parameter, value in zip(flipped_machine.parameters(), flip_machine(task.parameters), strict=True):
            parameter.copy_(value)
    states, bits = task.states.clone(), offsets.bits.clone()
    states[:, k], bits[k] = 1 - states[:, k], 1 - bits[k]
    flipped = Problem(flipped_machine, states, task.condition, task.clamped)
    for form, is_invariant in (("centred", True), ("plain", False)):
        step = ascent(task, form, offsets)
        moved = ascent(flipped, form, Offsets(bits, offsets.condition))
        expected = flip_machine((step.biases, step.couplings, step.condition_weights))
        agree = [
            torch.allclose(a, b)
            for a, b in zip((moved.biases, moved.couplings, moved.condition_weights), expected, strict=True)
        ]
        assert all(agree) == is_invariant


@pytest.mark.parametrize("form", ["plain", "centred"])
def test_gradient_vanishes_where_the_moments_agree(form: str) -> None:
    task = problem(is_clamped=False)
    moments = model_moments(task)
    gradient = contrastive_gradient(moments, moments, task.machine.neighbours, form, task.offsets)
    assert gradient.norm == 0


def test_centred_gradient_vanishes_only_with_the_plain_one() -> None:
    """The plain gradient is recovered from the centred one, so neither can vanish alone."""
    task = problem(is_clamped=False)
    plain, centred = ascent(task, "plain"), ascent(task, "centred", task.offsets)
    mu, nu = task.offsets.bits, task.offsets.condition
    i, j = task.ends.unbind(1)
    biases = centred.biases + nu @ centred.condition_weights
    biases = biases.index_add(0, i, centred.couplings * mu[j]).index_add(0, j, centred.couplings * mu[i])
    torch.testing.assert_close(biases, plain.biases)
    torch.testing.assert_close(centred.couplings + mu[i] * biases[j] + mu[j] * biases[i], plain.couplings)
    assert plain.norm > 0.1


def test_centred_gradient_is_made_of_centred_products_when_chains_have_other_conditions() -> None:
    task = problem(is_clamped=False)
    mu, nu = task.offsets.bits, task.offsets.condition
    generator = torch.Generator().manual_seed(3)
    samples = torch.randint(0, 2, (9, 8), generator=generator).double()
    other = torch.randn(9, 2, generator=generator, dtype=torch.float64)

    def centred_means(states: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        z, c = states - mu, condition - nu
        pairs = torch.stack([(z[:, i] * z[:, j]).mean() for i, j in task.ends.tolist()])
        return pairs, torch.einsum("ba,bi->ai", c, z) / len(z)

    data = task.machine.sufficient_statistics(task.states, task.condition)
    model = task.machine.sufficient_statistics(samples, other)
    gradient = contrastive_gradient(data, model, task.machine.neighbours, "centred", task.offsets)
    pairs, cross = (
        one - two
        for one, two in zip(centred_means(task.states, task.condition), centred_means(samples, other), strict=True)
    )
    torch.testing.assert_close(gradient.couplings, pairs)
    torch.testing.assert_close(gradient.condition_weights, cross)


def test_default_offsets_are_the_data_means() -> None:
    task = problem(is_clamped=False)
    data = task.machine.sufficient_statistics(task.states, task.condition)
    explicit = ascent(task, "centred", Offsets(data.first, data.condition))
    assert torch.equal(ascent(task, "centred").couplings, explicit.couplings)


def test_couplers_between_held_bits_do_not_move() -> None:
    task = problem(is_clamped=False)
    held = torch.zeros(8, dtype=torch.bool)
    held[[0, 3, 6]] = True
    gradient = ascent(task, "plain").hold(held, task.ends)
    between = held[task.ends].all(dim=1)
    assert between.any()
    assert (gradient.couplings[between] == 0).all()
    assert (gradient.couplings[~between] != 0).any()


def test_offsets_move_by_the_given_share() -> None:
    data = Moments(torch.tensor([1.0, 0.0]), torch.empty(0), torch.empty(1, 2), torch.tensor([4.0]))
    moved = Offsets(torch.tensor([0.5, 0.5]), torch.tensor([0.0])).moved(data, 0.25)
    assert moved.bits.tolist() == [0.625, 0.375]
    assert moved.condition.tolist() == [1.0]


def mean_energy(biases: Tensor, couplings: Tensor, ends: Tensor) -> Tensor:
    """Sum over all states of p(z) E(z), written from the formula."""
    z = all_states(len(biases)).double()
    energies = -(z @ biases) - (z[:, ends[:, 0]] * z[:, ends[:, 1]]) @ couplings
    return (torch.softmax(-energies, 0) * energies).sum()


def test_the_mean_energy_form_is_the_whole_derivative_of_the_mean_energies() -> None:
    machine = tiny_machine(seed=4).double()
    ends = torch.from_numpy(machine.topology.edges.copy())
    states = torch.randint(0, 2, (7, 8), generator=torch.Generator().manual_seed(1)).double()
    biases, couplings = (
        parameter.detach().clone().requires_grad_() for parameter in (machine.biases, machine.couplings)
    )
    of_data = -(states @ biases) - (states[:, ends[:, 0]] * states[:, ends[:, 1]]) @ couplings
    (of_data.mean() - mean_energy(biases, couplings, ends)).backward()
    law = enumerate_machine(machine)
    covariance = energy_covariance(machine, law.states().double(), law.probabilities)
    model = Moments(law.first, law.second)
    found = mean_energy_gradient(machine.sufficient_statistics(states), model, covariance)
    torch.testing.assert_close(found.biases, -biases.grad)
    torch.testing.assert_close(found.couplings, -couplings.grad)
    plain = contrastive_gradient(machine.sufficient_statistics(states), model, machine.neighbours)
    assert (found.couplings - plain.couplings).abs().max() > 0.01


def test_energies_in_a_loss_with_samples_held_fixed_give_the_plain_form() -> None:
    """Automatic differentiation of <E>_d - <E>_m through the parameters alone: no covariance comes of it."""
    machine = tiny_machine(seed=4, n_condition=2).double()
    generator = torch.Generator().manual_seed(1)
    states, samples = (torch.randint(0, 2, (n, 8), generator=generator).double() for n in (7, 11))
    given, drawn = (torch.randn(n, 2, generator=generator).double() for n in (7, 11))
    loss = machine.energy(states, given).mean() - machine.energy(samples, drawn).mean()
    biases, couplings, weights = torch.autograd.grad(
        loss, [machine.biases, machine.couplings, machine.condition_weights]
    )
    moments = machine.sufficient_statistics(states, given), machine.sufficient_statistics(samples, drawn)
    plain = contrastive_gradient(*moments, machine.neighbours)
    torch.testing.assert_close(plain.biases, -biases, atol=1e-14, rtol=0)
    torch.testing.assert_close(plain.couplings, -couplings, atol=1e-14, rtol=0)
    torch.testing.assert_close(plain.condition_weights, -weights, atol=1e-14, rtol=0)


def test_the_mean_energy_form_does_not_rest_at_the_law_of_the_data() -> None:
    """Where data and model agree exactly the likelihood is at its maximum; this form moves on."""
    machine = tiny_machine(seed=4).double()
    law = enumerate_machine(machine)
    moments = Moments(law.first, law.second)
    covariance = energy_covariance(machine, law.states().double(), law.probabilities)
    assert mean_energy_gradient(moments, moments, covariance).norm > 0.1
    assert contrastive_gradient(moments, moments, machine.neighbours).norm == 0


def test_the_covariance_of_the_energy_is_a_derivative_in_temperature() -> None:
    """d <z_i> / d beta = -Cov(E, z_i), here by differences of two exact laws."""
    machine, step = tiny_machine(seed=5).double(), 1e-4
    law, hot, cold = (enumerate_machine(machine, beta=beta) for beta in (1.0, 1 - step, 1 + step))
    covariance = energy_covariance(machine, law.states().double(), law.probabilities)
    torch.testing.assert_close(covariance.first, (hot.first - cold.first) / (2 * step), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(covariance.second, (hot.second - cold.second) / (2 * step), atol=1e-6, rtol=1e-5)


def test_the_covariance_of_the_energy_is_that_of_the_samples() -> None:
    machine = tiny_machine(seed=5).double()
    states = torch.randint(0, 2, (30, 8), generator=torch.Generator().manual_seed(2)).double()
    energies = machine.energy(states).detach().numpy()
    found = energy_covariance(machine, states)
    expected = [np.cov(energies, column, bias=True)[0, 1] for column in states.T.numpy()]
    np.testing.assert_allclose(found.first.numpy(), expected, atol=1e-12)


def test_the_covariance_of_the_energy_needs_one_law() -> None:
    machine = tiny_machine(n_condition=1)
    with pytest.raises(PriorError, match="several conditions"):
        energy_covariance(machine, all_states(8))


def test_twins_give_the_covariance_within_each_condition() -> None:
    """All pairs of the states of a group average to the covariance within the group; here over three conditions."""
    machine = tiny_machine(seed=5, n_condition=2).double()
    generator = torch.Generator().manual_seed(7)
    groups = torch.randint(0, 2, (3, 6, 8), generator=generator).double()
    conditions = torch.randn(3, 2, generator=generator).double()
    first, second = (part.reshape(-1) for part in torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij"))
    states, twins = groups[:, first].flatten(0, 1), groups[:, second].flatten(0, 1)
    repeated = conditions.repeat_interleave(36, dim=0)
    found = twin_covariance(machine, states, twins, repeated)
    expected = np.zeros(8), np.zeros(machine.topology.n_edges), np.zeros((2, 8))
    for group, condition in zip(groups.numpy(), conditions, strict=True):
        energies = machine.energy(torch.from_numpy(group), condition.repeat(6, 1)).detach().numpy()
        energies = energies - energies.mean()
        pairs = np.stack([group[:, i] * group[:, j] for i, j in machine.topology.edges.tolist()], axis=1)
        parts = energies @ group / 6, energies @ pairs / 6
        expected[0][:] += parts[0] / 3
        expected[1][:] += parts[1] / 3
        expected[2][:] += np.outer(condition.numpy(), parts[0]) / 3
    np.testing.assert_allclose(found.first.numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(found.second.numpy(), expected[1], atol=1e-12)
    assert found.cross is not None
    np.testing.assert_allclose(found.cross.numpy(), expected[2], atol=1e-12)


def test_the_mean_field_form_is_the_difference_of_products_of_means() -> None:
    task = problem(is_clamped=False)
    data = task.machine.sufficient_statistics(task.states, task.condition)
    other = torch.randint(0, 2, (9, 8), generator=torch.Generator().manual_seed(3)).double()
    model = task.machine.sufficient_statistics(other, task.condition[[0, 1, 2, 3, 4, 5, 0, 1, 2]])
    found = mean_field_gradient(data, model, task.machine.neighbours)
    mean, sampled = task.states.mean(0), other.mean(0)
    expected = torch.stack([mean[i] * mean[j] - sampled[i] * sampled[j] for i, j in task.ends.tolist()])
    torch.testing.assert_close(found.couplings, expected)
    torch.testing.assert_close(found.biases, mean - sampled)
    assert found.condition_weights is not None
    cross = task.condition.mean(0)[1] * mean[4] - task.condition[[0, 1, 2, 3, 4, 5, 0, 1, 2]].mean(0)[1] * sampled[4]
    torch.testing.assert_close(found.condition_weights[1, 4], cross)
