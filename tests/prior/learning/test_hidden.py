"""Hidden bits against enumeration with the visible ones clamped."""

import numpy as np
import pytest
import torch
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.learning.hidden import HiddenBits, drawn, partition_means
from calo4pqvae.prior.machine import BoltzmannMachine
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler
from calo4pqvae.testing import tiny_machine

CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def restricted(n_condition: int = 0) -> BoltzmannMachine:
    machine = BoltzmannMachine(bipartite_topology(5, 4), n_condition)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(3)))
    return machine


def exact_moments(machine: BoltzmannMachine, visible: Tensor, bits: Tensor, condition: Tensor | None) -> Tensor:
    """Mean of z_i and z_i z_j over hidden bits, averaged over the batch."""
    rows = []
    for index, row in enumerate(bits):
        values = torch.zeros(machine.n_nodes)
        values[visible] = row
        law = enumerate_machine(machine, None if condition is None else condition[index], visible, values)
        rows.append(torch.cat([law.first, law.second]))
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize("n_condition", [0, 2])
@pytest.mark.parametrize("kind", ["restricted", "partition of four", "part of a partition"])
def test_moments_over_hidden_bits_are_exact(kind: str, n_condition: int) -> None:
    machine = restricted(n_condition) if kind == "restricted" else tiny_machine(seed=2, n_condition=n_condition)
    hidden = machine.topology.is_in_partition(1 if kind == "restricted" else 0)
    if kind == "part of a partition":
        hidden[0] = False
    bits = torch.randint(0, 2, (6, int((~hidden).sum())), generator=seeded(1)).float()
    condition = torch.randn(6, n_condition, generator=seeded(2)) if n_condition else None
    known = HiddenBits.of(machine.topology, hidden, 5, CPU)
    states = known.complete(BlockGibbsSampler(machine), bits, seeded(), condition)
    found = machine.sufficient_statistics(states, condition)
    expected = exact_moments(machine, torch.from_numpy(~hidden), bits, condition)
    torch.testing.assert_close(torch.cat([found.first, found.second]).double(), expected, atol=2e-6, rtol=1e-5)
    assert torch.equal(states[:, torch.from_numpy(~hidden)], bits)


def test_hidden_bits_in_several_partitions_follow_their_law() -> None:
    machine = tiny_machine(seed=2)
    hidden = machine.topology.is_in_partition(0, 2)
    bits = torch.tensor([[1.0, 0.0, 1.0]])
    known = HiddenBits.of(machine.topology, hidden, 30, CPU)
    n = 20_000
    states = known.complete(BlockGibbsSampler(machine), bits.repeat(n, 1), seeded(4))
    found = machine.sufficient_statistics(states)
    expected = exact_moments(machine, torch.from_numpy(~hidden), bits, None)
    error = 4.5 * (expected * (1 - expected) / n).sqrt() + 1e-5
    assert ((torch.cat([found.first, found.second]) - expected).abs() < error).all()


def test_probabilities_have_less_spread_than_bits_and_the_same_mean() -> None:
    machine = restricted()
    law = enumerate_machine(machine)
    picks = torch.multinomial(law.probabilities, 4000, replacement=True, generator=seeded(1))
    states = law.states()[picks].float()
    smooth = partition_means(machine, states, 1)
    assert torch.equal(smooth[:, :5], states[:, :5])
    products, smoothed = (part[:, 2] * part[:, 7] for part in (states, smooth))
    assert smoothed.var() < 0.9 * products.var()
    assert abs(float(smoothed.mean() - products.mean())) < 0.03


def test_held_bits_stay_what_they_are() -> None:
    machine = restricted()
    states = torch.ones(3, 9)
    held = torch.zeros(9, dtype=torch.bool)
    held[6] = True
    smooth = partition_means(machine, states, 1, held=held)
    assert (smooth[:, 6] == 1).all()
    assert (smooth[:, 5] != 1).all()


def test_draws_follow_their_probabilities_and_keep_bits() -> None:
    probabilities = torch.tensor([0.0, 0.25, 1.0]).repeat(40_000, 1)
    bits = drawn(probabilities, seeded(1))
    assert (bits[:, 0] == 0).all()
    assert (bits[:, 2] == 1).all()
    assert abs(float(bits[:, 1].mean()) - 0.25) < 4.5 * (0.25 * 0.75 / 40_000) ** 0.5


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros(9, dtype=bool), "leave some visible and hide some"),
        (np.ones(9, dtype=bool), "leave some visible and hide some"),
        (np.zeros(4, dtype=bool), "one boolean for each of the 9 bits"),
        (np.zeros(9), "one boolean for each of the 9 bits"),
    ],
)
def test_masks_that_make_no_sense_are_refused(mask: np.ndarray, message: str) -> None:
    with pytest.raises(PriorError, match=message):
        HiddenBits.of(bipartite_topology(5, 4), mask, 1, CPU)


def test_data_of_another_width_are_refused() -> None:
    machine = restricted()
    known = HiddenBits.of(machine.topology, machine.topology.is_in_partition(1), 1, CPU)
    with pytest.raises(PriorError, match=r"\(states, 5\) visible bits"):
        known.complete(BlockGibbsSampler(machine), torch.zeros(2, 9), seeded())
