from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.kernels.choice import KernelName
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.testing import tiny_machine


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patch_machine() -> BoltzmannMachine:
    machine = BoltzmannMachine(chip_topology("zephyr", 2, (9, 20, 14, 17)), n_condition=2)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(1)))
    return machine


@pytest.mark.parametrize("kernel", ["torch-dense", "torch-sparse", "packed"])
def test_one_update_of_a_partition_follows_the_local_field(kernel: KernelName) -> None:
    """With all but one partition held, the bits are independent coins with known odds."""
    machine = patch_machine()
    sampler = BlockGibbsSampler(machine, kernel)
    topology, n_chains = machine.topology, 20_000
    start = sampler.init(1, seeded(2)).states
    condition = torch.tensor([[0.4, -0.3]])
    for partition, nodes in enumerate(topology.slices):
        clamped = ~topology.is_in_partition(partition)
        state = GibbsState(start.repeat(n_chains, 1))
        drawn = sampler.sample(state, 1, seeded(3), clamped, condition.repeat(n_chains, 1), beta=0.5).states
        odds = torch.sigmoid(0.5 * machine.local_fields(start, condition))[0, nodes].detach()
        error = torch.sqrt(odds * (1 - odds) / n_chains).clamp(min=1e-4)
        assert ((drawn[:, nodes].mean(0) - odds) / error).abs().max() < 4.5
        assert torch.equal(drawn[:, clamped], state.states[:, clamped])


def test_sparse_and_dense_sums_draw_the_same_bits() -> None:
    machine = patch_machine()
    condition = torch.randn(30, 2, generator=seeded(4))
    clamped = np.random.default_rng(0).random(machine.n_nodes) < 0.3
    runs = []
    kernels: list[KernelName] = ["torch-dense", "torch-sparse"]
    for kernel in kernels:
        sampler = BlockGibbsSampler(machine, kernel)
        runs.append(sampler.sample(sampler.init(30, seeded(5)), 4, seeded(6), clamped, condition).states)
    assert torch.equal(*runs)


def test_ten_sweeps_of_torch_equal_four_and_then_six_and_the_start_is_untouched() -> None:
    sampler = BlockGibbsSampler(tiny_machine((3, 1, 2, 1)), "torch")
    start = sampler.init(3, seeded())
    before = start.states.clone()
    whole, pieces = seeded(1), seeded(1)
    ten = sampler.sample(start, 10, whole)
    six = sampler.sample(sampler.sample(start, 4, pieces), 6, pieces)
    assert torch.equal(ten.states, six.states)
    assert torch.equal(start.states, before)
    assert torch.equal(whole.get_state(), pieces.get_state())


def test_states_are_exact_bits_and_every_free_bit_moves() -> None:
    sampler = BlockGibbsSampler(patch_machine())
    condition = torch.zeros(200, 2)
    state = sampler.sample(sampler.init(200, seeded()), 5, seeded(1), condition=condition)
    assert state.states.dtype == torch.float32
    assert state.n_chains == 200
    assert set(state.states.unique().tolist()) == {0.0, 1.0}
    flat = BlockGibbsSampler(BoltzmannMachine(sampler.machine.topology))
    again = flat.sample(flat.init(200, seeded()), 1, seeded(1)).states
    assert ((again.mean(0) > 0.3) & (again.mean(0) < 0.7)).all()


@pytest.mark.parametrize("everything", [np.ones(8, dtype=bool), torch.ones(8, dtype=torch.bool)])
def test_clamping_all_bits_changes_nothing(everything: np.ndarray | Tensor) -> None:
    sampler = BlockGibbsSampler(tiny_machine())
    start = sampler.init(5, seeded())
    assert torch.equal(sampler.sample(start, 3, seeded(1), everything).states, start.states)
    assert torch.equal(sampler.sample(start, 0, seeded(1)).states, start.states)


def test_changed_parameters_are_seen_by_the_next_call() -> None:
    machine = tiny_machine()
    sampler = BlockGibbsSampler(machine)
    start = sampler.sample(sampler.init(50, seeded()), 1, seeded())
    with torch.no_grad():
        machine.biases.fill_(100.0)
    assert sampler.sample(start, 1, seeded()).states.min() == 1


def test_extreme_fields_give_certain_bits() -> None:
    machine = tiny_machine()
    with torch.no_grad():
        machine.couplings.zero_()
        machine.biases.copy_(torch.tensor([-200.0, 200.0] * 4))
    sampler = BlockGibbsSampler(machine)
    states = sampler.sample(sampler.init(5000, seeded()), 2, seeded()).states
    assert torch.equal(states, torch.tensor([0.0, 1.0] * 4).repeat(5000, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, _: s.init(0, seeded()), "0 chains"),
        (lambda s, x: s.sample(x, -1, seeded()), "-1 sweeps"),
        (lambda s, _: s.sample(GibbsState(torch.zeros(2, 7)), 1, seeded()), "7 bits"),
        (lambda s, x: s.sample(x, 1, seeded(), clamped=np.zeros(7, dtype=bool)), "7 entries"),
        (lambda s, x: s.sample(x, 1, seeded(), clamped=np.zeros(8)), "one boolean a bit"),
        (lambda s, x: s.sample(x, 1, seeded(), condition=torch.zeros(3, 2)), "3 conditions for 4"),
        (lambda s, x: s.sample(x, 1, seeded(), condition=torch.zeros(4, 2)), "takes no condition"),
        (lambda s, x: s.sample(x, 1, seeded(), beta=torch.ones(3)), "beta has shape"),
        (lambda s, x: s.sample(x, 1, seeded(), beta=float("nan")), "beta is NaN or infinite"),
        (lambda s, x: s.sample(x, 1, seeded(), beta=torch.full((4,), float("inf"))), "beta is NaN or infinite"),
        (lambda *_: GibbsState(torch.full((2, 8), 0.5)), "zeros and ones"),
        (lambda *_: GibbsState(torch.zeros(8)), "zeros and ones"),
    ],
)
def test_bad_input_is_refused(call: Callable[..., object], message: str) -> None:
    sampler = BlockGibbsSampler(tiny_machine())
    with pytest.raises(PriorError, match=message):
        call(sampler, sampler.init(4, seeded()))


def test_a_machine_with_nan_is_refused() -> None:
    machine = tiny_machine()
    sampler = BlockGibbsSampler(machine)
    start = sampler.init(4, seeded())
    with torch.no_grad():
        machine.biases[0] = float("nan")
    with pytest.raises(PriorError, match="NaN"):
        sampler.sample(start, 1, seeded())


def test_a_condition_that_is_no_number_is_refused() -> None:
    sampler = BlockGibbsSampler(tiny_machine(n_condition=2))
    condition = torch.zeros(4, 2)
    condition[1, 0] = float("nan")
    with pytest.raises(PriorError, match="give finite conditions"):
        sampler.sample(sampler.init(4, seeded()), 1, seeded(), condition=condition)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["torch-dense", "torch-sparse", "auto"])
def test_sampling_on_a_gpu_keeps_the_means_of_the_cpu(kernel: KernelName) -> None:
    machine = patch_machine()
    means = []
    for device in ("cpu", "cuda"):
        sampler = BlockGibbsSampler(machine.to(device), kernel)
        generator = torch.Generator(device).manual_seed(0)
        condition = torch.zeros(4000, 2, device=device)
        clamped = machine.topology.is_in_partition(0)
        state = GibbsState(torch.zeros(4000, machine.n_nodes, device=device))
        means.append(sampler.sample(state, 50, generator, clamped, condition).states.mean(0).cpu())
    assert (means[0] - means[1]).abs().max() < 5 * 0.5 * (2 / 4000) ** 0.5
