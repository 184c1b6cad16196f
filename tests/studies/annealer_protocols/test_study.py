"""The protocol study from end to end on a run of seconds: all is written, labelled as emulated, and can be repeated."""

import json
from pathlib import Path
from typing import Any

import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.annealer_protocols.machines import study_machine
from calo4pqvae.studies.annealer_protocols.study import STUDY, TABLE, protocols_of
from calo4pqvae.studies.frame.registry import load_study
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import finished_run, shower_prior
from tests.small_runs import tiny_config, tiny_file

SMALL = (
    'models=["A"]',
    'families=["zephyr"]',
    'modes=["ideal"]',
    "n_showers=10",
    "n_conditions=2",
    "estimate_reads=40",
    "tracked_reads=20",
    "single_reads=20",
    "n_published=2",
    "truth_rounds=5",
    "truth_sweeps=20",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config(tiny_file(tmp_path_factory.mktemp("data")), {"prior.graph": "zephyr"})
    return finished_run(config, tmp_path_factory.mktemp("run") / "tiny", "training", silent)


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    STUDY.run(STUDY.configure(quick=True, overrides=(f"run={run}", *SMALL)), out, 1)
    return out / STUDY.name


def test_it_is_in_the_registry_and_its_quick_form_is_valid() -> None:
    assert load_study("annealer-protocols") is STUDY
    assert STUDY.configure(quick=True).n_repeats == 2  # type: ignore[attr-defined]


def test_everything_is_written_and_says_that_it_is_emulated(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    assert result["numbers"]["emulated"] is True
    assert "emulated" in result["title"]
    assert result["text"][0].startswith("All chips are emulated")
    assert (folder / TABLE).read_text().startswith("All chips are emulated")
    stems = ["protocol-errors", "protocol-errors-polished", "protocol-cost", "rule-courses"]
    assert [figure["stem"] for figure in result["figures"]] == stems
    for figure in result["figures"]:
        assert "mulated" in figure["caption"]
        assert (folder / f"{figure['stem']}.png").stat().st_size > 10_000


def test_account_of_every_protocol(folder: Path) -> None:
    numbers = json.loads((folder / "result.json").read_text())["numbers"]
    cell: dict[str, Any] = numbers["protocols"]["Model A, Zephyr, ideal"]

    def programmings(name: str) -> float:
        return float(cell[name]["programmings a shower"]["value"])

    assert programmings("same-reads") == pytest.approx(0.2, abs=0.11)  # two conditions for ten showers, and redos
    assert programmings("tracked") == pytest.approx(0.2, abs=0.11)
    assert programmings("before-each") >= 2
    assert programmings("once") > 1
    assert programmings("one-read-per-call") >= 1 + 25 / 10
    assert (
        cell["tracked"]["access time a shower (ms)"]["value"]
        < cell["before-each"]["access time a shower (ms)"]["value"]
    )
    assert len(numbers["rules"]) == 6 * 3  # two exact machines, one on a chip


def test_protocols_are_those_of_the_presentation_and_ours(run: Path) -> None:
    settings: Any = STUDY.configure(quick=True)
    machine = study_machine(
        shower_prior(run), "A", "zephyr", random_std=1.0, updates=None, field_updates=1, seed=1, progress=silent
    )
    protocols = protocols_of(settings, machine)
    assert [protocols[name].name for name in ("before-each", "once", "once-with-wait", "one-read-per-call")] == [
        "before-each", "once", "once-with-wait", "one-read-per-call",
    ]  # fmt: skip
    assert all(protocol.correction == "none" for protocol in protocols.values())
    assert protocols["before-each"].reads_per_call == 1
    assert protocols["before-each, grouped"].reads_per_call == 0


def test_bad_input(run: Path, tmp_path: Path) -> None:
    settings = STUDY.configure(quick=True, overrides=(f"run={run}", *SMALL, "n_showers=1000"))
    with pytest.raises(ConfigError, match="lower n_showers"):
        STUDY.run(settings, tmp_path, 1)
    with pytest.raises(ConfigError, match="cannot be used"):
        STUDY.configure(overrides=['modes=["perfect"]'])
