"""What a study writes, what it takes, and when a result counts as finished."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic import Field

from calo4pqvae.errors import ConfigError, PriorError
from calo4pqvae.studies.frame.study import (
    Findings,
    Progress,
    Study,
    StudyFigure,
    StudySettings,
    estimate,
    with_error,
)


class CoinSettings(StudySettings):
    """Settings of a study of coins."""

    n_throws: int = Field(1000, gt=0, description="throws")
    name: str | None = None
    sides: tuple[float, ...] = (0.5, 0.5)


def draw() -> Figure:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1])
    return figure


def throw(settings: CoinSettings, folder: Path, seed: int, progress: Progress) -> Findings:
    if settings.name == "bad":
        raise PriorError("a bad coin cannot be thrown; take another")
    folder.mkdir(parents=True, exist_ok=True)
    progress("throws", settings.n_throws, settings.n_throws)
    heads = np.random.default_rng(seed).random(settings.n_throws) < settings.sides[0]
    share = estimate(float(heads.mean()), float(heads.std() / len(heads) ** 0.5), len(heads), seed)
    return Findings({"share": share}, [StudyFigure("throws", "Throws.", draw)], [f"Heads: {with_error(share)}."])


COINS = Study("coins", "Coins", CoinSettings, throw, {"n_throws": 10})


def test_settings_come_from_defaults_the_quick_form_and_changes() -> None:
    assert COINS.configure() == CoinSettings()
    assert COINS.configure(quick=True).model_dump()["n_throws"] == 10
    changed = COINS.configure(quick=True, overrides=["n_throws=20", "name=my coin", "sides=[0.25, 0.75]"])
    assert changed == CoinSettings(n_throws=20, name="my coin", sides=(0.25, 0.75))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("n_throw=3", "unknown setting 'n_throw' of the study coins: the nearest one is 'n_throws'"),
        ("n_throws=0", "setting 'n_throws' = 0 cannot be used"),
        ("n_throws=many", "setting 'n_throws' = 'many' cannot be used"),
        ("n_throws", "'n_throws' is no setting: write key=value"),
        ("=3", "is no setting"),
    ],
)
def test_wrong_settings_are_named(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        COINS.configure(overrides=[change])


def test_what_is_written_is_whole_and_repeats(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = COINS.run(CoinSettings(), tmp_path, 7, lambda *step: seen.append(step))
    assert seen == [("throws", 1000, 1000)]
    folder = tmp_path / "coins"
    assert {path.name for path in folder.iterdir()} == {"result.json", "finding.txt", "throws.png", "throws.svg"}
    stored = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert stored == result.as_data()
    assert (stored["seed"], stored["settings"]["n_throws"]) == (7, 1000)
    assert set(stored["versions"]) == {"calo4pqvae", "python", "torch", "numpy"}
    assert (folder / "finding.txt").read_text(encoding="utf-8").startswith("Coins\n\nHeads: 0.")
    before = {name: (folder / name).read_bytes() for name in ("throws.png", "throws.svg", "finding.txt")}
    COINS.run(CoinSettings(), tmp_path, 7)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert COINS.run(CoinSettings(), tmp_path / "other", 8).numbers != result.numbers


def test_a_failure_leaves_the_result_that_stood_there(tmp_path: Path) -> None:
    COINS.run(CoinSettings(), tmp_path, 1)
    before = (tmp_path / "coins" / "result.json").read_bytes()
    with pytest.raises(PriorError):
        COINS.run(CoinSettings(name="bad"), tmp_path, 1)
    assert (tmp_path / "coins" / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (CoinSettings(), ["calo4pqvae", "study", "coins", "--seed", "3"]),
        (CoinSettings(n_throws=10), ["calo4pqvae", "study", "coins", "--quick", "--seed", "3"]),
        (
            CoinSettings(n_throws=10, name="my coin"),
            ["calo4pqvae", "study", "coins", "--quick", "--set", "name=my coin", "--seed", "3"],
        ),
        (
            CoinSettings(sides=(0.3, 0.7)),
            ["calo4pqvae", "study", "coins", "--set", "sides=[0.3, 0.7]", "--seed", "3"],
        ),
    ],
)
def test_the_command_that_is_told_gives_the_same_settings(settings: CoinSettings, words: list[str]) -> None:
    told = shlex.split(COINS.command(settings, 3))
    assert told == words
    changes = [told[place + 1] for place, word in enumerate(told) if word == "--set"]
    assert COINS.configure(quick="--quick" in told, overrides=changes) == settings


def test_no_place_of_a_machine_is_told(tmp_path: Path) -> None:
    told = COINS.command(CoinSettings(name=str(tmp_path / "run")), 1)
    assert told == "calo4pqvae study coins --set name=run --seed 1"


def test_finished_means_whole_and_with_equal_settings_seed_and_version(tmp_path: Path) -> None:
    settings = CoinSettings()
    assert not COINS.is_finished(settings, tmp_path, 1)
    COINS.run(settings, tmp_path, 1)
    assert COINS.is_finished(settings, tmp_path, 1)
    assert not COINS.is_finished(settings, tmp_path, 2)
    assert not COINS.is_finished(CoinSettings(n_throws=999), tmp_path, 1)
    path = tmp_path / "coins" / "result.json"
    whole = path.read_text(encoding="utf-8")
    other = json.loads(whole)
    other["versions"]["calo4pqvae"] = "0.0.0"
    for damaged in (json.dumps(other), whole[:-20], "[]", "{}"):
        path.write_text(damaged, encoding="utf-8")
        assert not COINS.is_finished(settings, tmp_path, 1)
    path.write_text(whole, encoding="utf-8")
    (tmp_path / "coins" / "throws.svg").unlink()
    assert not COINS.is_finished(settings, tmp_path, 1)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (estimate(1.23456, 0.0123, 10), "1.235 ± 0.012"),
        (estimate(123.4, 23.4, 10), "123 ± 23"),
        (estimate(0.123456, 0.0, 10), "0.1235"),
        (estimate(0.5, None, 10), "0.5"),
        (estimate(float("nan"), 1.0, 10), "not found"),
        (estimate(2.0, float("inf"), 10), "2"),
    ],
)
def test_numbers_in_sentences(number: dict[str, float | int | None], text: str) -> None:
    assert with_error(number) == text
