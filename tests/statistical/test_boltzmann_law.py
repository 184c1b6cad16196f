"""Every sampler against the exact law, and planted bugs against the tests themselves.

A sampler is added by one line of ``SAMPLERS``. Those that draw at any inverse temperature are in ``AT_ANY_BETA`` too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.annealed import AnnealedSampler
from calo4pqvae.prior.sampling.exact import ExactSampler, enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.replicas import ReplicaState
from calo4pqvae.prior.sampling.samplers import SAMPLERS as BY_NAME
from calo4pqvae.prior.sampling.samplers import Sampler, with_values
from calo4pqvae.prior.sampling.tempering import TemperingSampler
from calo4pqvae.prior.sampling.trajectory import TrajectorySampler
from calo4pqvae.prior.sampling.treewidth import TreewidthSampler
from calo4pqvae.testing import (
    assert_chains_independent,
    assert_pairs_independent,
    assert_samples_boltzmann,
    tiny_machine,
)

N_CHAINS = 30_000
N_SWEEPS = 20
LADDER = (0.3, 0.65, 1.0)


@dataclass(frozen=True)
class Case:
    """One law to sample: what is held at which bits, the condition, the temperature and the strength of couplings."""

    held: dict[int, int] = field(default_factory=dict)
    condition: tuple[float, ...] = ()
    beta: float = 1.0
    sizes: tuple[int, ...] = (3, 1, 2, 2)
    coupling_std: float = 0.8
    seed: int = 4
    n_sweeps: int = N_SWEEPS

    def machine(self) -> BoltzmannMachine:
        return tiny_machine(self.sizes, self.seed, self.coupling_std, len(self.condition))

    def mask(self) -> np.ndarray:
        return np.isin(np.arange(sum(self.sizes)), list(self.held))

    def values(self) -> Tensor:
        return torch.tensor([float(self.held.get(node, 0)) for node in range(sum(self.sizes))])

    def condition_row(self) -> Tensor | None:
        return torch.tensor(self.condition) if self.condition else None


def scaled(machine: BoltzmannMachine, factor: float) -> BoltzmannMachine:
    """The machine with weaker couplings, as it might have been earlier in its training."""
    earlier = BoltzmannMachine(machine.topology, machine.n_condition)
    earlier.load_state_dict(machine.state_dict())
    with torch.no_grad():
        earlier.couplings.mul_(factor)
    return earlier


def trajectory(machine: BoltzmannMachine) -> TrajectorySampler:
    return TrajectorySampler([scaled(machine, 0.0), scaled(machine, 0.5), machine], sweeps_per_swap=5)


SAMPLERS: dict[str, Callable[[BoltzmannMachine], Sampler[Any]]] = {
    "gibbs": BlockGibbsSampler,
    "gibbs-packed": partial(BlockGibbsSampler, kernel="packed"),
    "gibbs-torch-sparse": partial(BlockGibbsSampler, kernel="torch-sparse"),
    "gibbs-torch-dense": partial(BlockGibbsSampler, kernel="torch-dense"),
    "annealed": partial(AnnealedSampler, n_steps=10),
    "annealed-geometric": partial(AnnealedSampler, n_steps=10, schedule="geometric", start="fields"),
    "tempering": partial(TemperingSampler, betas=LADDER, sweeps_per_swap=5),
    "trajectory": trajectory,
    "exact": ExactSampler,
    "treewidth": TreewidthSampler,
}

AT_ANY_BETA = {
    "gibbs",
    "gibbs-packed",
    "gibbs-torch-sparse",
    "gibbs-torch-dense",
    "exact",
    "treewidth",
}
"""Samplers whose ``sample`` takes ``beta``."""

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
    "three partitions": Case(sizes=(2, 4, 2)),
    "no couplings": Case(coupling_std=0.0),
    "strong": Case(coupling_std=3.0, seed=8, n_sweeps=100),
}


def drawn(sampler: Sampler[Any], case: Case, generator: torch.Generator) -> Tensor:
    state = with_values(sampler.init(N_CHAINS, generator), case.mask(), case.values())
    row = case.condition_row()
    condition = None if row is None else row.repeat(N_CHAINS, 1)
    options = {} if case.beta == 1 else {"beta": case.beta}
    return sampler.sample(state, case.n_sweeps, generator, case.mask(), condition, **options).states


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param(name, case, id=f"{name}-{label}")
        for name in SAMPLERS
        for label, case in CASES.items()
        if case.beta == 1 or name in AT_ANY_BETA
    ],
)
def test_samples_follow_the_exact_law(name: str, case: Case) -> None:
    machine = case.machine()
    states = drawn(SAMPLERS[name](machine), case, torch.Generator().manual_seed(11))
    law = {"clamped": case.mask(), "beta": case.beta, "condition": case.condition_row()}
    assert_samples_boltzmann(states, machine, **law)
    assert_chains_independent(states, machine, **law)


def test_every_sampler_of_the_package_is_tested() -> None:
    assert {name.partition("-")[0] for name in SAMPLERS} == set(BY_NAME)


@pytest.mark.parametrize("name", sorted(AT_ANY_BETA - {"exact", "treewidth"}))
def test_every_chain_may_have_its_own_temperature_condition_and_clamped_bits(name: str) -> None:
    machine = tiny_machine(seed=4, n_condition=1)
    sampler = SAMPLERS[name](machine)
    generator = torch.Generator().manual_seed(12)
    betas, rows, bits = torch.tensor([0.5, 1.0]), torch.tensor([[0.9], [-0.6]]), torch.tensor([1.0, 0.0])
    clamped = np.arange(8) == 2
    state = with_values(sampler.init(2 * N_CHAINS, generator), clamped, bits.repeat(N_CHAINS)[:, None].expand(-1, 8))
    options = {"condition": rows.repeat(N_CHAINS, 1), "beta": betas.repeat(N_CHAINS)}
    states = sampler.sample(state, N_SWEEPS, generator, clamped, **options).states
    for index in (0, 1):
        law = {"clamped": clamped, "beta": float(betas[index]), "condition": rows[index]}
        assert_samples_boltzmann(states[index::2], machine, **law)
        assert_chains_independent(states[index::2], machine, **law)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_chain_may_have_its_own_condition_and_clamped_bits(name: str) -> None:
    machine = tiny_machine(seed=4, n_condition=1)
    sampler, generator = SAMPLERS[name](machine), torch.Generator().manual_seed(14)
    rows, bits, n = torch.tensor([[0.9], [-0.6]]), torch.tensor([1.0, 0.0]), N_CHAINS // 3
    clamped = np.arange(8) == 2
    state = with_values(sampler.init(2 * n, generator), clamped, bits.repeat(n)[:, None].expand(-1, 8))
    states = sampler.sample(state, N_SWEEPS, generator, clamped, rows.repeat(n, 1)).states
    assert torch.equal(states[:, 2], bits.repeat(n))
    for index in (0, 1):
        assert_samples_boltzmann(states[index::2], machine, clamped=clamped, condition=rows[index])


@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_forget_and_stay_in_the_law(name: str) -> None:
    """The same chains at two times, far apart for a chain of this machine: what a persistent chain delivers."""
    machine = tiny_machine(seed=4)
    sampler, generator = SAMPLERS[name](machine), torch.Generator().manual_seed(13)
    first = sampler.sample(sampler.init(N_CHAINS // 3, generator), N_SWEEPS, generator)
    second = sampler.sample(first, N_SWEEPS, generator)
    assert_samples_boltzmann(torch.cat([first.states, second.states]), machine)
    assert_pairs_independent(first.states, second.states, machine)


def test_few_chains_for_long_are_as_good_as_many() -> None:
    machine = tiny_machine(seed=4)
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(13)
    state, kept = sampler.init(1000, generator), []
    for _ in range(20):
        state = sampler.sample(state, N_SWEEPS, generator)
        kept.append(state.states)
    assert_samples_boltzmann(torch.cat(kept), machine)
    assert_pairs_independent(torch.cat(kept[:-1]), torch.cat(kept[1:]), machine)


@pytest.mark.parametrize("name", ["tempering", "trajectory"])
@pytest.mark.parametrize("case", [CASES["free"], CASES["any mask"], CASES["condition and clamp"]])
def test_every_replica_follows_its_own_law(name: str, case: Case) -> None:
    machine = case.machine()
    sampler, generator = SAMPLERS[name](machine), torch.Generator().manual_seed(15)
    state = with_values(sampler.init(N_CHAINS, generator), case.mask(), case.values())
    row = case.condition_row()
    condition = None if row is None else row.repeat(N_CHAINS, 1)
    state = sampler.sample(state, 35, generator, case.mask(), condition)
    assert min(state.report().acceptance) > 0.3
    for level, bits in enumerate(state.replicas):
        own = sampler.machines[level] if name == "trajectory" else machine
        beta = LADDER[level] if name == "tempering" else 1.0
        assert_samples_boltzmann(bits, own, clamped=case.mask(), beta=beta, condition=row)


def bimodal_machine() -> BoltzmannMachine:
    """Eight bits that are nearly all zeros or, seven times in ten, nearly all ones, with a barrier between."""
    machine = BoltzmannMachine(complete_topology((3, 1, 2, 2)))
    degrees = torch.from_numpy(machine.topology.degrees.copy())
    with torch.no_grad():
        machine.couplings.fill_(2.5)
        machine.biases.copy_(-1.25 * degrees + 0.1)
    return machine


def from_zeros(sampler: Sampler[Any], n_chains: int, generator: torch.Generator) -> Any:
    state = sampler.init(n_chains, generator)
    if isinstance(state, ReplicaState):
        return ReplicaState.start(torch.zeros_like(state.replicas))
    return GibbsState(torch.zeros_like(state.states))


def test_gibbs_does_not_cross_the_barrier_of_the_bimodal_machine() -> None:
    machine = bimodal_machine()
    law = enumerate_machine(machine)
    ones = law.states().sum(1) > 4
    assert 0.6 < float(law.probabilities[ones].sum()) < 0.75
    generator = torch.Generator().manual_seed(16)
    sampler = BlockGibbsSampler(machine)
    states = sampler.sample(from_zeros(sampler, 4000, generator), 100, generator).states
    assert (states.sum(1) > 4).float().mean() < 0.1
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(states, machine)


@pytest.mark.parametrize("name", ["tempering", "trajectory"])
def test_replicas_cross_the_barrier_of_the_bimodal_machine(name: str) -> None:
    machine = bimodal_machine()
    generator = torch.Generator().manual_seed(17)
    sampler: Sampler[Any] = TemperingSampler(machine, (0.0, 0.15, 0.3, 0.5, 1.0))
    if name == "trajectory":
        path = [BoltzmannMachine(machine.topology) for _ in range(4)]
        for earlier, factor in zip(path, (0.0, 0.2, 0.4, 0.6), strict=True):
            with torch.no_grad():
                earlier.couplings.copy_(factor * machine.couplings)
                earlier.biases.copy_(factor * machine.biases)
        sampler = TrajectorySampler([*path, machine])
    state = sampler.sample(from_zeros(sampler, 4000, generator), 100, generator)
    assert_samples_boltzmann(state.states, machine)
    assert state.report().round_trips > 3


# --- planted bugs: each must fail -----------------------------------------------------------------------------------


def run(machine: BoltzmannMachine, seed: int, *, beta: float = 1.0, clamped: np.ndarray | None = None) -> Tensor:
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(sampler.init(N_CHAINS, generator), N_SWEEPS, generator, clamped, beta=beta).states


def beta_too_large(machine: BoltzmannMachine, seed: int) -> Tensor:
    return run(machine, seed, beta=1.05)


def one_bias_dropped(machine: BoltzmannMachine, seed: int) -> Tensor:
    wrong = scaled(machine, 1.0)
    with torch.no_grad():
        wrong.biases[4] = 0.0
    return run(wrong, seed)


def block_transposed(machine: BoltzmannMachine, seed: int) -> Tensor:
    """The block of partitions 0 and 1, both of two nodes, used the wrong way round."""
    wrong = scaled(machine, 1.0)
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


def always_swapped(machine: BoltzmannMachine, seed: int) -> Tensor:
    """Parallel tempering that accepts every exchange."""

    class Wrong(TemperingSampler):
        def log_ratios(self, replicas: Tensor, condition: Tensor | None = None) -> Tensor:
            return super().log_ratios(replicas, condition).abs()

    generator = torch.Generator().manual_seed(seed)
    sampler = Wrong(machine, (0.6, 1.0))
    return sampler.sample(sampler.init(N_CHAINS, generator), 21, generator).states


def swap_sign_wrong(machine: BoltzmannMachine, seed: int) -> Tensor:
    class Wrong(TemperingSampler):
        def log_ratios(self, replicas: Tensor, condition: Tensor | None = None) -> Tensor:
            return -super().log_ratios(replicas, condition)

    generator = torch.Generator().manual_seed(seed)
    sampler = Wrong(machine, (0.6, 1.0))
    return sampler.sample(sampler.init(N_CHAINS, generator), 21, generator).states


PLANTED = [
    beta_too_large,
    one_bias_dropped,
    block_transposed,
    partition_never_updated,
    all_partitions_at_once,
    always_swapped,
    swap_sign_wrong,
]


def planted_machine() -> BoltzmannMachine:
    machine = BoltzmannMachine(complete_topology((2, 2, 1, 2)))
    rng = np.random.default_rng(8)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(rng.normal(0, 0.8, machine.topology.n_edges)))
        machine.biases.copy_(torch.tensor([0.5, -0.4, 0.3, -0.6, 0.2, 0.4, -0.3]))
    return machine


@pytest.mark.parametrize("n_sweeps", [5, 10, 20])
def test_chains_that_have_not_mixed_are_found(n_sweeps: int) -> None:
    """By powers of its sweep matrix the strong case is then 0.10, 0.07, 0.03 from its law, and 2e-5 after 100."""
    case = replace(CASES["strong"], n_sweeps=n_sweeps)
    machine = case.machine()
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(drawn(BlockGibbsSampler(machine), case, torch.Generator().manual_seed(18)), machine)


@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_bugs_are_found(bug: Callable[[BoltzmannMachine, int], Tensor], seed: int) -> None:
    machine = planted_machine()
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(bug(machine, seed), machine)


def gibbs_by_hand(machine: BoltzmannMachine, start: Tensor, n_sweeps: int, uniforms: Callable[[], Tensor]) -> Tensor:
    """Block Gibbs with given uniform numbers (chains, N) for each sweep."""
    states = start.clone()
    with torch.no_grad():
        for _ in range(n_sweeps):
            noise = uniforms()
            for nodes in machine.topology.slices:
                states[:, nodes] = (noise[:, nodes] < torch.sigmoid(machine.local_fields(states))[:, nodes]).float()
    return states


def all_chains_alike(fresh: Callable[[int], Tensor]) -> Tensor:
    return fresh(1).repeat(N_CHAINS, 1)


def pairs_alike(fresh: Callable[[int], Tensor]) -> Tensor:
    return fresh(N_CHAINS // 2).repeat_interleave(2, dim=0)


def halves_alike(fresh: Callable[[int], Tensor]) -> Tensor:
    return fresh(N_CHAINS // 2).repeat(2, 1)


def words_alike(fresh: Callable[[int], Tensor]) -> Tensor:
    """Two words of 64 chains each share their numbers."""
    noise = fresh(-(-N_CHAINS // 128) * 64).reshape(-1, 1, 64, 7)
    return noise.repeat(1, 2, 1, 1).reshape(-1, 7)[:N_CHAINS]


def mirrored(fresh: Callable[[int], Tensor]) -> Tensor:
    noise = fresh(N_CHAINS // 2)
    return torch.stack([noise, 1 - noise], dim=1).reshape(N_CHAINS, 7)


def streams_overlap(fresh: Callable[[int], Tensor]) -> Tensor:
    """Bit i of a chain has the number of bit i + 1 of the next chain."""
    noise = fresh(N_CHAINS)
    noise[:-1, :-1] = noise[1:, 1:].clone()
    return noise


def one_bit_alike(fresh: Callable[[int], Tensor]) -> Tensor:
    """Only the fourth bit of two neighbours shares its number."""
    noise = fresh(N_CHAINS)
    noise[::2, 3] = noise[1::2, 3]
    return noise


CORRELATED = [all_chains_alike, pairs_alike, halves_alike, words_alike, mirrored, streams_overlap, one_bit_alike]


@pytest.mark.parametrize("bug", CORRELATED)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_numbers_shared_by_chains_are_found(bug: Callable[[Callable[[int], Tensor]], Tensor], seed: int) -> None:
    machine = planted_machine()
    generator = torch.Generator().manual_seed(seed)

    def uniforms() -> Tensor:
        return bug(lambda n: torch.rand(n, 7, generator=generator))

    start = torch.randint(0, 2, (N_CHAINS, 7), generator=generator).float()
    states = gibbs_by_hand(machine, start, N_SWEEPS, uniforms)
    with pytest.raises(AssertionError, match="apart are not independent"):
        assert_chains_independent(states, machine)


@pytest.mark.parametrize("period", [1, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_numbers_repeated_from_sweep_to_sweep_are_found(seed: int, period: int) -> None:
    """A generator that is reset with every sweep, or with every call of two sweeps."""
    machine = planted_machine()
    numbers = torch.rand(period, N_CHAINS, 7, generator=torch.Generator().manual_seed(seed))
    turn = iter(range(10**6))

    def uniforms() -> Tensor:
        return numbers[next(turn) % period]

    start = torch.randint(0, 2, (N_CHAINS, 7), generator=torch.Generator().manual_seed(seed + 10)).float()
    first = gibbs_by_hand(machine, start, N_SWEEPS, uniforms)
    second = gibbs_by_hand(machine, first, N_SWEEPS, uniforms)
    with pytest.raises(AssertionError, match="pairs of draws are not independent"):
        assert_pairs_independent(first, second, machine)
    with pytest.raises(AssertionError, match="exact law"):
        assert_samples_boltzmann(second, machine)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_machine_of_the_planted_bugs_passes_without_them(seed: int) -> None:
    machine = planted_machine()
    states = run(machine, seed)
    assert_samples_boltzmann(states, machine)
    assert_chains_independent(states, machine)
    generator = torch.Generator().manual_seed(seed)
    by_hand = gibbs_by_hand(machine, states, N_SWEEPS, lambda: torch.rand(N_CHAINS, 7, generator=generator))
    assert_samples_boltzmann(by_hand, machine)
    assert_pairs_independent(states, by_hand, machine)


def test_right_samples_fail_as_rarely_as_promised() -> None:
    """At alpha = 0.05 for each of two tests of the law, about one run in ten fails, and one in twenty of the tests of
    independence; a broken normalisation would show."""
    machine = planted_machine()
    sampler, start = ExactSampler(machine), GibbsState(torch.zeros(4000, 7))
    failed = {"law": 0, "chains": 0, "pairs": 0}
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        first, second = (sampler.sample(start, 1, generator).states for _ in range(2))
        checks: dict[str, Callable[[], None]] = {
            "law": partial(assert_samples_boltzmann, first, machine, alpha=0.05),
            "chains": partial(assert_chains_independent, first, machine, alpha=0.05),
            "pairs": partial(assert_pairs_independent, first, second, machine, alpha=0.05),
        }
        for name, check in checks.items():
            try:
                check()
            except AssertionError:
                failed[name] += 1
    assert 1 <= failed["law"] <= 21
    assert 1 <= failed["chains"] <= 14
    assert 1 <= failed["pairs"] <= 14
