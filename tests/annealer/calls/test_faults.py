"""What may go wrong on the way to an annealer, in one table: an error of one line, or a completed retry; nothing lost.

Each case sets up its fault and reads. ``told`` is what the error must say, or None where the retry must complete. After
every case the ledger is whole: no call is open, and reads that it counts are in hand or on disk. A process that is
killed is here once; ``test_campaign.py`` and ``test_recorded.py`` have it for each moment of a call.
"""

import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.annealed.machine import ChipMachine, sample_machine
from calo4pqvae.annealer.calls import campaign as campaign_module
from calo4pqvae.annealer.calls import ledger as ledger_module
from calo4pqvae.annealer.calls.annealer import Annealer, open_annealer
from calo4pqvae.annealer.calls.campaign import Campaign
from calo4pqvae.annealer.calls.ledger import Ledger
from calo4pqvae.annealer.calls.retries import RetryPolicy
from calo4pqvae.annealer.chip.problem import IsingProblem, ising_problem
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.annealer.placing.placement import place
from calo4pqvae.annealer.protocols.conditioning import Conditioner
from calo4pqvae.errors import CaloError, OutputError
from calo4pqvae.prior.graph.chips import chip_topology
from tests.annealer.calls.test_campaign import SIZES, KilledError, annealer_for, campaign_in
from tests.annealer.machines import CHIP, machine_on, small_problem

N_READS = 12
Patch = pytest.MonkeyPatch


@dataclass
class Scene:
    """An emulated chip with its ledger on disk, a problem, and a campaign beside it."""

    folder: Path
    patch: Patch
    annealer: Annealer
    problem: IsingProblem

    def read(self, **options: Any) -> None:
        reads = self.annealer.read(self.problem, options.pop("n_reads", N_READS), **options)
        assert reads.n_reads == N_READS
        assert reads.is_emulated

    def reopen(self, **settings: Any) -> None:
        self.annealer = open_annealer(CHIP, **{"seed": 5, "ledger": self.folder / "ledger.jsonl"} | settings)

    def campaign(self) -> Campaign:
        return campaign_in(self.folder / "campaign")

    def run_campaign(self, **settings: Any) -> None:
        campaign = self.campaign()
        campaign.run(annealer_for(campaign, **settings))
        assert campaign.n_done() == list(SIZES)


def fails(*faults: Any) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.annealer.sampler.fail_next(*faults)
        scene.read()

    return act


def raises(error: Exception) -> Callable[[Scene], None]:
    """A call that raises once what a client raises, then works."""

    def act(scene: Scene) -> None:
        real, left = scene.annealer.sampler.sample, [error]

        def sample(*given: Any, **named: Any) -> Any:
            if left:
                raise left.pop()
            return real(*given, **named)

        scene.patch.setattr(scene.annealer.sampler, "sample", sample)
        scene.read()

    return act


def client_error(name: str, text: str = "") -> Exception:
    kind: type[Exception] = type(name, (Exception,), {"__module__": "dwave.cloud.exceptions"})
    return kind(text)


def reading(**options: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.read(**options)


def programmed(**values: float) -> Callable[[Scene], None]:
    """A problem with one number put out of range."""

    def act(scene: Scene) -> None:
        changed = {}
        for name, value in values.items():
            numbers = getattr(scene.problem, name).copy()
            numbers[3] = value
            changed[name] = numbers
        scene.problem = replace(scene.problem, **changed)
        scene.read()

    return act


def strong_group(scene: Scene) -> None:
    scene.problem = replace(scene.problem, couplings=np.full_like(scene.problem.couplings, -1.9))
    scene.read()


def strong_qubit(scene: Scene) -> None:
    scene.annealer = open_annealer("emulator:advantage4:3", seed=5, ledger=scene.folder / "ledger.jsonl")
    topology = chip_topology("pegasus", 3)
    placement = place(topology, scene.annealer.nodelist, scene.annealer.edgelist, prune=True)
    machine = machine_on(topology)
    with torch.no_grad():
        machine.couplings.fill_(7.9 * 8.93)  # J = -1.975
    plain = ising_problem(machine, 8.93, placement=placement)
    scene.problem = replace(plain, fields=np.zeros_like(plain.fields))
    scene.read()


def dead_qubits(scene: Scene) -> None:
    dead = set(scene.problem.qubits[:2].tolist())
    sampler = Emulator("advantage2", seed=5, m=2, nodelist=set(scene.annealer.nodelist) - dead)
    scene.annealer = open_annealer(sampler, ledger=scene.folder / "ledger.jsonl")
    scene.read()


def dead_coupler(scene: Scene) -> None:
    pair = tuple(sorted(scene.problem.qubits[scene.problem.edges[0]].tolist()))
    sampler = Emulator("advantage2", seed=5, m=2, nodelist=scene.annealer.nodelist,
                       edgelist=[edge for edge in scene.annealer.edgelist if edge != pair])  # fmt: skip
    scene.annealer = open_annealer(sampler, ledger=scene.folder / "ledger.jsonl")
    scene.read()


def changed_since_training(scene: Scene) -> None:
    topology = chip_topology("zephyr", 2, 6)
    scene.annealer.sampler.degrade(60)
    place(topology, scene.annealer.nodelist, scene.annealer.edgelist)


def changed_while_open(scene: Scene) -> None:
    scene.read()
    scene.annealer.sampler.degrade(60)
    scene.read()


def budget_before(scene: Scene) -> None:
    scene.reopen(limit=0.01)
    scene.read()


def budget_among(scene: Scene) -> None:
    scene.run_campaign(limit=0.08)


def budget_in_retry(scene: Scene) -> None:
    scene.reopen(limit=0.05)
    scene.annealer.sampler.fail_next("truncated")
    scene.read()


def damaged_ledger(scene: Scene) -> None:
    scene.read()
    path = scene.folder / "ledger.jsonl"
    path.write_text(path.read_text().replace('"open"', '"opened"', 1))
    scene.reopen()


def torn_ledger(scene: Scene) -> None:
    """A last line that was cut short belongs to nothing that happened."""
    scene.read()
    with (scene.folder / "ledger.jsonl").open("a") as file:
        file.write('{"event": "open", "num')
    scene.reopen()
    scene.read()
    assert scene.annealer.ledger.programmings == 2


def ledger_of_a_real_chip(scene: Scene) -> None:
    (scene.folder / "ledger.jsonl").write_text('{"event": "ledger", "format": 1, "emulated": false}\n')
    scene.reopen()


def damaged_plan(scene: Scene) -> None:
    scene.run_campaign()
    (scene.folder / "campaign" / "campaign.json").write_text("{")
    scene.run_campaign()


def damaged_reads(scene: Scene) -> None:
    scene.run_campaign()
    path = next((scene.folder / "campaign" / "reads").glob("*.hdf5"))
    path.write_bytes(path.read_bytes()[:64])
    scene.run_campaign()


def damaged_beta(scene: Scene) -> None:
    machine = machine_on(chip_topology("zephyr", 2, 6))
    (scene.folder / "beta.json").write_text(json.dumps({"beta": "warm"}))
    run = ChipMachine("run", machine, None, np.ones(machine.n_nodes, dtype=np.bool_))
    sample_machine(run, scene.annealer, scene.folder, np.zeros((5, 0)), is_pruned=True)


def other_beta(scene: Scene) -> None:
    scene.run_campaign()
    campaign_in(scene.folder / "campaign", beta=9.5)


def full_disk_at_the_ledger(scene: Scene) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    scene.patch.setattr(ledger_module.os, "pwrite", full)
    try:
        scene.read()
    finally:
        scene.patch.undo()
        assert scene.annealer.sampler.usage.programmings == 0  # no call without its entry


def full_disk_at_the_reads(scene: Scene) -> None:
    """The call was made; its entry stays open, counts with its estimate, and is settled when work goes on."""

    def full(*_: Any, **__: Any) -> None:
        raise OutputError("cannot write reads: No space left on device; make room")

    campaign = scene.campaign()
    with scene.patch.context() as patch:
        patch.setattr(campaign_module, "save_reads", full)
        with pytest.raises(OutputError, match="No space left"):
            campaign.run(annealer_for(campaign))
    assert len(Ledger(campaign.ledger_path, is_emulated=True).open_calls) == 1
    scene.run_campaign()


def killed_process(scene: Scene) -> None:
    campaign = scene.campaign()
    annealer = annealer_for(campaign)
    real, count = annealer.sampler.sample, [0]

    def sample(*given: Any, **named: Any) -> Any:
        count[0] += 1
        if count[0] == 2:
            raise KilledError
        return real(*given, **named)

    scene.patch.setattr(annealer.sampler, "sample", sample)
    with pytest.raises(KilledError):
        campaign.run(annealer)
    kept = campaign.n_done()
    assert kept == [SIZES[0], 0, 0]
    first = campaign.bits(0)
    scene.run_campaign()
    np.testing.assert_array_equal(scene.campaign().bits(0), first)


def two_processes(scene: Scene) -> None:
    campaign = scene.campaign()
    annealer = annealer_for(campaign)
    campaign.run(annealer, progress=lambda *_: campaign.run(annealer))


def one_budget_of_two(scene: Scene) -> None:
    """Another process has spent from the same ledger in the meantime."""
    scene.reopen(limit=0.08)
    scene.read()
    open_annealer(CHIP, seed=6, ledger=scene.folder / "ledger.jsonl").read(scene.problem, N_READS)
    scene.read()


def weak_chip(scene: Scene) -> None:
    machine = machine_on(chip_topology("zephyr", 2, 6), coupling_std=40.0)
    Conditioner(machine, "fields", scene.annealer.chip).impose(8.93, np.zeros(6))


def opening(spec: str, **settings: Any) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        open_annealer(spec, **{"seed": 1, "ledger": scene.folder / "other.jsonl"} | settings)

    return act


def no_token(scene: Scene) -> None:
    pytest.importorskip("dwave.system", reason="dwave-system is not installed")
    for name in ("DWAVE_API_TOKEN", "DWAVE_CONFIG_FILE", "DWAVE_PROFILE"):
        scene.patch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        scene.patch.setenv(name, str(scene.folder))
    scene.patch.chdir(scene.folder)
    open_annealer("qpu")


CASES: dict[str, tuple[Callable[[Scene], None], str | None]] = {
    # faults that pass: a completed retry
    "rejected call": (fails("rejected"), None),
    "timeout": (fails("timeout"), None),
    "lost connection": (fails("connection"), None),
    "truncated result": (fails("truncated"), None),
    "all faults one after the other": (fails("rejected", "timeout", "connection", "truncated"), None),
    "solver offline": (raises(client_error("SolverOfflineError", "maintenance")), None),
    "polling timeout": (raises(client_error("PollingTimeout")), None),
    "chip failed to program": (raises(client_error("SolverFailureError", "programming")), None),
    "connection reset": (raises(ConnectionResetError("reset by peer")), None),
    # faults that do not
    "offline for good": (fails(*["rejected"] * 5), r"0 of 12 reads came from .* in 5 attempts, .*; try again later"),
    "refused for good": (raises(client_error("SolverAuthenticationError", "no access")), r"failed \(.*no access\)"),
    "invalid for the solver": (raises(ValueError("bad problem")), r"refuses the call \(ValueError: bad problem\)"),
    # bad ranges, before any call
    "field out of range": (programmed(fields=-4.4), r"h of qubit \d+ is -4\.4, outside \[-4, 4\]"),
    "coupling out of range": (programmed(couplings=1.2), r"J of coupler \[.*\] is 1\.2, outside \[-2, 1\]"),
    "sum of a coupling group": (strong_group, "the sum of J in the coupling group of half"),
    "sum at a qubit": (strong_qubit, r"the sum of J at qubit \d+ is -\d+"),
    "number of reads": (reading(n_reads=10_001), r"num_reads is 10001; give a number in \[1, 10000\]"),
    "no reads": (reading(n_reads=0), "num_reads is 0"),
    "run time": (reading(n_reads=5000, annealing_time=1000.0), "more than the 1 s of a call; ask for"),
    "annealing time": (reading(annealing_time=3000.0), "the annealing time in microseconds is 3000"),
    "flux beyond its range": (reading(flux_biases=np.full(160, 0.02)), r"0\.02 flux quanta, beyond 0\.01"),
    "wrong flux length": (reading(flux_biases=np.zeros(140)), "give one for each of the 160 qubits, working or not"),
    "flux with automatic scaling": (reading(flux_biases=np.zeros(160), auto_scale=True), "auto_scale changes"),
    "fast anneal with fields": (reading(fast_anneal=True), "a fast anneal takes no fields"),
    "unknown parameter": (reading(anneal_schedule=[[0, 0]]), "no parameter anneal_schedule"),
    "a clamp beyond the chip": (weak_chip, "fold the condition"),
    # the working graph
    "dead qubits in the patch": (dead_qubits, r"lacks 2 qubits and \d+ couplers of the problem"),
    "dead coupler in the patch": (dead_coupler, "lacks 0 qubits and 1 couplers of the problem"),
    "graph changed since training": (changed_since_training, "train it on the graph of today"),
    "graph changed while open": (changed_while_open, "it has changed, or the chip is another one"),
    # budgets
    "no budget": (budget_before, r"would pass the limit of 0\.01 s; raise the limit"),
    "budget ends among calls": (budget_among, r"would pass the limit of 0\.08 s"),
    "budget ends in a retry": (budget_in_retry, r"6 of 12 reads came: .* would pass the limit"),
    "budget spent by another process": (one_budget_of_two, r"would pass the limit of 0\.08 s"),
    "limit that is none": (opening(CHIP, limit=-1.0), "makes no sense"),
    # files
    "damaged ledger": (damaged_ledger, r"is damaged at line 2 \(ValueError\): restore it"),
    "ledger torn at its end": (torn_ledger, None),
    "ledger of a real chip": (ledger_of_a_real_chip, "is that of a real annealer"),
    "damaged campaign": (damaged_plan, r"campaign\.json is damaged"),
    "damaged reads": (damaged_reads, "cannot be used"),
    "damaged beta": (damaged_beta, r"beta\.json is damaged"),
    "another beta in the folder": (other_beta, "its jobs, machine or beta are others"),
    "disk full at the ledger": (full_disk_at_the_ledger, "No space left on device; no call is made without it"),
    "disk full at the reads": (full_disk_at_the_reads, None),
    # processes
    "killed process": (killed_process, None),
    "two processes": (two_processes, "another process works on the campaign"),
    # names
    "unknown annealer": (opening("leap"), "there is no annealer 'leap'"),
    "unknown chip": (opening("emulator:advantage9"), "there is no chip 'advantage9'"),
    "wrong mode": (opening(CHIP, mode="perfect"), "has no mode 'perfect'"),
    "no seed": (opening(CHIP, seed=None), "give it a seed"),
    "no token": (no_token, "run `dwave config create`"),
}


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("name", CASES)
def test_fault(name: str, tmp_path: Path, monkeypatch: Patch) -> None:
    act, told = CASES[name]
    annealer = open_annealer(CHIP, seed=5, ledger=tmp_path / "ledger.jsonl", retry=RetryPolicy())
    scene = Scene(tmp_path, monkeypatch, annealer, small_problem(annealer))
    if told is None:
        act(scene)
    else:
        with pytest.raises(CaloError, match=told) as error:
            act(scene)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500
    if name in ("damaged ledger", "ledger of a real chip"):
        return
    for path in tmp_path.rglob("ledger.jsonl"):
        ledger = Ledger(path, is_emulated=True)
        assert not ledger.open_calls
        assert ledger.limit is None or ledger.access_seconds <= ledger.limit
        if path.parent.name == "campaign" and not name.startswith("damaged"):
            assert sum(campaign_in(path.parent).n_done()) == ledger.reads
