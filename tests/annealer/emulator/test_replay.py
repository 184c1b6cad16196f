"""An emulator that is brought back draws what the first one would have drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.ledger import Ledger
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.emulator.replay import restore_emulator
from calo4pqvae.annealer.emulator.settings import EmulatorMode, EmulatorSettings
from calo4pqvae.errors import AnnealerError
from tests.annealer.machines import small_problem


def opened(ledger: Path | None = None, mode: EmulatorMode = "stress", name: str = "advantage4") -> Annealer:
    return open_annealer(Emulator(name, seed=5, m=3 if name == "advantage4" else 2, mode=mode), ledger=ledger)


def test_reads_go_on_where_they_stood(tmp_path: Path) -> None:
    first = opened(tmp_path / "ledger.jsonl")
    problem = small_problem(first, 5.0)
    first.sampler.fail_next("rejected", "timeout", "connection")
    for n_reads in (30, 5, 60):
        first.read(problem, n_reads)
    wanted = first.read(problem, 40)
    second = opened()
    book = Ledger(tmp_path / "ledger.jsonl", is_emulated=True)
    done = [call for call in book.calls if call.outcome == "complete"]
    assert len(done) == 4
    lines = (tmp_path / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "ledger.jsonl").write_bytes(b"".join(lines[:-2]))  # before the last call
    before = Ledger(tmp_path / "ledger.jsonl", is_emulated=True)
    restore_emulator(second.sampler, before, problem.n_qubits, set())
    again = second.read(problem, 40)
    np.testing.assert_array_equal(again.bits, wanted.bits)
    assert second.sampler.clock_s == first.sampler.clock_s
    assert [one.beta for one in second.sampler.reveal()] == [one.beta for one in first.sampler.reveal()]
    assert second.sampler.usage == first.sampler.usage


def test_a_fresh_emulator_would_draw_other_reads(tmp_path: Path) -> None:
    first = opened(tmp_path / "ledger.jsonl")
    problem = small_problem(first, 5.0)
    first.read(problem, 30)
    assert (opened().read(problem, 40).bits != first.read(problem, 40).bits).any()


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_call_that_was_cut_off_counts_if_its_reads_are_on_disk(tmp_path: Path, is_kept: bool) -> None:
    path = tmp_path / "ledger.jsonl"
    first = opened(path, "calibrated")
    problem = small_problem(first, 5.0)
    first.read(problem, 30)
    reads = [first.read(problem, 20) for _ in range(2)]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))  # header, first call, and the second one open
    book = Ledger(path, is_emulated=True)
    assert [call.number for call in book.open_calls] == [1]
    second = opened(mode="calibrated")
    restore_emulator(second.sampler, book, problem.n_qubits, {1} if is_kept else set())
    np.testing.assert_array_equal(second.read(problem, 20).bits, reads[1 if is_kept else 0].bits)
    assert len(book.open_calls) == int(is_kept)
    if not is_kept:
        assert (book.calls[1].outcome, book.calls[1].basis) == ("failed", "estimated")


@pytest.mark.parametrize(
    ("calls", "settings", "told"),
    [(1, {}, "has been called already"), (0, {"temperature_offset": 0.1}, "cannot be restored")],
)
def test_what_cannot_be_restored(tmp_path: Path, calls: int, settings: dict[str, Any], told: str) -> None:
    emulator = Emulator("advantage2", seed=1, m=2, settings=EmulatorSettings(**settings))
    annealer = open_annealer(emulator, ledger=tmp_path / "ledger.jsonl")
    for _ in range(calls):
        annealer.read(small_problem(annealer), 2)
    with pytest.raises(AnnealerError, match=told):
        restore_emulator(emulator, annealer.ledger, 24, set())
