"""An interrupted and resumed run is the uninterrupted one, bit for bit."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

import calo4pqvae.models.qvae.family
from calo4pqvae.config import Config
from calo4pqvae.errors import CheckpointError
from calo4pqvae.runs.training import train
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import (
    CHECKPOINT_EVERY,
    N_STEPS,
    N_UPDATES,
    PRIOR_CHECKPOINT_EVERY,
    WEIGHTS,
    Diary,
    InterruptionError,
    contents,
    run_python,
    stop_at,
    tiny_config,
    tiny_file,
)

KINDS: dict[str, dict[str, Any]] = {
    "staged": {"training.mode": "staged"},
    "joint": {"training.mode": "joint"},
    "staged with joint networks": {"training.joint_networks": True, "prior.joint_update": "loss-covariance"},
    "folded energies, Adam, CD": {
        "training.joint_networks": True,
        "condition.mode": "fold",
        "prior.optimizer": "adam",
        "prior.method": "cd",
    },
    "sweeps that grow": {
        "training.mode": "staged",
        "prior.measure_every": 20,
        "prior.measure_sweeps": 40,
        "prior.sweeps_growth": 8.0,
    },
}
RESULTS = (*WEIGHTS, "posterior.safetensors", "split.safetensors", "config.toml", "metrics.jsonl")

Uninterrupted = Callable[[str], tuple[Config, dict[str, bytes]]]


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("showers"))


@pytest.fixture(scope="module")
def uninterrupted(showers: Path, tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Configuration and results of the uninterrupted run of a kind; each is trained once."""
    known: dict[str, tuple[Config, dict[str, bytes]]] = {}

    def get(kind: str) -> tuple[Config, dict[str, bytes]]:
        if kind not in known:
            config = tiny_config(showers, KINDS[kind])
            known[kind] = config, results(train(config, tmp_path_factory.mktemp("whole")))
        return known[kind]

    return get


def results(run: RunDirectory) -> dict[str, bytes]:
    return {name: (run.path / name).read_bytes() for name in RESULTS}


def interrupt(config: Config, out: Path, stage: str, done: int, *, resume: bool = False) -> None:
    with pytest.raises(InterruptionError):
        train(config, out, resume=resume, report=stop_at(stage, done))


@pytest.mark.parametrize(
    ("kind", "stage", "done"),
    [
        ("staged", "networks", 2),  # before the first checkpoint
        ("staged", "networks", 8),  # after the first epoch
        pytest.param("staged", "prior", 10, marks=pytest.mark.slow),  # before the first checkpoint of the stage
        ("staged", "prior", 58),  # after a row of metrics that no checkpoint covers
        ("joint", "networks", 8),
        pytest.param("staged with joint networks", "networks", 5, marks=pytest.mark.slow),
        ("staged with joint networks", "prior", 30),
        ("folded energies, Adam, CD", "networks", 10),
        pytest.param("folded energies, Adam, CD", "prior", 51, marks=pytest.mark.slow),
        ("sweeps that grow", "prior", 58),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(
    kind: str, stage: str, done: int, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    config, expected = uninterrupted(kind)
    interrupt(config, tmp_path, stage, done)
    run = train(config, tmp_path, resume=True)
    assert results(run) == expected


@pytest.mark.parametrize("kind", ["joint", "staged"])
def test_interruption_while_bits_are_exported(
    kind: str, uninterrupted: Uninterrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = uninterrupted(kind)

    def stop(*_: object) -> None:
        raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(calo4pqvae.models.qvae.family, "export_posterior", stop)
        with pytest.raises(InterruptionError):
            train(config, tmp_path)
    diary = Diary()
    run = train(config, tmp_path, resume=True, report=diary)
    assert results(run) == expected
    assert not [step for stage, step in diary.steps if stage == "networks"]


def test_many_interruptions(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    config, expected = uninterrupted("staged")
    for resume, stage, done in (
        (False, "networks", 4),
        (True, "networks", 7),
        (True, "prior", 26),
        (True, "prior", 60),
    ):
        interrupt(config, tmp_path, stage, done, resume=resume)
    assert results(train(config, tmp_path, resume=True)) == expected


@pytest.mark.parametrize(
    ("stage", "done", "total", "interval"),
    [
        *(("networks", done, N_STEPS, CHECKPOINT_EVERY) for done in (1, 5, N_STEPS)),
        *(("prior", done, N_UPDATES, PRIOR_CHECKPOINT_EVERY) for done in (1, 49, N_UPDATES)),
    ],
)
def test_at_most_one_checkpoint_interval_is_lost(
    stage: str, done: int, total: int, interval: int, showers: Path, tmp_path: Path
) -> None:
    config = tiny_config(showers)
    interrupt(config, tmp_path, stage, done)
    diary = Diary()
    train(config, tmp_path, resume=True, report=diary)
    first_stage, first = diary.steps[0]
    assert first_stage == stage
    assert done - interval < first <= done
    assert [step for now, step in diary.steps if now == stage] == list(range(first, total + 1))


KILLED = """
import os, signal, sys
from pathlib import Path
from calo4pqvae.config import load_config
from calo4pqvae.runs.training import train

config, out, victim, number = load_config(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
write, seen = Path.write_bytes, []

def write_half(path, content):
    seen.append(path) if victim in path.name else None
    if len(seen) == number:
        write(path, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path, content)

Path.write_bytes = write_half
train(config, out)
"""


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("checkpoint", 2),
        pytest.param("autoencoder", 2, marks=pytest.mark.slow),
        pytest.param("checkpoint", 6, marks=pytest.mark.slow),
        pytest.param("prior", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_while_a_file_is_half_written(
    victim: str, number: int, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    config, expected = uninterrupted("staged")
    settings, out = tmp_path / "config.toml", tmp_path / "run"
    settings.write_text(config.to_toml(), encoding="utf-8")
    killed = run_python("-c", KILLED, str(settings), str(out), victim, str(number))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(".partial-" in name for name in contents(out))
    with safe_open(out / "checkpoint.safetensors", framework="pt") as checkpoint:
        assert checkpoint.metadata()["stage"] in ("networks", "export", "prior")
    diary = Diary()
    assert results(train(config, out, resume=True, report=diary)) == expected
    assert diary.steps[0] != ("networks", 1)


def test_line_of_metrics_cut_by_a_kill_is_dropped(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    config, expected = uninterrupted("staged")
    interrupt(config, tmp_path, "networks", 7)
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "netw')
    assert results(train(config, tmp_path, resume=True)) == expected


def test_resuming_a_finished_run_changes_nothing(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"prior.updates": 20})
    train(config, tmp_path)
    before = contents(tmp_path)
    assert "checkpoint.safetensors" not in before
    diary = Diary()
    train(config, tmp_path, resume=True, report=diary)
    assert diary.steps == []
    assert contents(tmp_path) == before


def test_overwriting_a_finished_run_trains_anew(showers: Path, tmp_path: Path) -> None:
    first = tiny_config(showers, {"prior.updates": 20})
    second = first.replace({"training.seed": 2})
    expected = results(train(second, tmp_path / "fresh"))
    train(first, tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("of the old model", encoding="utf-8")
    assert results(train(second, tmp_path / "run", overwrite=True)) == expected
    assert not (tmp_path / "run" / "report.html").exists()


def test_an_existing_run_is_not_overwritten_unasked(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"prior.updates": 20})
    train(config, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="already holds a run"):
        train(config, tmp_path)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(config.replace({"training.epochs": 3}), tmp_path, resume=True)
    assert contents(tmp_path) == before
