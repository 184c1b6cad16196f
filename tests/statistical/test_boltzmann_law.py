"""Every sampler against the exact law, and planted bugs against the test itself."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.prior.exact import enumerate_machine
from calo4pqvae.prior.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.topology import complete_topology
from calo4pqvae.testing import assert_samples_boltzmann, tiny_machine

N_CHAINS = 30_000
N_SWEEPS = 40


@dataclass(frozen=True)
class Case:
    """One law to sample: what is clamped to which bits, the condition and the temperature."""

    held: dict[int, int] = field(default_factory=dict)
    condition: tuple[float, ...] = ()
    beta: float = 1.0
    sizes: tuple[int, ...] = (3, 1, 2, 2)

    def machine(self) -> BoltzmannMachine:
        return tiny_machine(self.sizes, seed=4, n_condition=len(self.condition))

    def mask(self) -> np.ndarray:
        return np.isin(np.arange(sum(self.sizes)), list(self.held))

    def condition_row(self) -> Tensor | None:
        return torch.tensor(self.condition) if self.condition else None


def block_gibbs(dense_from: float) -> Callable[[BoltzmannMachine, Case, torch.Generator], Tensor]:
    def sample(machine: BoltzmannMachine, case: Case, generator: torch.Generator) -> Tensor:
        sampler = BlockGibbsSampler(machine, dense_from)
        states = sampler.init(N_CHAINS, generator).states
        for node, value in case.held.items():
            states[:, node] = value
        row = case.condition_row()
        condition = None if row is None else row.repeat(N_CHAINS, 1)
        state = GibbsState(states)
        return sampler.sample(state, N_SWEEPS, generator, case.mask(), condition, case.beta).states

    return sample


def exact_draws(machine: BoltzmannMachine, case: Case, generator: torch.Generator) -> Tensor:
    values = torch.zeros(machine.n_nodes)
    for node, value in case.held.items():
        values[node] = value
    law = enumerate_machine(machine, case.condition_row(), torch.from_numpy(case.mask()), values, case.beta)
    return law.states()[torch.multinomial(law.probabilities, N_CHAINS, replacement=True, generator=generator)]


SAMPLERS = {"gibbs-sparse": block_gibbs(2.0), "gibbs-dense": block_gibbs(0.0), "exact": exact_draws}

CASES = {
    "free": Case(),
    "partition clamped": Case(held={0: 1, 1: 0, 2: 1}),
    "any mask": Case(held={1: 1, 4: 0, 6: 1}),
    "condition": Case(condition=(0.8, -1.1)),
    "condition and clamp": Case(held={3: 1}, condition=(-0.5, 0.4)),
    "hot": Case(beta=0.5),
    "cold": Case(beta=1.4),
    "other sizes": Case(sizes=(1, 2, 1, 4)),
    "two partitions": Case(sizes=(4, 3)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))
def test_samples_follow_the_exact_law(
    sampler: Callable[[BoltzmannMachine, Case, torch.Generator], Tensor], case: Case
) -> None:
    machine = case.machine()
    states = sampler(machine, case, torch.Generator().manual_seed(11))
    assert_samples_boltzmann(states, machine, clamped=case.mask(), beta=case.beta, condition=case.condition_row())


@pytest.mark.parametrize("dense_from", [0.0, 2.0])
def test_every_chain_may_have_its_own_temperature_condition_and_clamped_bits(dense_from: float) -> None:
    machine = tiny_machine(seed=4, n_condition=1)
    sampler = BlockGibbsSampler(machine, dense_from)
    generator = torch.Generator().manual_seed(12)
    betas, rows, bits = torch.tensor([0.5, 1.0]), torch.tensor([[0.9], [-0.6]]), torch.tensor([1.0, 0.0])
    clamped = np.arange(8) == 2
    states = sampler.init(2 * N_CHAINS, generator).states
    states[:, 2] = bits.repeat(N_CHAINS)
    condition, beta = rows.repeat(N_CHAINS, 1), betas.repeat(N_CHAINS)
    drawn = sampler.sample(GibbsState(states), N_SWEEPS, generator, clamped, condition, beta).states
    for index in (0, 1):
        assert_samples_boltzmann(
            drawn[index::2], machine, clamped=clamped, beta=float(betas[index]), condition=rows[index]
        )


def test_long_chains_stay_in_the_law() -> None:
    """One chain in time, thinned: what a persistent chain delivers."""
    machine = tiny_machine(seed=4)
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(13)
    state, kept = sampler.init(1000, generator), []
    for _ in range(20):
        state = sampler.sample(state, 20, generator)
        kept.append(state.states)
    assert_samples_boltzmann(torch.cat(kept), machine)


def run(machine: BoltzmannMachine, seed: int, *, beta: float = 1.0, clamped: np.ndarray | None = None) -> Tensor:
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(sampler.init(N_CHAINS, generator), N_SWEEPS, generator, clamped, beta=beta).states


def beta_too_large(machine: BoltzmannMachine, seed: int) -> Tensor:
    return run(machine, seed, beta=1.05)


def one_bias_dropped(machine: BoltzmannMachine, seed: int) -> Tensor:
    wrong = BoltzmannMachine(machine.topology)
    wrong.load_state_dict(machine.state_dict())
    with torch.no_grad():
        wrong.biases[4] = 0.0
    return run(wrong, seed)


def block_transposed(machine: BoltzmannMachine, seed: int) -> Tensor:
    """The block of partitions 0 and 1, both of two nodes, used the wrong way round."""
    wrong = BoltzmannMachine(machine.topology)
    wrong.load_state_dict(machine.state_dict())
    edges = machine.topology.edges.tolist()
    first, second = edges.index([0, 3]), edges.index([1, 2])
    with torch.no_grad():
        wrong.couplings[[first, second]] = machine.couplings[[second, first]]
    return run(wrong, seed)


def partition_never_updated(machine: BoltzmannMachine, seed: int) -> Tensor:
    return run(machine, seed, clamped=machine.topology.is_in_partition(2))


def all_partitions_at_once(machine: BoltzmannMachine, seed: int) -> Tensor:
    """Every partition drawn from the old state of the others."""
    generator = torch.Generator().manual_seed(seed)
    states = BlockGibbsSampler(machine).init(N_CHAINS, generator).states
    with torch.no_grad():
        for _ in range(N_SWEEPS):
            odds = torch.sigmoid(machine.local_fields(states))
            states = (torch.rand(odds.shape, generator=generator) < odds).float()
    return states


PLANTED = [beta_too_large, one_bias_dropped, block_transposed, partition_never_updated, all_partitions_at_once]


def planted_machine() -> BoltzmannMachine:
    machine = BoltzmannMachine(complete_topology((2, 2, 1, 2)))
    rng = np.random.default_rng(8)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(rng.normal(0, 0.8, machine.topology.n_edges)))
        machine.biases.copy_(torch.tensor([0.5, -0.4, 0.3, -0.6, 0.2, 0.4, -0.3]))
    return machine


@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_bugs_are_found(bug: Callable[[BoltzmannMachine, int], Tensor], seed: int) -> None:
    machine = planted_machine()
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(bug(machine, seed), machine)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_machine_of_the_planted_bugs_passes_without_them(seed: int) -> None:
    machine = planted_machine()
    assert_samples_boltzmann(run(machine, seed), machine)


def test_right_samples_fail_as_rarely_as_promised() -> None:
    """At alpha = 0.05 for each of two tests, about one run in ten fails; a broken normalisation would show."""
    machine = planted_machine()
    law = enumerate_machine(machine)
    n_failed, n_runs = 0, 150
    for seed in range(n_runs):
        picks = torch.multinomial(law.probabilities, 4000, True, generator=torch.Generator().manual_seed(seed))
        try:
            assert_samples_boltzmann(law.states()[picks], machine, alpha=0.05)
        except AssertionError:
            n_failed += 1
    assert 1 <= n_failed <= 26
