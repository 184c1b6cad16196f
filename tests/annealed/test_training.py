"""Training through an annealer, end to end; every annealer here is emulated."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import calo4pqvae.annealed.training as annealer_training
import calo4pqvae.annealer.calls.campaign as campaign
from calo4pqvae.annealed.outcome import Outcome
from calo4pqvae.annealed.settings import AnnealerTrainingSettings
from calo4pqvae.annealed.training import prior_of, train_through_annealer
from calo4pqvae.annealer.calls.ledger import Ledger, SpendingLimitError, read_ledger
from calo4pqvae.annealer.chip.table import CHIPS
from calo4pqvae.annealer.emulator.emulator import Emulator
from calo4pqvae.cli.annealer import annealer_app
from calo4pqvae.errors import AnnealerError, CaloError, CheckpointError, ConfigError, DataError
from calo4pqvae.models.qvae.latent_prior import LatentPrior
from calo4pqvae.prior.graph.chips import chip_topology
from calo4pqvae.prior.learning.diagnostics import watch
from calo4pqvae.runs.generation import generate, load_model
from calo4pqvae.runs.training import train
from calo4pqvae.seeds import stream
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import contents, tiny_config, tiny_file

CHIP = "emulator:advantage2:2:whole"
SMALL: dict[str, Any] = {"updates": 5, "conditions": 2, "reads": 20, "validate_every": 2, "validation_draws": 1}


class KilledError(BaseException):
    """Stands for the end of a process: nothing but ``finally`` runs after it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    changes = {"prior.graph": "zephyr", "prior.size": 2, "prior.calibrate": False, "prior.updates": 10}
    train(tiny_config(tiny_file(folder), changes), folder / "run")
    return folder / "run"


@pytest.fixture
def unfinished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what is written at the end, which takes longer than all the rest."""
    monkeypatch.setattr(annealer_training, "finish", lambda *_: Outcome({}))


def learn(source: Path, out: Path, annealer: Any = CHIP, *, limit: float | None = None, **settings: Any) -> Outcome:
    wanted = AnnealerTrainingSettings(**SMALL | settings)
    return train_through_annealer(source, out, annealer, wanted, limit=limit)


def learned(out: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]], list[dict[str, Any]]]:
    """Final state, history of the phases, and rows of the run."""
    state, _ = RunDirectory(out).load_tensors("checkpoint")
    return state, RunDirectory(out / "annealer").metrics(), RunDirectory(out).metrics()


def assert_same(one: Path, other: Path) -> None:
    (state, history, rows), (state_2, history_2, rows_2) = learned(one), learned(other)
    assert state.keys() == state_2.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, state_2[name], rtol=0, atol=0, msg=name)
    assert history == history_2
    assert rows == rows_2


def assert_nothing_lost(out: Path) -> None:
    """Every read of the ledger is on disk, and every read on disk was used."""
    files = sorted((out / "annealer" / "phases").glob("*/reads/*.hdf5"))
    on_disk = 0
    for path in files:
        with h5py.File(path) as file:
            on_disk += len(file["bits"])
            assert file.attrs["emulated"]
    ledger = read_ledger(out / "annealer" / "ledger.jsonl")
    assert ledger.reads == on_disk == sum(row["n_reads"] for row in learned(out)[1])
    assert not ledger.open_calls


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_a_trained_run_is_a_run_like_any_other(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = learn(source, out, updates=6)
    numbers = json.loads((out / "annealer" / "metrics.json").read_text())
    assert numbers == outcome.numbers
    assert (numbers["emulated"], numbers["steps"], numbers["phases_for_beta_alone"]) == (True, 6, 0)
    assert numbers["reads"] == numbers["reads_used"] == 6 * 2 * 20
    assert numbers["ledger"]["access_seconds"] == numbers["access_seconds"]
    same = {row["chip"]: row for row in numbers["projection"]}
    assert same["Advantage2_system1"]["access_seconds"] == pytest.approx(numbers["access_seconds"], rel=1e-9)
    assert len(same) == 5
    assert numbers["reference_gap"]["n_data"] == numbers["gap"]["n_data"] == 36
    assert "Gibbs-trained prior" in str(outcome)
    assert numbers["correlation"]["n_states"] == numbers["reference_correlation"]["n_states"] == 168
    assert numbers["correlation"]["slope"] != numbers["reference_correlation"]["slope"]
    page = (out / "annealer" / "report.html").read_text()
    assert "EMULATED annealer, not a real one" in page
    assert all((out / "annealer" / f"{name}.png").stat().st_size > 5000 for name in ("energies", "beta", "gap"))
    provenance = RunDirectory(out).provenance()
    assert provenance["finished"]
    assert provenance["prior_trained_through"]["emulated"]
    assert not RunDirectory(out).has("checkpoint")
    model = load_model(out)
    assert model.config.training.mode == "prior"
    generate(model, torch.full((5, 1), 5000.0), tmp_path / "showers.hdf5", seed=1)
    with h5py.File(tmp_path / "showers.hdf5") as file:
        assert "prior trained through emulated-Advantage2_system1" in str(file.attrs["model"])
    before = contents(out)
    assert learn(source, out, updates=6).numbers == numbers  # a finished training is not made again
    assert contents(out) == before


@pytest.mark.slow
@pytest.mark.usefixtures("unfinished")
def test_correlations_are_learned_and_labelled(source: Path, tmp_path: Path) -> None:
    """Bits that follow a partner on the chip in nine of ten events: the slope of correlations goes from 0 to 1."""
    other = tmp_path / "run"
    run = RunDirectory(source)
    RunDirectory.create(other, run.config())
    posterior, _ = run.load_tensors("posterior")
    prior = prior_of(source)
    generator = torch.Generator().manual_seed(3)
    energies = posterior["energies"][torch.randint(len(posterior["energies"]), (3000,), generator=generator)]
    bits = planted_bits(prior, 3000, generator)
    held_out = energies[:400]
    names = ("bits", "energies", "validation_bits", "validation_energies")
    values = (bits[400:], energies[400:], bits[:400], held_out)
    RunDirectory(other).save_tensors("posterior", dict(zip(names, values, strict=True)))
    for name in ("autoencoder", "prior"):
        RunDirectory(other).save_tensors(name, run.load_tensors(name)[0])
    learn(other, tmp_path / "out", updates=80, conditions=1, reads=80, validate_every=80, learning_rate=3.0)
    for name, tensor in learned(tmp_path / "out")[0].items():
        if name.startswith("prior."):
            prior.state_dict()[name.removeprefix("prior.")].copy_(tensor)
    drawn = prior.sample(energies, 200, stream(1, "judge"))
    states = (prior.states(part.float(), energies) for part in (bits, drawn))
    found = watch(prior.machine, *states, held=prior.clamped)
    assert abs(found.slope - 1) < 0.15
    assert found.mean_error_max < 0.1  # seeds 1 to 5: 0.03 to 0.07
    row = learned(tmp_path / "out")[2][-1]
    assert (row["stage"], row["update"]) == ("prior", 80)
    assert abs(row["gap"]) < 4 * row["gap_error"] + 0.5


def planted_bits(prior: LatentPrior, n: int, generator: torch.Generator) -> Tensor:
    """Fair coins, each bit of level 2 and 3 a copy of a neighbour of level 1 where it has one, wrong once in ten."""
    bits = torch.randint(0, 2, (n, prior.n_bits), generator=generator)
    first = prior.topology.sizes[0]
    free = prior.topology.edges[(prior.topology.edges >= first).all(axis=1)] - first
    copied: set[int] = set()
    for i, j in free.tolist():
        if i < prior.level_sizes[0] <= j and j not in copied:
            wrong = torch.rand(n, generator=generator) < 0.1
            bits[:, j] = torch.where(wrong, 1 - bits[:, i], bits[:, i])
            copied.add(j)
    assert len(copied) > 8
    return bits.to(torch.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"protocol": "tracked", "correction": "polish"},
        {"correction": "none", "events": 60, "energy_shift": 0.2},
        {"reads": 60, "conditions": 4},
    ],
)
@pytest.mark.usefixtures("unfinished")
def test_variants_run_and_say_what_they_did(source: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    learn(source, tmp_path, **options)
    history = learned(tmp_path)[1]
    assert [row["update"] for row in history] == [1, 2, 3, 4, 5]
    assert ("polish_energy_change" in history[0]) == (options.get("correction") == "polish")
    assert_nothing_lost(tmp_path)
    settings = json.loads((tmp_path / "annealer" / "settings.json").read_text())["settings"]
    assert all(settings[key] == value for key, value in options.items())


@pytest.mark.usefixtures("unfinished")
def test_a_prior_with_a_folded_condition(tmp_path: Path) -> None:
    changes = {"prior.graph": "zephyr", "prior.size": 2, "condition.mode": "fold", "latent.levels": 4}
    changes |= {"training.mode": "autoencoder", "condition.bits": 6}
    train(tiny_config(tiny_file(tmp_path), changes), tmp_path / "run")
    learn(tmp_path / "run", tmp_path / "out")  # a run without a prior of its own
    before = prior_of(tmp_path / "run").state_dict()["machine.condition_weights"]
    assert (learned(tmp_path / "out")[0]["prior.machine.condition_weights"] != before).any()
    assert_nothing_lost(tmp_path / "out")


@pytest.mark.usefixtures("unfinished")
def test_reads_that_stand_for_nothing_serve_beta_alone(source: Path, tmp_path: Path) -> None:
    learn(source, tmp_path / "far", start_beta=1.5, reads=40, least_share=0.5)
    history = learned(tmp_path / "far")[1]
    idle = [row for row in history if "energy_data" not in row]
    assert 1 <= len(idle) <= 3
    assert idle[0]["ratio"] > 3
    assert history[-1]["update"] == 5
    assert history[-1]["ratio"] == pytest.approx(1.0, abs=0.3)
    with pytest.raises(AnnealerError, match=r"in 5 phases in a row the reads stood for .* start from another beta"):
        learn(source, tmp_path / "never", least_share=0.9999)
    assert_nothing_lost(tmp_path / "far")


# --- stopped and gone on with -----------------------------------------------------------------------------------------

MOMENTS: Mapping[str, tuple[Any, str, bool]] = {
    "a call was announced": (Ledger, "reserve", True),
    "a call was made": (Emulator, "sample", True),
    "reads are not on disk": (campaign, "save_reads", False),
    "reads are on disk": (campaign, "save_reads", True),
    "a call was settled": (Ledger, "settle", True),
    "a checkpoint is not written": (RunDirectory, "save_tensors", False),
    "a checkpoint is written": (RunDirectory, "save_tensors", True),
    "a row was added": (RunDirectory, "append_metrics", True),
}


def kill_at(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, number: int, *, after: bool) -> None:
    """Ends the process at the given call of a function, before or after its work."""
    work: Callable[..., Any] = getattr(where, name)
    calls = iter(range(1, 10**6))

    def killing(*arguments: Any, **options: Any) -> Any:
        is_last = next(calls) == number
        if is_last and not after:
            raise KilledError
        result = work(*arguments, **options)
        if is_last:
            raise KilledError
        return result

    monkeypatch.setattr(where, name, killing)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training in one go, its end left out."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annealer_training, "finish", lambda *_: Outcome({}))
        patch.setattr(annealer_training, "_CHECKPOINT_EVERY", 2)
        learn(source, out)
    return out


@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.usefixtures("unfinished")
def test_killed_at_any_moment_the_result_is_the_same(
    source: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    number: int,
) -> None:
    monkeypatch.setattr(annealer_training, "_CHECKPOINT_EVERY", 2)
    where, name, after = MOMENTS[moment]
    with monkeypatch.context() as patch:
        kill_at(patch, where, name, number, after=after)
        with pytest.raises(KilledError):
            learn(source, tmp_path)
    learn(source, tmp_path)
    assert_same(tmp_path, whole)
    assert_nothing_lost(tmp_path)
    calls = read_ledger(tmp_path / "annealer" / "ledger.jsonl").calls
    cut_off = [call for call in calls if call.outcome != "complete"]
    assert len(cut_off) == int(moment in ("a call was announced", "a call was made", "reads are not on disk"))
    assert all((call.outcome, call.basis) == ("failed", "estimated") for call in cut_off)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("protocol", ["same-reads", "tracked"])
def test_copies_share_a_programming_also_across_a_kill(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    chip = "emulator:advantage2:4:whole"
    settings: dict[str, Any] = {"is_tiled": True, "reads": 60, "conditions": 3, "protocol": protocol}
    learn(source, tmp_path / "whole", chip, **settings)
    with monkeypatch.context() as patch:
        kill_at(patch, campaign, "save_reads", 4, after=False)
        with pytest.raises(KilledError):
            learn(source, tmp_path / "killed", chip, **settings)
    learn(source, tmp_path / "killed", chip, **settings)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    history = learned(tmp_path / "whole")[1]
    assert [row["n_programmings"] for row in history] == [1] * 5
    ledger = read_ledger(tmp_path / "whole" / "annealer" / "ledger.jsonl")
    assert ledger.programmings == 5
    copies = sum(row["n_reads"] for row in history) / ledger.reads
    assert copies == int(copies) > 3  # every read of every copy is used
    assert all(row["n_reads"] >= 3 * 60 for row in history)


def test_copies_that_there_is_no_room_for(source: Path, tmp_path: Path) -> None:
    with pytest.raises(AnnealerError, match=r"room for \d whole copies of the machine, 9 conditions need as many"):
        learn(source, tmp_path / "out", "emulator:advantage2:2:whole", is_tiled=True, conditions=9)
    assert not (tmp_path / "out" / "config.toml").exists()
    with pytest.raises(ConfigError, match="must be whole: leave out --prune, or --tiled"):
        learn(source, tmp_path / "out", is_tiled=True, is_pruned=True)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize(
    ("where", "name", "after"),
    [
        (annealer_training, "write_json", True),
        (RunDirectory, "create", True),
        (RunDirectory, "save_tensors", True),
        (RunDirectory, "write_provenance", False),
        (RunDirectory, "write_provenance", True),
    ],
)
def test_killed_while_it_begins_it_begins_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, after: bool
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, where, name, 1, after=after)
        with pytest.raises(KilledError):
            learn(source, tmp_path, updates=1)
    learn(source, tmp_path, updates=1)
    assert [row["stage"] for row in learned(tmp_path)[2]] == ["export"]
    assert_nothing_lost(tmp_path)


@pytest.mark.usefixtures("unfinished")
@pytest.mark.parametrize("moments", [(27,), pytest.param((4, 41, 82), marks=pytest.mark.slow)])
def test_a_process_that_is_killed_loses_nothing(source: Path, tmp_path: Path, moments: tuple[int, ...]) -> None:
    """SIGKILL, once or three times on one training, each time at another place of the ledger."""
    settings = {"updates": 24, "conditions": 2, "reads": 20}
    program = (
        "import sys; from pathlib import Path; import calo4pqvae.annealed.training as a; "
        "from calo4pqvae.annealed.settings import AnnealerTrainingSettings as S; "
        f"a.train_through_annealer(Path(sys.argv[1]), Path(sys.argv[2]), {CHIP!r}, S(**{SMALL | settings!r}))"
    )
    out = tmp_path / "out"
    ledger = out / "annealer" / "ledger.jsonl"
    rng = np.random.default_rng(7)
    for lines in moments:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(source), str(out)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b"\n") >= lines):
            time.sleep(0.0005)
        time.sleep(float(rng.uniform(0, 0.01)))
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    learn(source, out, **settings)
    learn(source, tmp_path / "whole", **settings)
    assert_same(out, tmp_path / "whole")
    assert_nothing_lost(out)


@pytest.mark.usefixtures("unfinished")
def test_faults_are_met_by_calling_again_also_across_a_kill(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emulator(*faults: str) -> Emulator:
        qubits = chip_topology("zephyr", 2).node_labels
        made = Emulator("advantage2", seed=1, m=2, mode="stress", nodelist=qubits)
        made.fail_next(*faults)  # type: ignore[arg-type]
        return made

    faults = ("rejected", "truncated", "timeout", "connection")
    learn(source, tmp_path / "whole", emulator(*faults))
    totals = read_ledger(tmp_path / "whole" / "annealer" / "ledger.jsonl").totals
    assert totals.faults == 4
    assert totals.reads == 200
    assert_nothing_lost(tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, Ledger, "settle", 9, after=True)
        with pytest.raises(KilledError):
            learn(source, tmp_path / "cut", emulator(*faults))
    learn(source, tmp_path / "cut", emulator())
    assert_same(tmp_path / "cut", tmp_path / "whole")
    assert_nothing_lost(tmp_path / "cut")


@pytest.mark.usefixtures("unfinished")
def test_faults_that_do_not_pass_end_it_and_nothing_is_lost(source: Path, tmp_path: Path) -> None:
    made = Emulator("advantage2", seed=1, m=2, mode="ideal", nodelist=chip_topology("zephyr", 2).node_labels)
    made.fail_next(*(["truncated"] + ["timeout"] * 4))  # type: ignore[list-item]
    with pytest.raises(AnnealerError, match=r"10 of 20 reads came .* in 5 attempts"):
        learn(source, tmp_path, made)
    fresh = Emulator("advantage2", seed=1, m=2, mode="ideal", nodelist=chip_topology("zephyr", 2).node_labels)
    learn(source, tmp_path, fresh)
    assert_nothing_lost(tmp_path)


@pytest.mark.usefixtures("unfinished")
def test_the_spending_limit_stops_before_it_is_passed(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annealer_training, "_CHECKPOINT_EVERY", 2)
    with pytest.raises(SpendingLimitError, match=r"it would pass the limit of 0\.01 s"):
        learn(source, tmp_path, limit=0.01)
    assert not (tmp_path / "annealer" / "ledger.jsonl").read_text()
    for limit in (0.1, 0.2):
        with pytest.raises(SpendingLimitError, match="raise the limit"):
            learn(source, tmp_path, limit=limit)
        assert 0 < read_ledger(tmp_path / "annealer" / "ledger.jsonl").access_seconds <= limit
    learn(source, tmp_path, limit=10.0)
    assert_same(tmp_path, whole)
    assert_nothing_lost(tmp_path)


@pytest.mark.usefixtures("unfinished")
def test_a_lost_checkpoint_is_worked_out_again_from_the_reads(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, Ledger, "settle", 7, after=True)
        with pytest.raises(KilledError):
            learn(source, tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    learn(source, tmp_path)
    assert_same(tmp_path, whole)


# --- the command ------------------------------------------------------------------------------------------------------


def command(*words: object) -> str:
    """What the command prints; raises what it raises."""
    result = CliRunner().invoke(annealer_app, [str(word) for word in ("train", *words)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_the_command_trains_and_tells_the_cost_on_every_chip(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    words = (source, "--out", tmp_path / "out", "--updates", 2, "--conditions", 2, "--reads", 30, "--prune")
    with pytest.raises(SpendingLimitError):
        command(*words, "--limit", 0.05)
    told = command(*words, "--limit", 2)
    assert "4 programmings, 120 reads, 0.1" in told
    assert "s of emulated access time, 0 faults" in told
    assert all(name in told for name in CHIPS)
    assert "would be 111.1 h" in told
    assert "of the Gibbs-trained prior" in told.replace("\n", " ")
    assert told.endswith(command(*words).lstrip())


def test_the_command_refuses_in_one_sentence(source: Path, tmp_path: Path) -> None:
    for words, kind, said in (
        ((source, "--reads", 0), ConfigError, "reads = 0 is out of range"),
        ((source, "--annealer", "emulator:advantage2:2"), AnnealerError, "the working graph lacks"),
        ((tmp_path / "nowhere",), CheckpointError, "is no run directory"),
    ):
        with pytest.raises(kind, match=said):
            command(*words, "--out", tmp_path / "out")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind", "told"),
    [
        ({"reads": 0}, ConfigError, "reads = 0 is out of range; it must be 2 or more"),
        ({"updates": 0}, ConfigError, "updates = 0 is out of range"),
        ({"conditions": 0}, ConfigError, "conditions = 0"),
        ({"learning_rate_final": 2.0}, ConfigError, "learning_rate_final = 2.0"),
        ({"start_beta": -1.0}, ConfigError, "start_beta = -1.0"),
        ({"energy_shift": 1.5}, ConfigError, "energy_shift = 1.5"),
        ({"seed": -1}, ConfigError, "seed = -1"),
        ({"protocol": "luck"}, AnnealerError, "there is no protocol 'luck' to learn with"),
        ({"correction": "hope"}, AnnealerError, "there is no correction 'hope'"),
        ({"events": 100_000}, DataError, "a sample of 100000 of 168 events cannot be taken"),
    ],
)
def test_settings_that_make_no_sense(
    source: Path, tmp_path: Path, settings: dict[str, Any], kind: type[CaloError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        learn(source, tmp_path / "out", **settings)
    assert not (tmp_path / "out" / "config.toml").exists()


@pytest.mark.parametrize(
    ("annealer", "told"),
    [
        ("emulator:advantage2:2", "the working graph lacks .* prune the machine"),
        ("emulator:advantage2:1", "does not fit a zephyr graph of size 1"),
        ("emulator:advantage4:2", "does not fit a pegasus graph of size 2"),
        ("emulator:none", "there is no chip 'none'"),
        ("nothing", "there is no annealer 'nothing'"),
    ],
)
def test_a_chip_that_has_no_place_for_the_machine(source: Path, tmp_path: Path, annealer: str, told: str) -> None:
    with pytest.raises(AnnealerError, match=told):
        learn(source, tmp_path / "out", annealer)
    assert not (tmp_path / "out" / "config.toml").exists()


@pytest.mark.usefixtures("unfinished")
def test_a_machine_trains_on_a_larger_chip(source: Path, tmp_path: Path) -> None:
    learn(source, tmp_path, "emulator:advantage2:4:whole")
    assert json.loads((tmp_path / "annealer" / "settings.json").read_text())["gone"]["couplers"] == []
    assert_nothing_lost(tmp_path)


@pytest.mark.usefixtures("unfinished")
def test_a_pruned_machine_trains(source: Path, tmp_path: Path) -> None:
    learn(source, tmp_path, "emulator:advantage2:2", is_pruned=True)
    gone = json.loads((tmp_path / "annealer" / "settings.json").read_text())["gone"]
    assert gone["couplers"]
    assert (learned(tmp_path)[0]["prior.machine.couplings"][gone["couplers"]] == 0).all()
    assert_nothing_lost(tmp_path)


def test_sources_that_have_not_come_that_far(source: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no run directory"):
        learn(tmp_path / "nowhere", tmp_path / "out")
    bare = RunDirectory.create(tmp_path / "bare", RunDirectory(source).config())
    bare.save_tensors("autoencoder", RunDirectory(source).load_tensors("autoencoder")[0])
    with pytest.raises(CheckpointError, match=r"has no posterior.safetensors: the training has not come that far"):
        learn(tmp_path / "bare", tmp_path / "out")
    before = contents(source)
    with pytest.raises(CheckpointError, match="already holds a run of another kind"):
        learn(source, source)
    assert contents(source) == before


@pytest.mark.usefixtures("unfinished")
def test_a_folder_of_another_training(source: Path, tmp_path: Path) -> None:
    learn(source, tmp_path)
    before = contents(tmp_path)
    for change, told in (({"reads": 30}, "settings.reads was 20 and is 30"), ({"seed": 2}, "settings.seed was 1")):
        with pytest.raises(CheckpointError, match=f"{told}.*: choose another folder"):
            learn(source, tmp_path, **change)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("unfinished")
def test_a_working_graph_that_has_changed_since(source: Path, tmp_path: Path) -> None:
    learn(source, tmp_path, is_pruned=True)
    changed = Emulator("advantage2", seed=1, m=2, nodelist=chip_topology("zephyr", 2).node_labels)
    changed.degrade(60)
    with pytest.raises(CheckpointError, match=r"gone\.bits was \[\] and is"):
        learn(source, tmp_path, changed, is_pruned=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("annealer/settings.json", "settings.json is damaged"),
        ("annealer/ledger.jsonl", "the ledger .* is damaged at line"),
        ("checkpoint.safetensors", r"checkpoint\.safetensors is damaged .* delete it, and all is worked out again"),
        ("annealer/phases/000002/reads", "the reads in .* cannot be used"),
        ("annealer/phases/000002/campaign.json", "campaign.json is damaged"),
    ],
)
@pytest.mark.usefixtures("unfinished")
def test_damaged_files_are_told(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, Ledger, "settle", 7, after=True)
        with pytest.raises(KilledError):
            learn(source, tmp_path)
    path = tmp_path / name
    path = min(path.glob("*.hdf5")) if path.is_dir() else path
    path.write_bytes(b"{ damaged }\n")
    with pytest.raises(CaloError, match=told):
        learn(source, tmp_path)


# --- other annealers --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unfinished")
def test_simulated_annealing_from_elsewhere_trains_a_prior(source: Path, tmp_path: Path) -> None:
    """A sampler of D-Wave's at a fixed inverse temperature of 3, of which nothing is documented."""
    dimod, samplers = pytest.importorskip("dimod"), pytest.importorskip("dwave.samplers")
    graph = chip_topology("zephyr", 2)
    labels = np.array(graph.node_labels)
    fixed = {"beta_schedule": [3.0] * 50, "beta_schedule_type": "custom", "proposal_acceptance_criteria": "Gibbs"}

    class Fixed(samplers.SimulatedAnnealingSampler):  # type: ignore[misc, name-defined]
        def sample(self, bqm: Any, **options: Any) -> Any:
            options.pop("auto_scale", None)
            return super().sample(bqm, **options | fixed)

    sampler = dimod.StructureComposite(Fixed(), labels.tolist(), [tuple(labels[edge].tolist()) for edge in graph.edges])
    with pytest.raises(AnnealerError, match="nothing is documented of StructureComposite"):
        learn(source, tmp_path, sampler)
    learn(source, tmp_path, sampler, start_beta=4.0, reads=60)
    history = learned(tmp_path)[1]
    assert all(abs(row["beta"] - 3.0) < 4 * row["beta_error"] for row in history)
    assert_nothing_lost(tmp_path)


@pytest.mark.usefixtures("unfinished")
def test_an_unfinished_training_is_not_gone_on_with_by_gibbs(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SpendingLimitError):
        learn(source, tmp_path, limit=0.1)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is no checkpoint of a training"):
        train(RunDirectory(tmp_path).config(), tmp_path, resume=True)
    with pytest.raises(CheckpointError, match=r"has no prior\.safetensors: the training has not come that far"):
        load_model(tmp_path)
