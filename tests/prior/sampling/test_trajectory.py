import itertools
import math
from collections.abc import Sequence

import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology, complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.samplers import with_values
from calo4pqvae.prior.sampling.trajectory import TrajectorySampler, select_checkpoints
from calo4pqvae.testing import assert_pairs_independent, tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair_machine(first: float, second: float, coupling: float) -> BoltzmannMachine:
    machine = BoltzmannMachine(bipartite_topology(1, 1))
    with torch.no_grad():
        machine.biases.copy_(torch.tensor([first, second]))
        machine.couplings.fill_(coupling)
    return machine


def training(machine: BoltzmannMachine, steps: Sequence[float]) -> list[BoltzmannMachine]:
    """Machines on a straight line from no couplings to the given machine."""
    path = []
    for step in steps:
        earlier = BoltzmannMachine(machine.topology, machine.n_condition)
        earlier.load_state_dict({name: step * value for name, value in machine.state_dict().items()})
        path.append(earlier)
    return path


def test_swaps_of_two_machines_keep_detailed_balance() -> None:
    """Two machines of two bits, all pairs of states, weights by hand."""
    numbers = [(0.3, -0.8, 0.5), (-0.4, 1.1, 2.0)]
    sampler = TrajectorySampler([pair_machine(*values) for values in numbers])

    def weight(values: tuple[float, float, float], state: tuple[float, float]) -> float:
        first, second, coupling = values
        return math.exp(first * state[0] + second * state[1] + coupling * state[0] * state[1])

    states = list(itertools.product((0.0, 1.0), repeat=2))
    for x, y in itertools.product(states, repeat=2):
        there, back = (
            float(sampler.log_ratio(0, torch.tensor([one]), torch.tensor([two]))) for one, two in ((x, y), (y, x))
        )
        before = weight(numbers[0], x) * weight(numbers[1], y)
        after = weight(numbers[0], y) * weight(numbers[1], x)
        assert before * min(1, math.exp(there)) == pytest.approx(after * min(1, math.exp(back)), rel=1e-6)


def test_equal_machines_always_swap() -> None:
    machines = [tiny_machine(seed=3) for _ in range(3)]
    sampler = TrajectorySampler(machines)
    state = sampler.sample(sampler.init(200, seeded()), 8, seeded(1))
    assert state.report().acceptance == (1.0, 1.0)
    assert state.report().round_trips > 1


def test_a_first_machine_without_couplings_is_drawn_afresh_with_every_sweep() -> None:
    first = training(tiny_machine(), [0.0])[0]
    with torch.no_grad():
        first.biases.copy_(torch.linspace(-1, 1, 8))
    sampler = TrajectorySampler([first, tiny_machine()], sweeps_per_swap=10)
    generator = seeded(1)
    state = sampler.init(20_000, generator)
    levels = []
    for _ in range(2):
        state = sampler.sample(state, 1, generator)
        levels.append(state.replicas[0])
    assert_pairs_independent(*levels, first)


def test_twelve_sweeps_equal_three_and_then_nine() -> None:
    sampler = TrajectorySampler(training(tiny_machine(), (0, 0.5, 1)), sweeps_per_swap=3)
    start = sampler.init(40, seeded())
    whole, pieces = seeded(1), seeded(1)
    twelve = sampler.sample(start, 12, whole)
    nine = sampler.sample(sampler.sample(start, 3, pieces), 9, pieces)
    assert torch.equal(twelve.replicas, nine.replicas)
    assert twelve.report() == nine.report()


def test_held_bits_and_conditions_belong_to_the_chain() -> None:
    machines = training(tiny_machine(n_condition=1), (0, 0.5, 1))
    sampler = TrajectorySampler(machines)
    mask = torch.arange(8) % 2 == 0
    values = torch.randint(0, 2, (30, 8), generator=seeded(3)).float()
    condition = torch.randn(30, 1, generator=seeded(4))
    state = sampler.sample(with_values(sampler.init(30, seeded()), mask, values), 5, seeded(1), mask, condition)
    assert torch.equal(state.replicas[:, :, mask], values[:, mask].expand(3, -1, -1))
    x, y = state.replicas[:2]
    own = machines[0].energy(x, condition) - machines[0].energy(y, condition)
    crossed = machines[1].energy(y, condition) - machines[1].energy(x, condition)
    torch.testing.assert_close(sampler.log_ratio(0, x, y, condition).float(), own + crossed, rtol=1e-4, atol=1e-5)


def wide_machine() -> BoltzmannMachine:
    machine = BoltzmannMachine(complete_topology((6, 5, 7, 6)))
    with torch.no_grad():
        machine.couplings.copy_(0.5 * torch.randn(machine.couplings.shape, generator=seeded(5)))
        machine.biases.copy_(torch.randn(machine.biases.shape, generator=seeded(6)))
    return machine


def test_checkpoints_are_thinned_to_the_wanted_acceptance() -> None:
    path = training(wide_machine(), [step / 60 for step in range(61)])
    selection = select_checkpoints(path, seeded(), target=0.4, n_chains=200, n_sweeps=20)
    assert selection.indices[0] == 0
    assert selection.indices[-1] == 60
    assert 3 <= len(selection.indices) < 20
    assert list(selection.indices) == sorted(set(selection.indices))
    assert all(0.39 < rate < 0.7 for rate in selection.acceptance[1:])  # the first gap is what is left over
    assert (selection.n_chains, selection.n_sweeps) == (400, 20)
    sampler = TrajectorySampler([path[index] for index in selection.indices])
    state = sampler.sample(sampler.init(100, seeded(1)), 300, seeded(2))
    report = state.report()
    for expected, error, seen in zip(selection.acceptance, selection.acceptance_error, report.acceptance, strict=True):
        assert seen == pytest.approx(expected, abs=5 * error + 0.03)
    assert report.round_trips > 1


def test_a_harder_target_keeps_more_checkpoints() -> None:
    path = training(wide_machine(), [step / 30 for step in range(31)])
    kept = [len(select_checkpoints(path, seeded(), target=target).indices) for target in (0.2, 0.5, 0.8)]
    assert kept[0] < kept[1] < kept[2]


def test_gaps_that_are_too_wide_are_kept_and_told() -> None:
    selection = select_checkpoints(training(wide_machine(), (0, 0.02, 1)), seeded(), target=0.3)
    assert selection.indices == (0, 1, 2)
    assert selection.acceptance[1] < 0.1
    assert selection.acceptance[0] > 0.5


def test_selection_takes_held_bits_and_conditions() -> None:
    path = training(tiny_machine(n_condition=1), (0, 0.5, 1))
    options = {"clamped": torch.arange(8) < 3, "condition": torch.zeros(10, 1), "n_chains": 10}
    selection = select_checkpoints(path, seeded(), values=torch.ones(10, 8), **options)
    assert selection.indices[-1] == 2
    with pytest.raises(PriorError, match="values have shape"):
        select_checkpoints(path, seeded(), values=torch.ones(8), **options)


def test_bad_input_is_refused() -> None:
    machine, other = tiny_machine(), tiny_machine((2, 2, 2, 2))
    with pytest.raises(PriorError, match="1 machines"):
        TrajectorySampler([machine])
    with pytest.raises(PriorError, match="checkpoint 0 has another graph"):
        TrajectorySampler([other, machine])
    with pytest.raises(PriorError, match="another condition"):
        TrajectorySampler([tiny_machine(n_condition=1), BoltzmannMachine(machine.topology)])
    with pytest.raises(PriorError, match="0 sweeps between"):
        TrajectorySampler([machine, machine], sweeps_per_swap=0)
    two, three = TrajectorySampler([machine] * 2), TrajectorySampler([machine] * 3)
    with pytest.raises(PriorError, match="2 levels, the sampler 3"):
        three.sample(two.init(4, seeded()), 1, seeded())
    broken = training(machine, [1.0])[0]
    with torch.no_grad():
        broken.biases[1] = float("inf")
    with pytest.raises(PriorError, match="NaN or infinity"):
        TrajectorySampler([broken, machine]).sample(two.init(4, seeded()), 1, seeded())
    for options in ({"target": 0.0}, {"target": 1.0}, {"n_chains": 1}, {"n_sweeps": 0}):
        with pytest.raises(PriorError):
            select_checkpoints([machine, machine], seeded(), **options)
