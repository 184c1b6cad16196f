import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.log_z import Bracket, LogZ
from calo4pqvae.prior.estimates.partition_function import ais, base_biases, bracket, exact_log_z, reverse_ais, schedule
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology, independent_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.collapsed import Cases, Collapse, CollapsedLaw, free_energy
from calo4pqvae.prior.sampling.exact import ExactLaw, enumerate_machine
from calo4pqvae.testing import all_states, tiny_machine

CONDITIONS = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-1.5, 1.0]])


def held_cases(machine: BoltzmannMachine, partition: int, n_cases: int = 3) -> tuple[np.ndarray, Tensor]:
    mask = machine.topology.is_in_partition(partition)
    bits = torch.randint(0, 2, (n_cases, machine.n_nodes), generator=torch.Generator().manual_seed(4)).float()
    return mask, bits


def exact_values(
    machine: BoltzmannMachine,
    mask: np.ndarray | None = None,
    bits: Tensor | None = None,
    condition: Tensor | None = None,
) -> list[float]:
    n_cases = next(len(rows) for rows in (condition, bits, torch.zeros(1)) if rows is not None)
    return [
        enumerate_machine(
            machine,
            None if condition is None else condition[index],
            None if mask is None else torch.from_numpy(mask),
            None if bits is None else bits[index],
        ).log_z
        for index in range(n_cases)
    ]


def draws(law: ExactLaw, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return law.states()[torch.multinomial(law.probabilities, n, replacement=True, generator=generator)].float()


# --- exact sums -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("summed", [None, 0, 1, 2, 3])
def test_exact_log_z_whatever_is_summed_out(summed: int | None) -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2)
    assert exact_log_z(machine, summed=summed).value == pytest.approx(exact_values(machine), abs=1e-10)


@pytest.mark.parametrize("sizes", [(3, 2), (2, 1, 3), (1, 2, 1, 3, 2)])
def test_exact_log_z_of_any_number_of_partitions(sizes: tuple[int, ...]) -> None:
    machine = tiny_machine(sizes, seed=3)
    assert exact_log_z(machine).value == pytest.approx(exact_values(machine), abs=1e-10)


@pytest.mark.parametrize("partition", [0, 1, 3])
def test_exact_log_z_of_several_cases(partition: int) -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2, n_condition=2)
    mask, bits = held_cases(machine, partition)
    found = exact_log_z(machine, clamped=mask, values=bits, condition=CONDITIONS)
    assert found.value == pytest.approx(exact_values(machine, mask, bits, CONDITIONS), abs=1e-10)
    assert (found.direction, found.n_chains, found.is_reliable.all()) == ("exact", 0, True)


def test_five_hundred_bits_summed_out() -> None:
    machine = BoltzmannMachine(bipartite_topology(9, 500))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        machine.couplings.copy_(0.3 * torch.randn(4500, generator=generator))
        machine.biases.copy_(torch.randn(509, generator=generator))
    a, b = np.split(machine.biases.detach().double().numpy(), [9])
    w = machine.couplings.detach().double().numpy().reshape(9, 500)
    visible = np.array(list(itertools.product((0, 1), repeat=9)))
    expected = np.logaddexp.reduce(visible @ a + np.logaddexp(0, b + visible @ w).sum(1))
    assert exact_log_z(machine).value[0] == pytest.approx(expected, rel=1e-12)


def test_exact_sum_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2)
    monkeypatch.setattr("calo4pqvae.prior.estimates.partition_function._CELLS", 50)
    assert exact_log_z(machine).value == pytest.approx(exact_values(machine), abs=1e-10)


# --- a partition summed out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition", [0, 1, 2, 3])
def test_free_energy_is_minus_the_log_of_the_sum(partition: int) -> None:
    machine = tiny_machine((2, 3, 1, 2), seed=7, n_condition=2)
    condition = CONDITIONS[:1].repeat(256, 1)
    summed = machine.topology.is_in_partition(partition)
    energies = machine.energy(all_states(8), condition).double()
    found = free_energy(machine, all_states(8), summed, condition)
    kept = all_states(8)[:, ~summed]
    for index in range(0, 256, 37):
        same = (kept == kept[index]).all(dim=1)
        assert found[index].item() == pytest.approx(-torch.logsumexp(-energies[same], 0).item(), abs=1e-5)


def test_law_along_the_path_and_its_sweep() -> None:
    """Marginal and sweep at beta = 0.6 against enumeration of (1 - beta) E0 + beta E, by hand."""
    machine, beta = tiny_machine((2, 3, 1), seed=3, coupling_std=1.5), 0.6
    base = torch.tensor([0.3, -0.5, 0.8, 0.0, -1.0, 0.4])
    cases = Cases.of(machine)
    layout = Collapse.of(machine.topology, cases.clamped, machine.device)
    law = CollapsedLaw.of(machine, cases, layout, base, torch.float64)
    states = all_states(6)
    mixed = (1 - beta) * (states @ base) - beta * machine.energy(states).detach()
    values = states[:, layout.free].t().double().contiguous()
    marginal = law.log_marginal(values, law.field(values), (beta,))[0]
    rest = states[:, [0, 1, 5]]
    for index in range(0, 64, 5):
        same = (rest == rest[index]).all(dim=1)
        assert marginal[index].item() == pytest.approx(torch.logsumexp(mixed[same], 0).item(), abs=1e-6)
    assert law.base_log_z.item() == pytest.approx(torch.logsumexp(states @ base, 0).item(), abs=1e-6)
    n_chains, generator = 30_000, torch.Generator().manual_seed(1)
    chains = law.base_states(n_chains, generator)
    for _ in range(25):
        law.sweep(chains, law.field(chains), beta, generator)
    expected = torch.softmax(mixed.double(), 0) * n_chains
    place = 2.0 ** torch.arange(5, -1, -1, dtype=torch.float64)
    counts = torch.bincount((chains.t() @ place[layout.free]).long(), minlength=64)
    assert float(((counts - expected) ** 2 / expected).sum()) < 63 + 5 * math.sqrt(2 * 63)


def test_sparse_and_dense_wirings_agree() -> None:
    sizes, rng = (40, 60, 30), np.random.default_rng(1)
    complete = complete_topology(sizes)
    thin = Topology("thin", sizes, complete.edges[rng.random(complete.n_edges) < 0.1])
    machine = BoltzmannMachine(thin)
    with torch.no_grad():
        machine.couplings.copy_(torch.from_numpy(rng.normal(0, 0.5, thin.n_edges)))
    full = BoltzmannMachine(complete)
    place = {tuple(edge): index for index, edge in enumerate(complete.edges.tolist())}
    with torch.no_grad():
        full.couplings[[place[tuple(edge)] for edge in thin.edges.tolist()]] = machine.couplings
    found = [ais(one, n_chains=20, betas=20, seed=3).log_weights for one in (machine, full)]
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


# --- annealing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("summed", [None, 0, 1, 2, 3])
def test_ais_and_reverse_ais_agree_with_the_exact_sum(summed: int | None) -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2, coupling_std=1.2)
    law = enumerate_machine(machine)
    both = bracket(machine, draws(law, 400, 1), betas=60, seed=5, summed=summed)
    for found in (both.forward, both.reverse):
        assert abs(found.value[0] - law.log_z) < 3.5 * found.error[0]
        assert found.error[0] < 0.1
        assert found.error[0] == pytest.approx(found.jackknife_error[0], rel=0.2)
    assert both.is_closed.all()


def test_log_z_of_every_condition_at_once() -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2, n_condition=2)
    mask, bits = held_cases(machine, 0)
    exact = exact_values(machine, mask, bits, CONDITIONS)
    samples = torch.stack(
        [draws(enumerate_machine(machine, CONDITIONS[i], torch.from_numpy(mask), bits[i]), 300, i) for i in range(3)]
    )
    both = bracket(machine, samples, betas=60, clamped=mask, condition=CONDITIONS)
    for found in (both.forward, both.reverse):
        assert found.log_weights.shape == (3, 300)
        assert (np.abs(found.value - exact) < 3.5 * found.error).all()
        assert (found.error < 0.05).all()
    assert np.ptp(exact) > 1


def test_without_couplers_every_chain_knows_log_z() -> None:
    machine = BoltzmannMachine(independent_topology((5,)))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([0.5, -2.0, 1.0, 0.0, 3.0]))
    expected = float(torch.nn.functional.softplus(machine.biases.detach().double()).sum())
    found = ais(machine, n_chains=10, betas=2)
    np.testing.assert_allclose(found.log_weights, expected, atol=1e-6)
    assert exact_log_z(machine).value == pytest.approx([expected])
    machine.topology = independent_topology((2, 3))
    from_coins = ais(machine, n_chains=500, betas=100, base=torch.zeros(5))
    assert abs(from_coins.value[0] - expected) < 3.5 * from_coins.error[0] < 0.2
    assert (found.base, from_coins.base) == ("fields", "given")


def test_few_temperatures_bracket_from_both_sides() -> None:
    """Means of log weights: below the truth forward, above it in reverse."""
    machine = tiny_machine((3, 4, 2, 3), seed=2, coupling_std=2.0)
    law = enumerate_machine(machine)
    both = bracket(machine, draws(law, 2000, 1), betas=4)
    low, high = both.forward.log_weights, both.reverse.log_weights
    assert low.mean() < law.log_z - 5 * low.std() / math.sqrt(2000)
    assert high.mean() > law.log_z + 5 * high.std() / math.sqrt(2000)
    assert both.forward.ess[0] < 1900


def test_more_sweeps_at_a_temperature_make_weights_even() -> None:
    machine = tiny_machine((3, 4, 2, 3), seed=2, coupling_std=2.0)
    spreads = [ais(machine, n_chains=1000, betas=10, n_sweeps=n).log_weights.std() for n in (1, 8)]
    assert spreads[1] < 0.9 * spreads[0]


def test_same_seed_same_numbers() -> None:
    machine = tiny_machine(seed=1)
    first, again, other = (ais(machine, n_chains=20, betas=5, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.log_weights, again.log_weights)
    assert first.error == again.error
    assert (first.log_weights != other.log_weights).any()
    assert (first.seed, first.n_temperatures, first.n_chains) == (3, 5, 20)


def test_base_lies_between_the_means_and_fair_coins() -> None:
    states = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    means = torch.sigmoid(base_biases(states, 0.2))
    assert means.tolist() == pytest.approx([0.9, 0.1, 0.5])
    assert base_biases(states[None].repeat(4, 1, 1)).shape == (4, 3)
    assert schedule(3).tolist() == [0.0, 0.5, 1.0]


def test_a_mean_carried_by_few_chains_is_not_reliable() -> None:
    weights = np.zeros((2, 100))
    weights[0, 0] = 12.0
    found = LogZ.from_weights(weights, n_temperatures=2, base="fields", direction="ais", seed=0)
    assert found.ess == pytest.approx([1.0, 100.0], abs=0.01)
    assert found.is_reliable.tolist() == [False, True]
    assert found.value == pytest.approx([math.log((math.exp(12) + 99) / 100), 0.0])
    assert found.error[1] == found.jackknife_error[1] == 0
    assert not Bracket(found, found).is_closed[0]
    with pytest.raises(PriorError, match="not finite"):
        LogZ.from_weights(np.full((1, 3), math.inf), n_temperatures=2, base="fields", direction="ais", seed=0)


# --- bad input --------------------------------------------------------------------------------------------------


def with_nan(machine: BoltzmannMachine) -> BoltzmannMachine:
    with torch.no_grad():
        machine.couplings[0] = math.nan
    return machine


MASK = np.isin(np.arange(8), (0, 1))
BITS = torch.zeros(1, 8)

BAD_CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ais(with_nan(tiny_machine())), "NaN"),
    (lambda: exact_log_z(with_nan(tiny_machine())), "NaN"),
    (lambda: reverse_ais(with_nan(tiny_machine()), torch.zeros(4, 8)), "NaN"),
    (lambda: ais(tiny_machine(), n_chains=0), "0 chains"),
    (lambda: reverse_ais(tiny_machine(), torch.zeros(0, 8)), "samples have shape"),
    (lambda: reverse_ais(tiny_machine(), torch.zeros(1, 8)), "1 chains"),
    (lambda: ais(tiny_machine(), n_sweeps=0), "0 sweeps"),
    (lambda: ais(tiny_machine(), betas=1), "at least 2"),
    (lambda: ais(tiny_machine(), betas=[0.0, 0.5]), "rise from exactly 0"),
    (lambda: ais(tiny_machine(), betas=[0.0, 0.7, 0.5, 1.0]), "rise from exactly 0"),
    (lambda: exact_log_z(BoltzmannMachine(bipartite_topology(25, 26))), "25 free bits remain"),
    (lambda: exact_log_z(tiny_machine(), summed=4), "partition 4"),
    (lambda: exact_log_z(tiny_machine(), clamped=np.ones(8, dtype=bool), values=BITS), "no free bits"),
    (lambda: ais(tiny_machine(), clamped=MASK), "give both"),
    (lambda: ais(tiny_machine(), values=BITS), "give both"),
    (lambda: ais(tiny_machine(), clamped=MASK[:5], values=BITS), "clamp mask"),
    (lambda: ais(tiny_machine(), clamped=MASK.astype(int), values=BITS), "clamp mask"),
    (lambda: ais(tiny_machine(), clamped=MASK, values=torch.full((1, 8), 0.5)), "must be bits"),
    (lambda: ais(tiny_machine(n_condition=2), clamped=MASK, values=BITS, condition=CONDITIONS), "must be bits"),
    (lambda: ais(tiny_machine(n_condition=2)), "needs a condition"),
    (lambda: ais(tiny_machine(), condition=CONDITIONS), "takes no condition"),
    (lambda: ais(tiny_machine(n_condition=2), condition=torch.tensor(1.0)), "one row a case"),
    (lambda: ais(tiny_machine(n_condition=2), condition=CONDITIONS[:0]), "no case"),
    (lambda: ais(tiny_machine(), base=torch.zeros(7)), "base has shape"),
    (lambda: reverse_ais(tiny_machine(), torch.full((4, 8), 0.5)), "zeros and ones"),
    (lambda: reverse_ais(tiny_machine(), torch.eye(8), clamped=MASK), "clamped bits differ"),
    (lambda: reverse_ais(tiny_machine(), torch.eye(8), clamped=MASK[:3]), "clamp mask"),
    (lambda: reverse_ais(tiny_machine(n_condition=2), torch.eye(8), condition=CONDITIONS), "samples of 1 cases"),
    (lambda: base_biases(torch.zeros(0, 8)), "the base needs states"),
    (lambda: base_biases(torch.zeros(3, 8), 0.0), "smoothing"),
    (lambda: free_energy(tiny_machine(), torch.zeros(2, 8), np.ones(8, dtype=bool)), "are coupled"),
    (lambda: free_energy(tiny_machine(), torch.zeros(2, 8), np.ones(7, dtype=bool)), "mask of summed bits"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS, ids=[f"{i}-{m}" for i, (_, m) in enumerate(BAD_CALLS)])
def test_bad_input_is_told(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        call()
