"""README's figures of the demo are those of the kept result, and a number changed by hand is seen."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_results", ROOT / "tools" / "readme_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_is_what_the_kept_result_says(tool: ModuleType) -> None:
    assert not tool.is_stale()


def test_a_number_written_by_hand_is_seen(tool: ModuleType) -> None:
    kept = json.loads(tool.KEPT.read_text(encoding="utf-8"))
    before = tool.table(kept)
    kept["fluctuations"]["Boltzmann prior"][0]["width"] += 0.01
    assert tool.table(kept) != before


def test_the_prior_earns_its_place_in_the_kept_result(tool: ModuleType) -> None:
    """What README says in words, held against the numbers: widths of the prior are those of posterior bits."""
    kept = json.loads(tool.KEPT.read_text(encoding="utf-8"))
    widths = {name: [cell["width"] for cell in rows] for name, rows in kept["fluctuations"].items()}
    spread = [cell["width_error"] for cell in kept["fluctuations"]["posterior bits"]]
    for prior, posterior, error in zip(widths["Boltzmann prior"], widths["posterior bits"], spread, strict=True):
        assert abs(prior - posterior) < 3 * error
    assert max(widths["independent bits"]) < 0.9
    passed = {name: good == total for name, (good, total) in kept["checks"].items()}
    assert not passed["independent bits"]
