import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.estimates.partition_function import exact_log_z
from calo4pqvae.prior.estimates.trajectory_log_z import TrajectoryLogZ
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import tiny_machine


def trajectory(end: BoltzmannMachine, n_updates: int) -> list[BoltzmannMachine]:
    """Machines on a straight line from weak random parameters to ``end``."""
    generator = torch.Generator().manual_seed(3)
    noise = [0.1 * torch.randn(part.shape, generator=generator) for part in end.parameters()]
    machines = []
    for step in range(n_updates + 1):
        machine = copy.deepcopy(end)
        with torch.no_grad():
            for parameter, off in zip(machine.parameters(), noise, strict=True):
                parameter.mul_(step / n_updates).add_(off)
        machines.append(machine)
    return machines


def follow(machines: list[BoltzmannMachine], **settings: Tensor | np.ndarray | float) -> TrajectoryLogZ:
    followed = TrajectoryLogZ(machines[0], **settings)  # type: ignore[arg-type]
    for machine in machines[1:]:
        followed.update(machine)
    return followed


def test_every_checkpoint_within_its_error() -> None:
    """Errors at successive checkpoints are not independent; the last one is repeated over seeds below."""
    machines = trajectory(tiny_machine((3, 2, 2, 3), seed=4, coupling_std=1.5), 40)
    followed = TrajectoryLogZ(machines[0], n_chains=1000, seed=2)
    for step, machine in enumerate(machines[1:], 1):
        followed.update(machine)
        found = followed.estimate()
        assert abs(found.value[0] - enumerate_machine(machine).log_z) < 4 * found.error[0] + 1e-4
        assert (found.direction, found.n_temperatures) == ("trajectory", step)
        assert found.is_reliable.all()
    assert 0 < found.error[0] < 0.05


@pytest.mark.parametrize("resample_below", [0.0, 0.9])
def test_pulls_over_seeds(resample_below: float) -> None:
    machines = trajectory(tiny_machine((3, 2, 2, 3), seed=5, coupling_std=2.0), 12)
    exact = enumerate_machine(machines[-1]).log_z
    found = [follow(machines, n_chains=200, seed=seed, resample_below=resample_below).estimate() for seed in range(40)]
    pulls = np.array([(one.value[0] - exact) / one.error[0] for one in found])
    assert abs(pulls.mean()) < 0.3 + 4 / math.sqrt(40)
    assert 0.65 < pulls.std() < 1.4
    n_resampled = {int(one.n_resampled[0]) for one in found}
    assert n_resampled == {0} if resample_below == 0 else min(n_resampled) >= 1


def test_conditions_and_clamped_bits_stay_with_their_chains() -> None:
    end = tiny_machine((3, 2, 2, 3), seed=4, n_condition=2, coupling_std=1.2)
    machines = trajectory(end, 30)
    mask = end.topology.is_in_partition(1)
    bits = torch.randint(0, 2, (3, 10), generator=torch.Generator().manual_seed(1)).float()
    condition = torch.tensor([[1.0, -1.0], [0.0, 2.0], [-2.0, 0.5]])
    found = follow(machines, clamped=mask, values=bits, condition=condition, n_chains=400).estimate()
    exact = exact_log_z(end_of(machines), clamped=mask, values=bits, condition=condition).value
    assert (np.abs(found.value - exact) < 3.5 * found.error).all()
    assert np.ptp(exact) > 0.5


def end_of(machines: list[BoltzmannMachine]) -> BoltzmannMachine:
    return machines[-1]


def test_a_jump_is_announced() -> None:
    """Parameters that leap leave few chains with weight: the estimate says so for good, also after resampling."""
    machine = tiny_machine((3, 2, 2, 3), seed=4, coupling_std=0.2)
    followed = TrajectoryLogZ(machine, n_chains=100)
    leaped = copy.deepcopy(machine)
    with torch.no_grad():
        leaped.biases.add_(torch.tensor([9.0, -9.0] * 5))
    followed.update(leaped)
    followed.update(leaped)
    found = followed.estimate()
    assert found.n_resampled[0] == 1
    assert not found.is_reliable[0]


def test_the_machine_may_change_in_place() -> None:
    machines = trajectory(tiny_machine((3, 2, 2), seed=4), 10)
    changing = copy.deepcopy(machines[0])
    followed = TrajectoryLogZ(changing, n_chains=50, seed=1)
    for machine in machines[1:]:
        changing.load_state_dict(machine.state_dict())
        followed.update(changing)
    np.testing.assert_array_equal(
        followed.estimate().log_weights, follow(machines, n_chains=50, seed=1).estimate().log_weights
    )


def test_bad_input_is_told() -> None:
    machine = tiny_machine()
    for settings in ({"n_chains": 1}, {"resample_below": 1.0}):
        with pytest.raises(PriorError, match="2 chains or more"):
            TrajectoryLogZ(machine, **settings)  # type: ignore[arg-type]
    followed = TrajectoryLogZ(machine, n_chains=10)
    with pytest.raises(PriorError, match="another graph"):
        followed.update(tiny_machine((3, 1, 2)))
    with pytest.raises(PriorError, match="at least 1"):
        followed.update(machine, n_sweeps=0)
    broken = copy.deepcopy(machine)
    with torch.no_grad():
        broken.biases[0] = math.nan
    with pytest.raises(PriorError, match="NaN"):
        followed.update(broken)
