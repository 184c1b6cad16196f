import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.config import Config, load_config
from calo4pqvae.errors import DataError, PriorError
from calo4pqvae.models.qvae.latent_prior import LatentPrior, build_topology, independent_baseline
from calo4pqvae.prior.graph.topology import Topology, complete_topology
from calo4pqvae.testing import all_states, assert_samples_boltzmann

LEVELS = (2, 3, 2)  # unequal partitions
CODE = 3
ENERGIES = [1e3, 7e3, 9e4, 9e5]


def settings(mode: str, *overrides: str) -> Config:
    return load_config(None, [f"condition.mode={mode}", f"condition.bits={CODE}", *overrides])


def clamped_topology() -> Topology:
    """A graph with a hole: the first condition node is coupled to one level only."""
    edges = [(i, j) for i, j in complete_topology((CODE, *LEVELS)).edges.tolist() if i != 0 or j < 6]
    return Topology("holed", (CODE, *LEVELS), np.array(edges))


def clamped_prior(code: str = "thermometer") -> LatentPrior:
    prior = LatentPrior(settings("clamp", f"condition.code={code}"), clamped_topology())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(0.8 * torch.randn(parameter.shape, generator=generator))
    return prior


def folded_copy(prior: LatentPrior) -> LatentPrior:
    """The folded machine with the same conditional law: A_ai is the coupler between condition node a and node i."""
    edges = prior.topology.edges.tolist()
    couplings = dict(zip([tuple(edge) for edge in edges], prior.machine.couplings.tolist(), strict=True))
    inner = [(i, j) for i, j in couplings if i >= CODE]
    topology = Topology("folded", LEVELS, np.array(inner) - CODE)
    overrides = [f"condition.code={prior.code.kind}"]
    folded = LatentPrior(settings("fold", *overrides), topology)
    assert folded.machine.condition_weights is not None
    with torch.no_grad():
        folded.machine.biases.copy_(prior.machine.biases[CODE:])
        values = [couplings[int(i) + CODE, int(j) + CODE] for i, j in topology.edges]
        folded.machine.couplings.copy_(torch.tensor(values))
        for (a, i), value in couplings.items():
            if a < CODE:
                folded.machine.condition_weights[a, i - CODE] = value
    return folded


def conditional_law(prior: LatentPrior, energy: float) -> Tensor:
    states = all_states(prior.n_bits)
    with torch.no_grad():
        return torch.softmax(-prior.energy(states, torch.full((len(states), 1), energy)).double(), dim=0)


def law_by_hand(prior: LatentPrior, energy: float) -> Tensor:
    """p(z | c) of the clamped machine with plain loops."""
    code = prior.code.encode(torch.tensor([[energy]]))[0].tolist()
    biases = prior.machine.biases.tolist()
    couplings = list(zip(prior.topology.edges.tolist(), prior.machine.couplings.tolist(), strict=True))
    weights = []
    for bits in itertools.product((0, 1), repeat=sum(LEVELS)):
        state = [*code, *bits]
        exponent = sum(b * z for b, z in zip(biases, state, strict=True))
        exponent += sum(w * state[i] * state[j] for (i, j), w in couplings)
        weights.append(math.exp(exponent))
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


@pytest.mark.parametrize("code", ["thermometer", "gray"])
@pytest.mark.parametrize("energy", ENERGIES)
def test_clamped_and_folded_machines_have_the_same_conditional_law(code: str, energy: float) -> None:
    prior = clamped_prior(code)
    expected = law_by_hand(prior, energy)
    torch.testing.assert_close(conditional_law(prior, energy), expected, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(conditional_law(folded_copy(prior), energy), expected, rtol=1e-4, atol=1e-8)


def test_the_law_depends_on_the_energy() -> None:
    prior = clamped_prior()
    laws = [conditional_law(prior, energy) for energy in ENERGIES]
    assert all(float((first - second).abs().sum() / 2) > 0.05 for first, second in itertools.combinations(laws, 2))


@pytest.mark.parametrize("mode", ["clamp", "fold"])
def test_samples_follow_the_law_at_their_own_energy(mode: str) -> None:
    prior = clamped_prior() if mode == "clamp" else folded_copy(clamped_prior())
    n, energies = 4000, (1.5e3, 8e5)
    incident = torch.tensor(energies).repeat(n)[:, None]  # both energies in one batch, one after the other
    bits = prior.sample(incident, 40, torch.Generator().manual_seed(1))
    assert bits.shape == (2 * n, sum(LEVELS))

    def check(drawn: Tensor, energy: float) -> None:
        column = torch.full((len(drawn), 1), energy)
        states = prior.states(drawn, column).float()
        condition = prior.condition(column[:1])
        assert_samples_boltzmann(
            states,
            prior.machine,
            clamped=prior.clamped if mode == "clamp" else None,
            condition=None if condition is None else condition[0],
        )

    for index, energy in enumerate(energies):
        check(bits[index::2], energy)
    with pytest.raises(AssertionError):
        check(bits[0::2], energies[1])


def test_samples_are_reproducible_and_need_an_energy_in_range() -> None:
    prior = clamped_prior()
    incident = torch.tensor([[2e3], [5e4]])
    first = prior.sample(incident, 5, torch.Generator().manual_seed(1))
    assert torch.equal(prior.sample(incident, 5, torch.Generator().manual_seed(1)), first)
    for mode_prior in (prior, folded_copy(prior)):
        with pytest.raises(DataError, match="incident energy 2e\\+06 MeV is outside"):
            mode_prior.sample(torch.tensor([[2e6]]), 5, torch.Generator().manual_seed(1))


def test_levels_are_the_partitions_behind_the_condition() -> None:
    prior = clamped_prior()
    folded = folded_copy(prior)
    for one in (prior, folded):
        assert one.level_sizes == LEVELS
        assert one.n_bits == sum(LEVELS)
    assert prior.clamped.tolist() == [True] * CODE + [False] * sum(LEVELS)
    assert not folded.clamped.any()
    bits = all_states(sum(LEVELS))[:5]
    incident = torch.tensor([[1e3], [1e6], [3e4], [1e5], [9e5]])
    states = prior.states(bits, incident)
    assert torch.equal(states[:, :CODE], prior.code.encode(incident))
    assert torch.equal(states[:, CODE:], bits)
    assert torch.equal(prior.latents(states), bits)
    assert prior.condition(incident) is None
    assert torch.equal(folded.states(bits, incident), bits)
    assert torch.equal(folded.latents(bits), bits)
    condition = folded.condition(incident)
    assert condition is not None
    assert torch.equal(condition, folded.code.encode(incident))


def test_energy_is_differentiable_in_relaxed_bits() -> None:
    prior = clamped_prior()
    bits = torch.full((1, sum(LEVELS)), 0.3, requires_grad=True)
    incident = torch.tensor([[2e4]])
    prior.energy(bits, incident).sum().backward()  # type: ignore[no-untyped-call]
    fields = prior.machine.local_fields(prior.states(bits.detach(), incident))
    torch.testing.assert_close(bits.grad, -fields[:, CODE:])


@pytest.mark.parametrize(("mode", "sizes"), [("clamp", (3, 2, 2)), ("fold", (3, 2, 2, 2))])
def test_a_graph_with_the_wrong_number_of_partitions_is_refused(mode: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(PriorError, match=f"has {len(sizes)} partitions, but 3 levels .* change latent.levels"):
        LatentPrior(settings(mode), complete_topology(sizes))


@pytest.mark.parametrize("mode", ["clamp", "fold"])
def test_baseline_has_the_same_bits_and_no_couplings(mode: str) -> None:
    prior = clamped_prior() if mode == "clamp" else folded_copy(clamped_prior())
    means = torch.linspace(0.1, 0.9, sum(LEVELS))
    baseline = independent_baseline(prior, settings(mode), means)
    assert baseline.topology.n_edges == 0
    assert baseline.level_sizes == LEVELS
    law = conditional_law(baseline, 2e4)
    found = law @ all_states(sum(LEVELS)).double()
    torch.testing.assert_close(found, means.double(), rtol=0, atol=2e-3)
    torch.testing.assert_close(conditional_law(baseline, 9e5), law)


@pytest.mark.parametrize("graph", ["zephyr", "pegasus", "complete", "independent"])
@pytest.mark.parametrize(("mode", "levels"), [("clamp", 3), ("clamp", 1), ("fold", 4)])
def test_graph_has_the_sizes_of_the_settings(graph: str, mode: str, levels: int) -> None:
    overrides = [f"prior.graph={graph}", f"latent.levels={levels}", "latent.bits_per_level=20", "latent.factors=3"]
    config = load_config(None, [*overrides, f"condition.mode={mode}"])
    topology = build_topology(config)
    assert topology.sizes == (20,) * (levels + (mode == "clamp"))
    assert (topology.n_edges > 0) == (graph != "independent")
    prior = LatentPrior(config, topology)
    assert prior.level_sizes == (20,) * levels
    assert prior.code.n_bits == (20 if mode == "clamp" else 32)


def test_condition_may_have_fewer_bits_than_a_level() -> None:
    config = load_config(None, ["latent.bits_per_level=20", "condition.bits=9"])
    assert build_topology(config).sizes == (9, 20, 20, 20)


@pytest.mark.parametrize(("graph", "m", "bits"), [("zephyr", 1, 12), ("zephyr", 2, 13), ("pegasus", 3, 32)])
def test_the_smallest_chip_is_taken(graph: str, m: int, bits: int) -> None:
    config = load_config(None, [f"prior.graph={graph}", f"latent.bits_per_level={bits}", "latent.factors=2"])
    same = config.replace({"prior.size": m})
    assert build_topology(config) == build_topology(same)
    if m > 1:
        with pytest.raises(PriorError):
            build_topology(config.replace({"prior.size": m - 1}))


def test_a_whole_chip_gives_the_levels_its_own_sizes() -> None:
    config = load_config(None, ["prior.whole_chip=true", "prior.size=2", "latent.factors=2"])
    topology = build_topology(config)
    assert topology.n_nodes == 160
    prior = LatentPrior(config, topology)
    assert sum(prior.level_sizes) + prior.code.n_bits == 160


def test_graphs_that_cannot_be_had_are_refused() -> None:
    with pytest.raises(PriorError, match=r"whole_chip needs prior\.size"):
        build_topology(load_config(None, ["prior.whole_chip=true"]))
    with pytest.raises(PriorError, match="no chip up to m = 30 holds partitions of 100000 bits"):
        build_topology(load_config(None, ["latent.bits_per_level=100000"]))
