"""Runs of stand-alone machines: what is in them, and that interrupted ones end as others do."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calo4pqvae.errors import CheckpointError, ConfigError, DataError, PriorError
from calo4pqvae.prior.bits.file import BitsFile
from calo4pqvae.standalone.runs import load_bits, open_prior_run
from calo4pqvae.standalone.settings import PriorRunConfig, load_prior_config, prior_preset_names
from calo4pqvae.standalone.training import train_prior_alone
from calo4pqvae.workshop.rundir import RunDirectory

SMALL = {
    "n_hidden": 4,
    "epochs": 6,
    "batch_size": 40,
    "n_chains": 20,
    "n_sweeps": 2,
    "learning_rate_final": 0.05,
    "n_saved": 5,
    "checkpoint_every": 7,
    "seed": 3,
}


class InterruptionError(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture
def bits(tmp_path: Path) -> Path:
    """400 states of eight bits that go in pairs, with a condition that one of them follows."""
    rng = np.random.default_rng(1)
    halves = rng.integers(0, 2, (400, 4))
    condition = rng.normal(size=(400, 1)).astype(np.float32)
    halves[:, 0] = condition[:, 0] > 0
    BitsFile(np.repeat(halves, 2, axis=1).astype(np.uint8), None, condition).write(tmp_path / "bits.hdf5")
    return tmp_path / "bits.hdf5"


def settings(bits: Path, **changes: Any) -> PriorRunConfig:
    return PriorRunConfig.model_validate({"data": str(bits), **SMALL, **changes})


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stop_at(step: int) -> Any:
    def progress(done: int, _total: int, _numbers: Mapping[str, float]) -> None:
        if done == step:
            raise InterruptionError

    return progress


def test_a_run_holds_what_it_took_to_make_it(bits: Path, tmp_path: Path) -> None:
    config = settings(bits)
    run = train_prior_alone(config, tmp_path / "run")
    files = contents(tmp_path / "run")
    steps = [step for step, _ in run.trajectory()]
    assert steps[0] == 0
    assert steps[-1] == 54
    assert {"settings.toml", "provenance.json", "prior.safetensors", "checkpoint.safetensors", "metrics.jsonl"} < set(
        files
    )
    assert not any("partial" in name for name in files)
    provenance = RunDirectory(run.path).provenance()
    train, test = load_bits(config)
    assert provenance["finished"] is True
    assert provenance["data"]["train"]["sha256"] == train.content_hash
    assert (provenance["data"]["train"]["n_states"], test.n_states) == (360, 40)
    rows = RunDirectory(run.path).metrics()
    assert [row["epoch"] for row in rows] == list(range(6))
    assert rows[-1]["step"] == 54
    assert run.config == config
    assert torch.equal(run.trajectory()[-1][1].couplings, run.machine.couplings)
    assert run.chains.shape == (20, 12)
    assert run.hidden.sum() == 4


def test_the_machine_learns_the_pairs(bits: Path, tmp_path: Path) -> None:
    run = train_prior_alone(settings(bits, epochs=100, learning_rate=2.0, n_hidden=8), tmp_path / "run")
    states = run.visible(run.chains)
    pairs = (states[:, ::2] == states[:, 1::2]).float().mean()
    rows = RunDirectory(run.path).metrics()
    assert pairs > 0.8
    assert rows[-1]["free_energy_test"] < rows[0]["free_energy_test"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "pt", "n_temperatures": 3},
        {"method": "cd"},
        {"optimizer": "adam", "gradient": "plain", "learning_rate": 0.01, "learning_rate_final": 0.001},
        {"condition": True, "weight_decay": 0.01, "l1": 0.001},
        {"graph": "zephyr"},
        {"graph": "complete", "gradient": "mean-field"},
        {"measure_every": 5, "measure_sweeps": 30, "sweeps_growth": 2.0, "n_sweeps": 1},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "default",
)
def test_an_interrupted_run_ends_like_a_whole_one(changes: dict[str, Any], bits: Path, tmp_path: Path) -> None:
    config = settings(bits, **changes)
    train_prior_alone(config, tmp_path / "whole")
    for step in (5, 23, 54):  # before the first checkpoint, after one, and at the last step
        with pytest.raises(InterruptionError):
            train_prior_alone(config, tmp_path / "cut", resume=step > 5, progress=stop_at(step))
    train_prior_alone(config, tmp_path / "cut", resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_killed_run_ends_like_a_whole_one(bits: Path, tmp_path: Path) -> None:
    config = settings(bits, epochs=40)
    train_prior_alone(config, tmp_path / "whole")
    (tmp_path / "settings.toml").write_text(config.to_toml(), encoding="utf-8")
    program = (
        "import sys, time; from pathlib import Path; from calo4pqvae.standalone.training import train_prior_alone\n"
        "from calo4pqvae.standalone.settings import load_prior_config\n"
        "train_prior_alone(load_prior_config(sys.argv[1]), Path(sys.argv[2]), progress=lambda *_: time.sleep(0.02))"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path / "settings.toml"), str(tmp_path / "cut")]
    with subprocess.Popen(arguments) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "cut" / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "cut" / "prior.safetensors").exists()
    train_prior_alone(config, tmp_path / "cut", resume=True)
    assert {name: sums for name, sums in contents(tmp_path / "cut").items() if "partial" not in name} == contents(
        tmp_path / "whole"
    )


def test_a_finished_run_may_be_resumed(bits: Path, tmp_path: Path) -> None:
    config = settings(bits)
    train_prior_alone(config, tmp_path / "run")
    before = contents(tmp_path / "run")
    train_prior_alone(config, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == before


def test_runs_are_not_mixed_up(bits: Path, tmp_path: Path) -> None:
    train_prior_alone(settings(bits), tmp_path / "run")
    with pytest.raises(CheckpointError, match="already holds a run"):
        train_prior_alone(settings(bits), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"other settings \(- n_hidden = 4; \+ n_hidden = 5\)"):
        train_prior_alone(settings(bits, n_hidden=5), tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match=r"it has no settings\.toml"):
        train_prior_alone(settings(bits), tmp_path / "none", resume=True)
    BitsFile(np.ones((400, 8), dtype=np.uint8)).write(bits)
    with pytest.raises(CheckpointError, match="are not those that"):
        train_prior_alone(settings(bits), tmp_path / "run", resume=True)
    again = train_prior_alone(settings(bits, epochs=1), tmp_path / "run", overwrite=True)
    assert [step for step, _ in again.trajectory()] == [0, 1, 2, 3, 5, 9]


def test_damaged_runs_are_told(bits: Path, tmp_path: Path) -> None:
    run = train_prior_alone(settings(bits), tmp_path / "run")
    path = run.path / "prior.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(CheckpointError, match="damaged"):
        open_prior_run(run.path)
    path.write_bytes(whole)
    tensors, notes = RunDirectory(run.path).load_tensors("prior")
    tensors["machine.couplings"][3] = float("nan")
    RunDirectory(run.path).save_tensors("prior", tensors, **notes)
    with pytest.raises(PriorError, match="couplings of the machine hold NaN"):
        open_prior_run(run.path)
    del tensors["graph.edges"]
    RunDirectory(run.path).save_tensors("prior", tensors)
    with pytest.raises((CheckpointError, PriorError), match="edges"):
        open_prior_run(run.path)
    (run.path / "settings.toml").write_text("nonsense = 1", encoding="utf-8")
    with pytest.raises(CheckpointError, match="unknown setting 'nonsense'"):
        open_prior_run(run.path)


def test_data_that_do_not_fit_are_told(bits: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size = 400 is more than the 360 states"):
        train_prior_alone(settings(bits, batch_size=400), tmp_path / "run")
    BitsFile(np.zeros((9, 5), dtype=np.uint8)).write(tmp_path / "other.hdf5")
    with pytest.raises(DataError, match=r"has 8 bits, .* 5"):
        train_prior_alone(settings(bits, test_data=str(tmp_path / "other.hdf5")), tmp_path / "run")
    with pytest.raises(DataError, match="has no data set 'condition'"):
        load_bits(settings(tmp_path / "other.hdf5", condition=True))
    assert not (tmp_path / "run").exists()


def test_settings_survive_their_file(tmp_path: Path) -> None:
    config = load_prior_config("quick", ["coupling_range=[-1.0, 1.0]", "field_range=[-4, 4]", "max_norm=3"])
    (tmp_path / "x.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load_prior_config(tmp_path / "x.toml") == config
    limits = config.learning().programmable
    assert limits is not None
    assert limits.field == (-4.0, 4.0)
    assert load_prior_config(tmp_path / "x.toml", ["max_norm=none"]).max_norm is None


@pytest.mark.parametrize("name", ["fashion-mnist", "mnist", "quick"])
def test_presets_are_valid(name: str) -> None:
    assert name in prior_preset_names()
    assert load_prior_config(name).learning().method == "pcd"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("n_hiden=3", "unknown setting 'n_hiden': the nearest one is 'n_hidden'"),
        ("n_chains=0", "'n_chains' = 0 cannot be used"),
        ("epochs=none", "'epochs' = 'none' cannot be used"),
        ("learning_rate", "is no setting: write key=value"),
        ("sweeps_growth=2.0", "do not fit together: .*set measure_every"),
        ("coupling_range=[-1.0, 1.0]", "belong together"),
        ("gradient=natural", "'gradient' = 'natural' cannot be used"),
    ],
)
def test_senseless_settings_are_told(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_prior_config(None, [override])


def test_unknown_presets_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset \(fashion-mnist, mnist, quick\)"):
        load_prior_config("minst")
    (tmp_path / "x.toml").write_text("a = [", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_prior_config(tmp_path / "x.toml")


def test_metrics_are_json(bits: Path, tmp_path: Path) -> None:
    run = train_prior_alone(settings(bits, measure_every=20, measure_sweeps=30), tmp_path / "run")
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["stage"] for row in rows].count("mixing") == 2
    assert all(row["relaxation_time"] > 0 for row in rows if row["stage"] == "mixing")
