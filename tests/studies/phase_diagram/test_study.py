"""The whole study in a small form, and the settings that it refuses."""

import json
from pathlib import Path

import pytest

from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.runs.training import train
from calo4pqvae.studies.phase_diagram.study import STUDY
from tests.small_runs import tiny_config, tiny_file

SMALL = (
    "quarter_sizes=[2, 4]",
    "j0_ratios=[2.0, 0.0]",
    "n_levels=4",
    "n_disorder=4",
    "n_chains=8",
    "n_burn=20",
    "n_records=4",
    "every=2",
    "n_hidden=8",
    "epochs=1",
    "n_machines=3",
    "n_iid=2",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("study")
    train(tiny_config(tiny_file(folder)), folder / "run")
    STUDY.run(STUDY.configure(overrides=(*SMALL, f"run={folder / 'run'}")), folder / "out", seed=2)
    return folder / "out" / "phase-diagram"


def test_numbers_figures_and_text_are_written(result: Path) -> None:
    written = json.loads((result / "result.json").read_text())
    for figure in written["figures"]:
        assert (result / f"{figure['stem']}.png").stat().st_size > 10_000
    numbers = written["numbers"]
    assert numbers["limits"]["RS glass-ferromagnet line at kT -> 0: J0~ / J~"] == pytest.approx(1.2533, abs=1e-3)
    assert len(numbers["machines"]) == 4 * 2 + 3 * 3
    labels = {one["machine"] for one in numbers["machines"]}
    assert {"bipartite, images", "four-partite, images", "shower prior at 10 GeV"} < labels
    assert numbers["shower prior, whole graph"]["largest difference of a coupling when learned again"] == 0.0
    scan = numbers["zero-field machines"]["four-partite, N = 16, J0~/J~ = 0"]
    assert scan["rms q, coldest"]["n"] == 4
    assert scan["rms q, coldest"]["seed"] == 2
    text = " ".join(written["text"])
    assert "NOT the official" in written["text"][-1] or "showers from the file" in written["text"][-1]
    assert all(word in text for word in ("susceptibility", "N(0, 1)", "Shower prior at 10 GeV"))


def test_trainings_are_kept_for_other_studies(result: Path) -> None:
    kept = sorted(path.name.split("-")[0] for path in (result.parent / "trained").iterdir())
    assert kept == ["images", "images", "mnist"]


def test_settings_and_runs_that_make_no_diagram_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need 0, for the spin glass"):
        STUDY.configure(overrides=["j0_ratios=[0.5, 2.0]"])
    with pytest.raises(ConfigError, match="coldest"):
        STUDY.configure(overrides=["coldest=1.5"])
    with pytest.raises(CheckpointError, match="no run directory"):
        STUDY.run(STUDY.configure(overrides=(*SMALL, f"run={tmp_path / 'nowhere'}")), tmp_path, seed=1)
    quick = STUDY.configure(quick=True)
    assert quick.model_dump()["j0_ratios"][0] == 0.0
