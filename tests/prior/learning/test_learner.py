import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import CheckpointError, ConfigError, PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.learning.constraints import ProgrammableRange
from calo4pqvae.prior.learning.gradients import twin_covariance
from calo4pqvae.prior.learning.learner import LearningSettings, PriorLearner
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.prior.sampling.persistent import PersistentChains
from calo4pqvae.testing import tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(machine: BoltzmannMachine, n: int, seed: int = 0) -> Tensor:
    law = enumerate_machine(machine)
    return law.states()[torch.multinomial(law.probabilities, n, replacement=True, generator=seeded(seed))].float()


def student_of(teacher: BoltzmannMachine, data: Tensor) -> BoltzmannMachine:
    student = BoltzmannMachine(teacher.topology, teacher.n_condition)
    student.initialise(data.mean(0), 0.01, seeded(1))
    return student


def learner_with_everything(optimizer: str = "sgd", seed: int = 3) -> PriorLearner:
    machine = tiny_machine(seed=1, n_condition=2)
    settings = LearningSettings(
        learning_rate=0.05,
        learning_rate_final=0.01,
        n_sweeps=3,
        n_chains=20,
        optimizer=optimizer,
        weight_decay=1e-3,
        refresh=0.2,
    )
    return PriorLearner(machine, settings, seeded(seed), machine.topology.is_in_partition(0), n_steps=10)


def restricted_teacher() -> BoltzmannMachine:
    """Five visible bits that are correlated through three hidden ones."""
    machine = BoltzmannMachine(bipartite_topology(5, 3))
    with torch.no_grad():
        strengths = 2.5 * torch.randn(5, 3, generator=seeded(3))
        machine.couplings.copy_(strengths.flatten())
        machine.biases.copy_(-torch.cat([strengths.sum(1), strengths.sum(0)]) / 2 + 0.2)
    return machine


def visible_law(machine: BoltzmannMachine) -> Tensor:
    """Probabilities of the states of the five visible bits."""
    return enumerate_machine(machine).probabilities.view(32, 8).sum(1)


def batches(n: int) -> list[tuple[Tensor, Tensor]]:
    generator = seeded(5)
    return [
        (torch.randint(0, 2, (16, 8), generator=generator).float(), torch.randn(16, 2, generator=generator))
        for _ in range(n)
    ]


@pytest.mark.parametrize("method", ["pcd", "cd"])
@pytest.mark.parametrize("gradient", ["plain", "centred"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_coupling_moves_in_one_step_and_no_other_exists(method: str, gradient: str, optimizer: str) -> None:
    machine = BoltzmannMachine(chip_topology("zephyr", 2, 20), n_condition=1)
    settings = LearningSettings(method=method, gradient=gradient, optimizer=optimizer, n_sweeps=2, n_chains=101)
    learner = PriorLearner(machine, settings, seeded())
    before = {name: value.clone() for name, value in machine.named_parameters()}
    data = (torch.rand(97, 80, generator=seeded(1)) < 0.9).float()
    learner.step(data, torch.randn(97, 1, generator=seeded(2)))
    for name, value in machine.named_parameters():
        assert value.shape == before[name].shape
        assert (value != before[name]).all(), name
    assert machine.couplings.numel() == machine.topology.n_edges


@pytest.mark.parametrize("gradient", ["plain", "centred"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_biases_of_clamped_bits_never_move_and_their_couplers_do(gradient: str, optimizer: str) -> None:
    machine = tiny_machine(seed=1)
    settings = LearningSettings(gradient=gradient, optimizer=optimizer, n_sweeps=2, n_chains=50)
    learner = PriorLearner(machine, settings, seeded(), machine.topology.is_in_partition(0))
    biases, couplings = machine.biases.clone(), machine.couplings.clone()
    for states, _ in batches(4):
        learner.step(states)
    assert torch.equal(machine.biases[:3], biases[:3])
    assert (machine.biases[3:] != biases[3:]).all()
    assert (machine.couplings != couplings).all()


@pytest.mark.parametrize("gradient", ["plain", "centred"])
def test_persistent_chains_recover_the_moments_of_a_teacher(gradient: str) -> None:
    teacher = tiny_machine(seed=2)
    data = draws(teacher, 4000)
    student = student_of(teacher, data)
    settings = LearningSettings(
        learning_rate=0.5, learning_rate_final=0.02, n_sweeps=3, n_chains=1000, gradient=gradient
    )
    learner = PriorLearner(student, settings, seeded(2), n_steps=300)
    start = (enumerate_machine(student).second - student.sufficient_statistics(data).second).abs().max()
    for step in range(300):
        report = learner.step(data[(step % 4) * 1000 : (step % 4 + 1) * 1000])
    law, moments = enumerate_machine(student), student.sufficient_statistics(data)
    assert start > 0.05
    assert (law.first - moments.first).abs().max() < 0.02
    assert (law.second - moments.second).abs().max() < 0.02
    assert abs(report.energy_gap) < 0.3
    assert report.step == 300


def test_conditional_learning_recovers_the_law_given_clamped_bits_and_condition() -> None:
    """The events' own clamped bits are far from any machine's; only the conditional law can be learned."""
    teacher = tiny_machine(seed=2, n_condition=1)
    held = teacher.topology.is_in_partition(0)
    n, generator = 6000, seeded(4)
    states = BlockGibbsSampler(teacher).init(n, generator).states
    states[:, :3] = (torch.rand(n, 3, generator=generator) < torch.tensor([0.85, 0.3, 0.6])).float()
    condition = torch.randint(0, 2, (n, 1), generator=generator) * 2.0 - 1.0
    data = BlockGibbsSampler(teacher).sample(GibbsState(states), 40, generator, held, condition).states
    student = student_of(teacher, data)
    settings = LearningSettings(learning_rate=0.6, learning_rate_final=0.02, n_sweeps=3, n_chains=1500, refresh=0.1)
    learner = PriorLearner(student, settings, seeded(6), held, n_steps=400)
    for step in range(400):
        rows = slice((step % 4) * 1500, (step % 4 + 1) * 1500)
        learner.step(data[rows], condition[rows])
    mask, worst = torch.from_numpy(held), 0.0
    for bits in ((1, 0, 1), (1, 1, 0), (0, 0, 1)):
        for value in (-1.0, 1.0):
            values = torch.tensor([*bits, 0, 0, 0, 0, 0])
            laws = [enumerate_machine(m, torch.tensor([value]), mask, values) for m in (teacher, student)]
            worst = max(worst, float((laws[0].first - laws[1].first).abs().max()))
    assert worst < 0.08
    with torch.no_grad():
        assert student.condition_weights[:, :3].abs().max() == 0


@pytest.mark.parametrize(("method", "rao_blackwell"), [("pcd", False), ("pcd", True), ("pt", True), ("cd", True)])
def test_hidden_bits_learn_the_law_of_the_visible_ones(method: str, rao_blackwell: bool) -> None:
    teacher = restricted_teacher()
    data = draws(teacher, 4000)[:, :5]
    student = BoltzmannMachine(teacher.topology)
    student.initialise(torch.cat([data.mean(0), torch.full((3,), 0.5)]), 0.5, seeded(1))
    settings = LearningSettings(
        learning_rate=2.0,
        learning_rate_final=0.1,
        n_sweeps=20 if method == "cd" else 3,
        n_chains=1000,
        method=method,
        rao_blackwell=rao_blackwell,
        n_temperatures=3,
    )
    hidden = student.topology.is_in_partition(1)
    learner = PriorLearner(student, settings, seeded(2), n_steps=400, hidden=hidden)

    def divergence() -> float:
        """Kullback-Leibler divergence of the student from the teacher over the visible bits."""
        law = visible_law(teacher)
        return float((law * (law / visible_law(student)).log()).sum())

    start = divergence()
    for step in range(400):
        report = learner.step(data[(step % 4) * 1000 : (step % 4 + 1) * 1000])
    assert start > 0.2
    assert divergence() < 0.03
    assert abs(report.energy_gap) < 0.4


def test_one_step_with_hidden_bits_follows_the_gradient_of_their_likelihood() -> None:
    """Many chains at the law, one step: the parameters move along autograd through the enumerated likelihood."""
    machine = restricted_teacher()
    data = torch.randint(0, 2, (40, 5), generator=seeded(5)).float()
    biases, couplings = (value.detach().double().clone().requires_grad_() for value in machine.parameters())
    states = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 8)
    ends = torch.from_numpy(machine.topology.edges.copy())
    weights = (states @ biases + (states[:, ends[:, 0]] * states[:, ends[:, 1]]) @ couplings).view(32, 8)
    log_law = weights.logsumexp(1) - weights.logsumexp((0, 1))
    log_law[(data.long() @ torch.tensor([16, 8, 4, 2, 1]))].mean().backward()
    before = [value.detach().clone() for value in machine.parameters()]
    settings = LearningSettings(learning_rate=1.0, n_chains=100_000, n_sweeps=20, gradient="plain", rao_blackwell=True)
    PriorLearner(machine, settings, seeded(6), hidden=machine.topology.is_in_partition(1)).step(data)
    for old, new, slope in zip(before, machine.parameters(), (biases.grad, couplings.grad), strict=True):
        torch.testing.assert_close((new.detach() - old).double(), slope, atol=0.008, rtol=0)
        assert (new - old).abs().max() > 0.05


def test_tempered_chains_find_the_mode_that_plain_chains_do_not_leave() -> None:
    """Two modes behind a wall; all chains start in one of them, and only tempered ones come to the other."""
    machine = BoltzmannMachine(bipartite_topology(4, 4))
    with torch.no_grad():
        machine.couplings.fill_(6.0)
        machine.biases.fill_(-12.0)
    assert enumerate_machine(machine).first[0].item() == pytest.approx(0.5, abs=1e-3)
    shares = {}
    for method in ("pcd", "pt"):
        settings = LearningSettings(
            learning_rate=1e-9, method=method, n_chains=200, n_sweeps=150, n_temperatures=8, hottest=0.0
        )
        learner = PriorLearner(machine, settings, seeded(1))
        learner.step(torch.ones(50, 8))
        shares[method] = float(learner.chains.state.states.mean())
    assert shares["pcd"] > 0.98
    assert abs(shares["pt"] - 0.5) < 0.15


@pytest.mark.parametrize("method", ["pcd", "pt"])
def test_a_resumed_learner_with_hidden_bits_and_growing_sweeps_goes_on_bit_for_bit(method: str) -> None:
    def make() -> PriorLearner:
        machine = restricted_teacher()
        settings = LearningSettings(
            method=method,
            n_temperatures=3,
            n_sweeps=1,
            n_chains=30,
            rao_blackwell=True,
            measure_every=2,
            measure_sweeps=40,
            sweeps_growth=2.0,
        )
        return PriorLearner(machine, settings, seeded(3), hidden=machine.topology.is_in_partition(1))

    data = [torch.randint(0, 2, (16, 5), generator=seeded(step)).float() for step in range(7)]
    whole, first, second = make(), make(), make()
    sweeps = [whole.step(batch).n_sweeps for batch in data]
    for batch in data[:3]:
        first.step(batch)
    second.machine.load_state_dict({name: value.clone() for name, value in first.machine.state_dict().items()})
    second.load_state_dict(first.state_dict())
    for batch in data[3:]:
        second.step(batch)
    assert sweeps[-1] > sweeps[0] == 1
    for name, tensor in (whole.machine.state_dict() | whole.state_dict()).items():
        assert torch.equal(tensor, (second.machine.state_dict() | second.state_dict())[name]), name


def test_measuring_does_not_change_what_is_learned() -> None:
    def learned(measure_every: int) -> tuple[Tensor, list[bool]]:
        machine = tiny_machine(seed=1)
        settings = LearningSettings(n_sweeps=2, n_chains=20, measure_every=measure_every, measure_sweeps=30)
        learner = PriorLearner(machine, settings, seeded(3))
        seen = [learner.step(states).mixing is not None for states, _ in batches(4)]
        return machine.couplings.detach().clone(), seen

    plain, measured = learned(0), learned(2)
    assert torch.equal(plain[0], measured[0])
    assert plain[1] == [False] * 4
    assert measured[1] == [False, True, False, True]


@pytest.mark.parametrize("gradient", ["mean-energy", "mean-field"])
def test_historical_gradients_move_the_machine_and_do_not_rest_at_the_teacher(gradient: str) -> None:
    """Started at the law of the data, the contrastive gradient stays within noise and these go away."""
    drift = {}
    for form in ("plain", gradient):
        machine = tiny_machine(seed=2)
        data = draws(tiny_machine(seed=2), 4000)
        start = machine.couplings.detach().clone()
        settings = LearningSettings(learning_rate=0.3, n_sweeps=3, n_chains=1000, gradient=form)
        learner = PriorLearner(machine, settings, seeded(1))
        for _ in range(60):
            learner.step(data)
        drift[form] = float((machine.couplings.detach() - start).abs().mean())
    assert drift["plain"] < 0.12
    assert (drift[gradient] > 3 * drift["plain"]) == (gradient == "mean-energy")


def test_twins_of_a_clamped_machine_have_the_covariance_at_fixed_clamped_bits() -> None:
    """Against enumeration at each clamped state; one chain beside itself would give 0, all chains together too much."""
    machine = tiny_machine(seed=4, coupling_std=1.0)
    law, held = enumerate_machine(machine), machine.topology.is_in_partition(0)
    states, energies = law.states().double().numpy(), machine.energy(law.states().float()).detach().double().numpy()
    events = torch.tensor([[0, 0], [1, 1]]).repeat(50, 4).float()
    expected = np.zeros(8)
    for event in events[:2].numpy():
        inside = (states[:, held] == event[held]).all(axis=1)
        weights = law.probabilities.double().numpy() * inside
        weights /= weights.sum()
        mean = weights @ energies
        expected += (weights * (energies - mean)) @ states / 2
    settings = LearningSettings(learning_rate=1e-9, n_sweeps=3, n_chains=400, gradient="mean-energy", refresh=0.01)
    learner = PriorLearner(machine, settings, seeded(2), held)
    found = []
    for _ in range(120):
        learner.step(events)
        assert learner.chains is not None
        assert learner.twins is not None
        ours, theirs = learner.chains.state.states, learner.twins.state.states
        assert torch.equal(ours[:, held], theirs[:, held])
        found.append(twin_covariance(machine, ours, theirs).first.double().numpy())
    error = np.std(found, axis=0) / math.sqrt(len(found) / 4)  # records are correlated over a few steps
    assert np.abs(expected[~held]).max() > 20 * error.max()
    assert (np.abs(np.mean(found, axis=0) - expected)[~held] < 5 * error[~held]).all()
    assert not np.any(np.mean(found, axis=0)[held])


def test_a_resumed_learner_has_its_twins() -> None:
    def learner() -> PriorLearner:
        machine = tiny_machine(seed=1, n_condition=2)
        settings = LearningSettings(n_sweeps=2, n_chains=20, refresh=0.2, gradient="mean-energy")
        return PriorLearner(machine, settings, seeded(3), machine.topology.is_in_partition(0))

    steps, whole, first, second = batches(6), learner(), learner(), learner()
    for step in steps:
        whole.step(*step)
    for step in steps[:3]:
        first.step(*step)
    second.machine.load_state_dict({name: value.clone() for name, value in first.machine.state_dict().items()})
    second.load_state_dict(first.state_dict())
    for step in steps[3:]:
        second.step(*step)
    assert torch.equal(whole.machine.couplings, second.machine.couplings)
    assert torch.equal(whole.machine.condition_weights, second.machine.condition_weights)


def test_parameters_stay_where_an_annealer_can_be_programmed() -> None:
    machine = tiny_machine(seed=1, coupling_std=3.0)
    limits = ProgrammableRange((-0.2, 0.1), (-0.5, 0.5))
    settings = LearningSettings(learning_rate=0.5, n_sweeps=1, n_chains=20, programmable=limits, max_norm=5.0, l1=0.01)
    learner = PriorLearner(machine, settings, seeded())
    for states, _ in batches(3):
        learner.step(states)
    assert machine.couplings.min() >= -0.4 - 1e-6
    assert machine.couplings.max() <= 0.8 + 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_learner_goes_on_bit_for_bit(optimizer: str) -> None:
    steps = batches(7)
    whole = learner_with_everything(optimizer)
    for states, condition in steps:
        whole.step(states, condition)
    first = learner_with_everything(optimizer)
    for states, condition in steps[:3]:
        first.step(states, condition)
    parameters, state = first.machine.state_dict(), first.state_dict()
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    second = learner_with_everything(optimizer, seed=99)
    second.machine.load_state_dict({name: value.clone() for name, value in parameters.items()})
    second.load_state_dict(state)
    for states, condition in steps[3:]:
        report = second.step(states, condition)
    for name, value in whole.machine.named_parameters():
        assert torch.equal(value, dict(second.machine.named_parameters())[name]), name
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert report.step == 7


def test_learning_rate_falls_geometrically() -> None:
    learner = learner_with_everything()
    rates = [learner.step(*batch).learning_rate for batch in batches(12)]
    assert rates[0] == 0.05
    assert rates[5] == pytest.approx(math.sqrt(0.05 * 0.01))
    assert rates[10] == rates[11] == pytest.approx(0.01)


def test_weight_decay_acts_on_couplings_only() -> None:
    """With every bit held the gradient is zero, and what moves is the decay alone."""
    machine = tiny_machine(seed=1)
    everything = np.ones(8, dtype=bool)
    settings = LearningSettings(method="cd", learning_rate=0.1, weight_decay=0.5, n_sweeps=1)
    biases, couplings = machine.biases.clone(), machine.couplings.clone()
    PriorLearner(machine, settings, seeded(), everything).step(batches(1)[0][0])
    torch.testing.assert_close(machine.couplings, couplings * (1 - 0.1 * 0.5))
    assert torch.equal(machine.biases, biases)


def test_one_negative_phase_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = BlockGibbsSampler.sample

    def counted(self: BlockGibbsSampler, *arguments: object, **named: object) -> GibbsState:
        calls.append(arguments[1])
        return original(self, *arguments, **named)

    monkeypatch.setattr(BlockGibbsSampler, "sample", counted)
    learner = learner_with_everything()
    for batch in batches(3):
        learner.step(*batch)
    assert calls == [3, 3, 3]


def test_chains_keep_the_clamped_bits_and_condition_of_their_own_event() -> None:
    """Condition and clamped bits of each event are tied; after many steps each chain must still have a true pair."""
    machine = tiny_machine(seed=1, n_condition=1)
    settings = LearningSettings(n_sweeps=2, n_chains=30, refresh=0.1)
    learner = PriorLearner(machine, settings, seeded(), machine.topology.is_in_partition(0))
    generator, seen = seeded(7), set()
    for _ in range(25):
        states = torch.randint(0, 2, (8, 8), generator=generator).float()
        learner.step(states, states[:, :3] @ torch.tensor([[4.0], [2.0], [1.0]]))
        chains = learner.chains
        assert torch.equal(chains.state.states[:, :3] @ torch.tensor([4.0, 2.0, 1.0]), chains.condition[:, 0])
        seen |= set(chains.condition[:, 0].tolist())
    assert seen == set(map(float, range(8)))


def test_refresh_takes_the_oldest_chains_first_and_all_in_turn() -> None:
    old = GibbsState(torch.zeros(5, 8))
    new = GibbsState(torch.ones(2, 8))
    chains = PersistentChains.start(old, None, 5, seeded())
    replaced = []
    for _ in range(3):
        chains = chains.refresh(new, None, 2, seeded())
        replaced.append(int(chains.state.states[:, 0].sum()))
    assert replaced == [2, 4, 5]
    assert chains.oldest == 1


def test_chains_start_at_all_events_evenly() -> None:
    events = GibbsState(torch.eye(8)[:4])
    chains = PersistentChains.start(events, None, 10, seeded())
    counts = chains.state.states.sum(0)[:4].tolist()
    assert sorted(counts) == [2, 2, 3, 3]


def test_unconditioned_chains_are_never_replaced() -> None:
    machine = tiny_machine(seed=1)
    learner = PriorLearner(machine, LearningSettings(n_sweeps=1, n_chains=12, refresh=0.5), seeded())
    for states, _ in batches(3):
        learner.step(states)
    assert learner.chains.oldest == 0


def test_two_processes_see_the_moments_and_energies_of_both_batches() -> None:
    """Each half's tensors are recorded first; a third learner gets the mean of both for each tensor in turn."""
    halves = [batch[0] for batch in batches(2)]
    settings = LearningSettings(method="cd", n_sweeps=1)
    records: list[list[Tensor]] = []

    def recorded(tensor: Tensor) -> Tensor:
        records[-1].append(tensor.clone())
        return tensor

    for half in halves:
        records.append([])
        PriorLearner(tiny_machine(seed=1), settings, seeded(), reduce=recorded).step(half)
    means = iter([(one + other) / 2 for one, other in zip(*records, strict=True)])
    shared = PriorLearner(tiny_machine(seed=1), settings, seeded(), reduce=lambda _: next(means))
    report = shared.step(halves[0])
    whole = PriorLearner(tiny_machine(seed=1), settings, seeded())
    expected = whole.step(torch.cat(halves))
    assert next(means, None) is None
    torch.testing.assert_close(shared.offsets.bits, whole.offsets.bits)
    assert report.energy_data == pytest.approx(expected.energy_data, rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.0},
        {"learning_rate_final": -1.0},
        {"n_sweeps": 0},
        {"n_chains": 0},
        {"method": "tap"},
        {"n_temperatures": 1},
        {"hottest": 1.0},
        {"measure_every": -1},
        {"measure_sweeps": 5},
        {"max_sweeps": 49},
        {"l1": -0.1},
        {"max_norm": 0.0},
        {"gradient": "natural"},
        {"optimizer": "rmsprop"},
        {"weight_decay": -1.0},
        {"offset_rate": 0.0},
        {"refresh": 1.5},
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        LearningSettings(**change)


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="set measure_every"):
        LearningSettings(sweeps_growth=2.0)
    visible = restricted_teacher()
    hidden = visible.topology.is_in_partition(1)
    with pytest.raises(ConfigError, match="mean-energy gradient is that of one law"):
        PriorLearner(visible, LearningSettings(gradient="mean-energy"), seeded(), hidden=hidden)
    with pytest.raises(ConfigError, match="needs twins of persistent chains"):
        PriorLearner(tiny_machine(n_condition=1), LearningSettings(gradient="mean-energy", method="cd"), seeded())
    held = tiny_machine().topology.is_in_partition(0)
    with pytest.raises(ConfigError, match="both clamped and hidden"):
        PriorLearner(tiny_machine(), LearningSettings(), seeded(), held, hidden=held)


def test_bad_input_is_refused() -> None:
    learner = learner_with_everything()
    with pytest.raises(PriorError, match="zeros and ones"):
        learner.step(torch.full((4, 8), 0.5), torch.zeros(4, 2))
    with pytest.raises(PriorError, match="needs a condition"):
        learner.step(torch.zeros(4, 8))
    with pytest.raises(ConfigError, match="n_steps"):
        PriorLearner(tiny_machine(), LearningSettings(learning_rate_final=0.1), seeded())


def test_checkpoints_of_another_machine_or_damaged_ones_are_refused() -> None:
    learner = learner_with_everything()
    learner.step(*batches(1)[0])
    state = learner.state_dict()
    other = PriorLearner(tiny_machine((3, 2, 2, 2)), LearningSettings(), seeded())
    with pytest.raises(CheckpointError, match="8 bits, the machine 9"):
        other.load_state_dict(state)
    del state["generator"]
    with pytest.raises(CheckpointError, match="cannot be used"):
        learner_with_everything().load_state_dict(state)
