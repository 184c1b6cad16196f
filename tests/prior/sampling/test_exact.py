import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.testing import tiny_machine


def sum_by_hand(
    machine: BoltzmannMachine, condition: Sequence[float], held: dict[int, int], beta: float
) -> dict[str, float | list[float]]:
    """Law by loops over states: log Z, means of bits, of products, and mean and variance of the energy."""
    fields = [
        b + sum(c * machine.condition_weights[a, i].item() for a, c in enumerate(condition))
        for i, b in enumerate(machine.biases.tolist())
    ]
    edges = list(zip(machine.topology.edges.tolist(), machine.couplings.tolist(), strict=True))
    rows = []
    for state in itertools.product((0, 1), repeat=machine.n_nodes):
        if any(state[i] != value for i, value in held.items()):
            continue
        energy = -sum(f * z for f, z in zip(fields, state, strict=True))
        energy -= sum(w * state[i] * state[j] for (i, j), w in edges)
        rows.append((math.exp(-beta * energy), energy, state))
    z = sum(weight for weight, _, _ in rows)
    mean = sum(weight * energy for weight, energy, _ in rows) / z
    return {
        "log_z": math.log(z),
        "first": [sum(w * s[i] for w, _, s in rows) / z for i in range(machine.n_nodes)],
        "second": [sum(w * s[i] * s[j] for w, _, s in rows) / z for (i, j), _ in edges],
        "energy_mean": mean,
        "energy_variance": sum(w * (e - mean) ** 2 for w, e, _ in rows) / z,
    }


@pytest.mark.parametrize(
    ("n_condition", "held", "beta"),
    [
        (0, {}, 1.0),
        (0, {}, 0.3),
        (2, {}, 1.0),
        (0, {0: 1, 1: 0, 2: 1}, 1.0),
        (2, {1: 1, 4: 1, 7: 0}, 0.7),
        (0, dict.fromkeys(range(8), 1), 1.0),
    ],
)
def test_law_equals_the_sum_by_hand(n_condition: int, held: dict[int, int], beta: float) -> None:
    machine = tiny_machine(seed=3, n_condition=n_condition)
    condition = [0.7, -1.2][:n_condition]
    mask = torch.tensor([i in held for i in range(8)])
    values = torch.tensor([float(held.get(i, 1)) for i in range(8)])
    law = enumerate_machine(machine, torch.tensor(condition) if condition else None, mask, values, beta)
    for name, expected in sum_by_hand(machine, condition, held, beta).items():
        np.testing.assert_allclose(getattr(law, name), expected, rtol=1e-6, atol=1e-6, err_msg=name)
    assert law.probabilities.sum().item() == pytest.approx(1, abs=1e-12)
    batch = None if not condition else torch.tensor([condition]).repeat(len(law.energies), 1)
    torch.testing.assert_close(machine.energy(law.states(), batch).double(), law.energies, rtol=1e-5, atol=1e-5)


def test_variances_and_entropy_of_fair_coins() -> None:
    law = enumerate_machine(BoltzmannMachine(complete_topology((2, 1))))
    assert law.log_z == pytest.approx(3 * math.log(2))
    assert law.entropy == pytest.approx(3 * math.log(2))
    assert law.first_variance.tolist() == pytest.approx([0.25] * 3)
    assert law.second_variance.tolist() == pytest.approx([0.1875] * 2)


def test_sums_do_not_overflow() -> None:
    machine = BoltzmannMachine(complete_topology((2, 2)))
    with torch.no_grad():
        machine.biases.fill_(1000.0)
    law = enumerate_machine(machine)
    assert law.log_z == pytest.approx(4000.0)
    assert law.first.tolist() == pytest.approx([1.0] * 4)


def test_twenty_bits_agree_with_a_marginal_in_closed_form() -> None:
    """Two partitions: summing one out by hand leaves 2 ** 10 terms of softplus."""
    machine = BoltzmannMachine(complete_topology((10, 10)))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        machine.couplings.copy_(torch.randn(100, generator=generator))
        machine.biases.copy_(torch.randn(20, generator=generator))
    a, b = machine.biases.detach().double().numpy().reshape(2, 10)
    w = machine.couplings.detach().double().numpy().reshape(10, 10)
    visible = np.array(list(itertools.product((0, 1), repeat=10)))
    terms = visible @ a + np.logaddexp(0, b + visible @ w).sum(1)
    assert enumerate_machine(machine).log_z == pytest.approx(np.logaddexp.reduce(terms), rel=1e-10)


def test_limits_are_told() -> None:
    machine = BoltzmannMachine(complete_topology((12, 11)))
    with pytest.raises(PriorError, match="23 free bits are too many"):
        enumerate_machine(machine)
    with pytest.raises(PriorError, match="both"):
        enumerate_machine(machine, clamped=torch.ones(23, dtype=torch.bool))
    with pytest.raises(PriorError, match="needs a condition"):
        enumerate_machine(tiny_machine(n_condition=1))
