"""The pins resolve against the package index alone: pip's own resolver, with nothing of this machine to help it."""

import importlib.util
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def tool() -> ModuleType:
    path = ROOT / "tools" / "resolve_constraints.py"
    spec = importlib.util.spec_from_file_location("resolve_constraints", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def _index(tmp_path: Path) -> None:
    """A package index that answers, with nothing of this machine to help."""
    words = ["download", "--no-deps", "--quiet", "--timeout", "10", "--retries", "0", "--dest", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words, "six==1.17.0"],
        env=tool().bare_environment(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no package index can be reached")


@pytest.mark.slow
@pytest.mark.usefixtures("_index")
def test_the_pins_resolve_against_the_index_alone() -> None:
    done = tool().resolve(sys.executable)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_index")
def test_a_pin_that_cannot_be_is_seen(tmp_path: Path) -> None:
    wrong = tmp_path / "constraints.txt"
    wrong.write_text(
        re.sub(r"^triton==.*$", "triton==3.2.0", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    )
    done = tool().resolve(sys.executable, ("-c", str(wrong), "torch==2.13.0"))
    assert done.returncode != 0


def test_nothing_of_this_machine_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "somewhere")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///somewhere")
    kept = tool().bare_environment()
    assert "somewhere" not in str({name: value for name, value in kept.items() if name.startswith("PIP_")})
    assert socket.gethostname() not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
