"""Small outputs that are pinned, so that a change of structure is seen to change nothing.

Two kinds: the help of every command, everywhere; and the bits of a tiny training, of what it generates, and of a
machine on its own, where processor and versions are those that they were made with (elsewhere rounding makes another
training).
A change that is meant to change them renews them, and says so: ``python -m tests.test_golden``.
"""

import hashlib
import json
import platform
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from typer.testing import CliRunner

from calo4pqvae.cli.main import app
from calo4pqvae.runs.generation import generate, load_model, parse_energies, reconstruct
from calo4pqvae.runs.training import train
from calo4pqvae.showers.files import ShowerFile
from calo4pqvae.standalone.settings import load_prior_config
from calo4pqvae.standalone.training import train_prior_alone
from tests.cli.test_help import COMMANDS
from tests.small_runs import tiny_config, tiny_file

FOLDER = Path(__file__).parent / "golden"
KINDS: dict[str, dict[str, Any]] = {
    "factorised": {"training.epochs": 1, "prior.updates": 20},
    "free logits, joint": {"latent.factors": 0, "training.mode": "joint", "training.epochs": 1},
    "cascade": {"decoder.kind": "cascade", "cascade.steps": 5, "cascade.batch_size": 4, "prior.updates": 5},
    "library": {"model.family": "library"},
}


def fingerprint() -> dict[str, str]:
    """What decides how sums are rounded."""
    return {
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "torch": str(torch.__version__).partition("+")[0],
        "numpy": np.__version__,
    }


def digest(arrays: dict[str, Any]) -> str:
    """A short hash of named arrays."""
    content = b"".join(name.encode() + np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))
    return hashlib.sha256(content).hexdigest()[:16]


def showers_of(path: Path) -> str:
    with ShowerFile(path) as file:
        return digest({"energies": file.incident_energies(), "showers": file.read(0, len(file.incident_energies()))})


def bits_of(kind: str, folder: Path) -> dict[str, str]:
    """Hashes of what a tiny run leaves and gives."""
    showers = tiny_file(folder)
    run = train(tiny_config(showers, KINDS[kind]), folder / "run")
    found = {path.stem: digest(load_file(path)) for path in sorted(run.path.glob("*.safetensors"))}
    model, energies = load_model(run.path), parse_energies("1000:100000:log", 25, 3, (1e3, 1e5))
    for name, source in model.sources.items():
        out = folder / f"{name}.hdf5"
        if source.from_showers:
            reconstruct(model, showers, out, seed=2)
        else:
            generate(model, energies, out, seed=2, source=name)
        found[f"showers, {source.title}"] = showers_of(out)
    return found


def machine_alone(folder: Path) -> dict[str, str]:
    config = load_prior_config("quick", ["epochs=1", "n_hidden=16", "n_saved=2"])
    train_prior_alone(config, folder / "prior")
    return {"machine on its own": digest(load_file(folder / "prior" / "prior.safetensors"))}


def help_of(name: str) -> str:
    """Words of a command's help, without its frame and line ends."""
    shown = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).invoke(app, [*name.split(), "--help"]).stdout
    return " ".join(shown.translate(str.maketrans("│╭╮╰╯─", "      ")).split())


def kept(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_help_of_every_command() -> None:
    assert {name: help_of(name) for name in COMMANDS} == kept("help")


@pytest.fixture
def _same_rounding() -> None:
    made = kept("bits")["fingerprint"]
    if made != fingerprint():
        pytest.skip(f"pinned with {made}, here are {fingerprint()}: rounding makes another training")


@pytest.mark.usefixtures("_same_rounding")
@pytest.mark.parametrize("kind", KINDS)
def test_bits_of_a_tiny_run(kind: str, tmp_path: Path) -> None:
    assert bits_of(kind, tmp_path) == kept("bits")[kind]


@pytest.mark.usefixtures("_same_rounding")
def test_bits_of_a_machine_on_its_own(tmp_path: Path) -> None:
    assert machine_alone(tmp_path) == kept("bits")["alone"]


def renew() -> None:
    """Writes all pins anew."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"fingerprint": fingerprint()}
    for kind in KINDS:
        with TemporaryDirectory() as folder:
            found[kind] = bits_of(kind, Path(folder))
    with TemporaryDirectory() as folder:
        found["alone"] = machine_alone(Path(folder))
    FOLDER.mkdir(exist_ok=True)
    texts = {"bits": found, "help": {name: help_of(name) for name in COMMANDS}}
    for name, content in texts.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    renew()
