"""The words about the project are true: README commands run, commands and settings named anywhere exist."""

import ast
import importlib
import itertools
import json
import re
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from calo4pqvae import __version__
from calo4pqvae.cli.main import app, main
from calo4pqvae.config import Config, load_config, preset_names
from calo4pqvae.standalone.settings import load_prior_config
from calo4pqvae.studies.frame.registry import STUDIES, load_study

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")],
    key=lambda page: page.name,
)
BLOCK = re.compile(
    r"(?:<!-- (?P<marker>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
SETTING = re.compile(r"`(\w+)\.(\w+)(?: = [^`]*)?`")

N_SHOWERS = 200
TINY_TRAINING = {
    "data.max_showers": 300,
    "training.epochs": 1,
    "latent.bits_per_level": 16,
    "encoder.hidden": 16,
    "decoder.hidden": 16,
    "cascade.steps": 4,
    "prior.updates": 4,
    "prior.n_chains": 50,
    "prior.batch_size": 50,
    "generation.n_sweeps": 5,
}
ADDED = {
    "train": [part for key, value in TINY_TRAINING.items() for part in ("--set", f"{key}={value}")],
    "generate": ["--n", str(N_SHOWERS)],
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the comment before it."""

    page: str
    marker: str
    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(page.name, match["marker"] or "", match["language"], match["text"]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [
    pytest.param(line, id=f"{block.page}: {line}")
    for block in BLOCKS
    if block.language == "bash"
    for line in block.text.splitlines()
    if line.startswith("calo4pqvae")
]


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a command line in this process, with the options that keep it small."""
    argv = shlex.split(line)
    monkeypatch.setattr(sys, "argv", [*argv, *ADDED.get(argv[1], [])])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code in (0, None), line


def test_the_tour_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    tour = [block for block in BLOCKS if block.page == "README.md" and block.marker == "run: tour"]
    assert [block.language for block in tour] == ["bash", "python"]
    for line in tour[0].text.splitlines():
        run(line, monkeypatch)
    said = capsys.readouterr().out
    assert "n_showers: 1700" in said
    assert f"{N_SHOWERS} showers in runs/electrons.hdf5" in said
    assert "epochs = 50" in said
    assert json.loads(Path("runs/electrons/provenance.json").read_text(encoding="utf-8"))["finished"] is True
    assert "Geant4" in Path("runs/comparison/report.html").read_text(encoding="utf-8")
    assert json.loads(Path("runs/comparison/metrics.json").read_text(encoding="utf-8"))["data"] is not None

    names: dict[str, object] = {}
    exec(compile(tour[1].text, "README.md", "exec"), names)
    with h5py.File("runs/electrons.hdf5") as file:
        expected = file["showers"][:].sum(axis=1) / file["incident_energies"][:].ravel()
    assert expected.shape == (N_SHOWERS,)
    np.testing.assert_array_equal(names["response"], expected)
    assert np.isfinite(expected).all()


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=f"{block.page}-{number}") for number, block in enumerate(BLOCKS)]
)
def test_every_block_says_whether_it_is_run(block: Block) -> None:
    if block.language in ("bash", "python"):
        assert re.fullmatch(r"run: tour|parsed only|not run: .{10,}", block.marker), (
            f"a {block.language} block of {block.page} has no comment before it that says whether it is run"
        )


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_options_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    unit = words[0]
    load = load_prior_config if unit == "prior" else load_config
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context("calo4pqvae", words).params  # fails on unknown options and missing arguments
    if unit == "study" and given["name"] in STUDIES:
        load_study(given["name"]).configure(quick=given["quick"], overrides=given["settings"] or [])
    elif "settings" in given:
        load(given.get("config"), given["settings"] or [])


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python"], ids=lambda block: block.page
)
def test_names_imported_in_python_blocks_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_and_presets_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for section, key in SETTING.findall(text):
        if section in Config.model_fields and key not in ("py", "toml", "hdf5", "safetensors"):
            assert key in type(getattr(Config(), section)).model_fields, f"{page.name} names {section}.{key}"
    if page.name == "training.md":
        table = text.partition("| preset | what |")[2].partition("\n\n")[0]
        assert sorted(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)) == preset_names()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [
        target for target in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()
    ]
    assert missing == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"`?\bmake ([\w-]+)`", page.read_text(encoding="utf-8"))}
    named |= {name for block in BLOCKS for name in re.findall(r"^make ([\w-]+)", block.text, re.MULTILINE)}
    assert {"demo", "test", "lint", "docs"} <= named <= targets


def test_versions_agree() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_pin_every_dependency_within_its_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    content = [line for line in lines if not line.startswith("#")]
    assert [line for line in content if not re.fullmatch(r"[a-z0-9-]+==[\w.]+", line)] == []
    pins = dict(line.split("==") for line in content)
    assert len(pins) == len(content)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    for text in itertools.chain(*groups, *project["dependency-groups"].values()):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text
