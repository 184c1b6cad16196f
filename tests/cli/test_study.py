"""The command of studies as users meet it: good and bad input, interruptions, failures."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from calo4pqvae.cli.study import study
from calo4pqvae.errors import CaloError, ConfigError
from calo4pqvae.studies.frame.study import Findings, Progress
from tests.studies.frame.test_study import COINS, CoinSettings, throw

Command = Callable[..., str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three studies in place of the real ones; the list tells which were done."""
    done: list[str] = []

    def work(name: str) -> Callable[[CoinSettings, Path, int, Progress], Findings]:
        def run(settings: CoinSettings, folder: Path, seed: int, progress: Progress) -> Findings:
            if settings.name == "stop":
                raise KeyboardInterrupt
            if settings.name == "defect":
                raise ZeroDivisionError("a defect")
            done.append(name)
            return throw(settings, folder, seed, progress)

        return run

    names = ("coins", "dice", "cards")
    for name in names:
        module = ModuleType(f"studies_of_{name}")
        module.STUDY = replace(COINS, name=name, title=f"All about {name}", work=work(name))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    registry = MappingProxyType({name: f"studies_of_{name}" for name in names})
    monkeypatch.setattr("calo4pqvae.studies.frame.registry.STUDIES", registry)
    monkeypatch.setattr("calo4pqvae.studies.frame.index.STUDIES", registry)
    monkeypatch.setenv("COLUMNS", "150")
    return done


@pytest.fixture
def command(calls: list[str]) -> Command:
    """Runs the command; gives what it prints and raises what it raises."""
    assert calls == []
    app = typer.Typer()
    app.command()(study)

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        if result.return_value:
            raise SystemExit(result.return_value)
        return result.output

    return run


def test_list_and_settings_are_shown(command: Command, tmp_path: Path) -> None:
    listed = command("list")
    assert all(f"All about {name}" in listed for name in ("coins", "dice", "cards"))
    shown = command("dice", "--settings")
    assert all(word in shown for word in ("n_throws", "1000", "10", "throws", "sides"))
    assert list(tmp_path.iterdir()) == []


def test_one_study_is_done_anew_each_time(command: Command, calls: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        told = command("dice", "--quick", "--set", "name=mine", "--seed", 4, "--out", tmp_path)
    assert calls == ["dice", "dice"]
    assert "Heads: " in told
    assert "1 figures and numbers in" in told
    assert "index.html" in told
    stored = json.loads((tmp_path / "dice" / "result.json").read_text(encoding="utf-8"))
    assert stored["settings"]["name"] == "mine"
    assert stored["command"] == "calo4pqvae study dice --quick --set name=mine --seed 4"


def test_all_goes_on_where_it_was_interrupted(command: Command, calls: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="130"):
        command("all", "--set", "dice.name=stop", "--out", tmp_path)
    assert calls == ["coins"]
    assert (tmp_path / "index.html").is_file(), "what is finished is on the page"
    told = command("all", "--out", tmp_path)
    assert calls == ["coins", "dice", "cards"]
    assert "study 1 of 3: coins" in told
    assert told.count("kept: it is finished with these settings, seed and version") == 1
    assert command("all", "--out", tmp_path).count("kept: ") == 3
    command("all", "--out", tmp_path, "--overwrite")
    assert calls[3:] == ["coins", "dice", "cards"]
    command("all", "--out", tmp_path, "--set", "cards.n_throws=5")
    assert calls[6:] == ["cards"]


def test_an_interruption_says_where_the_outputs_are(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    speaker = SimpleNamespace(print=lambda line, **_: said.append(line))
    monkeypatch.setattr("calo4pqvae.cli.study.complaints", speaker)
    with pytest.raises(SystemExit, match="130"):
        command("all", "--set", "name=stop", "--out", tmp_path)
    assert said == [f"what is finished stays in {tmp_path}; the same command goes on with the others"]


@pytest.mark.parametrize(("name", "error"), [("bad", ConfigError), ("defect", SystemExit)])
def test_a_study_that_fails_does_not_cost_the_others(
    name: str,
    error: type[BaseException],
    command: Command,
    calls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    speaker = SimpleNamespace(print=lambda line, **_: said.append(line))
    monkeypatch.setattr("calo4pqvae.cli.study.complaints", speaker)
    with pytest.raises(error) as caught:
        command("all", "--set", f"dice.name={name}", "--out", tmp_path)
    assert [one for one in calls if one != "dice"] == ["coins", "cards"]
    assert len(said) == 1
    assert said[0].startswith("dice failed: ")
    if name == "bad":
        assert "a bad coin cannot be thrown" in said[0]
        assert "1 of 3 studies failed" in str(caught.value)
    else:
        assert caught.value.code == 1  # type: ignore[attr-defined]
        assert "ZeroDivisionError" in (tmp_path / "dice" / "error.txt").read_text(encoding="utf-8")
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert ('id="coins"' in page, 'id="dice"' in page, 'id="cards"' in page) == (True, False, True)
    command("all", "--out", tmp_path)
    assert not (tmp_path / "dice" / "error.txt").exists()


def test_with_all_a_setting_reaches_every_study_that_has_it(command: Command, tmp_path: Path) -> None:
    command("all", "--set", "n_throws=3", "--set", "cards.n_throws=4", "--out", tmp_path)
    found = {
        name: json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8"))["settings"]["n_throws"]
        for name in ("coins", "dice", "cards")
    }
    assert found == {"coins": 3, "dice": 3, "cards": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dise"], "there is no study 'dise': the nearest one is 'dice'"),
        (["dice", "--set", "n_throws=0"], "setting 'n_throws' = 0 cannot be used"),
        (["dice", "--set", "dice.n_throws=1"], "unknown setting 'dice.n_throws' of the study dice"),
        (["all", "--set", "throws=1"], "is no setting of any study"),
        (["all", "--set", "poker.n_throws=1"], "is no setting of any study"),
        (["all", "--set", "dice.throws=1"], "unknown setting 'throws' of the study dice"),
        (["all", "--set", "cards.n_throws=0"], "cannot be used"),
    ],
)
def test_bad_input_is_told_before_any_work(
    arguments: list[str], message: str, command: Command, calls: list[str], tmp_path: Path
) -> None:
    with pytest.raises(CaloError, match=message):
        command(*arguments, "--out", tmp_path)
    assert calls == []


def test_a_negative_seed_is_refused_by_the_command_line(command: Command, calls: list[str], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="greater than or equal to 0") as refused:
        command("dice", "--seed", "-1", "--out", tmp_path)
    assert type(refused.value).__name__ == "BadParameter"
    assert calls == []
    assert list(tmp_path.iterdir()) == []
