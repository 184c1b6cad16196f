"""Campaigns: what is stopped at any moment goes on, and no read that was paid for is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.annealer.calls import campaign as module
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.campaign import Campaign, Prepared, SamplingJob, stored_plan
from calo4pqvae.annealer.calls.ledger import Ledger, SpendingLimitError
from calo4pqvae.annealer.calls.reads_file import load_reads, save_reads
from calo4pqvae.annealer.calls.retries import IncompleteReadsError
from calo4pqvae.annealer.chip.problem import Reads, ising_problem
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.errors import AnnealerError, OutputError
from calo4pqvae.prior.graph.chips import chip_topology
from tests.annealer.machines import CHIP, machine_on, small_problem

SIZES = (7, 4, 12)


def campaign_in(folder: Path, beta: float = 8.93, sizes: tuple[int, ...] = SIZES, **options: Any) -> Campaign:
    """Three jobs under conditions of two numbers that are folded into the fields."""
    topology = chip_topology("zephyr", 2, 6)
    machine = machine_on(topology, n_condition=2)
    chip = open_annealer(CHIP, seed=1)
    placement = place(topology, chip.nodelist, chip.edgelist, prune=True)
    jobs = [SamplingJob(n, np.array([index, 1.0])) for index, n in enumerate(sizes)]

    def prepare(job: SamplingJob) -> Prepared:
        return Prepared(ising_problem(machine, beta, torch.from_numpy(job.condition.copy()).float(), placement))

    return Campaign(folder, jobs, prepare, **options)


def annealer_for(campaign: Campaign, **settings: Any) -> Annealer:
    return open_annealer(CHIP, **{"seed": 5, "ledger": campaign.ledger_path} | settings)


def assert_nothing_lost(campaign: Campaign) -> None:
    """Every settled call that brought reads has them on disk."""
    calls = {call.number: call for call in Ledger(campaign.ledger_path, is_emulated=True).calls}
    on_disk = {stored.info["calls"][0]: len(stored.bits) for i in range(len(SIZES)) for stored in campaign.stored(i)}
    settled = {number: call.reads for number, call in calls.items() if call.reads}
    assert settled.items() <= on_disk.items()


def assert_complete(campaign: Campaign) -> None:
    assert campaign.is_done
    assert campaign.n_done() == list(SIZES)
    ledger = Ledger(campaign.ledger_path, is_emulated=True)
    assert not ledger.open_calls
    assert ledger.reads == sum(SIZES)
    assert_nothing_lost(campaign)


def test_a_campaign_brings_all_reads_and_says_that_they_are_emulated(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    told: list[tuple[int, int]] = []
    campaign.run(annealer_for(campaign), progress=lambda *step: told.append(step))
    assert_complete(campaign)
    assert told == [(7, 23), (11, 23), (23, 23)]
    assert campaign.bits(2).shape == (12, campaign.prepare(campaign.jobs[2]).problem.n_qubits)
    (stored,) = campaign.stored(1)
    assert (stored.is_emulated, stored.beta, stored.info["chip"]) == (True, 8.93, "emulated-Advantage2_system1")
    plan = stored_plan(tmp_path)
    assert plan is not None
    assert plan["emulated"]


def test_a_finished_campaign_makes_no_more_calls(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    campaign.run(annealer_for(campaign))
    again = campaign_in(tmp_path)
    again.run(annealer_for(again))
    assert Ledger(campaign.ledger_path, is_emulated=True).programmings == 3


def test_large_jobs_take_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Annealer, "most_reads", lambda *_, **__: 5)
    campaign = campaign_in(tmp_path)
    campaign.run(annealer_for(campaign))
    assert [len(stored.bits) for stored in campaign.stored(2)] == [5, 5, 2]
    assert_complete(campaign)
    first, second, _ = campaign.stored(2)
    assert not np.array_equal(first.bits, second.bits)


def test_options_go_with_every_call(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path, annealing_time=50.0)
    campaign.run(annealer_for(campaign))
    assert campaign.stored(0)[0].timing["qpu_anneal_time_per_sample"] == 50.0


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the library catches it, and nothing of it runs after."""


MOMENTS = ("before the call", "during the call", "before the file", "while the file is written", "before it is settled")


@pytest.mark.parametrize("nth", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2))])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, nth: int
) -> None:
    campaign = campaign_in(tmp_path)
    annealer = annealer_for(campaign)
    count = Counter[str]()

    def dying(place_: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            count[place_] += 1
            if count[place_] == nth + 1:
                if place_ == "while the file is written":
                    tmp_path.joinpath("reads").mkdir(exist_ok=True)
                    tmp_path.joinpath("reads", ".000000-000000.hdf5.partial-1").write_bytes(b"\x89HD")
                raise KilledError
            return real(*given, **named)

        return call

    targets: dict[str, tuple[Any, str]] = {
        "before the call": (Ledger, "reserve"),
        "during the call": (annealer.sampler, "sample"),
        "before the file": (module, "save_reads"),
        "while the file is written": (module, "save_reads"),
        "before it is settled": (Ledger, "settle"),
    }
    owner, name = targets[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying(moment, getattr(owner, name)))
        with pytest.raises(KilledError):
            campaign.run(annealer)
    assert_nothing_lost(campaign)
    kept = campaign.n_done()
    again = campaign_in(tmp_path)
    again.run(annealer_for(again))
    assert_complete(again)
    assert not list(tmp_path.glob("reads/.*"))
    ledger = Ledger(again.ledger_path, is_emulated=True)
    was_under_way = moment not in ("before the call", "before it is settled")
    assert ledger.totals.faults == was_under_way
    assert ledger.programmings == len(SIZES) + was_under_way
    expected = [SIZES[job] if job < nth or (job == nth and moment == "before it is settled") else 0 for job in range(3)]
    assert kept == expected


WORK = """
import sys, time
from pathlib import Path
from tests.annealer.calls import test_campaign as t
campaign = t.campaign_in(Path(sys.argv[1]))
annealer = t.annealer_for(campaign)
slow = annealer.sampler.sample
annealer.sampler.sample = lambda *a, **k: (time.sleep(0.1), slow(*a, **k))[1]
annealer.most_reads = lambda *a, **k: 2
print("ready", flush=True)
campaign.run(annealer)
"""


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_no_paid_read(tmp_path: Path) -> None:
    moments = random.Random(3)
    n_kills = 0
    for _ in range(40):
        process = subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
        )
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        time.sleep(moments.uniform(0.0, 0.8))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            n_kills += 1
        process.wait()
        process.stdout.close()
        campaign = campaign_in(tmp_path)
        assert_nothing_lost(campaign)
        if campaign.is_done and process.returncode == 0:
            break
    assert n_kills >= 2
    assert_complete(campaign)
    ledger = Ledger(campaign.ledger_path, is_emulated=True)
    assert ledger.totals.faults <= n_kills  # at most the one call that was under way at each kill


def test_paid_answers_are_fetched_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = campaign_in(tmp_path)
    annealer = annealer_for(campaign)
    reads: list[Reads] = []

    def recover(self: Annealer, call: Any, problem: Any, keep: Any) -> Reads:
        answer = Reads(
            np.ones((call.asked, problem.n_qubits)), problem, {"qpu_access_time": 5e4}, {"calls": (call.number,)}
        )
        keep(answer, call)
        self.ledger.settle(call, "complete", reads=answer.n_reads, access_seconds=0.05)
        reads.append(answer)
        return answer

    def dying(*_: Any, **__: Any) -> Any:
        raise KilledError

    monkeypatch.setattr(annealer.sampler, "sample", dying)
    with pytest.raises(KilledError):
        campaign.run(annealer)
    monkeypatch.setattr(Annealer, "recover", recover)
    campaign.run(annealer_for(campaign))
    assert len(reads) == 1
    assert campaign.bits(0).all()
    assert_complete(campaign)


@pytest.mark.parametrize("fault", ["rejected", "timeout", "connection", "truncated"])
def test_faults_in_a_campaign(tmp_path: Path, fault: Any) -> None:
    campaign = campaign_in(tmp_path)
    annealer = annealer_for(campaign)
    annealer.sampler.fail_next(fault)
    campaign.run(annealer)
    assert_complete(campaign)
    assert [len(stored.bits) for stored in campaign.stored(0)] == ([3, 4] if fault == "truncated" else [7])


def test_faults_that_do_not_pass_leave_what_came(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    annealer = annealer_for(campaign)
    annealer.sampler.fail_next("truncated", *["timeout"] * 4)
    with pytest.raises(IncompleteReadsError):
        campaign.run(annealer)
    assert campaign.n_done() == [3, 0, 0]
    campaign.run(annealer_for(campaign))
    assert campaign.n_done() == list(SIZES)


def test_an_exhausted_budget_stops_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    with pytest.raises(SpendingLimitError):
        campaign.run(annealer_for(campaign, limit=0.08))
    assert campaign.n_done() == [7, 4, 0]
    assert Ledger(campaign.ledger_path, is_emulated=True).access_seconds < 0.08
    with pytest.raises(SpendingLimitError):
        campaign.run(annealer_for(campaign, limit=0.08))
    campaign.run(annealer_for(campaign, limit=0.2))
    assert_complete(campaign)


def test_a_graph_that_changed_since_training_is_told_and_reads_are_kept(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    with pytest.raises(SpendingLimitError):
        campaign.run(annealer_for(campaign, limit=0.05))
    annealer = annealer_for(campaign)
    annealer.sampler.degrade(60)
    with pytest.raises(AnnealerError, match="it has changed"):
        campaign.run(annealer)
    assert campaign.n_done() == [7, 0, 0]


def test_another_campaign_or_chip_is_refused(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    campaign.run(annealer_for(campaign))
    with pytest.raises(AnnealerError, match="its jobs, machine or beta are others"):
        campaign_in(tmp_path, beta=9.0)
    with pytest.raises(AnnealerError, match="its jobs, machine or beta are others"):
        campaign_in(tmp_path, sizes=(7, 4))
    with pytest.raises(AnnealerError, match="was begun on emulated-Advantage2_system1"):
        campaign.run(open_annealer("emulator:Advantage2_system2:2", seed=5, ledger=campaign.ledger_path))
    with pytest.raises(AnnealerError, match="was begun in mode 'calibrated', not 'stress'"):
        campaign.run(annealer_for(campaign, mode="stress"))


def test_a_ledger_on_disk_is_needed(tmp_path: Path) -> None:
    with pytest.raises(AnnealerError, match="needs a ledger on disk"):
        campaign_in(tmp_path).run(open_annealer(CHIP, seed=5))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    annealer = annealer_for(campaign)
    with pytest.raises(AnnealerError, match="another process works on the campaign"):
        campaign.run(annealer, progress=lambda *_: campaign.run(annealer))


def test_calls_of_others_in_a_shared_ledger_are_left_alone(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path / "campaign")
    shared = tmp_path / "budget.jsonl"
    Ledger(shared, is_emulated=True).reserve("emulated", 10, 0.5, label="somebody else")
    campaign.run(annealer_for(campaign, ledger=shared))
    ledger = Ledger(shared, is_emulated=True)
    assert [call.label for call in ledger.open_calls] == ["somebody else"]
    assert ledger.reads == sum(SIZES)


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 9, "fingerprint": ""}'])
def test_a_damaged_plan_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "campaign.json").write_text(text)
    with pytest.raises(AnnealerError, match=r"damaged|no plan"):
        campaign_in(tmp_path)


def test_damaged_reads_are_told(tmp_path: Path) -> None:
    campaign = campaign_in(tmp_path)
    campaign.run(annealer_for(campaign))
    path = next(tmp_path.glob("reads/*.hdf5"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(AnnealerError, match="cannot be used"):
        campaign.run(annealer_for(campaign))
    with pytest.raises(AnnealerError, match="has no reads yet"):
        campaign_in(tmp_path / "elsewhere").bits(0)


def test_a_folder_that_cannot_be_written_is_told_before_any_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    campaign = campaign_in(tmp_path / "file" / "campaign")
    annealer = open_annealer(CHIP, seed=5, ledger=tmp_path / "ledger.jsonl")
    with pytest.raises(OutputError, match="choose another"):
        campaign.run(annealer)
    assert annealer.ledger.programmings == 0


def test_no_jobs_and_empty_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnealerError, match="needs a job"):
        campaign_in(tmp_path, sizes=())
    with pytest.raises(AnnealerError, match="make no job"):
        SamplingJob(0, np.zeros(2))
    with pytest.raises(AnnealerError, match="make no job"):
        SamplingJob(1, np.array([np.nan]))


def test_reads_survive_the_way_to_disk(tmp_path: Path) -> None:
    annealer = open_annealer(CHIP, seed=5)
    reads = annealer.read(small_problem(annealer), 13)
    save_reads(tmp_path / "reads.hdf5", reads, job=3)
    stored = load_reads(tmp_path / "reads.hdf5")
    np.testing.assert_array_equal(stored.bits, reads.bits)
    assert (stored.beta, stored.is_emulated, dict(stored.timing)) == (8.93, True, dict(reads.timing))
    assert stored.access_seconds == pytest.approx(annealer.ledger.access_seconds)
    assert stored.info["graph_id"] == annealer.graph_id
