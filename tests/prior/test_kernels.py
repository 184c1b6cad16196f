"""Kernels of block Gibbs: lists, packing, exact probabilities, and the choice between them."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from llvmlite.binding import get_host_cpu_features
from scipy import stats

from calo4pqvae.errors import ConfigError, PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.pairs import pair_sums
from calo4pqvae.prior.graph.topology import Topology, bipartite_topology, complete_topology, independent_topology
from calo4pqvae.prior.kernels import choice as choices
from calo4pqvae.prior.kernels import packed
from calo4pqvae.prior.kernels.choice import KernelName, Workload, choose_kernel
from calo4pqvae.prior.kernels.packed_rows import PackedRows
from calo4pqvae.prior.kernels.packing import pack, pair_counts, unpack
from calo4pqvae.prior.kernels.squeeze import Squeeze, tabulate
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.testing import assert_samples_boltzmann, tiny_machine

CPU = torch.device("cpu")
GRAPHS = {
    "zephyr": chip_topology("zephyr", 3),
    "pegasus": chip_topology("pegasus", 3),
    "bipartite": bipartite_topology(7, 5),
    "complete": complete_topology((3, 1, 4, 2)),
    "isolated": independent_topology((3, 2)),
}


def random_machine(topology: Topology, scale: float, seed: int, n_condition: int = 0) -> BoltzmannMachine:
    machine = BoltzmannMachine(topology, n_condition)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return machine


@pytest.mark.parametrize("held", [0.0, 0.3])
@pytest.mark.parametrize("topology", GRAPHS.values(), ids=list(GRAPHS))
def test_grouped_rows_hold_the_whole_graph_once(topology: Topology, held: float) -> None:
    mask = np.random.default_rng(1).random(topology.n_nodes) < held
    rows = PackedRows.of(topology, mask)
    assert sorted(rows.nodes) == sorted(np.flatnonzero(~mask))
    parts = [
        next(p for p, nodes in enumerate(topology.slices) if node in range(nodes.start, nodes.stop))
        for node in rows.nodes
    ]
    assert parts == sorted(parts)
    found = set()
    for n_rows, row, start, stop, shift in rows.groups:
        assert len({parts[row + place] for place in range(n_rows)}) == 1
        for place in range(n_rows):
            own = slice(rows.own_offsets[row + place], rows.own_offsets[row + place + 1])
            for index in range(start, stop):
                coupler = rows.common_couplers[shift + index * n_rows + place]
                assert rows.common_rows[shift + index * n_rows + place] == row + place
                found.add((rows.nodes[row + place], rows.common[index], coupler))
            found |= set(
                zip(
                    [rows.nodes[row + place]] * (own.stop - own.start),
                    rows.own[own],
                    rows.own_couplers[own],
                    strict=True,
                )
            )
    expected = {(i, j, m) for m, (a, b) in enumerate(topology.edges) for i, j in ((a, b), (b, a)) if not mask[i]}
    assert {tuple(map(int, entry)) for entry in found} == {tuple(map(int, entry)) for entry in expected}


def test_zephyr_cells_share_their_neighbours() -> None:
    rows = PackedRows.of(chip_topology("zephyr", 4), np.zeros(576, dtype=np.bool_))
    assert (rows.groups[:, 0] == 4).all()
    assert (rows.groups[:, 3] - rows.groups[:, 2]).mean() > 12
    assert rows.largest_degree == 20


@pytest.mark.parametrize("n_chains", [1, 63, 64, 65, 200])
def test_packing_round_trips_and_counts(n_chains: int) -> None:
    topology = GRAPHS["zephyr"]
    states = torch.randint(0, 2, (n_chains, topology.n_nodes), generator=torch.Generator().manual_seed(2)).float()
    words = pack(states)
    assert words is not None
    assert torch.equal(unpack(words, n_chains), states)
    ones, both = pair_counts(words, topology.edges)
    machine = BoltzmannMachine(topology)
    assert np.array_equal(ones, states.sum(dim=0).numpy())
    assert np.array_equal(both, pair_sums(states, states, machine.neighbours).numpy())


@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, math.nan])
def test_what_is_not_a_bit_is_not_packed(value: float) -> None:
    states = torch.zeros(3, 4)
    states[1, 2] = value
    assert pack(states) is None


def test_large_statistics_are_those_of_float_sums() -> None:
    machine = BoltzmannMachine(chip_topology("zephyr", 6))
    states = torch.randint(0, 2, (700, machine.n_nodes), generator=torch.Generator().manual_seed(3)).float()
    moments = machine.sufficient_statistics(states)
    assert torch.allclose(moments.second, pair_sums(states, states, machine.neighbours) / 700, atol=1e-7)
    assert torch.allclose(moments.first, states.mean(dim=0), atol=1e-7)
    relaxed = states * 0.9
    expected = pair_sums(relaxed, relaxed, machine.neighbours) / 700
    assert torch.allclose(machine.sufficient_statistics(relaxed).second, expected)


@pytest.mark.parametrize("topology", GRAPHS.values(), ids=list(GRAPHS))
def test_forced_bits_equal_those_of_the_torch_kernel(topology: Topology) -> None:
    """Fields are odd multiples of 50, so that no draw is open: every kernel must come to the same bits."""
    machine = BoltzmannMachine(topology, n_condition=2)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(100.0 * torch.randint(-3, 4, parameter.shape, generator=generator))
        machine.biases += 50.0
    start = BlockGibbsSampler(machine).init(70, generator)
    mask = np.arange(topology.n_nodes) % 5 == 0
    condition = torch.randint(-2, 3, (70, 2), generator=generator).float()
    results = [
        BlockGibbsSampler(machine, kernel).sample(start, 3, generator, mask, condition).states
        for kernel in ("torch-sparse", "torch-dense", "packed")
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[2][:, mask], start.states[:, mask])
    assert not torch.equal(results[2], start.states)


def tail_p_values(beta: float | torch.Tensor, n_chains: int, n_calls: int) -> list[float]:
    """Isolated bits with log-odds from -13 to 13: p-values of the counts, both tails included, by the binomial law."""
    fields = torch.linspace(-13, 13, 105)
    machine = BoltzmannMachine(independent_topology((105,)))
    with torch.no_grad():
        machine.biases.copy_(fields / float(torch.as_tensor(beta).flatten()[0]))
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(7)
    counts = torch.zeros(105, dtype=torch.float64)
    for _ in range(n_calls):
        counts += sampler.sample(sampler.init(n_chains, generator), 1, generator, beta=beta).states.sum(dim=0)
    total = n_chains * n_calls
    p_values = []
    for count, field in zip(counts.tolist(), fields.tolist(), strict=True):
        rare = count if field < 0 else total - count  # the tail is where precision is lost
        p_values.append(float(stats.binomtest(int(rare), total, 1 / (1 + math.exp(abs(field)))).pvalue))
    return p_values


@pytest.mark.parametrize("beta", [1.0, torch.full((50_048,), 2.0)], ids=["one beta", "own betas"])
def test_probabilities_are_right_from_tail_to_tail(beta: float | torch.Tensor) -> None:
    p_values = tail_p_values(beta, 50_048, 20)
    assert min(p_values) > 1e-5
    assert stats.kstest(p_values, "uniform").pvalue > 1e-4


def moved(squeeze: Squeeze) -> Squeeze:
    """Brackets a little too high: 16 bits decide what they do not prove, by 0.2 % of all draws."""
    table = squeeze.coefficients.copy()
    table[0, :8] += 128
    return replace(squeeze, coefficients=table)


def rough(squeeze: Squeeze) -> Squeeze:
    """No refinement: the tails come in steps of 2**-16."""
    return replace(squeeze, width=0)


@pytest.mark.skipif(not get_host_cpu_features().get("avx512bw"), reason="this processor draws 32 bits always")
@pytest.mark.parametrize("bug", [moved, rough])
def test_brackets_that_do_not_hold_are_found(
    bug: Callable[[Squeeze], Squeeze], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "tabulate", lambda: bug(tabulate()))
    assert min(tail_p_values(1.0, 50_048, 20)) < 1e-5


@pytest.mark.parametrize("beta", [0.0, 1.0, 40.0])
def test_fields_beyond_the_exponential_are_certain(beta: float) -> None:
    machine = BoltzmannMachine(independent_topology((2,)))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([2e4, -2e4]))
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(8)
    drawn = sampler.sample(sampler.init(6400, generator), 3, generator, beta=beta).states.mean(dim=0)
    if beta:
        assert drawn.tolist() == [1.0, 0.0]
    else:
        assert (drawn - 0.5).abs().max() < 0.05


def test_the_number_of_threads_changes_nothing() -> None:
    machine = random_machine(GRAPHS["zephyr"], 0.3, seed=9)
    sampler = BlockGibbsSampler(machine, "packed")
    results = []
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            generator = torch.Generator().manual_seed(10)
            results.append(sampler.sample(sampler.init(300, generator), 7, generator).states)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("beta", [1.0, torch.ones(30_000)], ids=["one beta", "own betas"])
def test_a_huge_coupling_costs_the_others_nothing(beta: float | torch.Tensor) -> None:
    machine = tiny_machine((3, 1, 2, 2), seed=4)
    with torch.no_grad():
        machine.couplings[0] = 20_000.0
        machine.biases[machine.topology.edges[0].tolist()] -= 10_000.0
    held = np.isin(np.arange(8), machine.topology.edges[0])
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(11)
    states = sampler.init(30_000, generator).states
    states[:, held] = 1.0
    drawn = sampler.sample(GibbsState(states), 40, generator, held, beta=beta).states
    assert_samples_boltzmann(drawn, machine, clamped=held)


@pytest.mark.parametrize("size", [1e6, 1e8, 1e38])
@pytest.mark.parametrize("beta", [1.0, torch.ones(100_000)], ids=["one beta", "own betas"])
def test_pairs_that_never_meet_leave_the_other_couplings_as_they_are(size: float, beta: float | torch.Tensor) -> None:
    """A huge repulsion is silent in every state that occurs, and must not make the integer steps coarse."""
    machine = tiny_machine((3, 1, 2, 2), seed=4)
    with torch.no_grad():
        machine.couplings[0] = -size
    sampler, generator = BlockGibbsSampler(machine), torch.Generator().manual_seed(12)
    drawn = sampler.sample(sampler.init(100_000, generator), 60, generator, beta=beta).states
    assert sampler.choice is not None
    assert sampler.choice.name == ("packed" if size == 1e6 else "torch")
    assert size == 1e6 or "fallback from packed: couplings or fields of" in sampler.choice.reason
    assert_samples_boltzmann(drawn, machine)


def test_parameters_that_grow_between_calls_change_the_kernel() -> None:
    machine = random_machine(GRAPHS["zephyr"], 0.1, seed=18)
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(19)
    state = sampler.sample(sampler.init(64, generator), 1, generator)
    with torch.no_grad():
        machine.biases[0] = 1e9
    with pytest.raises(ConfigError, match="too coarse"):
        sampler.sample(state, 1, generator)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1e-6, 50.0, 1e7])
@pytest.mark.parametrize("topology", GRAPHS.values(), ids=list(GRAPHS))
def test_integer_sums_are_within_the_bound_of_the_fields(topology: Topology, scale: float) -> None:
    """Sums of the integers against those of the parameters in double precision, in units of x."""
    rows = PackedRows.of(topology, np.zeros(topology.n_nodes, dtype=np.bool_))
    rng = np.random.default_rng(12)
    couplings, fields = scale * rng.normal(size=topology.n_edges), scale * rng.normal(size=(9, topology.n_nodes))
    scaled = packed.ScaledRows.of(rows, couplings, fields.astype(np.float32))
    bits = rng.integers(0, 2, (9, topology.n_nodes))
    n_rows = len(rows.nodes)
    exact, sums = fields.copy(), scaled.fields.astype(np.int64)
    sizes = np.abs(fields).max(axis=0)
    for places, nodes, weights, integers in (
        (rows.common_rows, np.concatenate([rows.common[a:b].repeat(n) for n, _, a, b, _ in rows.groups] or [[]]),
         couplings[rows.common_couplers], scaled.common),
        (rows.own_rows, rows.own, couplings[rows.own_couplers], scaled.own),
    ):  # fmt: skip
        for chain in range(9):
            taken = bits[chain, nodes.astype(np.int64)]
            exact[chain] += np.bincount(places, weights * taken, n_rows)
            sums[chain] += np.bincount(places, integers * taken, n_rows).astype(np.int64)
        sizes += np.bincount(places, np.abs(weights), n_rows)
    assert np.abs(sums).max(initial=0) < 2**31 - 2**20
    bound = (topology.degrees[rows.nodes] + 1) * 2.0**-31 * np.maximum(1.01 * sizes, 1) + 2.0**-23 * np.abs(fields)
    assert (np.abs(sums * 2.0 ** -(scaled.shifts + 11.0) - exact) <= bound).all()


def test_auto_takes_words_for_many_chains_and_torch_for_few() -> None:
    machine = random_machine(chip_topology("zephyr", 12), 0.1, seed=14)
    sampler = BlockGibbsSampler(machine)
    generator = torch.Generator().manual_seed(15)
    sampler.sample(sampler.init(256, generator), 1, generator)
    assert sampler.choice is not None
    assert sampler.choice.name == "packed"
    assert "least estimated cost" in str(sampler.choice)
    assert choose_kernel("auto", CPU, Workload(2, 1.0, 1, 1)).name.startswith("torch")


def test_a_missing_package_is_named_in_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices.importlib.util, "find_spec", lambda _name: None)
    workload = Workload(1000, 20.0, 512, 4)
    found = choose_kernel("auto", CPU, workload)
    assert found.name == "torch"
    assert "fallback from packed: numba is not installed" in found.reason
    with pytest.raises(ConfigError, match="numba is not installed"):
        choose_kernel("packed", CPU, workload)


@pytest.mark.parametrize(("name", "words"), [("fast", "does not exist"), ("triton", "CUDA")])
def test_wrong_choices_are_refused(name: KernelName, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        choose_kernel(name, CPU, Workload(10, 2.0, 10, 2))


def test_states_spoilt_after_checking_are_refused() -> None:
    machine = random_machine(GRAPHS["zephyr"], 0.1, seed=16)
    sampler, generator = BlockGibbsSampler(machine, "packed"), torch.Generator().manual_seed(17)
    state = sampler.init(64, generator)
    state.states[3, 4] = 0.5
    with pytest.raises(PriorError, match="zeros and ones"):
        sampler.sample(state, 1, generator)


def test_costs_tell_dense_from_sparse() -> None:
    sparse = Workload(4800, 19.0, 1024, 4)
    dense = replace(sparse, n_free=50, mean_degree=40.0)
    assert sparse.costs()["torch-sparse"] < sparse.costs()["torch-dense"]
    assert dense.costs()["torch-dense"] < dense.costs()["torch-sparse"]
