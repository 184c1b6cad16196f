"""The annealer's commands as users meet them; every annealer here is emulated."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from calo4pqvae.annealed.machine import calibrate, emulator_of, open_chip_machine, sample_machine
from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.annealer.calls.ledger import SpendingLimitError
from calo4pqvae.annealer.chip.table import CHIPS
from calo4pqvae.cli.annealer import annealer_app
from calo4pqvae.errors import AnnealerError, CaloError, CheckpointError, ConfigError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.prior.graph.topology import bipartite_topology
from calo4pqvae.prior.sampling.exact import enumerate_machine
from calo4pqvae.runs.training import train
from calo4pqvae.standalone.settings import load_prior_config
from calo4pqvae.standalone.training import train_prior_alone
from tests.annealer.machines import machine_on
from tests.small_runs import tiny_config, tiny_file

Command = Callable[..., str]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command; gives what it prints and raises what it raises."""
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(annealer_app, [str(word) for word in arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.output

    return run


def trained_machine(folder: Path, **settings: object) -> Path:
    """A machine of twelve bits, trained on its own."""
    rng = np.random.default_rng(1)
    BitsFile(np.repeat(rng.integers(0, 2, (400, 4)), 3, axis=1).astype(np.uint8)).write(folder / "bits.hdf5")
    settings = {"data": str(folder / "bits.hdf5"), "epochs": 4, "batch_size": 100, "n_chains": 40} | settings
    train_prior_alone(
        load_prior_config(None, [f"{key}={json.dumps(value)}" for key, value in settings.items()]), folder / "run"
    )
    return folder / "run"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_machine(tmp_path_factory.mktemp("alone"), graph="zephyr", chip_size=2)


@pytest.fixture(scope="module", params=["clamp", "fold"])
def showers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("showers")
    changes = {"prior.graph": "zephyr", "prior.size": 2, "condition.mode": request.param}
    changes |= {"latent.levels": 3 if request.param == "clamp" else 4}
    train(tiny_config(tiny_file(folder), changes), folder / "run")
    return folder / "run"


def test_samples_of_an_ideal_annealer_follow_the_law_of_the_machine(
    command: Command, alone: Path, tmp_path: Path
) -> None:
    machine = open_chip_machine(alone).machine
    beta = CHIPS["Advantage2_system1"].beta
    told = command("sample", alone, "--out", tmp_path, "-n", 4000, "--mode", "ideal", "--beta", beta, "--seed", 3)
    drawn = BitsFile.read(tmp_path / "bits.hdf5").bits.astype(float)
    exact = enumerate_machine(machine)
    mean = exact.first.numpy()
    error = np.sqrt(mean * (1 - mean) / len(drawn))
    assert (np.abs(drawn.mean(0) - mean) < 4.5 * error).all()
    first, second = machine.topology.edges.T
    both = exact.second.numpy()
    error = np.sqrt(both * (1 - both) / len(drawn))
    assert (np.abs((drawn[:, first] * drawn[:, second]).mean(0) - both) < 4.5 * error).all()
    assert "emulated access time" in told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["beta_of_the_reads"]["value"] == pytest.approx(beta, abs=4 * report["beta_of_the_reads"]["error"])
    assert (report["emulated"], report["ledger"]["programmings"], report["n_conditions"]) == (True, 1, 1)
    with h5py.File(tmp_path / "bits.hdf5") as file:
        assert file.attrs["emulated"]
        assert file.attrs["annealer"] == "emulated-Advantage2_system1"


def test_conditioned_samples_of_a_shower_model(command: Command, showers: Path, tmp_path: Path) -> None:
    words = (
        "sample",
        showers,
        "--out",
        tmp_path,
        "--energies",
        "1000,10000,100000",
        "-n",
        90,
        "--polish",
        3,
        "--prune",
    )
    told = command(*words)
    run = open_chip_machine(showers)
    drawn = BitsFile.read(tmp_path / "bits.hdf5")
    assert drawn.bits.shape == (90, int(run.visible.sum()))
    assert drawn.condition is not None
    np.testing.assert_allclose(np.unique(drawn.condition), [1e3, 1e4, 1e5])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["n_conditions"] == 3
    assert report["ledger"]["programmings"] == 3 + 2 * 3  # a calibration of two rounds at three energies
    assert report["polish"]["n_sweeps"] == 3
    assert "90 samples" in told
    before = (tmp_path / "bits.hdf5").read_bytes(), report
    command(*words)
    after = (tmp_path / "bits.hdf5").read_bytes(), json.loads((tmp_path / "report.json").read_text())
    assert len(before[0]) == len(after[0])
    assert before[1] == after[1]


def test_an_interrupted_command_goes_on(command: Command, showers: Path, tmp_path: Path) -> None:
    words = ("sample", showers, "--out", tmp_path, "--energies", "1000,10000,100000", "-n", 90, "--prune")
    with pytest.raises(SpendingLimitError):
        command(*words, "--limit", 0.3)
    spent = json.loads(json.dumps(open_ledger(tmp_path)))
    assert 0 < spent["access_seconds"] <= 0.3
    with pytest.raises(AnnealerError, match="leave out another one"):
        command(*words, "--beta", 5.0)
    command(*words)
    after = open_ledger(tmp_path)
    assert (after["programmings"], after["faults"], after["open_calls"]) == (9, 0, 0)


def open_ledger(folder: Path) -> dict[str, object]:
    from calo4pqvae.annealer.calls.ledger import read_ledger

    return read_ledger(folder / "ledger.jsonl").to_dict()


def test_calibration_finds_beta_and_writes_it(command: Command, alone: Path, tmp_path: Path) -> None:
    words = ("--mode", "ideal", "--reads", 2000, "--ledger", tmp_path / "ledger.jsonl", "--out", tmp_path / "beta.json")
    told = command("calibrate", alone, *words)
    found = json.loads((tmp_path / "beta.json").read_text())
    beta = CHIPS["Advantage2_system1"].beta
    assert found["beta"]["value"] == pytest.approx(beta, abs=4 * found["beta"]["error"])
    assert found["emulated"]
    assert "beta = " in told
    assert "2 programmings, 4000 reads" in told
    assert "programmings: 2" in command("info", "--ledger", tmp_path / "ledger.jsonl")


def test_rounds_start_where_they_are_told(alone: Path) -> None:
    run = open_chip_machine(alone)
    annealer = open_annealer(emulator_of(run.machine), seed=3, mode="ideal")
    found = calibrate(run, annealer, np.zeros((1, 0)), start=6.0, n_rounds=1, n_reads=500)
    assert found.programmed_beta == 6.0
    assert found.value == pytest.approx(annealer.chip.beta, abs=4 * found.error)
    with pytest.raises(AnnealerError, match="not estimated in 0 rounds"):
        calibrate(run, annealer, np.zeros((1, 0)), n_rounds=0)


def test_what_is_gone_from_the_chip_is_refused_or_pruned(alone: Path, tmp_path: Path) -> None:
    from calo4pqvae.annealer.emulator.emulator import Emulator

    run = open_chip_machine(alone)
    whole = open_annealer(emulator_of(run.machine), seed=1)
    dead = run.machine.topology.node_labels[5]
    sampler = Emulator("advantage2", seed=1, m=2, mode="ideal", nodelist=set(whole.nodelist) - {dead})
    annealer = open_annealer(sampler, ledger=tmp_path / "ledger.jsonl")
    with pytest.raises(AnnealerError, match="the working graph lacks 1 of 12 qubits"):
        sample_machine(run, annealer, tmp_path, np.zeros((50, 0)), beta=9.0)
    drawn = sample_machine(run, annealer, tmp_path, np.zeros((500, 0)), beta=9.0, is_pruned=True)
    assert drawn.report["left_out"].startswith("1 of 12 qubits")
    assert drawn.bits.n_bits == 12
    states = torch.from_numpy(drawn.bits.bits.astype(np.float32))
    odds = torch.sigmoid(run.machine.local_fields(states))[:, 5].detach()
    spread = float((odds * (1 - odds)).sum().sqrt()) / 500
    assert abs(float(states[:, 5].mean() - odds.mean())) < 4.5 * spread  # drawn given the others


def test_a_machine_moves_to_a_larger_chip(alone: Path, tmp_path: Path) -> None:
    """Calibration and samples on a chip of another size than the machine was trained on."""
    run = open_chip_machine(alone)
    chip = "emulator:advantage2:4:whole"
    found = calibrate(run, open_annealer(chip, seed=3, mode="ideal"), np.zeros((1, 0)), n_reads=2000)
    assert found.value == pytest.approx(8.93, abs=4 * found.error)
    annealer = open_annealer(chip, seed=3, mode="ideal", ledger=tmp_path / "ledger.jsonl")
    made = sample_machine(run, annealer, tmp_path, np.zeros((50, 0)), calibration_reads=200)
    assert made.bits.n_states == 50
    assert made.report["left_out"] == ""


def test_information(command: Command) -> None:
    told = command("info")
    assert all(name in told for name in CHIPS)
    told = command("info", "emulator:advantage2:2")
    assert "emulated: yes" in told
    assert "h_range" in told


def test_a_plan_reproduces_111_hours_and_shows_the_ways_out(command: Command, alone: Path, tmp_path: Path) -> None:
    told = command("plan", "--qubits", 1208, "--price", 2000, "--out", tmp_path / "plan.json")
    assert "= 111.1 h" in told
    chosen, _, every = told.partition("access time of all chips")
    assert "too few" not in chosen
    assert "too few qubits" in every  # Advantage2_system4 has 1,202
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["plain_hours_at_20_ms"] == pytest.approx(111.1, abs=0.05)
    steps = [row for row in plan["ways_out"] if row["chip"] == "Advantage2_system1"]
    assert steps[-1]["access_hours"] < 0.1 < 100 < steps[1]["access_hours"]
    assert {row["chip"] for row in plan["protocols"]} == set(CHIPS)
    assert "12 qubits" in command("plan", alone, "--chip", "Advantage2_system4")
    assert "too few qubits" in command("plan", "--qubits", 1208, "--chip", "Advantage2_system4")


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        (("plan",), ConfigError, "say for which model"),
        (("plan", "--qubits", 10, "--bins", 0), AnnealerError, "is no job"),
        (("plan", "--qubits", 10, "--chip", "none"), AnnealerError, "there is no chip 'none'"),
        (("info", "emulator:none"), AnnealerError, "there is no chip 'none'"),
        (("info", "--ledger", "nowhere.jsonl"), AnnealerError, "there is no ledger nowhere.jsonl"),
        (("sample", "nowhere", "--out", "out"), CheckpointError, "nowhere is no run"),
    ],
)
def test_bad_words(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[object, ...],
    kind: type[CaloError],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=told):
        command(*words)


def test_bad_requests(command: Command, alone: Path, showers: Path, tmp_path: Path) -> None:
    for words, kind, told in (
        ((alone, "--energies", "1000"), AnnealerError, "takes no incident energies"),
        ((showers,), AnnealerError, "conditioned on incident energies"),
        ((alone, "--polish", -1), ConfigError, "--polish -1 is too few"),
        ((alone, "--annealer", "emulator:advantage4:4"), AnnealerError, "does not fit a pegasus graph of size 4"),
        ((alone, "--annealer", "emulator:advantage2:1"), AnnealerError, "does not fit a zephyr graph of size 1"),
        ((alone, "--beta", 0.01), AnnealerError, "out of range"),
    ):
        with pytest.raises(kind, match=told):
            command("sample", words[0], "--out", tmp_path / "out", *words[1:])


def test_a_machine_that_is_on_no_chip_is_told() -> None:
    with pytest.raises(AnnealerError, match="is not that of a chip"):
        emulator_of(machine_on(bipartite_topology(3, 2)))


def test_no_token_is_told_in_one_line(
    command: Command, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dwave.system", reason="dwave-system is not installed (extra qpu)")
    for name in [key for key in os.environ if key.startswith("DWAVE")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of D-Wave's packages among themselves
        with pytest.raises(AnnealerError, match=r"no D-Wave token is configured: run `dwave config create`"):
            command("sample", alone, "--out", tmp_path / "out", "--annealer", "qpu")
    monkeypatch.setitem(sys.modules, "dwave.system", None)
    with pytest.raises(AnnealerError, match=r"calo4pqvae\[qpu\]"):
        command("info", "qpu")
