from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.chains import distinct_laws
from calo4pqvae.prior.sampling.gibbs import GibbsState
from calo4pqvae.prior.sampling.samplers import SAMPLERS, Sampler, open_sampler, with_values
from calo4pqvae.testing import assert_samples_boltzmann, tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def opened(name: str, machine: BoltzmannMachine) -> Sampler[Any]:
    options: dict[str, object] = {}
    if name == "trajectory":
        options["checkpoints"] = [BoltzmannMachine(machine.topology, machine.n_condition).to(machine.device)]
    return open_sampler(name, machine, **options)


@pytest.fixture(params=list(SAMPLERS))
def sampler(request: pytest.FixtureRequest) -> Sampler[Any]:
    return opened(request.param, tiny_machine())


def test_names_are_those_of_the_protocol() -> None:
    assert list(SAMPLERS) == ["gibbs", "annealed", "tempering", "trajectory", "exact", "treewidth"]


def test_states_are_bits_and_the_start_is_untouched(sampler: Sampler[Any]) -> None:
    start = sampler.init(20, seeded())
    before = start.states.clone()
    state = sampler.sample(start, 3, seeded(1))
    assert state.states.shape == (20, sampler.machine.n_nodes)
    assert state.states.dtype == torch.float32
    assert state.n_chains == 20
    assert set(state.states.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(start.states, before)
    assert torch.equal(sampler.sample(start, 3, seeded(1)).states, state.states)
    assert not torch.equal(sampler.sample(start, 3, seeded(2)).states, state.states)


def test_held_bits_keep_the_values_of_their_chain(sampler: Sampler[Any]) -> None:
    mask = torch.arange(8) % 3 == 0
    values = torch.randint(0, 2, (30, 8), generator=seeded(3)).float()
    start = with_values(sampler.init(30, seeded()), mask, values)
    for clamped in (mask, mask.numpy()):
        states = sampler.sample(start, 4, seeded(1), clamped).states
        assert torch.equal(states[:, mask], values[:, mask])
    everything = torch.ones(8, dtype=torch.bool)
    assert torch.equal(sampler.sample(start, 4, seeded(1), everything).states, start.states)


def test_changed_parameters_are_seen_by_the_next_call(sampler: Sampler[Any]) -> None:
    state = sampler.sample(sampler.init(10, seeded()), 2, seeded())
    with torch.no_grad():
        sampler.machine.biases.fill_(1000.0)
    assert sampler.sample(state, 2, seeded()).states.min() == 1


BAD_CALLS: list[tuple[Callable[[Sampler[Any], Any], object], str]] = [
    (lambda s, _: s.init(0, seeded()), "0 chains"),
    (lambda s, x: s.sample(x, -1, seeded()), "-1 sweeps"),
    (lambda s, x: s.sample(x, 1, seeded(), np.zeros(7, dtype=bool)), "mask"),
    (lambda s, x: s.sample(x, 1, seeded(), np.zeros(8)), "boolean"),
    (lambda s, x: s.sample(x, 1, seeded(), condition=torch.zeros(3, 2)), "3 conditions for 4"),
    (lambda s, x: s.sample(x, 1, seeded(), condition=torch.zeros(4, 2)), "takes no condition"),
]


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_bad_calls_are_refused(
    sampler: Sampler[Any], call: Callable[[Sampler[Any], Any], object], message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        call(sampler, sampler.init(4, seeded()))


@pytest.mark.parametrize("name", SAMPLERS)
def test_machines_with_nan_or_without_their_condition_are_refused(name: str) -> None:
    sampler = opened(name, tiny_machine(n_condition=2))
    state = sampler.init(4, seeded())
    with pytest.raises(PriorError, match="needs a condition"):
        sampler.sample(state, 1, seeded())
    with pytest.raises(PriorError, match="condition"):
        sampler.sample(state, 1, seeded(), condition=torch.zeros(4, 3))
    with torch.no_grad():
        sampler.machine.couplings[0] = float("nan")
    with pytest.raises(PriorError, match="NaN"):
        sampler.sample(state, 1, seeded(), condition=torch.zeros(4, 2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_chains_of_another_machine_are_refused(name: str) -> None:
    other = opened(name, tiny_machine((2, 1, 2, 2)))
    with pytest.raises(PriorError, match="7 bits"):
        opened(name, tiny_machine()).sample(other.init(3, seeded()), 1, seeded())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("metropolis", {}, "no sampler 'metropolis'; choose from gibbs, annealed"),
        ("annealed", {"steps": 3}, "no option 'steps'; it has n_steps"),
        ("exact", {"kernel": "auto"}, "no option 'kernel'; it has none"),
        ("trajectory", {}, "needs earlier machines"),
        ("trajectory", {"checkpoints": []}, "needs earlier machines"),
    ],
)
def test_unknown_names_and_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(PriorError, match=message):
        open_sampler(name, tiny_machine(), **options)


def test_with_values_sets_only_what_is_held() -> None:
    state = GibbsState(torch.zeros(3, 4))
    mask = torch.tensor([True, False, True, False])
    assert with_values(state, mask, torch.ones(4)).states.tolist() == [[1, 0, 1, 0]] * 3
    own = torch.tensor([[0.0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]])
    assert with_values(state, mask, own).states.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert state.states.sum() == 0
    for mask_or_values in ((mask[:3], torch.ones(4)), (mask, torch.ones(3)), (mask, torch.full((4,), 0.5))):
        with pytest.raises(PriorError):
            with_values(state, *mask_or_values)


def test_chains_of_one_law_are_grouped() -> None:
    states = torch.tensor([[0.0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 1, 0]])
    mask = torch.tensor([True, False, False])
    member, group = distinct_laws(states, mask, None)
    assert member.tolist() == [0, 1]
    assert group.tolist() == [0, 1, 0, 0]
    condition = torch.tensor([[0.5], [0.5], [0.5], [-2.0]])
    member, group = distinct_laws(states, mask, condition)
    assert group[0] == group[2]
    assert len(set(group.tolist())) == len(member) == 3
    assert [group[chain].item() for chain in member.tolist()] == [0, 1, 2]
    assert distinct_laws(states, torch.zeros(3, dtype=torch.bool), None)[1].tolist() == [0, 0, 0, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_follow_the_law_on_a_gpu(name: str) -> None:
    machine = tiny_machine(n_condition=1).to("cuda")
    sampler, generator = opened(name, machine), torch.Generator("cuda").manual_seed(0)
    mask, condition = torch.arange(8) == 2, torch.tensor([0.4])
    start = with_values(sampler.init(20_000, generator), mask, torch.ones(8))
    states = sampler.sample(start, 40, generator, mask, condition.repeat(20_000, 1).to("cuda")).states
    assert states.device.type == "cuda"
    assert_samples_boltzmann(states, tiny_machine(n_condition=1), clamped=mask, condition=condition)
