import numpy as np
import pytest
import torch

from calo4pqvae.prior.graph.topology import complete_topology
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.testing import (
    all_states,
    assert_chains_independent,
    assert_pairs_independent,
    assert_samples_boltzmann,
    synthetic_showers,
    tiny_machine,
)


def test_tiny_machine_has_the_awkward_parts() -> None:
    machine = tiny_machine()
    assert machine.topology.sizes == (3, 1, 2, 2)
    assert (machine.topology.degrees == 0).sum() == 1
    assert machine.topology.n_edges < complete_topology((3, 1, 2, 2)).n_edges - machine.topology.sizes[0]
    assert torch.equal(tiny_machine(seed=5).couplings, tiny_machine(seed=5).couplings)
    assert not torch.equal(tiny_machine(seed=5).biases, tiny_machine(seed=6).biases)


def test_all_states_are_all_and_in_order() -> None:
    assert all_states(2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert len(all_states(6).unique(dim=0)) == 64


def test_states_that_are_not_bits_or_not_held_fail() -> None:
    machine = tiny_machine()
    with pytest.raises(AssertionError, match="not exact bits"):
        assert_samples_boltzmann(torch.full((10, 8), 0.5), machine)
    states = torch.zeros(10, 8)
    states[3, 0] = 1
    with pytest.raises(AssertionError, match="held bits vary"):
        assert_samples_boltzmann(states, machine, clamped=np.arange(8) == 0)


def test_equal_draws_are_not_independent_and_bits_that_never_change_are_no_fault() -> None:
    machine = tiny_machine()
    with torch.no_grad():
        machine.couplings.zero_()
        machine.biases.zero_()
        machine.biases[0] = 100.0
    states = torch.randint(0, 2, (4000, 8), generator=torch.Generator().manual_seed(0)).float()
    states[:, 0] = 1
    assert_chains_independent(states, machine)
    assert_pairs_independent(states[::2], states[1::2], machine)
    with pytest.raises(AssertionError, match=r"pairs of draws are not independent: bit \d of one"):
        assert_pairs_independent(states, states, machine)
    with pytest.raises(AssertionError, match="chains 3 apart are not independent"):
        assert_chains_independent(states[:1000].repeat_interleave(6, 0), machine, distances=[3])
    assert_chains_independent(states.repeat(2, 1), machine, distances=[1, 2, 3999])
    with pytest.raises(AssertionError, match="chains 4000 apart"):
        assert_chains_independent(states.repeat(2, 1), machine)
    with pytest.raises(AssertionError, match="too few draws"):
        assert_chains_independent(states[:50], machine)


@pytest.mark.parametrize("distances", [[0], [10], [], None])
def test_distances_that_do_not_exist_are_refused(distances: list[int] | None) -> None:
    states = torch.zeros(1 if distances is None else 10, 8)
    with pytest.raises(AssertionError, match="no pairs"):
        assert_chains_independent(states, tiny_machine(), distances=distances)


@pytest.mark.parametrize(
    "grid",
    [Geometry.regular("small", 5, 4, 3, 4.65, energy_range=(1e3, 1e4)), geometry("ds1-photons")],
    ids=lambda grid: grid.name,
)
def test_synthetic_showers_are_like_showers(grid: Geometry) -> None:
    energies, showers = synthetic_showers(grid, 300, seed=3)
    assert energies.shape == (300, 1)
    assert showers.shape == (300, grid.n_voxels)
    assert energies.dtype == showers.dtype == np.float32
    assert np.isfinite(showers).all()
    assert (showers >= 0).all()
    assert (showers > 0).any()
    assert (showers == 0).any()
    low, high = grid.energy_range
    assert low <= energies.min() < energies.max() <= high
    again = synthetic_showers(grid, 300, seed=3)
    assert np.array_equal(again[1], showers)
    assert not np.array_equal(synthetic_showers(grid, 300, seed=4)[1], showers)
    assert 0.3 < np.median(showers.sum(axis=1) / energies[:, 0]) < 1.2
    assert np.corrcoef(np.log(energies[:, 0]), np.log(showers.sum(axis=1) + 1))[0, 1] > 0.8
