"""A polish: it leaves the right law alone, mends a wrong one, holds what is held, and says what it did."""

import math

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.protocols.polish import polish
from calo4pqvae.errors import AnnealerError
from calo4pqvae.testing import all_states, assert_samples_boltzmann, tiny_machine

N = 4000


def exact_states(beta: float = 1.0, n: int = N) -> torch.Tensor:
    machine = tiny_machine()
    states = all_states(8)
    with torch.no_grad():
        p = torch.softmax(-beta * machine.energy(states).double(), dim=0).numpy()
    return states[torch.from_numpy(np.random.default_rng(1).choice(256, size=n, p=p))]


def test_the_right_law_is_left_alone_and_the_report_says_so() -> None:
    machine = tiny_machine()
    states, report = polish(machine, exact_states(), 5, torch.Generator().manual_seed(1))
    assert_samples_boltzmann(states, machine)
    assert abs(report.energy_change) < 4.5 * report.energy_change_error
    assert report.bits.significance < 3
    assert report.couplers.significance < 3
    assert report.flipped_share > 0.1


def test_a_wrong_temperature_is_mended_and_the_change_is_significant() -> None:
    machine = tiny_machine()
    hot = exact_states(0.5)
    states, report = polish(machine, hot, 30, torch.Generator().manual_seed(1))
    assert_samples_boltzmann(states, machine)
    with pytest.raises(AssertionError):
        assert_samples_boltzmann(hot, machine)
    with torch.no_grad():
        assert report.energy_before == pytest.approx(float(machine.energy(hot).mean()), abs=1e-4)
        assert report.energy_after == pytest.approx(float(machine.energy(states).mean()), abs=1e-4)
    assert report.energy_change < -10 * report.energy_change_error
    assert report.bits.significance > 5
    assert (report.n_sweeps, report.n_reads) == (30, N)
    assert "30 sweeps over 4000 reads" in str(report)


def test_held_bits_keep_their_values_and_count_in_no_change() -> None:
    machine = tiny_machine()
    held = np.zeros(8, dtype=np.bool_)
    held[:3] = True
    start = exact_states(n=2000)
    start[:, :3] = torch.tensor([1.0, 0.0, 1.0])
    states, report = polish(machine, start, 30, torch.Generator().manual_seed(1), held)
    assert_samples_boltzmann(states, machine, clamped=held)
    changed = (states != start)[:, 3:].double().mean()
    assert report.flipped_share == pytest.approx(float(changed))


def test_no_sweep_changes_nothing() -> None:
    start = exact_states(n=10)
    states, report = polish(tiny_machine(), start, 0, torch.Generator())
    assert torch.equal(states, start)
    assert (report.energy_change, report.flipped_share, report.bits.rms) == (0, 0, 0)


def test_one_read_has_no_errors_and_none_is_refused() -> None:
    states, report = polish(tiny_machine(), exact_states(n=1), 1, torch.Generator())
    assert len(states) == 1
    assert report.energy_change == pytest.approx(report.energy_after - report.energy_before)
    assert report.energy_change_error is report.bits.rms_error is report.couplers.rms_error is None
    assert "+- unknown" in str(report)
    assert math.isnan(report.bits.significance)
    with pytest.raises(AnnealerError, match="no reads to polish"):
        polish(tiny_machine(), exact_states(n=1)[:0], 1, torch.Generator())
