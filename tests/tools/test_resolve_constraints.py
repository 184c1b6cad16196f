"""The pins resolve against the package index alone: pip's own resolver, with nothing of this machine to help it."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
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
    for name in ("FIND_LINKS", "EXTRA_INDEX_URL", "CONSTRAINT", "REQUIREMENT", "CONFIG_FILE", "PRE", "NO_INDEX"):
        monkeypatch.setenv(f"PIP_{name}", "somewhere")
    monkeypatch.setenv("PIP_CERT", "a certificate")
    kept = tool().bare_environment()
    assert "somewhere" not in {value for name, value in kept.items() if name.startswith("PIP_")}
    assert kept["PIP_CONFIG_FILE"] == os.devnull
    assert kept["PIP_CERT"] == "a certificate"


def test_pins_are_plain_versions() -> None:
    """A local build (``+cpu``), an address or a path would tie the pins to some machine."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)] == []
    assert len({pin.partition("==")[0] for pin in pins}) == len(pins)


def test_all_that_is_asked_for_is_pinned() -> None:
    """Every direct dependency of pyproject.toml has one tested version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    asked = [requirement for some in (*lists, *project["dependency-groups"].values()) for requirement in some]
    names = {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in asked}
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert names - set(pinned) == set()
    assert set(tool().GROUPS) == set(project["dependency-groups"])
    assert all(extra in tool().WANTED[3] for extra in project["project"]["optional-dependencies"])
