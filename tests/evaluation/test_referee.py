"""The full set of metrics: planted differences are found where they were planted, and every number says what it is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest

from calo4pqvae.config import EvaluationConfig, MetricGroup
from calo4pqvae.errors import ConfigError
from calo4pqvae.evaluation import pair
from calo4pqvae.evaluation.clock import Clock
from calo4pqvae.evaluation.features.screening import Sample
from calo4pqvae.evaluation.metric import METRICS, Measured
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import KernelSettings
from calo4pqvae.evaluation.pages.report import plain_data
from calo4pqvae.evaluation.referee import judge_samples, published_place, why_not_comparable
from calo4pqvae.evaluation.result import SCHEMA_VERSION, Evaluation, RefereeRow
from calo4pqvae.evaluation.settings import ALL_GROUPS, DEFAULT_GROUPS, RefereeSettings
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.testing import synthetic_showers
from tests.evaluation.samples import written_sample

N = 600
SMALL = RefereeSettings(
    fpd=FrechetSettings(min_samples=150, max_samples=600, num_points=5, num_batches=5),
    kpd=KernelSettings(batch_size=300, num_batches=5),
    seed=3,
)


@pytest.fixture(scope="module")
def samples(tiny: Geometry, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """A reference, an independent sample of the same law, and one whose layer 5 holds twice the energy."""
    folder = tmp_path_factory.mktemp("referee")
    made = {name: synthetic_showers(tiny, N, seed) for seed, name in enumerate(("reference", "same", "shifted"), 21)}
    made["shifted"][1][:, tiny.layer_slices[5]] *= 2
    return {name: written_sample(tiny, folder, name, *arrays) for name, arrays in made.items()}


@pytest.fixture(scope="module")
def result(samples: dict[str, Sample]) -> Evaluation:
    models = {name: samples[name] for name in ("shifted", "same")}
    return judge_samples(samples["reference"], models, SMALL, context={"command": "calo4pqvae evaluate"})


def row(result: Evaluation, name: str, key: str) -> RefereeRow:
    found = result.samples[name].row(key)
    assert found is not None, key
    return found


def test_every_metric_has_error_floor_size_and_seed(result: Evaluation) -> None:
    keys = [entry.key for entry in result.samples["same"].rows]
    assert len(keys) == len(set(keys))
    assert {"fpd", "kpd", "precision", "coverage", "wasserstein", "correlation_layers", "correlation_voxels"} <= set(
        keys
    )
    assert sum(key.startswith("separation_") for key in keys) == 11
    assert sum(key.startswith("chi_square_") for key in keys) == 11
    for entry in result.samples["same"].rows:
        assert entry.sizes == (N, N)
        assert math.isfinite(entry.value.value)
        assert entry.seed in (SMALL.seed, 42)  # the batches of FPD and KPD have the challenge's seed
        if entry.metric.floor != "none":
            assert entry.value.error > 0
            assert entry.floor is not None
            assert entry.matched is not None
            assert entry.floor.n == entry.matched.n == N // 2
        assert entry.place is None  # nothing is published for this grid


def test_same_law_is_at_the_floor(result: Evaluation) -> None:
    for key in ("fpd", "separation_layer_energy", "separation_centre_eta", "wasserstein"):
        assert 0.6 < row(result, "same", key).excess < 1.6, key
    assert row(result, "same", "chi_square_layer_energy").value.value == pytest.approx(1.0, abs=0.3)


def test_planted_difference_is_found_where_it_was_planted(result: Evaluation) -> None:
    shifted = result.samples["shifted"]
    for key, factor in (("fpd", 1.15), ("separation_layer_energy", 1.25), ("chi_square_layer_energy", 1.25)):
        assert row(result, "shifted", key).value.value > factor * row(result, "same", key).value.value, key
    assert shifted.contributions is not None
    assert shifted.contributions.features[0].name.endswith("_5")
    worst = max(shifted.wasserstein, key=lambda entry: entry.excess if math.isfinite(entry.excess) else 0.0)
    assert worst.name == "log10_layer_energy_5"
    [energy] = [power for power in shifted.separation if power.name == "layer energy"]
    assert int(np.argmax(energy.per_layer)) == 5


def test_result_is_strict_json_of_a_stated_version(result: Evaluation) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    text = json.dumps(plain_data(result.to_dict()), allow_nan=False)
    content = json.loads(text, parse_constant=refuse)
    assert content["schema_version"] == SCHEMA_VERSION
    assert content["settings"]["seed"] == 3
    assert content["settings"]["reference_declared_official"] is False
    assert result.provenance["command"] == "calo4pqvae evaluate"
    assert {"numpy", "torch", "calo4pqvae"} <= set(result.provenance["versions"])  # type: ignore[call-overload]
    assert len(content["reference"]["content_sha256"]) == 64
    assert content["reference"]["file"] == "reference.hdf5"
    assert set(content["samples"]) == {"shifted", "same"}
    first = content["samples"]["same"]["metrics"][0]
    assert first["key"] == "fpd"  # no classifier was asked for
    assert first["settings"]["min_samples"] == 150
    assert first["value"]["value"] == row(result, "same", "fpd").value.value
    assert "/" not in json.dumps(content["reference"])


def test_floor_is_computed_once_for_all_samples(samples: dict[str, Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    whole = pair.fpd

    def counted(**more: Any) -> Any:
        calls.append((len(more["reference"]), len(more["generated"])))
        return whole(**more)

    monkeypatch.setitem(pair._DISTANCES, "fpd", counted)
    models = {name: samples[name] for name in ("shifted", "same")}
    found = judge_samples(samples["reference"], models, replace(SMALL, groups=("distances",)))
    assert sorted(calls) == sorted([(N, N)] * 2 + [(N // 2, N // 2)] * 3)
    assert row(found, "same", "fpd").floor == row(found, "shifted", "fpd").floor


def test_only_what_was_asked_for(samples: dict[str, Sample]) -> None:
    told: list[tuple[str, int, int]] = []
    found = judge_samples(
        samples["reference"],
        {"same": samples["same"]},
        replace(SMALL, groups=("separation",)),
        progress=lambda *step: told.append(step),
    )
    assert {entry.metric.group for entry in found.samples["same"].rows} == {"separation"}
    steps = {"voxel spectra: same", "separation powers: same", "separation powers in bins of energy: same"}
    assert {step for step, *_ in told} == set(found.seconds) == steps
    assert told[0][1:] == (0, 1)
    assert told[-1][1:] == (1, 1)


def test_same_seed_same_numbers(samples: dict[str, Sample]) -> None:
    settings = replace(SMALL, groups=("separation", "prdc"), voxel_showers=300)
    first, again, other = (
        judge_samples(samples["reference"], {"same": samples["same"]}, chosen).samples["same"].to_dict()
        for chosen in (settings, settings, replace(settings, seed=4))
    )
    assert str(first) == str(again)
    assert str(first) != str(other)


def test_part_of_a_sample_keeps_showers_with_their_energies(samples: dict[str, Sample]) -> None:
    settings = replace(SMALL, voxel_showers=100)
    bench = pair.Bench(samples["reference"], {"same": samples["same"]}, settings, Clock())
    energies, showers = bench.voxels("reference", samples["reference"], bench.n_voxel_showers)
    with h5py.File(samples["reference"].path) as file:
        every = dict(zip(file["incident_energies"][:, 0].tolist(), file["showers"][:], strict=True))
    assert len(energies) == len(showers) == len(set(energies)) == 100
    for energy, voxels in zip(energies, showers, strict=True):
        np.testing.assert_array_equal(voxels, every[float(energy)])
    part = judge_samples(samples["reference"], {"same": samples["same"]}, replace(bench.settings, groups=("prdc",)))
    assert row(part, "same", "coverage").sizes == (100, 100)


@pytest.mark.slow
def test_quick_classifiers_and_what_they_see(samples: dict[str, Sample]) -> None:
    settings = replace(SMALL, groups=(), classifiers="quick", n_classifier_seeds=2)
    found = judge_samples(samples["reference"], {"shifted": samples["shifted"]}, settings)
    assert [entry.key for entry in found.samples["shifted"].rows] == ["auc_cnn", "auc_high", "auc_low"]
    high = row(found, "shifted", "auc_high")
    assert high.value.value > 0.5 + 3 * high.value.error
    assert high.found.settings["form"] == "quick"
    assert "quick form" in high.label
    assert any("Quick form" in caveat for caveat in high.found.caveats)
    assert found.samples["shifted"].importance["auc_high"]["feature"][0].group == "log10_layer_energy_5"
    assert set(found.samples["shifted"].importance["auc_high"]) == {"feature", "family", "layer"}


def test_comparable_only_if_all_conditions_hold() -> None:
    good = RefereeSettings(is_official=True, classifiers="full")
    sizes = (100_000, 100_000)
    assert why_not_comparable("fpd", "ds2", sizes, good) == ()
    assert why_not_comparable("auc_low", "ds2", sizes, good) == ()
    for key, size, settings, told in (
        ("fpd", sizes, replace(good, is_official=False), "not declared the official ds2 file"),
        ("fpd", (100_000, 10_000), good, "fewer than 50,000 showers"),
        ("auc_cnn", sizes, replace(good, classifiers="quick"), "quick form"),
        ("kpd", sizes, replace(good, kpd=KernelSettings(batch_size=5000)), "other batches"),
        ("fpd", sizes, replace(good, fpd=FrechetSettings(min_samples=20_000)), "other batches"),
    ):
        [reason] = why_not_comparable(key, "ds2", size, settings)
        assert told in reason


def test_place_only_where_something_is_published() -> None:
    assert published_place("fpd", 0.1, "tiny") is None
    assert published_place("wasserstein", 0.1, "ds2") is None
    assert published_place("fpd", math.nan, "ds2") is None
    found = published_place("fpd", 0.1, "ds2")
    assert found is not None
    assert found.rank == 2
    entry = RefereeRow(METRICS["fpd"], Measured(Estimate(0.1, 0.01, 10), "of the fit"), 1, (10, 10), place=found)
    assert entry.is_comparable
    assert not replace(entry, why_not=("too few",)).is_comparable
    assert entry.to_dict()["published"]["rank"] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"groups": ("distance",)}, "no metrics 'distance'"),
        ({"classifiers": "quick,full"}, "classifiers cannot be 'quick,full'"),
        ({"classifiers": "fast"}, "give off, or one of quick"),
        ({"n_classifier_seeds": 0}, "at least 1 and 100"),
        ({"voxel_showers": 20}, "at least 1 and 100"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        RefereeSettings(**change)


def test_groups_are_those_of_the_configuration() -> None:
    assert get_args(MetricGroup) == ALL_GROUPS
    assert EvaluationConfig().metrics == DEFAULT_GROUPS


def test_the_same_quantity_stands_once(result: Evaluation) -> None:
    """A separation power is computed in one binning: rows, histograms and JSON file agree to the last bit."""
    for name, found in result.samples.items():
        content = found.to_dict()
        metrics = {entry["key"]: entry["value"]["value"] for entry in content["metrics"]}  # type: ignore[attr-defined]
        powers = {entry["name"]: entry["value"]["value"] for entry in content["separation_powers"]}  # type: ignore[attr-defined]
        assert metrics["separation_voxel"] == powers["voxel energy"]
        assert len(powers) == sum(key.startswith("separation_") for key in metrics) == 11
        whole = sum(isinstance(value, float) and value == powers["voxel energy"] for value in metrics.values())
        assert whole == 1, name


def test_all_samples_are_compared_at_one_size(samples: dict[str, Sample], tiny: Geometry, tmp_path: Path) -> None:
    energies, showers = synthetic_showers(tiny, 200, 77)
    models = {"same": samples["same"], "few": written_sample(tiny, tmp_path, "few", energies, showers)}
    groups = ("distances", "separation", "prdc", "correlations", "wasserstein")
    found = judge_samples(samples["reference"], models, replace(SMALL, groups=groups))
    for key in ("fpd", "separation_voxel_fine", "wasserstein", "coverage", "correlation_layers", "correlation_voxels"):
        sizes = {floor.n for name in models if (floor := row(found, name, key).floor) is not None}
        assert len(sizes) == 1, key
    assert row(found, "same", "fpd").floor.n == 200  # type: ignore[union-attr]


def test_a_record_for_every_metric_and_group() -> None:
    assert {metric.group for metric in METRICS.values()} == {*ALL_GROUPS, "classifiers"}
    for key in ("fpd", "kpd", "auc_low", "auc_cnn", "separation_voxel", "coverage"):
        assert METRICS[key].is_published
    assert not METRICS["separation_voxel_fine"].is_published
