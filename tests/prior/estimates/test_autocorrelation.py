import math

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.autocorrelation import (
    autocorrelation,
    effective_sample_size,
    equilibrium_relaxation,
    integrated_time,
    leading_modes,
    relaxation_time,
    split_r_hat,
)
from calo4pqvae.prior.estimates.transition import exact_sweep
from calo4pqvae.prior.graph.topology import bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.testing import tiny_machine


def ar1(phi: float, n_steps: int, n_chains: int, rng: np.random.Generator, start: float | None = None) -> np.ndarray:
    """x_t = phi x_(t-1) + noise with unit variance: rho(t) = phi ** t, tau_int = (1 + phi) / (1 - phi)."""
    noise = rng.normal(size=(n_steps, n_chains)) * math.sqrt(1 - phi**2)
    series = np.empty((n_steps, n_chains))
    series[0] = rng.normal(size=n_chains) if start is None else start
    for step in range(1, n_steps):
        series[step] = phi * series[step - 1] + noise[step]
    return series


def test_autocorrelation_by_loops() -> None:
    series = ar1(0.6, 13, 4, np.random.default_rng(0))
    off = series - series.mean()
    expected = []
    for lag in range(13):
        products = [off[step, chain] * off[step + lag, chain] for chain in range(4) for step in range(13 - lag)]
        expected.append(sum(products) / len(products))
    np.testing.assert_allclose(autocorrelation(series), np.array(expected) / expected[0], atol=1e-12)


def test_groups_have_means_of_their_own() -> None:
    series = ar1(0.5, 400, 20, np.random.default_rng(1))
    groups = np.repeat([0, 1], 10)
    shifted = series + 10 * groups
    np.testing.assert_allclose(autocorrelation(shifted, groups)[:50], autocorrelation(series, groups)[:50], atol=1e-9)
    assert integrated_time(shifted).is_converged is False
    assert integrated_time(shifted, groups).value == pytest.approx(3, abs=0.5)
    assert split_r_hat(shifted) > 2
    assert split_r_hat(shifted, groups) == pytest.approx(split_r_hat(series, groups))


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_integrated_time_and_its_error(phi: float) -> None:
    """Mean and spread of (estimate - truth) / error over 60 repeats; the window costs a bias below half an error."""
    rng = np.random.default_rng(7)
    found = [integrated_time(ar1(phi, 500, 60, rng)) for _ in range(60)]
    pulls = np.array([(one.value - (1 + phi) / (1 - phi)) / one.error for one in found])
    assert abs(pulls.mean()) < 0.5 + 4 / math.sqrt(60)
    assert 0.7 < pulls.std() < 1.3
    assert all(one.is_converged for one in found)


@pytest.mark.parametrize(("phi", "n_chains"), [(0.5, 60), (0.9, 60), (0.97, 200), (0.8, 1)])
def test_relaxation_time_and_its_error(phi: float, n_chains: int) -> None:
    rng = np.random.default_rng(8)
    n_steps = 500 if n_chains > 1 else 20_000
    found = [relaxation_time(ar1(phi, n_steps, n_chains, rng)) for _ in range(40)]
    pulls = np.array([(one.value + 1 / math.log(phi)) / one.error for one in found])
    assert abs(pulls.mean()) < 0.25 + 4 / math.sqrt(40)
    assert 0.65 < pulls.std() < 1.5
    assert all(one.is_converged and not one.is_bound for one in found)


def test_relaxation_time_is_that_of_the_slowest_mode() -> None:
    rng = np.random.default_rng(9)
    series = ar1(0.3, 600, 400, rng) + 0.7 * ar1(0.95, 600, 400, rng)
    slow = relaxation_time(series)
    assert abs(slow.value + 1 / math.log(0.95)) < 3 * slow.error < 6
    assert integrated_time(series).value < 0.5 * (1 + 0.95) / (1 - 0.95)


def test_memory_shorter_than_a_step_is_a_bound() -> None:
    found = relaxation_time(np.random.default_rng(2).normal(size=(300, 40)))
    assert found.is_bound
    assert 0 < found.value < 0.5


def test_chains_that_are_too_short_say_so() -> None:
    series = ar1(0.995, 60, 40, np.random.default_rng(3))
    assert not integrated_time(series).is_converged
    assert not relaxation_time(series).is_converged


def test_equilibrium_relaxation_of_a_common_start() -> None:
    rng = np.random.default_rng(4)
    pulls = []
    for equilibrium in [0.0, None] * 15:
        found = equilibrium_relaxation(ar1(0.9, 300, 400, rng, start=4.0), equilibrium)
        pulls.append((found.value + 1 / math.log(0.9)) / found.error)
    assert abs(np.mean(pulls)) < 1
    assert 0.6 < np.std(pulls) < 1.5
    with pytest.raises(PriorError, match="does not move"):
        equilibrium_relaxation(ar1(0.5, 100, 50, rng, start=0.0), 0.0)
    with pytest.raises(PriorError, match="too few to average"):
        equilibrium_relaxation(ar1(0.5, 100, 3, rng, start=4.0))


def test_effective_sample_size_predicts_the_error_of_the_mean() -> None:
    rng = np.random.default_rng(5)
    series = [ar1(0.8, 200, 10, rng) for _ in range(300)]
    spread = np.std([one.mean() for one in series])
    sizes = [effective_sample_size(one) for one in series]
    assert np.mean(sizes) == pytest.approx(1 / spread**2, rel=0.25)


@pytest.mark.parametrize("is_ranked", [False, True])
def test_r_hat_sees_shifted_and_drifting_chains(is_ranked: bool) -> None:
    rng = np.random.default_rng(6)
    same = rng.normal(size=(400, 8))
    assert split_r_hat(same, is_ranked=is_ranked) == pytest.approx(1, abs=0.01)
    shifted = same + np.repeat([0.0, 1.0], 4)
    assert split_r_hat(shifted, is_ranked=is_ranked) > 1.08
    drifting = same + np.linspace(0, 2, 400)[:, None]
    assert split_r_hat(drifting, is_ranked=is_ranked) > 1.08


def test_r_hat_by_hand() -> None:
    """Four halves (0, 2), (2, 4), (0, 2), (0, 2): B / n = 1, W = 2, so V = 2 / 2 + 1 = 2 and R-hat is one."""
    series = np.array([[0.0, 0.0], [2.0, 2.0], [2.0, 0.0], [4.0, 2.0]])
    assert split_r_hat(series) == pytest.approx(1.0)
    assert split_r_hat(np.array([[0.0, 1.0]] * 6)) == math.inf


@pytest.mark.parametrize(("seed", "coupling"), [(1, 2.0), (2, 3.0), (5, 3.0)])
def test_measured_relaxation_agrees_with_the_spectral_gap(seed: int, coupling: float) -> None:
    """The chain is followed along the slow eigenfunction of its own matrix and along the leading mode."""
    machine = slow_machine(seed, coupling)
    sweep = exact_sweep(machine)
    states, vectors = np.linalg.eig(sweep.matrix)
    slow = np.real(vectors[:, np.argsort(-np.abs(states))[1]])
    law = enumerate_machine(machine)
    generator = torch.Generator().manual_seed(seed)
    n_chains, n_steps = 500, max(60, int(30 * sweep.relaxation_time))
    picks = torch.multinomial(law.probabilities, n_chains, replacement=True, generator=generator)
    state, sampler = GibbsState(law.states()[picks]), BlockGibbsSampler(machine)
    place = 2.0 ** np.arange(machine.n_nodes)[::-1]
    followed = {"slow": [], "mode": []}
    mode = leading_modes(machine, 1)[0]
    for _ in range(n_steps):
        state = sampler.sample(state, 1, generator)
        bits = state.states.double().numpy()
        followed["slow"].append(slow[(bits @ place).astype(int)])
        followed["mode"].append(bits @ mode)
    along = relaxation_time(np.array(followed["slow"]))
    assert abs(along.value - sweep.relaxation_time) < 3.5 * along.error < 0.4 * sweep.relaxation_time
    leading = relaxation_time(np.array(followed["mode"]))
    assert abs(leading.value - sweep.relaxation_time) < 3.5 * leading.error + 0.05 * sweep.relaxation_time


def test_mean_of_a_common_start_relaxes_with_the_spectral_gap() -> None:
    machine = slow_machine(2, 2.5)
    sweep = exact_sweep(machine)
    generator = torch.Generator().manual_seed(1)
    state, sampler = GibbsState(torch.zeros(4000, machine.n_nodes)), BlockGibbsSampler(machine)
    mode = torch.from_numpy(leading_modes(machine, 1)[0]).float()
    series = [state.states @ mode]
    for _ in range(int(12 * sweep.relaxation_time)):
        state = sampler.sample(state, 1, generator)
        series.append(state.states @ mode)
    means = enumerate_machine(machine).first @ mode.double()
    found = equilibrium_relaxation(torch.stack(series).double().numpy(), float(means))
    assert abs(found.value - sweep.relaxation_time) < 3.5 * found.error + 0.05 * sweep.relaxation_time


def slow_machine(seed: int, coupling: float) -> BoltzmannMachine:
    """Ferromagnetic couplings and biases that keep ones and zeros in balance, with some disorder."""
    machine = BoltzmannMachine(complete_topology((2, 1, 2, 1)))
    rng = np.random.default_rng(seed)
    couplings = coupling * rng.uniform(0.4, 1.0, machine.topology.n_edges)
    fields = -np.bincount(machine.topology.edges.ravel(), np.repeat(couplings, 2)) / 2
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(couplings))
        machine.biases.copy_(torch.from_numpy(fields + rng.normal(0, 0.1, machine.n_nodes)))
    return machine


@pytest.mark.parametrize("n_hidden", [5, 450])
def test_leading_modes_are_singular_vectors(n_hidden: int) -> None:
    machine = BoltzmannMachine(bipartite_topology(7, n_hidden))
    weights = torch.randn(7, n_hidden, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        machine.couplings.copy_(weights.reshape(-1))
    left, _, right = np.linalg.svd(weights.double().numpy(), full_matrices=False)
    modes = leading_modes(machine, 3)
    for index, mode in enumerate(modes):
        expected = np.concatenate([left[:, index], right[index]]) / math.sqrt(2)
        assert abs(mode @ expected) == pytest.approx(1, abs=1e-6)
        assert mode[np.abs(mode).argmax()] > 0


def test_held_bits_have_no_part_in_the_modes() -> None:
    machine = tiny_machine(seed=1)
    clamped = machine.topology.is_in_partition(0)
    modes = leading_modes(machine, 5, clamped)
    assert (modes[:, clamped] == 0).all()
    np.testing.assert_allclose(modes @ modes.T, np.eye(5), atol=1e-12)
    with pytest.raises(PriorError, match="6 modes of 5 free bits"):
        leading_modes(machine, 6, clamped)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (np.ones((50, 3)), "constant"),
        (np.zeros((50, 3)), "constant"),
        (np.zeros((3, 3)), "too short"),
        (np.zeros(50), "too short"),
        (np.array([[0.0], [1.0], [math.nan], [1.0]]), "NaN"),
    ],
)
def test_series_that_cannot_be_used_are_refused(series: np.ndarray, message: str) -> None:
    for function in (autocorrelation, integrated_time, relaxation_time, split_r_hat, effective_sample_size):
        with pytest.raises(PriorError, match=message):
            function(series)


def test_other_bad_input_is_told() -> None:
    series = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(PriorError, match="window"):
        integrated_time(series, c=0)
    with pytest.raises(PriorError, match="one for each"):
        integrated_time(series, np.zeros(3, dtype=np.int64))
    with pytest.raises(PriorError, match="too short for an error"):
        relaxation_time(series)
