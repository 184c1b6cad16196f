"""The command line as users meet it."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from calo4pqvae import __version__
from calo4pqvae.cli.main import main
from calo4pqvae.config import load_config, preset_names
from calo4pqvae.runs.training import train
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import (
    N_VOXELS,
    TINY,
    InterruptionError,
    bundled_rows,
    contents,
    stop_at,
    tiny_config,
    tiny_file,
    write_showers,
)

Command = Callable[..., tuple[int, str, str]]

COMMANDS = ("demo", "train", "generate", "reconstruct", "evaluate", "compare", "report", "data", "config")
SUBCOMMANDS = ("data info", "data validate", "data fetch", "config list", "config show")


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("showers"))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the entry point; gives exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["calo4pqvae", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        seen = capsys.readouterr()
        return int(left.value.code or 0), seen.out, seen.err

    return run


def overrides(file: Path, **changes: str) -> list[str]:
    """The tiny settings as ``--set`` options."""
    settings = TINY | {"data.train": str(file), "data.heldout": str(file)} | changes
    return [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def test_command_line_starts_without_heavy_imports() -> None:
    heavy = {"torch", "numpy", "scipy", "h5py", "pydantic", "matplotlib"}
    code = f"import sys, calo4pqvae.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_version(command: Command) -> None:
    assert command("--version") == (0, f"calo4pqvae {__version__}\n", "")


def test_installed_script_and_module_are_the_same_command() -> None:
    script = Path(sys.executable).with_name("calo4pqvae")
    for start in ([str(script)], [sys.executable, "-m", "calo4pqvae"]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True, timeout=60)
        assert (done.stdout, done.stderr) == (f"calo4pqvae {__version__}\n", "")


@pytest.mark.parametrize("name", ["", *COMMANDS, *SUBCOMMANDS])
def test_help_of_every_command(name: str, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, error = command(*name.split(), "--help")
    assert (code, error) == (0, "")
    assert f"Usage: calo4pqvae {name}".rstrip() in out
    if not name:
        assert all(known in out for known in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["data"], ["config"]])
def test_no_arguments_show_help(arguments: list[str], command: Command) -> None:
    code, out, error = command(*arguments)
    assert code == 2
    assert "Usage: calo4pqvae" in out + error
    assert "error:" not in error


def test_config_list_and_show(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("config", "list")
    assert (code, out.split()) == (0, preset_names())
    assert "demo" in out.split()
    code, out, _ = command("config", "show", "demo", "--set", "training.epochs=7")
    assert code == 0
    assert tomllib.loads(out)["training"]["epochs"] == 7
    path = tmp_path / "shown.toml"
    path.write_text(out, encoding="utf-8")
    assert load_config(path) == load_config("demo", ["training.epochs=7"])
    assert command("config", "show", str(path)) == (0, out, "")


def test_data_info(showers: Path, command: Command) -> None:
    code, out, error = command("data", "info", str(showers), "--dataset", "ds2")
    told = dict(line.split(": ", 1) for line in out.splitlines())
    assert (code, error) == (0, "")
    assert (told["n_showers"], told["n_voxels"]) == ("120", "6480")
    energies, _ = bundled_rows("train", 120)
    assert float(told["energy_min_mev"]) == pytest.approx(energies.min())
    assert float(told["energy_max_mev"]) == pytest.approx(energies.max())


def test_data_validate(showers: Path, tmp_path: Path, command: Command) -> None:
    code, out, _ = command("data", "validate", str(showers))
    assert code == 0
    assert out.splitlines()[-1] == "clean"
    energies, voxels = bundled_rows("train", 20)
    broken = voxels.copy()
    broken[[2, 5], 100] = np.nan
    code, out, error = command("data", "validate", str(write_showers(tmp_path / "bad.hdf5", energies, broken)))
    assert (code, error) == (1, "")
    assert out.splitlines()[-1].startswith("2 bad showers")
    assert "'nonfinite': {'count': 2, 'rows': [2, 5]}" in out


def test_train_generate_reconstruct(showers: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    code, out, error = command("train", "--out", str(run), *overrides(showers))
    assert code == 0, error
    assert out.splitlines()[-1] == f"trained model in {run}"
    made = tmp_path / "made.hdf5"
    code, out, error = command(
        "generate", str(run), "--out", str(made), "--energies", "1000:100000:lin", "--n", "30", "--seed", "4"
    )
    assert code == 0, error
    assert out.startswith(f"30 showers in {made}, ")
    assert "showers/s, seed 4" in out
    again = tmp_path / "again.hdf5"
    code, out, error = command("reconstruct", str(run), str(made), "--out", str(again))
    assert code == 0, error
    with h5py.File(made, "r") as one, h5py.File(again, "r") as two:
        assert one["showers"].shape == two["showers"].shape == (30, N_VOXELS)
        np.testing.assert_array_equal(one["incident_energies"][:], two["incident_energies"][:])
        assert one.attrs["seed"] == 4


def test_default_seed_is_that_of_the_run(showers: Path, tmp_path: Path, command: Command) -> None:
    config = tiny_config(showers, {"generation.seed": 9, "training.epochs": 1, "prior.updates": 20})
    train(config, tmp_path / "run")
    for name, seed in (("a", []), ("b", ["--seed", "9"]), ("c", ["--seed", "0"])):
        asked = ["generate", str(tmp_path / "run"), "--out", str(tmp_path / name), "--energies", "2000:5000"]
        assert command(*asked, "-n", "20", *seed)[0] == 0
    found = {}
    for name in "abc":
        with h5py.File(tmp_path / name, "r") as file:
            found[name] = file["showers"][:]
    assert np.array_equal(found["a"], found["b"])
    assert not np.array_equal(found["a"], found["c"])


def test_resume_of_an_interrupted_training(showers: Path, tmp_path: Path, command: Command) -> None:
    config = tiny_config(showers, {"prior.updates": 20})
    whole = train(config, tmp_path / "whole")
    with pytest.raises(InterruptionError):
        train(config, tmp_path / "run", report=stop_at("networks", 7))
    assert command("train", "--resume", str(tmp_path / "run"))[0] == 0
    for name in ("autoencoder.safetensors", "prior.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.path / name).read_bytes()


def hear_interruptions() -> None:
    """In a child: tests that run in the background of a shell have it ignored, and children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_says_so_and_can_be_resumed(showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, {"training.epochs": 100_000})
    settings, run = tmp_path / "settings.toml", tmp_path / "run"
    settings.write_text(config.to_toml(), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "calo4pqvae", "train", "--config", str(settings), "--out", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=hear_interruptions,
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "checkpoint.safetensors").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert error == "interrupted; finished checkpoints and files are kept\n"
    tensors, notes = RunDirectory.open(run).load_tensors("checkpoint")
    assert notes["stage"] == "networks"
    assert int(tensors["step"]) % 3 == 0


def test_demo_goes_on_where_it_stood(showers: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    options = ["--out", str(run), *overrides(showers)]
    config = load_config("demo").replace({**TINY, "data.train": str(showers), "data.heldout": str(showers)})
    with pytest.raises(InterruptionError):
        train(config, run, report=stop_at("prior", 30))
    networks = (run / "autoencoder.safetensors").read_bytes()
    code, out, error = command("demo", *options, "--device", "cpu")
    assert code == 0, error
    assert out.startswith("going on with the run in")
    assert (run / "autoencoder.safetensors").read_bytes() == networks
    assert str(run / "report.html") in out
    assert (run / "report.html").is_file()
    before = contents(run)
    assert command("demo", "--out", str(run), *overrides(showers, **{"training.seed": "2"}))[0] == 2
    assert contents(run) == before
    assert RunDirectory.open(run).provenance()["finished"] is True


@pytest.mark.slow
def test_evaluate_two_files(tmp_path: Path, command: Command) -> None:
    energies, showers = bundled_rows("heldout", 400)
    reference = write_showers(tmp_path / "geant4.hdf5", energies[:200], showers[:200])
    other = write_showers(tmp_path / "other.hdf5", energies[200:], showers[200:])
    asked = ["--metrics", "separation,distances", "--out", str(tmp_path / "report")]
    code, out, error = command("evaluate", str(reference), str(other), *asked)
    assert code == 0, error
    assert {"report.html", "metrics.json"} <= {path.name for path in (tmp_path / "report").iterdir()}
    assert f"report: {tmp_path / 'report' / 'report.html'}" in out
    assert "Metrics at equal sizes" in out
    assert "FPD" in out
    content = json.loads((tmp_path / "report" / "metrics.json").read_text(encoding="utf-8"))
    assert content["schema_version"] == 2
    assert content["provenance"]["command"].startswith("calo4pqvae evaluate geant4.hdf5 other.hdf5 --metrics")
    assert str(tmp_path) not in json.dumps(content)


@pytest.mark.slow
def test_compare_a_run_and_a_file(showers: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "mine"
    train(tiny_config(showers, {"data.heldout": str(showers)}), run)
    assert command("report", str(run), "--n", "150", "--device", "cpu")[0] == 0
    energies, voxels = bundled_rows("heldout", 200)
    other = write_showers(tmp_path / "other.hdf5", energies, voxels)
    asked = ["--reference", str(showers), "--metrics", "separation", "--out", str(tmp_path / "both")]
    code, out, error = command("compare", str(run), str(other), *asked)
    assert code == 0, error
    assert "Metrics at equal sizes" in out
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    for words in ("mine", "other", "CaloDREAM", "Geant4 itself"):
        assert words in page
