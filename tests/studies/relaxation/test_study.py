"""The study of relaxation as a whole, small: everything is measured, drawn and told, and repeats."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from calo4pqvae.runs.training import train
from calo4pqvae.studies.relaxation.study import STUDY
from calo4pqvae.studies.relaxation.text import relaxation_text
from tests.small_runs import tiny_config, tiny_file

SMALL = {
    "strengths": "[1.0]",
    "n_draws": 2,
    "tiny_chains": 100,
    "sizes": "[8, 16]",
    "patches": "[4, 8]",
    "n_hidden": 8,
    "epochs": 1,
    "n_machines": 3,
    "measure_every": 30,
    "n_chains": 64,
    "n_burn": 20,
    "n_sweeps": 100,
    "n_modes": 2,
    "betas": "[0.5, 1.0]",
}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("relaxation")
    run = train(tiny_config(tiny_file(folder)), folder / "run").path
    overrides = [f"{key}={value}" for key, value in SMALL.items()]
    settings = STUDY.configure(quick=True, overrides=[*overrides, f"run={run}"])
    STUDY.run(settings, folder / "out", 1)
    found: dict[str, Any] = json.loads((folder / "out" / "relaxation" / "result.json").read_text(encoding="utf-8"))
    assert all((folder / "out" / "relaxation" / f"{one['stem']}.png").is_file() for one in found["figures"])
    return found


def estimates(numbers: Any) -> list[Mapping[str, Any]]:
    """Every number with an error in a tree."""
    if isinstance(numbers, list):
        return [one for part in numbers for one in estimates(part)]
    if not isinstance(numbers, dict):
        return []
    if set(numbers) == {"value", "error", "n", "seed"}:
        return [numbers]
    return [one for part in numbers.values() for one in estimates(part)]


def test_everything_is_measured(result: dict[str, Any]) -> None:
    numbers = result["numbers"]
    assert list(numbers) == [
        "exact",
        "size",
        "sweeps_of_an_update",
        "training",
        "modes",
        "temperature",
        "learning",
        "showers",
    ]
    assert set(numbers["temperature"]) == {
        "images, nothing held",
        "images, upper half held",
        "shower prior, nothing held",
        "shower prior at given energies",
    }
    assert [list(scan) for scan in numbers["temperature"].values()] == [["beta 0.5", "beta 1"]] * 4
    assert all(len(steps) == 3 for steps in numbers["training"].values())
    assert {one["form"].split(",")[0] for one in numbers["size"]} == {"dense", "Zephyr patch"}
    assert len(numbers["learning"]["relaxation"]) == 2
    assert len(estimates(numbers)) > 100


def test_figures_and_text_say_what_was_found(result: dict[str, Any]) -> None:
    stems = [one["stem"] for one in result["figures"]]
    assert stems == ["learning", "exact", "training", "modes", "size", "temperature"]
    assert len(result["text"]) == 6
    gap = result["numbers"]["learning"]["gap"]
    assert f"{abs(gap['value']) / gap['error']:.1f} standard errors" in result["text"][0]
    assert result["text"][0].endswith(result["numbers"]["showers"])


def test_the_text_follows_the_numbers(result: dict[str, Any]) -> None:
    numbers = json.loads(json.dumps(result["numbers"]))
    numbers["exact"]["chi_square"]["p_value"] = 1e-9
    numbers["learning"]["gap"] = {"value": 1.0, "error": 0.1, "n": 84, "seed": 1}
    text = relaxation_text(numbers)
    assert "do not agree within two standard errors" in text[0]
    assert "do not agree within errors" in text[1]
    numbers["exact"]["chi_square"]["p_value"] = 0.5
    numbers["learning"]["gap"]["value"] = 0.1
    text = relaxation_text(numbers)
    assert "fresh samples agree within two standard errors" in text[0]
    assert "second eigenvalue agree within errors" in text[1]
