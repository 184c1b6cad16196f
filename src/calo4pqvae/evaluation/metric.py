"""The metrics, one record each: what it is called, what it needs, how it is computed, what it is held against.

To add a metric, write a function from a :class:`~calo4pqvae.evaluation.pair.Pair` to what it measured, and a record in
the table at the end of this module: report, tables, command line and JSON file take it from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from calo4pqvae.evaluation.features.highlevel import FeatureKind, feature_names
from calo4pqvae.evaluation.metrics.correlation_distance import CorrelationDistance
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.evaluation.metrics.published import METRICS as PUBLISHED
from calo4pqvae.evaluation.metrics.wasserstein import wasserstein_summary
from calo4pqvae.evaluation.pair import FINE_SPECTRUM, Pair
from calo4pqvae.evaluation.settings import RefereeSettings

__all__ = ["METRICS", "Measured", "Metric", "chosen_metrics"]

Needs = Literal["features", "voxels", "classifier"]
Floor = Literal["ratio", "difference", "none"]

_LEAST_CLASSIFIER_SHOWERS = 10_000


@dataclass(frozen=True)
class Measured:
    """What a metric found about one sample.

    Args:
        value: Over the whole samples, with its sampling error where there is one.
        error_kind: What the error is.
        matched: The metric at the floor's sample size: median over splits and its distance to the 84 % quantile, or
            value and error.
        floor: Geant4 against Geant4, in the same form.
        quoted_error: The error that the literature quotes, where it is another one.
        sizes: Showers of the reference and generated ones behind it; None for all.
        seed: Seed of its draws; None for that of the evaluation.
        settings: On what else it depends.
        caveats: Sentences on this number.
        label: Words instead of the metric's own.
    """

    value: Estimate
    error_kind: str
    matched: Estimate | None = None
    floor: Estimate | None = None
    quoted_error: float | None = None
    sizes: tuple[int, int] | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        key: Its name in the data, and in the published tables if it is published there.
        group: The group by which it is asked for.
        compute: Measures it.
        label: Its name in words.
        short: Its name in the table of all samples; empty for what stands in the details only.
        needs: ``features`` of showers, their ``voxels``, or the training of a ``classifier``.
        scale: Factor by which tables show it.
        floor: How it is held against the floor: their ``ratio``, their ``difference`` in errors, or ``none``.
    """

    key: str
    group: str
    compute: Callable[[Pair], Measured]
    label: str
    short: str = ""
    needs: Needs = "features"
    scale: float = 1.0
    floor: Floor = "ratio"

    @property
    def is_published(self) -> bool:
        """Whether the published tables have it."""
        return self.key in PUBLISHED


def chosen_metrics(settings: RefereeSettings, *, is_regular: bool) -> list[Metric]:
    """The metrics that settings ask for, in the order of the tables.

    Args:
        settings: Groups and classifiers.
        is_regular: Whether the grid is regular, as the CNN needs it.
    """
    keys = {f"auc_{kind}" for kind in ("low", "high", "cnn") if settings.network_form and (is_regular or kind != "cnn")}
    keys |= {"auc_hard"} if "hard" in settings.forms else set()
    return [
        metric
        for metric in METRICS.values()
        if (metric.key in keys if metric.needs == "classifier" else metric.group in settings.groups)
    ]


def _distance(pair: Pair, *, key: str, kind: FeatureKind) -> Measured:
    whole, parts = pair.distance(key, kind)
    sampling = getattr(whole, "error_sampling", float("nan"))
    has_sampling = bool(np.isfinite(sampling))

    def estimate(found: Any) -> Estimate:  # noqa: ANN401  # FPD or KPD
        error = getattr(found, "error_sampling", found.error)
        return Estimate(found.value, error, min(found.n_reference, found.n_generated))

    return Measured(
        estimate(whole) if has_sampling else Estimate(whole.value, whole.error, min(pair.sizes)),
        "from the finite samples" if has_sampling else "spread of the batches",
        matched=estimate(parts.value),
        floor=estimate(parts.floor),
        quoted_error=whole.error,
        seed=whole.seed,
        settings={**asdict(whole.settings), "features": kind, "n_features": whole.n_features},
        caveats=(whole.note,) if whole.note else (),
    )


def _auc(pair: Pair, *, key: str) -> Measured:
    found = pair.judgements[key]
    size = min(pair.sizes)
    caveats = list(found.result.warnings)
    if size < _LEAST_CLASSIFIER_SHOWERS:
        caveats.append(
            f"{size:,} showers of each sample train the classifier badly: a larger sample would give a larger AUC."
        )
    form = found.result.form
    if form in ("quick", "plain"):
        caveats.append("Quick form: a smaller network, whose AUC is not that of the challenge's networks.")
    return Measured(
        found.result.auc,
        found.result.error_kind,
        matched=found.matched,
        floor=found.floor,
        settings=found.result.row_settings(),
        caveats=tuple(caveats),
        label=METRICS[key].label + (f" ({form} form)" if form in ("quick", "plain") else ""),
        sizes=(size, size),
    )


def _separation(pair: Pair, *, observable: str) -> Measured:
    power = pair.separation[observable]
    return Measured(
        power.value,
        "bootstrap",
        matched=_level(power.matched),
        floor=_level(power.floor),
        settings={"layers": len(power.per_layer)},
    )


def _chi_square(pair: Pair, *, observable: str) -> Measured:
    power = pair.separation[observable]
    free = sum(power.chi_square.freedom)
    is_law = power.chi_square.p_values is not None
    spread = float(np.sqrt(2 / free)) if free and is_law else float("nan")
    note = "Bins are correlated, since a shower makes many entries: a distance, without a probability."
    return Measured(
        Estimate(power.chi_square.per_freedom, spread, power.value.n),
        "sqrt(2 / degrees of freedom)",
        settings={"degrees_of_freedom": free},
        caveats=() if is_law else (note,),
    )


def _prdc(pair: Pair, *, key: str) -> Measured:
    found = pair.of_voxels[1]
    if found is None:
        raise ValueError(f"{key} was not asked for")
    value: Estimate = getattr(found, key)
    return Measured(
        value,
        "delete-half jackknife",
        matched=_level(found.matched[key]),
        floor=_level(found.floor[key]),
        settings={"k": found.k},
        sizes=(value.n, value.n),
    )


def _layer_correlations(pair: Pair) -> Measured:
    return _correlations(pair.layer_correlations, pair.sizes)


def _voxel_correlations(pair: Pair) -> Measured:
    found = pair.of_voxels[0]
    if found is None:
        raise ValueError("correlations of voxels were not asked for")
    return _correlations(found, (found.distance.n, found.distance.n))


def _correlations(found: CorrelationDistance, sizes: tuple[int, int]) -> Measured:
    return Measured(
        found.distance,
        "jackknife",
        matched=_level(found.matched),
        floor=_level(found.floor),
        settings={"n_columns": found.n_columns, "rms_of_a_coefficient": found.per_pair.value},
        sizes=sizes,
    )


def _wasserstein(pair: Pair) -> Measured:
    found = pair.wasserstein
    every = wasserstein_summary(found, {"all": feature_names(pair.bench.geometry)})[0]
    varying = [entry for entry in found if np.isfinite(entry.distance.value)]
    size = varying[0].floor.sizes[0] if varying else 0
    return Measured(
        every.mean,
        "bootstrap, features taken as fully correlated",
        matched=_mean_level([entry.matched for entry in varying], size),
        floor=_mean_level([entry.floor for entry in varying], size),
        settings={
            "n_features": every.n_features,
            "unit": "standard deviation of the reference",
            "worst": every.worst_name,
            "worst_value": every.worst.value,
        },
    )


def _level(splits: Splits) -> Estimate:
    """Median over splits and its distance to the 84 % quantile."""
    return Estimate(splits.median, splits.quantile84 - splits.median, splits.sizes[0])


def _mean_level(splits: Sequence[Splits], size: int) -> Estimate | None:
    if not splits:
        return None
    median = float(np.mean([part.median for part in splits]))
    upper = float(np.mean([part.quantile84 for part in splits]))
    return Estimate(median, upper - median, size)


def _distances(key: str, kind: FeatureKind, group: str) -> Metric:
    suffix, words = ("", "") if kind == "challenge" else ("_226", " of 226 features")
    name = key.upper() + words
    return Metric(key + suffix, group, partial(_distance, key=key, kind=kind), name, name, scale=1e3)


def _judge(kind: str, label: str, short: str) -> Metric:
    key = f"auc_{kind}"
    return Metric(key, "classifiers", partial(_auc, key=key), label, short, needs="classifier", floor="difference")


_OBSERVABLES = (
    ("total_energy", "E_tot / E_inc", "S E_tot / E_inc"),
    ("layer_energy", "layer energy", "S layer energy"),
    ("voxel", "voxel energy", "S voxel energy"),
    ("voxel_fine", FINE_SPECTRUM, "S voxel energy, fine"),
    ("sparsity", "layer sparsity", "S sparsity"),
    *((f"centre_{axis}", f"centre of energy {axis}", "") for axis in ("eta", "phi", "r")),
    *((f"width_{axis}", f"width {axis}", "") for axis in ("eta", "phi", "r")),
)

_ALL = (
    _judge("cnn", "AUC, CNN classifier", "AUC CNN"),
    _judge("high", "AUC, high-level classifier", "AUC high"),
    _judge("low", "AUC, low-level classifier", "AUC low"),
    _judge("hard", "AUC, boosted trees on spectrum, pairs and rings", "AUC hard"),
    _distances("fpd", "challenge", "distances"),
    _distances("kpd", "challenge", "distances"),
    *(
        Metric(
            f"separation_{key}",
            "separation",
            partial(_separation, observable=observable),
            f"separation power, {observable}",
            short,
            needs="voxels" if key.startswith("voxel") else "features",
            scale=1e3,
        )
        for key, observable, short in _OBSERVABLES
    ),
    *(
        Metric(
            f"chi_square_{key}",
            "separation",
            partial(_chi_square, observable=observable),
            f"chi-square per degree of freedom, {observable}",
            floor="none",
        )
        for key, observable, _ in _OBSERVABLES
    ),
    *(
        Metric(key, "prdc", partial(_prdc, key=key), key, key, needs="voxels")
        for key in ("precision", "recall", "density", "coverage")
    ),
    Metric(
        "correlation_layers",
        "correlations",
        _layer_correlations,
        "distance of the correlations of layers",
        "correlations of layers",
    ),
    Metric(
        "correlation_voxels",
        "correlations",
        _voxel_correlations,
        "distance of the correlations of voxels",
        "correlations of voxels",
        needs="voxels",
    ),
    Metric("wasserstein", "wasserstein", _wasserstein, "Wasserstein distance, mean of features", "Wasserstein"),
    _distances("fpd", "calo4pqvae-226", "calo4pqvae-226"),
    _distances("kpd", "calo4pqvae-226", "calo4pqvae-226"),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.key: metric for metric in _ALL})
"""Every metric by its key, in the order of the tables."""
