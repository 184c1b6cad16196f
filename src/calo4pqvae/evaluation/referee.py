"""Judges generated samples: every metric that is asked for, the acceptance table, and what is behind the numbers."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.acceptance import fluctuation_targets, metric_targets
from calo4pqvae.evaluation.classifiers.importance import feature_families
from calo4pqvae.evaluation.clock import Clock, Progress
from calo4pqvae.evaluation.features.highlevel import feature_names
from calo4pqvae.evaluation.features.screening import Sample, find_warnings
from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metric import Measured, Metric, chosen_metrics
from calo4pqvae.evaluation.metrics.correlations import prior_comparison
from calo4pqvae.evaluation.metrics.frechet import CHALLENGE_FPD
from calo4pqvae.evaluation.metrics.kernel_distance import CHALLENGE_KPD
from calo4pqvae.evaluation.metrics.published import METRICS, PUBLISHED_DATASETS, Place, place
from calo4pqvae.evaluation.metrics.targets import TargetTable, check_targets
from calo4pqvae.evaluation.metrics.wasserstein import wasserstein_summary
from calo4pqvae.evaluation.pair import Bench, Pair
from calo4pqvae.evaluation.result import Evaluation, RefereeRow, SampleResult
from calo4pqvae.evaluation.settings import RefereeSettings

__all__ = ["judge_samples", "published_place", "why_not_comparable"]

_COMPARABLE_SHOWERS = 50_000
_LEAST_SHOWERS = 100
_SAME_ENERGIES_P = 1e-3
_PACKAGES = ("calo4pqvae", "numpy", "scipy", "torch", "scikit-learn", "h5py", "matplotlib")


def judge_samples(
    reference: Sample,
    generated: Mapping[str, Sample],
    settings: RefereeSettings,
    *,
    bins: EnergyBins | None = None,
    context: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Everything that is asked for about some generated samples.

    Args:
        reference: Geant4 showers that no model saw.
        generated: Generated samples by name, the main one first.
        settings: What is computed, and how.
        bins: Bins of incident energy; by default thirds of log E over the range of the reference.
        context: What else to record, such as the command.
        progress: Called with (step, done, in all).

    Raises:
        DataError: If there is no generated sample, or a sample is too small, of another geometry, or outside the
            energy range of the reference.
        ConfigError: If a device is not there.
    """
    if not generated:
        raise DataError("there is no generated sample to evaluate; give at least one")
    chosen_bins = bins or EnergyBins.thirds_of(reference.features.incident_energy)
    for name, sample in {"the reference": reference, **generated}.items():
        _check(name, sample.features, reference.features, chosen_bins)
    clock = Clock(progress)
    bench = Bench(reference, generated, settings, clock)
    samples = {name: _judge(Pair(bench, name, sample), chosen_bins) for name, sample in generated.items()}
    screenings = {name: sample.screening for name, sample in generated.items()}
    doubts = find_warnings(reference.screening, screenings)
    return Evaluation(
        dataset=reference.features.geometry.name,
        bins=chosen_bins,
        settings=settings,
        reference=reference.screening,
        generated=screenings,
        samples=samples,
        warnings=(*doubts, *_energy_warnings(reference, generated)),
        seconds={step: round(seconds, 3) for step, seconds in clock.seconds.items()},
        context={**(context or {}), "versions": {package: version(package) for package in _PACKAGES}},
    )


def _judge(pair: Pair, bins: EnergyBins) -> SampleResult:
    settings, bench = pair.settings, pair.bench
    reference, generated = bench.reference.features, pair.sample.features
    metrics = chosen_metrics(settings, is_regular=bench.geometry.is_regular)
    rows = tuple(_row(metric, metric.compute(pair), pair) for metric in metrics)
    more: dict[str, Any] = {}
    if "distances" in settings.groups:
        more["contributions"] = pair.contributions
    if "separation" in settings.groups:
        more |= {"separation": tuple(pair.separation.values()), "by_energy": pair.separation_by_energy(bins)}
    if "wasserstein" in settings.groups:
        families = wasserstein_summary(pair.wasserstein, feature_families(feature_names(bench.geometry)))
        more |= {"wasserstein": pair.wasserstein, "families": tuple(families)}
    if settings.forms:
        more["judgements"] = pair.judgements
    table = check_targets(reference, generated, bins, seed=settings.seed)
    fluctuations = tuple(prior_comparison(reference, {pair.name: generated}, bins, seed=settings.seed))
    return SampleResult(
        generated.n_showers,
        TargetTable((*metric_targets(rows), *fluctuation_targets(fluctuations), *table.rows)),
        fluctuations,
        rows,
        **more,
    )


def _row(metric: Metric, found: Measured, pair: Pair) -> RefereeRow:
    """A row with its published place."""
    dataset, sizes = pair.bench.geometry.name, found.sizes or pair.sizes
    where = published_place(metric.key, found.value.value, dataset)
    reasons = () if where is None else why_not_comparable(metric.key, dataset, sizes, pair.settings)
    seed = pair.settings.seed if found.seed is None else found.seed
    return RefereeRow(metric, found, seed, sizes, where, reasons)


def why_not_comparable(
    key: str, dataset: str, sizes: tuple[int, int], settings: RefereeSettings, caveats: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Reasons why a number is not on the scale of the published ones.

    Args:
        key: The metric.
        dataset: Name of the geometry.
        sizes: Showers of the reference and generated ones behind the number.
        settings: What was computed, and how.
        caveats: Further reasons, of this metric.
    """
    reasons = []
    if not settings.is_official:
        reasons.append(f"the reference was not declared the official {dataset} file")
    if min(sizes) < _COMPARABLE_SHOWERS:
        reasons.append(f"fewer than {_COMPARABLE_SHOWERS:,} showers a sample (published values are from 100,000)")
    if key.startswith("auc") and settings.network_form != "full":
        reasons.append("quick form of the classifier")
    is_changed = {"fpd": settings.fpd != CHALLENGE_FPD, "kpd": settings.kpd != CHALLENGE_KPD}
    if is_changed.get(key, False):
        reasons.append("other batches than the challenge's")
    return (*reasons, *caveats)


def published_place(key: str, value: float, dataset: str) -> Place | None:
    """Place among the published values; None where none are published, or the value is not finite."""
    if dataset not in PUBLISHED_DATASETS or key not in METRICS or not abs(value) < float("inf"):
        return None
    return place(key, value, dataset)


def _check(name: str, sample: ShowerFeatures, reference: ShowerFeatures, bins: EnergyBins) -> None:
    if sample.n_showers < _LEAST_SHOWERS:
        raise DataError(
            f"{name} has only {sample.n_showers} showers; an evaluation needs at least {_LEAST_SHOWERS} in each sample"
        )
    if sample.geometry.layers != reference.geometry.layers:
        raise DataError(
            f"{name} is on the grid {sample.geometry.name} and the reference on {reference.geometry.name}; "
            "compare samples of one geometry"
        )
    outside = sample.n_showers - int(np.sum(bins.masks(sample.incident_energy)))
    if outside:
        lowest, highest = sample.incident_energy.min(), sample.incident_energy.max()
        raise DataError(
            f"{name} has {outside} showers with incident energies outside {bins.edges[0]:.6g} to {bins.edges[-1]:.6g} "
            f"MeV (they go from {lowest:.6g} to {highest:.6g}); keep to that range, and check that energies are in MeV"
        )


def _energy_warnings(reference: Sample, generated: Mapping[str, Sample]) -> list[str]:
    warnings = []
    for name, sample in generated.items():
        p = float(ks_2samp(reference.features.incident_energy, sample.features.incident_energy).pvalue)
        if p < _SAME_ENERGIES_P:
            warnings.append(
                f"The incident energies of {name} are not distributed as those of the reference (Kolmogorov-Smirnov "
                f"p = {p:.1g}): histograms and separation powers are distorted by it, while the acceptance table is "
                "taken at equal energies."
            )
    return warnings
