"""Names of annealers: what is opened, and what is said where something is missing."""

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from calo4pqvae.annealer.calls import annealer as device
from calo4pqvae.annealer.calls.annealer import open_annealer
from calo4pqvae.errors import AnnealerError, CaloError
from tests.annealer.machines import CHIP


def without_configuration(tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DWAVE", "XDG"))}
    return kept | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path)}


@pytest.mark.parametrize("spec", ["qpu", "qpu:Advantage2_system1"])
def test_without_a_token_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spec: str) -> None:
    pytest.importorskip("dwave.system", reason="dwave-system is not installed (extra qpu)")
    environment = without_configuration(tmp_path)
    for key in set(os.environ) - set(environment):
        monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of D-Wave's packages among themselves
        with pytest.raises(AnnealerError) as told:
            open_annealer(spec)
    assert "\n" not in str(told.value)
    assert "run `dwave config create` (or set DWAVE_API_TOKEN), or use emulator:advantage2" in str(told.value)


def test_without_ocean_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dwave.system", None)
    with pytest.raises(AnnealerError, match=r"pip install 'calo4pqvae\[qpu\]'; or use the emulator"):
        open_annealer("qpu")


def test_a_token_is_not_taken_here() -> None:
    token = "DEV-" + "0123456789abcdef" * 2
    with pytest.raises(AnnealerError, match="dwave config create") as told:
        open_annealer(f"qpu:{token}")
    assert token not in str(told.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("emulator:advantage9", "there is no chip 'advantage9'"),
        ("emulator:advantage2:big", "the size of an emulated chip is a whole number"),
        ("leap", "there is no annealer 'leap'"),
    ],
)
def test_unknown_names(spec: str, told: str) -> None:
    with pytest.raises(CaloError, match=told):
        open_annealer(spec, seed=1)


def test_an_emulator_needs_a_seed() -> None:
    with pytest.raises(AnnealerError, match="give it a seed"):
        open_annealer(CHIP)


def test_the_emulator_needs_no_client() -> None:
    code = (
        "import sys, calo4pqvae.annealer.calls.annealer as d\n"
        "d.open_annealer('emulator:advantage2:2', seed=1)\n"
        "print(sorted({'dwave.system', 'dwave.cloud'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_client_is_imported_in_one_place_inside_a_function() -> None:
    source = Path(device.__file__).parents[1]
    users = {}
    for path in source.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith(("dwave.system", "dwave.cloud", "dwave.embedding")) for name in names):
                users[path.name] = id(node) in inside
    assert users == {"annealer.py": True}
