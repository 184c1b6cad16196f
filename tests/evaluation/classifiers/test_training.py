"""Classifiers on samples whose AUC is known: one law, shifted Gaussians, markers that only memory can use."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import norm

from calo4pqvae.errors import ConfigError, DataError, DivergenceError
from calo4pqvae.evaluation.classifiers.data import FeatureInput, VoxelInput
from calo4pqvae.evaluation.classifiers.training import (
    ClassifierRun,
    ClassifierSettings,
    classifier_settings,
    classify,
    combine_runs,
    train_classifier,
)
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.showers.geometry import Geometry, geometry
from calo4pqvae.showers.store import ShowerStore
from calo4pqvae.testing import synthetic_showers


def gaussian(n: int, seed: int, shift: float = 0.0, width: int = 4) -> FeatureInput:
    matrix = np.random.default_rng(seed).normal(size=(n, width))
    matrix[:, 0] += shift
    return FeatureInput(matrix)


def showers(grid: Geometry, n: int, seed: int, scale: float = 1.0) -> VoxelInput:
    energies, voxels = synthetic_showers(grid, n, seed)
    return VoxelInput(ShowerStore.from_arrays(scale * voxels, energies), grid)


def small(kind: str = "high", **changes: object) -> ClassifierSettings:
    return replace(classifier_settings("high"), form="custom", hidden=(32,), kind=kind, max_epochs=8, **changes)  # type: ignore[arg-type]


def test_shifted_gaussians_reach_the_closed_form() -> None:
    """Likelihood ratio of a shift d: AUC = Phi(d / sqrt 2); the divergence by quadrature."""
    d = 1.0
    result = classify(gaussian(6000, 0, d), gaussian(6000, 1), "high", seeds=(0, 1))
    assert result.auc.n == 2400
    assert abs(result.auc.value - norm.cdf(d / math.sqrt(2))) < 3 * result.auc.error
    assert 0.005 < result.auc.error < 0.015
    x = np.linspace(-9, 10, 20_001)
    p, q = norm.pdf(x, d), norm.pdf(x)
    exact = np.trapezoid(0.5 * (p * np.log2(2 * p / (p + q)) + q * np.log2(2 * q / (p + q))), x)
    assert abs(result.jsd.value - exact) < 3 * result.jsd.error
    assert all(abs(run.raw_auc.value - run.auc.value) < 0.02 for run in result.runs)


def test_one_law_is_indistinguishable() -> None:
    result = classify(gaussian(1500, 2), gaussian(1500, 3), "high", seeds=(0, 1, 2))
    assert abs(result.auc.value - 0.5) < 3 * result.auc.error
    assert result.auc.error < 0.04
    assert result.warnings == ()


def test_validation_showers_were_never_seen() -> None:
    """Showers of one law with a private marker each: training can be learned by heart, validation cannot."""
    rng = np.random.default_rng(4)
    first, second = (FeatureInput(rng.choice([-1.0, 1.0], size=(300, 400))) for _ in range(2))
    settings = replace(small(), max_epochs=15, patience=None, learning_rate=2e-3)
    every = [train_classifier(first, second, settings, seed=seed) for seed in range(4)]
    by_heart = [np.mean((trained.logits("train") > 0) == trained.rows["train"].labels) for trained in every]
    assert max(by_heart) > 0.98  # of an epoch that chance chose, and so not of every seed
    assert all(abs(trained.run.raw_auc.value - 0.5) < 3.5 * trained.run.raw_auc.error for trained in every)


def test_copies_across_the_parts_are_warned_of() -> None:
    first, second = gaussian(200, 5, width=40), gaussian(200, 6, width=40)
    first.matrix[100:] = first.matrix[:100]
    result = combine_runs([train_classifier(first, second, small(), seed=0).run])
    assert result.warnings == ()
    warned = classify(first, second, "high", seeds=(0,))
    assert "100 showers that are copies" in warned.warnings[0]
    assert warned.to_dict()["warnings"] == list(warned.warnings)


def test_the_seed_decides() -> None:
    samples = gaussian(200, 0, 0.5), gaussian(200, 1)
    one, same, other = (train_classifier(*samples, small(), seed=seed).run for seed in (1, 1, 2))
    assert one == same
    assert one.auc != other.auc


@pytest.mark.parametrize("kind", ["low", "cnn"])
def test_showers_of_another_scale_are_seen(tiny: Geometry, kind: str) -> None:
    reference, generated = showers(tiny, 400, 1), showers(tiny, 400, 2, scale=3.0)
    trained = train_classifier(reference, generated, replace(small(kind), batch_size=40), seed=0)
    assert trained.run.auc.value > 0.8
    probabilities = trained.probabilities(trained.logits("validation"))
    assert probabilities.min() >= 1e-6
    assert probabilities.max() <= 1 - 1e-6
    assert trained.run.sizes == {"train": 240, "test": 80, "validation": 80}


def test_full_networks_train_in_double_precision(tiny: Geometry) -> None:
    settings = replace(classifier_settings("cnn", "full"), form="custom", max_epochs=1, planes=(4, 4, 4, 8))
    trained = train_classifier(showers(tiny, 60, 1), showers(tiny, 60, 2), settings, seed=0)
    assert {str(parameter.dtype) for parameter in trained.network.parameters()} == {"torch.float64"}


def test_the_declared_forms() -> None:
    for kind in ("low", "high", "cnn"):
        full = asdict(classifier_settings(kind, "full"))  # type: ignore[arg-type]
        assert (full["learning_rate"], full["batch_size"], full["max_epochs"], full["dtype"]) == (
            2e-4,
            1000,
            50,
            "float64",
        )
        assert (full["patience"], full["preparation"], full["is_patched"]) == (None, "none", False)
        assert full["hidden"] == (2048, 2048, 2048)
        assert full["planes"] == (32, 64, 64, 128)
        assert classifier_settings(kind, "quick").form == "quick"  # type: ignore[arg-type]


def test_the_best_epoch_is_kept_and_training_stops() -> None:
    seen: list[tuple[int, int, float]] = []
    samples = gaussian(300, 0, 0.3), gaussian(300, 1)
    trained = train_classifier(
        *samples, replace(small(), max_epochs=40, patience=4), seed=3, progress=lambda *step: seen.append(step)
    )
    accuracies = [accuracy for _, _, accuracy in seen]
    run = trained.run
    assert [epoch for epoch, _, _ in seen] == list(range(1, run.n_epochs + 1))
    assert run.best_epoch == int(np.argmax(accuracies)) + 1
    assert run.n_epochs == run.best_epoch + 4 < 40
    found = np.mean((trained.logits("test") > 0) == trained.rows["test"].labels)
    assert found == max(accuracies)


def test_progress_counts_through_the_seeds() -> None:
    seen: list[tuple[int, int]] = []
    classify(
        gaussian(60, 0), gaussian(60, 1), "high", seeds=(0, 1), progress=lambda done, most, _: seen.append((done, most))
    )
    assert {most for _, most in seen} == {60}
    assert 1 <= seen[0][0] <= 30 < seen[-1][0] <= 60


def run_of(settings: ClassifierSettings, auc: float, seed: int) -> ClassifierRun:
    estimate = Estimate(auc, 0.01, 400)
    return ClassifierRun(settings, seed, estimate, estimate, estimate, estimate, 3, 5, {"validation": 200}, 0)


def test_error_of_a_mean_is_that_of_one_run() -> None:
    settings = classifier_settings("low")
    close = combine_runs([run_of(settings, auc, seed) for seed, auc in enumerate((0.6, 0.602, 0.598))])
    assert (close.auc.value, close.auc.error) == (pytest.approx(0.6), pytest.approx(0.01))
    spread = combine_runs([run_of(settings, auc, seed) for seed, auc in enumerate((0.5, 0.6, 0.7))])
    assert spread.auc.error == pytest.approx(0.1)
    assert spread.seeds == (0, 1, 2)


def test_forms_are_never_mixed() -> None:
    quick, full = (combine_runs([run_of(classifier_settings("low", form), 0.6, 0)]) for form in ("quick", "full"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a quick low classifier and a full low one measure different things"):
        combine_runs([*quick.runs, *full.runs])
    with pytest.raises(ConfigError, match="measure different things"):
        combine_runs([*quick.runs, run_of(classifier_settings("cnn"), 0.6, 0)])
    assert (quick.to_dict()["form"], full.to_dict()["form"]) == ("quick", "full")


def test_wrong_use_is_told(tiny: Geometry) -> None:
    one, other = gaussian(60, 0), gaussian(60, 1)
    with pytest.raises(ConfigError, match="needs voxels"):
        classify(one, other, "low")
    with pytest.raises(ConfigError, match="no 'slow' classifier"):
        classifier_settings("high", "slow")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be different"):
        classify(one, other, "high", seeds=(1, 1))
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        classify(one, other, "high", device="tpu")
    with pytest.raises(ConfigError, match="no classifier run"):
        combine_runs([])
    with pytest.raises(DataError, match="at least 50 showers"):
        classify(gaussian(20, 0), gaussian(20, 1), "high")
    grid = geometry("ds1-photons")
    with pytest.raises(DataError, match="regular grid"):
        train_classifier(showers(grid, 60, 1), showers(grid, 60, 2), small("cnn"), seed=0)
    with pytest.raises(DataError, match="different laws"):
        train_classifier(
            showers(tiny, 200, 1), showers(replace(tiny, energy_range=(1e5, 1e6)), 200, 2), small("low"), seed=0
        )
    with pytest.raises(DivergenceError, match="not finite"):
        train_classifier(one, other, small(learning_rate=1e30), seed=0)


@pytest.mark.slow
def test_quoted_errors_cover_one_law() -> None:
    """150 pairs of samples of one law: pulls of the AUC from 0.5 have mean zero and unit width."""
    settings = replace(small(), max_epochs=6, patience=3, learning_rate=2e-3)
    runs = [
        train_classifier(gaussian(1000, 2 * k, width=20), gaussian(1000, 2 * k + 1, width=20), settings, seed=k).run
        for k in range(150)
    ]
    pulls = np.array([(run.auc.value - 0.5) / run.auc.error for run in runs])
    assert abs(pulls.mean()) < 0.25
    assert 0.83 < pulls.std() < 1.17
