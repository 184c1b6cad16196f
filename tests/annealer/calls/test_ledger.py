"""The ledger: two entries a call, on disk before they count, and a limit that is not passed."""

import json
import multiprocessing
from pathlib import Path

import pytest

from calo4pqvae.annealer.calls.ledger import Ledger, SpendingLimitError, Totals, without_tokens
from calo4pqvae.errors import AnnealerError, OutputError


def spend(ledger: Ledger, seconds: float, reads: int = 10) -> None:
    call = ledger.reserve("Advantage2_system1", reads, seconds)
    ledger.settle(call, "complete", reads=reads, access_seconds=seconds)


def test_totals_by_hand() -> None:
    ledger = Ledger()
    spend(ledger, 0.25, 100)
    refused = ledger.reserve("Advantage2_system1", 50, 0.125)
    ledger.settle(refused, "rejected", access_seconds=0.0, programmings=0, message="queue is full")
    lost = ledger.reserve("Advantage2_system1", 50, 0.5, attempt=2)
    ledger.settle(lost, "lost")
    assert ledger.totals == Totals(programmings=2, reads=100, access_seconds=0.75, faults=2)
    assert [call.basis for call in ledger.calls] == ["reported", "reported", "estimated"]
    assert ledger.totals - Totals(1, 40, 0.5, 1) == Totals(1, 60, 0.25, 1)
    assert Totals(1, 40, 0.5, 1) + Totals(1, 60, 0.25, 1) == ledger.totals


def test_a_sampler_that_does_not_charge_costs_nothing() -> None:
    ledger = Ledger(is_emulated=True)
    ledger.settle(ledger.reserve("mock", 7, 0.5), "complete", reads=7, is_charged=False)
    assert (ledger.access_seconds, ledger.reads, ledger.calls[0].basis) == (0.0, 7, "none")


def test_an_open_call_counts_with_its_estimate() -> None:
    ledger = Ledger(limit=1.0)
    call = ledger.reserve("chip", 10, 0.75)
    assert (ledger.access_seconds, ledger.left, ledger.open_calls) == (0.75, 0.25, (call,))
    with pytest.raises(SpendingLimitError, match=r"pass the limit of 1 s; raise the limit or ask for fewer reads"):
        ledger.reserve("chip", 10, 0.375)
    ledger.settle(call, "complete", reads=10, access_seconds=0.5)
    ledger.reserve("chip", 10, 0.375)
    assert ledger.access_seconds == 0.875


def test_a_call_is_settled_once() -> None:
    ledger = Ledger()
    call = ledger.reserve("chip", 1, 0.1)
    ledger.settle(call, "complete", reads=1, access_seconds=0.1)
    with pytest.raises(AnnealerError, match="call 0 is not open"):
        ledger.settle(call, "complete", reads=1, access_seconds=0.1)


def test_the_limit_is_not_passed_though_estimates_are_too_low() -> None:
    ledger = Ledger(limit=1.0)
    for _ in range(8):  # the estimates alone would allow ten
        call = ledger.reserve("chip", 1, 0.1)  # truly 0.125 each
        ledger.settle(call, "complete", reads=1, access_seconds=0.125)
    with pytest.raises(SpendingLimitError):
        ledger.reserve("chip", 1, 0.1)
    assert ledger.access_seconds == 1.0


@pytest.mark.parametrize("limit", [-1.0, float("nan")])
def test_a_limit_is_a_number_of_seconds(limit: float) -> None:
    with pytest.raises(AnnealerError, match="makes no sense"):
        Ledger(limit=limit)


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    first = Ledger(path, is_emulated=True)
    spend(first, 0.25)
    call = first.reserve("chip", 3, 0.5, label="job 7")
    first.note_problem(call, "abc-123")
    again = Ledger(path, limit=1.0, is_emulated=True)
    assert again.calls == first.calls
    assert again.totals == first.totals == Totals(2, 10, 0.75, 0)
    assert (again.open_calls[0].problem_id, again.open_calls[0].label) == ("abc-123", "job 7")
    with pytest.raises(SpendingLimitError):
        again.reserve("chip", 3, 0.5)
    assert json.loads(path.read_text().splitlines()[0]) == {"event": "ledger", "format": 1, "emulated": True}


def test_a_refused_call_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, limit=0.5)
    spend(ledger, 0.25)
    before = path.read_bytes()
    with pytest.raises(SpendingLimitError):
        ledger.reserve("chip", 3, 0.5)
    assert path.read_bytes() == before


def test_a_line_cut_short_is_dropped_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = Ledger(path)
    for _ in range(2):
        spend(whole, 0.25)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        ledger = Ledger(path)
        assert len(ledger.calls) <= 2
        spend(ledger, 0.5)
        again = Ledger(path)
        assert again.totals == ledger.totals
        assert all(json.loads(line) for line in path.read_text().splitlines())


def test_emulated_and_real_time_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    spend(Ledger(path, is_emulated=True), 0.1)
    with pytest.raises(AnnealerError, match="is that of an emulated annealer, not of a real one"):
        Ledger(path)


@pytest.mark.parametrize("line", ["{", '{"event": "settle", "number": 99, "outcome": "complete"}', '{"event": "gift"}'])
def test_damage_in_the_middle_is_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ledger.jsonl"
    spend(Ledger(path), 0.1)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(AnnealerError, match="damaged at line 3"):
        Ledger(path)


def test_no_call_without_a_ledger(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "ledger.jsonl")
    with pytest.raises(OutputError, match="no call is made without it"):
        ledger.reserve("chip", 1, 0.1)
    assert ledger.calls == ()


def test_tokens_are_never_written(tmp_path: Path) -> None:
    token = "DEV-" + "0123456789abcdef" * 2
    ledger = Ledger(tmp_path / "ledger.jsonl")
    call = ledger.reserve("chip", 1, 0.1, label=f"with {token}")
    ledger.settle(call, "failed", message=f"401 for {token}\nin two lines")
    assert token not in (tmp_path / "ledger.jsonl").read_text()
    assert without_tokens(f"401 for {token}\nin two lines") == "401 for [token] in two lines"


def _spend_from_a_process(path: Path) -> None:
    ledger = Ledger(path, limit=5.0)
    while True:
        try:
            spend(ledger, 0.125, 1)
        except SpendingLimitError:
            return


def test_processes_share_one_budget(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spend_from_a_process, args=(path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    ledger = Ledger(path)
    assert ledger.totals == Totals(40, 40, 5.0, 0)
    assert [call.number for call in ledger.calls] == list(range(40))
