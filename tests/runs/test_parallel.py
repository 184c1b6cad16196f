"""Two processes do what one does: data-parallel training, and generation in parts."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from calo4pqvae.cli.main import app
from calo4pqvae.config import Config
from calo4pqvae.runs.training import train
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import N_VOXELS, run_python, tiny_config, tiny_file

CLI = ("-m", "calo4pqvae")


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_file(tmp_path_factory.mktemp("showers"))


def train_with_two(config: Config, folder: Path) -> RunDirectory:
    settings = folder / "settings.toml"
    settings.write_text(config.to_toml(), encoding="utf-8")
    done = run_python(*CLI, "train", "--config", str(settings), "--out", str(folder / "two"), n_processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained model in") == 1
    return RunDirectory.open(folder / "two")


@pytest.mark.parametrize(
    "changes",
    [
        {"training.mode": "joint"},
        pytest.param({"training.mode": "staged", "decoder.mask": False}, marks=pytest.mark.slow),
    ],
)
def test_data_parallel_training_is_that_of_one_process(changes: dict[str, Any], showers: Path, tmp_path: Path) -> None:
    config = tiny_config(showers, changes | {"prior.updates": 20})
    two, one = train_with_two(config, tmp_path), train(config, tmp_path / "one")
    assert two.provenance()["processes"] == 2
    assert one.provenance()["processes"] == 1
    for mine, theirs in zip(one.metrics(), two.metrics(), strict=True):
        assert mine["stage"] == theirs["stage"]
        if mine["stage"] == "networks":
            assert theirs["train"] == pytest.approx(mine["train"], rel=2e-4, abs=1e-4)
    for name, rate in (("autoencoder", config.training.learning_rate), ("prior", config.prior.joint_learning_rate)):
        expected, found = (load_file(run.tensor_path(name)) for run in (one, two))
        assert expected.keys() == found.keys()
        for key, tensor in expected.items():
            # Adam moves a weight by up to its rate a step, whatever the size of the gradient: rounding may show there
            torch.testing.assert_close(found[key], tensor, rtol=1e-3, atol=0.1 * rate, msg=key)


def test_generation_by_two_processes_gives_the_same_showers(showers: Path, tmp_path: Path) -> None:
    run = train(tiny_config(showers, {"training.epochs": 1, "prior.updates": 20}), tmp_path / "run")
    files = [tmp_path / f"{n}.hdf5" for n in (1, 2)]
    for n_processes, out in enumerate(files, start=1):
        asked = ["generate", str(run.path), "--out", str(out), "--energies", "1000:100000:log", "-n", "70"]
        asked += ["--seed", "5", "--device", "cpu"]
        if n_processes == 1:
            code, told = 0, CliRunner().invoke(app, asked).stdout
        else:
            done = run_python(*CLI, *asked, n_processes=n_processes)
            code, told = done.returncode, done.stdout + done.stderr
        assert code == 0, told
        assert told.count("70 showers in") == 1
    with h5py.File(files[0], "r") as one, h5py.File(files[1], "r") as two:
        assert two["showers"].shape == (70, N_VOXELS)
        assert two["showers"].is_virtual
        for name in ("incident_energies", "showers"):
            np.testing.assert_array_equal(one[name][:], two[name][:])
        assert one["showers"][:].any(axis=1).all()
        assert two.attrs["seed"] == 5
    parts = sorted(path.name for path in tmp_path.glob("*.part-*"))
    assert parts == ["2.part-0-of-2.hdf5", "2.part-1-of-2.hdf5"]
    with h5py.File(tmp_path / parts[0], "r") as part:
        assert len(part["showers"]) == 40  # two chunks of twenty; the other two, one of them short, went to the other


TWO_FILES = """
import sys
from pathlib import Path
from calo4pqvae.runs.generation import generate, load_model, parse_energies

model = load_model(Path(sys.argv[1]))
for number in (1, 2):
    energies = parse_energies("1000:100000:log", 30, number, (1e3, 1e5))
    generate(model, energies, Path(sys.argv[2]) / f"{number}.hdf5", seed=number)
"""


@pytest.mark.slow
def test_two_processes_write_file_after_file(showers: Path, tmp_path: Path) -> None:
    run = train(tiny_config(showers, {"training.epochs": 1, "prior.updates": 20}), tmp_path / "run")
    script = tmp_path / "two_files.py"
    script.write_text(TWO_FILES, encoding="utf-8")
    done = run_python(str(script), str(run.path), str(tmp_path), n_processes=2)
    assert done.returncode == 0, done.stderr
    for name in ("1.hdf5", "2.hdf5"):
        with h5py.File(tmp_path / name, "r") as file:
            assert file["showers"].shape == (30, N_VOXELS)
            assert file["showers"][:].any(axis=1).all()
