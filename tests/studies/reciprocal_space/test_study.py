"""The whole study in a small form, and what its numbers must say."""

import json
from pathlib import Path
from typing import Any

import pytest

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.runs.training import train
from calo4pqvae.studies.reciprocal_space.study import STUDY
from tests.small_runs import tiny_config, tiny_file

SMALL = (
    "n_hidden=24",
    "epochs=5",
    "n_machines=3",
    "n_random=99",
    "n_modes=3",
    "n_learned=4",
    "n_chains=256",
    "n_burn=40",
    "n_sweeps=100",
    "planted_sizes=[160, 120]",
    "n_temperatures=50",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("study")
    train(tiny_config(tiny_file(folder)), folder / "run")
    STUDY.run(STUDY.configure(overrides=(*SMALL, f"run={folder / 'run'}")), folder / "out", seed=2)
    return folder / "out" / "reciprocal-space"


@pytest.fixture(scope="module")
def numbers(result: Path) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((result / "result.json").read_text())
    return dict(written["numbers"])


def test_numbers_figures_and_text_are_written(result: Path) -> None:
    written = json.loads((result / "result.json").read_text())
    assert [one["stem"] for one in written["figures"]] == ["spectra", "dynamics", "drift", "learning"]
    for figure in written["figures"]:
        assert (result / f"{figure['stem']}.png").stat().st_size > 10_000
    assert len(written["text"]) == 6
    assert "showers from the file" in written["text"][-1]


def test_start_passes_and_a_wrong_variance_fails(numbers: dict[str, Any]) -> None:
    tests = {name: one["p-value"] for name, one in numbers["start against Marchenko-Pastur"].items()}
    assert tests["fitted scale"] > 0.05
    assert tests["stated scale"] > 0.05
    assert tests["variance 10 % too large"] < 0.02
    assert tests["variance 10 % too small"] < 0.02


def test_relaxation_rates_of_fair_bits_agree_with_theory(numbers: dict[str, Any]) -> None:
    for label in ("planted modes", "four-partite pattern"):
        for mode in numbers["fair bits"][label]["modes"]:
            if mode["theory"] > 0.1:
                gap = abs(mode["memory"]["value"] - mode["theory"])
                assert gap < 0.1 * mode["theory"] + 3 * mode["memory"]["error"]


def test_modes_grow_as_the_data_say(numbers: dict[str, Any]) -> None:
    for mode in numbers["learning"]["modes of the data"]:
        assert mode["growth"]["value"] == pytest.approx(mode["theory"], rel=0.2)
    shower = numbers["shower prior at 10 GeV"]
    assert sum(shower["leading eigenvector, weight of every partition"]) == pytest.approx(1.0)
    assert shower["eigenvalues along the training"][0]["step"] == 0


def test_bad_settings_and_runs_are_refused(result: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_chains"):
        STUDY.configure(overrides=["n_chains=8"])
    for name in ("run", "image_run"):
        settings = STUDY.configure(
            overrides=(*SMALL, f"run={result.parent.parent / 'run'}", f"{name}={tmp_path / 'no'}")
        )
        with pytest.raises(CheckpointError, match="no run"):
            STUDY.run(settings, tmp_path, seed=1)
