"""Constraints against their definitions; the annealer's range through the spin form of the energy."""

import math

import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.learning.constraints import Constraints, ProgrammableRange
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.testing import tiny_machine


def programmed(machine: BoltzmannMachine, beta: float) -> tuple[Tensor, Tensor]:
    """J and h with beta H(s) = E(z) + constant for s = 2 z - 1, from loops over the couplers."""
    j = torch.tensor([-float(w) / 4 / beta for w in machine.couplings.tolist()])
    h = [-float(b) / 2 / beta for b in machine.biases.tolist()]
    for (a, b), w in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
        h[a] -= w / 4 / beta
        h[b] -= w / 4 / beta
    return j, torch.tensor(h)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_projected_machines_can_be_programmed(beta: float) -> None:
    machine = tiny_machine(seed=1, coupling_std=6.0).double()
    limits = ProgrammableRange((-0.5, 0.25), (-0.8, 0.6), beta)
    j_before, _ = programmed(machine, beta)
    assert j_before.min() < -0.5
    assert j_before.max() > 0.25
    limits.project(machine)
    j, h = programmed(machine, beta)
    assert j.min() >= -0.5 - 1e-6
    assert j.max() <= 0.25 + 1e-6
    assert h.min() >= -0.8 - 1e-6
    assert h.max() <= 0.6 + 1e-6
    inside = (j_before > -0.5) & (j_before < 0.25)
    torch.testing.assert_close(j[inside], j_before[inside])
    on_limit = torch.isclose(j, torch.tensor(-0.5)) | torch.isclose(j, torch.tensor(0.25))
    share_j, share_h = limits.share_at_limit(machine)
    assert share_j == pytest.approx(float(on_limit.float().mean()))
    assert 0 < share_h < 1


def test_machines_inside_the_range_do_not_move() -> None:
    machine = tiny_machine(seed=1)
    before = [parameter.clone() for parameter in machine.parameters()]
    limits = ProgrammableRange((-2.0, 1.0), (-4.0, 4.0))
    limits.project(machine)
    torch.testing.assert_close(list(machine.parameters()), before)
    assert limits.share_at_limit(machine) == (0.0, 0.0)


def test_l1_is_the_soft_threshold() -> None:
    machine = tiny_machine(seed=1)
    before = machine.couplings.detach().clone()
    Constraints(l1=2.0).apply(machine, learning_rate=0.1)
    expected = [math.copysign(max(abs(w) - 0.2, 0.0), w) for w in before.tolist()]
    torch.testing.assert_close(machine.couplings.detach(), torch.tensor(expected))
    assert (machine.couplings == 0).any()


def test_no_node_exceeds_the_largest_norm_and_small_ones_are_left() -> None:
    machine = tiny_machine(seed=1)

    def norms() -> list[float]:
        squares = [0.0] * machine.n_nodes
        for (i, j), w in zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True):
            squares[i] += w * w
            squares[j] += w * w
        return [math.sqrt(square) for square in squares]

    limit = sorted(norms())[4]
    before, couplings = norms(), machine.couplings.detach().clone()
    Constraints(max_norm=limit).apply(machine, learning_rate=1.0)
    assert max(norms()) <= limit * (1 + 1e-6)
    ends = machine.topology.edges
    free = [index for index, (i, j) in enumerate(ends.tolist()) if max(before[i], before[j]) <= limit]
    assert torch.equal(machine.couplings[free], couplings[free])
    assert not torch.equal(machine.couplings, couplings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constraints(l1=-1.0), "l1 = -1"),
        (lambda: Constraints(l1=math.nan), "l1 = nan"),
        (lambda: Constraints(max_norm=0.0), "max_norm = 0"),
        (lambda: ProgrammableRange((0.0, 1.0), (-4.0, 4.0)), "coupling range 0.0 to 1.0 must hold zero"),
        (lambda: ProgrammableRange((-1.0, 1.0), (4.0, -4.0)), "field range"),
        (lambda: ProgrammableRange((-1.0, 1.0), (-4.0, 4.0), beta=0.0), "beta = 0"),
    ],
)
def test_senseless_limits_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
