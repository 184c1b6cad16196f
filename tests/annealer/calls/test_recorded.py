"""Recorded annealers: a protocol that is stopped anywhere goes on from its reads, and pays for none of them twice."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.calls import recorded as module
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.ledger import Ledger, SpendingLimitError
from calo4pqvae.annealer.calls.recorded import recorded
from calo4pqvae.annealer.protocols.named import open_protocol
from calo4pqvae.errors import AnnealerError, OutputError
from calo4pqvae.prior.graph.chips import chip_topology
from tests.annealer.machines import machine_on, small_problem

CONDITIONS = np.array([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
COUNTS = np.array([30, 25, 40])
CHIP = "emulator:advantage2:1:whole"


def run(
    folder: Path,
    protocol: str = "same-reads",
    prepare: Callable[[Annealer], None] | None = None,
    seed: int = 2,
    std: float = 0.3,
    **settings: Any,
) -> Any:
    annealer = open_annealer(CHIP, seed=5, ledger=folder / "ledger.jsonl", limit=settings.pop("limit", None))
    if prepare is not None:
        prepare(annealer)
    machine = machine_on(chip_topology("zephyr", 1, (4, 3, 5, 4)), coupling_std=std)
    with recorded(annealer, folder, {"protocol": protocol, "seed": seed}) as recorder:
        return open_protocol(protocol, **settings).sample(
            recorder, machine, CONDITIONS, COUNTS, torch.Generator().manual_seed(seed)
        )


def ledger_of(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.jsonl", is_emulated=True)


def test_finished_work_makes_no_call_and_gives_the_same(tmp_path: Path) -> None:
    first = run(tmp_path)
    spent = ledger_of(tmp_path).totals
    again = run(tmp_path)
    np.testing.assert_array_equal(first.states, again.states)
    assert ledger_of(tmp_path).totals == spent
    assert [record.beta for record in first.betas] == [record.beta for record in again.betas]
    assert len(first.states) == COUNTS.sum()


class KilledError(BaseException):
    """Stands for SIGKILL."""


MOMENTS = ("before the call", "during the call", "before the file", "before it is settled")


@pytest.mark.parametrize("nth", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2))])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, nth: int
) -> None:
    count = Counter[str]()

    def dying(real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            count[moment] += 1
            if count[moment] == nth + 1:
                raise KilledError
            return real(*given, **named)

        return call

    with monkeypatch.context() as patch:
        if moment == "during the call":

            def prepare(annealer: Annealer) -> None:
                annealer.sampler.sample = dying(annealer.sampler.sample)
        else:
            prepare = None  # type: ignore[assignment]
            owner, name = {
                "before the call": (Ledger, "reserve"),
                "before the file": (module, "save_reads"),
                "before it is settled": (Ledger, "settle"),
            }[moment]
            patch.setattr(owner, name, dying(getattr(owner, name)))
        with pytest.raises(KilledError):
            run(tmp_path, prepare=prepare)
    on_disk = {path.name: path.read_bytes() for path in (tmp_path / "reads").glob("*.hdf5")}
    assert len(on_disk) == nth + (moment == "before it is settled")
    result = run(tmp_path)
    assert len(result.states) == COUNTS.sum()
    for name, content in on_disk.items():
        assert (tmp_path / "reads" / name).read_bytes() == content  # nothing was read again
    ledger = ledger_of(tmp_path)
    assert not ledger.open_calls
    was_under_way = moment in ("during the call", "before the file")
    n_files = len(list((tmp_path / "reads").glob("*.hdf5")))
    assert ledger.totals.faults == was_under_way
    assert ledger.programmings == n_files + was_under_way


def test_answers_that_were_cut_short_are_joined_again(tmp_path: Path) -> None:
    first = run(tmp_path, prepare=lambda annealer: annealer.sampler.fail_next("truncated"))
    assert len(list((tmp_path / "reads").glob("000000-*.hdf5"))) == 2
    np.testing.assert_array_equal(first.states, run(tmp_path).states)


def test_a_budget_that_ends_and_a_larger_one(tmp_path: Path) -> None:
    with pytest.raises(SpendingLimitError):
        run(tmp_path, limit=0.06)
    kept = ledger_of(tmp_path).reads
    assert kept
    result = run(tmp_path, limit=1.0)
    assert len(result.states) == COUNTS.sum()
    assert ledger_of(tmp_path).totals.faults == 0


@pytest.mark.parametrize("protocol", ["tracked", "once", "before-each", "one-read-per-call"])
def test_other_protocols_go_on_too(tmp_path: Path, protocol: str) -> None:
    settings: dict[str, Any] = {} if protocol == "tracked" else {"reads_per_call": 0, "max_programmings": 3}
    settings |= {"estimate_reads": 10} if protocol == "one-read-per-call" else {}
    with pytest.raises(SpendingLimitError):
        run(tmp_path, protocol, limit=0.07, **settings)
    assert list((tmp_path / "reads").glob("*.hdf5"))
    result = run(tmp_path, protocol, **settings)
    assert len(result.states) == COUNTS.sum()
    spent = ledger_of(tmp_path).totals
    np.testing.assert_array_equal(run(tmp_path, protocol, **settings).states, result.states)
    assert ledger_of(tmp_path).totals == spent
    assert spent.faults == 0


def test_waits_are_not_waited_again(tmp_path: Path) -> None:
    clocks: list[Any] = []
    for _ in range(2):
        run(tmp_path, "once-with-wait", lambda annealer: clocks.append(annealer.sampler), reads_per_call=0)
    assert clocks[0].clock_s > 3 * 2.5
    assert clocks[1].clock_s < 2.5  # it lives through the programmings of the ledger, not through the waits


def test_other_work_is_refused_with_what_differs(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(AnnealerError, match="begun with protocol = 'same-reads', not 'once'"):
        run(tmp_path, "once")
    with pytest.raises(AnnealerError, match="begun with seed = 2, not 3"):
        run(tmp_path, seed=3)


def test_another_request_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    annealer = open_annealer(CHIP, seed=5, ledger=tmp_path / "ledger.jsonl")
    work = {"protocol": "same-reads", "seed": 2}
    with (
        recorded(annealer, tmp_path, work) as recorder,
        pytest.raises(AnnealerError, match="holds reads of another request"),
    ):
        recorder.read(small_problem(annealer), 100)


def test_refusals(tmp_path: Path) -> None:
    with (
        pytest.raises(AnnealerError, match="need a ledger on disk"),
        recorded(open_annealer(CHIP, seed=5), tmp_path, {}),
    ):
        pass
    annealer = open_annealer(CHIP, seed=5, ledger=tmp_path / "ledger.jsonl")
    with (
        recorded(annealer, tmp_path / "a", {}),
        pytest.raises(AnnealerError, match="another process works"),
        recorded(annealer, tmp_path / "a", {}),
    ):
        pass
    for text, told in (("{", "damaged"), ("[]", "damaged"), (json.dumps({"format": 9, "work": {}}), "does not know")):
        (tmp_path / "a" / "work.json").write_text(text)
        with pytest.raises(AnnealerError, match=told), recorded(annealer, tmp_path / "a", {}):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another"), recorded(annealer, tmp_path / "file" / "b", {}):
        pass
