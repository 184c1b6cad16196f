import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.likelihood import latent_bound, log_likelihood
from calo4pqvae.prior.estimates.log_z import Bracket, LogZ
from calo4pqvae.prior.estimates.partition_function import ais, exact_log_z
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import all_states, tiny_machine


def test_probabilities_of_all_states() -> None:
    machine = tiny_machine(seed=2)
    found = log_likelihood(machine, all_states(8), exact_log_z(machine))
    np.testing.assert_allclose(np.exp(found.per_state), enumerate_machine(machine).probabilities, atol=1e-6)
    assert found.value == pytest.approx(found.per_state.mean())
    assert found.error == pytest.approx(found.per_state.std(ddof=1) / 16)
    assert (found.n_states, found.log_z_error, found.total_error) == (256, 0.0, found.error)
    assert (found.direction, found.is_reliable) == ("exact", True)


@pytest.mark.parametrize("by_mask", [False, True])
def test_hidden_bits_are_summed_out(by_mask: bool) -> None:
    machine = tiny_machine((4, 3), seed=5)
    hidden = machine.topology.is_in_partition(1) if by_mask else 1
    visible = torch.cat([all_states(4), torch.zeros(16, 3)], dim=1)
    found = log_likelihood(machine, visible, exact_log_z(machine), hidden=hidden)
    marginal = enumerate_machine(machine).probabilities.view(16, 8).sum(dim=1)
    np.testing.assert_allclose(np.exp(found.per_state), marginal, atol=1e-6)


def test_every_state_takes_the_log_z_of_its_condition() -> None:
    machine = tiny_machine(seed=2, n_condition=1)
    rows = torch.tensor([[2.0], [-1.0]])
    mask = machine.topology.is_in_partition(0)
    bits = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    values = torch.cat([bits, torch.zeros(2, 5)], dim=1)
    log_z = exact_log_z(machine, clamped=mask, values=values, condition=rows)
    case = torch.arange(2).repeat_interleave(32)
    states = torch.cat([bits[case], all_states(5).repeat(2, 1)], dim=1)
    found = log_likelihood(machine, states, log_z, condition=rows[case], case=case)
    np.testing.assert_allclose(np.exp(found.per_state).reshape(2, 32).sum(axis=1), 1, atol=1e-5)
    wrong = log_likelihood(machine, states, log_z, condition=rows[case], case=1 - case)
    assert abs(np.exp(wrong.per_state).reshape(2, 32).sum(axis=1) - 1).min() > 0.1


def test_errors_of_log_z_are_weighted_by_their_states() -> None:
    machine = tiny_machine(seed=2)
    weights = np.random.default_rng(0).normal(size=(3, 50))
    log_z = LogZ.from_weights(weights, n_temperatures=5, base="fields", direction="ais", seed=9)
    case = np.array([0, 0, 0, 2])
    found = log_likelihood(machine, all_states(8)[:4], log_z, case=case)
    assert found.log_z_error == pytest.approx(math.hypot(0.75 * log_z.error[0], 0.25 * log_z.error[2]))
    assert found.total_error == pytest.approx(math.hypot(found.error, found.log_z_error))
    assert found.seed == 9
    poor = weights.copy()
    poor[1, 0] = 30
    unused = LogZ.from_weights(poor, n_temperatures=5, base="fields", direction="ais", seed=9)
    assert log_likelihood(machine, all_states(8)[:4], unused, case=case).is_reliable
    assert not log_likelihood(machine, all_states(8)[:4], unused, case=case * 0 + 1).is_reliable


def toy_model() -> tuple[torch.Tensor, torch.Tensor, float, np.ndarray]:
    """Terms of the bound (z, x) of a decoder of one bit, unnormalised prior (z,), its log Z and the exact ln p(x)."""
    machine = tiny_machine((2, 1), seed=1)
    states = all_states(3)
    hit = torch.sigmoid(states @ torch.tensor([1.0, -2.0, 0.5]) - 0.3).double()
    log_reconstruction = torch.stack([torch.log1p(-hit), hit.log()], dim=1)
    prior = -machine.energy(states).double().detach()
    log_z = enumerate_machine(machine).log_z
    return log_reconstruction, prior, log_z, torch.logsumexp(log_reconstruction + prior[:, None] - log_z, 0).numpy()


def test_bound_is_tight_for_the_exact_posterior_and_lower_for_any_other() -> None:
    reconstruction, prior, log_z, log_p = toy_model()
    known = LogZ.exact(np.array([log_z]))
    both = Bracket(known, LogZ.exact(np.array([log_z + 0.5])))
    joint = reconstruction + prior[:, None]
    posterior = joint - torch.logsumexp(joint, dim=0)
    tight = latent_bound(reconstruction, posterior, prior[:, None].expand(8, 2), both)
    np.testing.assert_allclose(tight.forward.per_state, log_p, atol=1e-12)
    np.testing.assert_allclose(tight.reverse.per_state, log_p - 0.5, atol=1e-12)
    coins = torch.full_like(joint, -3 * math.log(2))
    loose = latent_bound(reconstruction, coins, prior[:, None].expand(8, 2), both)
    assert (loose.forward.per_state < log_p - 0.01).all()
    gap = -3 * math.log(2) - posterior.mean(dim=0)
    np.testing.assert_allclose(log_p - loose.forward.per_state, gap, atol=1e-12)


def test_bound_carries_both_errors_and_cases() -> None:
    machine = tiny_machine(seed=2, n_condition=1)
    found = ais(machine, n_chains=100, betas=5, condition=torch.tensor([[1.0], [-2.0]]))
    zeros = torch.zeros(6)
    bound = latent_bound(zeros, zeros, torch.arange(6.0), Bracket(found, found), case=torch.tensor([0, 1, 1, 0, 1, 1]))
    expected = np.arange(6.0) - found.value[[0, 1, 1, 0, 1, 1]]
    np.testing.assert_allclose(bound.forward.per_state, expected)
    assert bound.forward.log_z_error == pytest.approx(math.hypot(found.error[0] / 3, found.error[1] * 2 / 3))


KNOWN = LogZ.exact(np.zeros(1))
TWO = LogZ.exact(np.zeros(2))

BAD_CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: log_likelihood(tiny_machine(), torch.zeros(1, 8), KNOWN), "at least two"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 7), KNOWN), "states have shape"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 8), TWO), "2 cases"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 8), TWO, case=np.array([0, 1, 2])), "from 0 to 1"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 8), TWO, case=np.zeros(3)), "integers"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 8), KNOWN, hidden=7), "partition 7"),
    (lambda: log_likelihood(tiny_machine(), torch.zeros(3, 8), KNOWN, hidden=np.ones(8, dtype=bool)), "coupled"),
    (lambda: latent_bound(torch.zeros(3), torch.zeros(3), torch.zeros(2), Bracket(KNOWN, KNOWN)), "have shapes"),
    (lambda: latent_bound(*[torch.zeros(1)] * 3, Bracket(KNOWN, KNOWN)), "two or more"),
    (lambda: latent_bound(*[torch.full((4,), math.inf)] * 3, Bracket(KNOWN, KNOWN)), "two or more finite"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=[f"{i}-{m}" for i, (_, m) in enumerate(BAD_CALLS)])
def test_bad_input_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        call()


def test_parameters_that_are_not_numbers_are_refused() -> None:
    machine = tiny_machine()
    with torch.no_grad():
        machine.biases[2] = math.inf
    with pytest.raises(PriorError, match="infinity"):
        log_likelihood(machine, torch.zeros(3, 8), KNOWN)
