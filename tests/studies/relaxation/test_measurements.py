"""Relaxation times against exact eigenvalues and singular values, with planted errors that must show."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.graph.topology import bipartite_topology, complete_topology
from calo4pqvae.prior.sampling.gibbs import BlockGibbsSampler, GibbsState
from calo4pqvae.studies.relaxation import measurements as relaxation_measurements
from calo4pqvae.studies.relaxation.measurements import at_beta, check_exactly, linear_times, measure_times
from calo4pqvae.studies.relaxation.scans import exact_checks, fair_machine
from calo4pqvae.studies.theory.modes import coupling_block, mode_machine


def pulls_of(n_chains: int = 600) -> list[float]:
    return [one.pull for one in exact_checks((1.0, 2.0), (0.5, 1.0), 2, n_chains, "auto", 1, lambda *_: None)]


def test_measured_times_are_those_of_the_second_eigenvalue() -> None:
    pulls = np.array(pulls_of())
    assert len(pulls) >= 12
    assert stats.chi2.sf((pulls**2).sum(), len(pulls)) > 1e-3
    assert abs(pulls).max() < 4.5


def test_chains_of_another_temperature_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Colder(BlockGibbsSampler):
        def __init__(self, machine: object, *rest: object) -> None:
            super().__init__(at_beta(machine, 1.2), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(relaxation_measurements, "BlockGibbsSampler", Colder)
    pulls = np.array(pulls_of())
    assert stats.chi2.sf((pulls**2).sum(), len(pulls)) < 1e-6


def test_eigenvalue_of_two_coupled_bits_by_hand() -> None:
    """One bit a side, fair: the sweep v -> h -> v has memory (tanh(W/4))^2."""
    machine = fair_machine(bipartite_topology(1, 1), 0.0, torch.Generator().manual_seed(1))
    with torch.no_grad():
        machine.couplings.fill_(6.0)
        machine.biases.fill_(-3.0)
    check = check_exactly(machine, "pair", 500, torch.Generator().manual_seed(2))
    assert check is not None
    assert check.exact == pytest.approx(-1 / math.log(math.tanh(1.5) ** 2), rel=1e-9)
    assert check.gap == pytest.approx(1 - math.tanh(1.5) ** 2, rel=1e-9)
    assert abs(check.pull) < 4


def test_held_bits_change_the_exact_time() -> None:
    machine = fair_machine(complete_topology((3, 2, 2, 2)), 1.5, torch.Generator().manual_seed(4))
    held = machine.topology.is_in_partition(0)
    free = check_exactly(machine, "free", 300, torch.Generator().manual_seed(2))
    checks = [
        check_exactly(
            machine, "held", 300, torch.Generator().manual_seed(2), clamped=held, values=torch.full((9,), bit)
        )
        for bit in (0.0, 1.0)
    ]
    assert free is not None
    for check in checks:
        assert check is not None
        assert abs(check.pull) < 4
        assert check.exact != pytest.approx(free.exact, rel=1e-3)


def test_linear_times_are_those_of_the_singular_values() -> None:
    machine = mode_machine((12, 9), (0.9, 0.7), 0.05, np.random.default_rng(1))
    gains = np.full(21, 0.25)
    gains[:12] = 0.2
    values = np.linalg.svd(coupling_block(machine), compute_uv=False)
    times, rows = linear_times(machine, gains, 4)
    np.testing.assert_allclose(times, [-1 / math.log(0.2 * 0.25 * value**2) for value in values[:4]], rtol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    hot, _ = linear_times(at_beta(machine, 0.5), gains, 1)
    assert hot[0] == pytest.approx(-1 / math.log(0.2 * 0.25 * (values[0] / 2) ** 2))
    beyond, _ = linear_times(at_beta(machine, 2.0), gains, 1)
    assert beyond[0] == math.inf


def test_large_machines_have_the_same_modes_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = fair_machine(complete_topology((20, 15, 20, 15)), 0.2, torch.Generator().manual_seed(4))
    gains = np.full(70, 0.25)
    dense, _ = linear_times(machine, gains, 3)
    monkeypatch.setattr(relaxation_measurements, "_DENSE_BELOW", 10)
    sparse, _ = linear_times(machine, gains, 3)
    np.testing.assert_allclose(sparse, dense, rtol=1e-6)


def test_modes_of_fair_bits_relax_as_the_theory_says() -> None:
    machine = mode_machine((256, 256), (0.9, 0.8, 0.6), 0.02, np.random.default_rng(3))
    generator = torch.Generator().manual_seed(3)
    sampler = BlockGibbsSampler(machine)
    state = sampler.sample(sampler.init(400, generator), 100, generator)
    times, after = measure_times(machine, state, 600, 3, generator)
    assert not times.is_lower_limit.any()
    assert not times.is_upper_limit[1:].any()
    assert (
        abs(times.relaxation[1:] - times.theory) < 4 * times.relaxation_error[1:]
    ).all()  # any processor draws other numbers
    assert (times.relaxation_error[1:] < 0.08 * times.relaxation[1:]).all()
    assert times.slowest == 1
    assert after.n_chains == 400
    data = times.as_data(3)
    assert data["mode 1"]["theory"]["value"] == times.theory[0]
    assert data["energy"]["limit"] in ("none", "upper")


def test_without_the_other_side_nothing_is_remembered() -> None:
    """With one of two partitions held, a sweep draws the other anew: memory is gone within it."""
    machine = mode_machine((16, 12), (0.9,), 0.1, np.random.default_rng(1))
    held = machine.topology.is_in_partition(0)
    generator = torch.Generator().manual_seed(1)
    states = BlockGibbsSampler(machine).init(80, generator).states.clone()
    states[:, :16] = states[0, :16]
    with pytest.raises(PriorError, match="no mode remembers anything"):
        measure_times(machine, GibbsState(states), 100, 2, generator, clamped=held)
