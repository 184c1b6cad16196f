"""The gradient study end to end on a tiny model, and what its ways do to a machine, against exact sums."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import calo4pqvae.studies.gradients.study as gradients
from calo4pqvae.config import Config
from calo4pqvae.studies.frame.sample_quality import DISTANCES, Judge
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import ShowerPrior, finished_run, shower_prior
from calo4pqvae.studies.gradients.measurements import ARMS, Budget, Outcome, learn_alone, learn_jointly
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import tiny_config, tiny_file

RATES = {"adam": 0.01, "slow": 0.001, "fast": 0.1}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tiny_file(tmp_path_factory.mktemp("showers")), {"prior.batch_size": 40})


@pytest.fixture(scope="module")
def source(config: Config, tmp_path_factory: pytest.TempPathFactory) -> ShowerPrior:
    return shower_prior(finished_run(config, tmp_path_factory.mktemp("run"), "training", silent))


@pytest.fixture(scope="module")
def judge(config: Config) -> Judge:
    return Judge(config, 100, 1)


def arm(name: str) -> Any:
    return next(one for one in ARMS if one.name == name)


def way(part: str, name: str, seed: int, fpd: float, judge: Judge) -> Outcome:
    distances = {kind: replace(value, value=fpd, error=1.0) for kind, value in judge.floor.distances.items()}
    number = judge.floor.distances["separation"]
    return Outcome(
        "alone" if part == "alone" else "joint", name, seed,
        quality=replace(judge.floor, distances=distances), gap=number, slope=number, moved=0.1, biases_moved=0.1,
    )  # fmt: skip


def test_fast_learning_moves_and_slow_learning_does_not(source: ShowerPrior, judge: Judge) -> None:
    found = {
        name: learn_alone(source, arm(name), Budget(60, 84, RATES), judge, 3)
        for name in ("loss-covariance", "exact", "centred, fast")
    }
    assert found["exact"].moved < 0.1 * found["centred, fast"].moved
    assert all(len(one.course) >= 40 for one in found.values())
    assert all(set(one.quality.distances) == set(DISTANCES) for one in found.values() if one.quality is not None)
    slopes = {name: one.slope.value for name, one in found.items() if one.slope is not None}
    assert slopes["centred, fast"] > slopes["exact"] + 0.1
    assert found["loss-covariance"].gap is not None
    assert found["exact"].gap is not None
    assert found["loss-covariance"].gap.value < found["exact"].gap.value - 0.5


def test_each_way_reaches_the_joint_training(config: Config, judge: Judge, tmp_path: Path) -> None:
    seen = {}
    for one in (arm("loss-covariance"), arm("exact")):
        outcome = learn_jointly(config, tmp_path / one.name, one, Budget(1, 40, RATES), judge, silent)
        seen[one.name] = RunDirectory.open(tmp_path / one.name).config()
        assert outcome.moved > 0
        assert outcome.posterior is not None
    assert {own.training.mode for own in seen.values()} == {"joint"}
    assert seen["loss-covariance"].prior.joint_update == "loss-covariance"
    assert (seen["exact"].prior.joint_update, seen["exact"].prior.gradient) == ("direct", "plain")
    assert seen["exact"].prior.joint_learning_rate == RATES["slow"]


def test_the_study_writes_numbers_with_errors_and_says_what_was_left_out(
    source: ShowerPrior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "ARMS", ARMS[:2])
    settings = gradients.STUDY.configure(
        quick=True, overrides=[f"run={source.path}", "n_seeds=2", "updates=3", "n_chains=60", "n_showers=100"]
    )
    result = gradients.STUDY.run(settings, tmp_path, 1)
    written = json.loads((tmp_path / "gradients" / "result.json").read_text())
    assert set(written["numbers"]["alone"]) == {"loss", "loss-covariance"}
    fpd = written["numbers"]["alone"]["loss"]["FPD 362"]
    assert fpd["error"] > 0
    assert fpd["n"] == 2
    assert "joint" not in written["numbers"]
    assert any("joint trainings were left out" in text for text in result.text)
    assert any("cannot be attributed" in text for text in result.text)
    assert {path.suffix for path in (tmp_path / "gradients").glob("gradients*")} == {".png", ".svg"}


def test_a_change_is_told_pair_by_pair_with_the_quantile_of_few_seeds(judge: Judge) -> None:
    values = {"exact": (10.0, 20.0, 30.0), "centred": (12.0, 21.0, 33.0)}
    outcomes = [
        way("alone", name, seed, fpd, judge) for name, three in values.items() for seed, fpd in enumerate(three)
    ]
    change = gradients._contrast(outcomes, "alone", "exact", "centred", 1)
    assert change["FPD 362"]["value"] == pytest.approx(2.0)
    assert change["FPD 362"]["error"] == pytest.approx(1 / math.sqrt(3))
    assert change["FPD 362, 95 % half width"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert "within the 95 %" in gradients._change_text("centring", change)
    assert gradients._contrast(outcomes[:4], "alone", "exact", "centred", 1) == {}


def test_a_training_that_diverges_is_told_and_not_averaged(judge: Judge) -> None:
    group = [way("joint", "loss", 0, 10.0, judge), Outcome("joint", "loss", 1, "energies ran away")]
    numbers = gradients._way_numbers(group, 1)
    assert numbers["diverged"] == ["energies ran away"]
    assert numbers["FPD 362"]["value"] == 10.0
    assert numbers["FPD 362"]["n"] == 1
    assert "FPD 362" not in gradients._way_numbers(group[1:], 1)
