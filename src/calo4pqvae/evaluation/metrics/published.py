r"""Published results to stand beside one's own: the CaloChallenge's tables, and figures of the Calo4pQVAE line.

The tables of data sets 2 and 3 are those of the organisers (arXiv 2410.21611 and the files that they give with it),
kept in ``published_results/``. Their GEANT4 row is a second Geant4 sample held against the reference: the **floor**,
what a perfect model would show.

A submission is ranked by its distance from the aim of the metric:

* FPD, KPD, separation powers, times and numbers of parameters: the smaller, the better;
* AUC of a classifier: \|AUC - 1/2\|, since 1/2 is what chance gives;
* mean log-posterior of Geant4 showers among all submissions: the larger, the better; it has no meaning for one model;
* precision, recall, density, coverage: distance from the GEANT4 row, not from 1, for a finite sample of Geant4 does not
  reach 1 either.

Values are in natural units here, whatever a source multiplies them by: the factor 1000 of FPD and KPD is taken out when
the files are read, and put back by :meth:`Metric.shown` alone. Times are in ms a shower.

The figures of the Calo4pQVAE line use 226 features and other settings of the estimators. They are given for orientation
with the reason why they cannot be ranked, and never enter a ranking.

References:
    Krause et al., CaloChallenge 2022: a community challenge for fast calorimeter simulation, arXiv 2410.21611.
    Lu et al., Conditioned quantum-assisted deep generative surrogate for particle-calorimeter interactions,
    arXiv 2410.22870.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from calo4pqvae.errors import DataError

__all__ = [
    "METRICS",
    "PUBLISHED_DATASETS",
    "Metric",
    "Place",
    "PublishedResult",
    "PublishedValue",
    "best",
    "calo4pqvae_line",
    "floor",
    "place",
    "published_table",
]

PUBLISHED_DATASETS = ("ds2", "ds3")
"""Data sets with a published table."""

_FLOOR_NAME = "GEANT4"
_TIMES_1000 = "_times_1000"

Aim = Literal["low", "high", "half", "geant4"]


@dataclass(frozen=True)
class Metric:
    """What a column of the tables means.

    Args:
        key: Its name in the data.
        label: Its name in words, as a table shows it.
        aim: What is good: small, large, 1/2, or as Geant4 itself.
        scale: Factor by which tables multiply the value.
        unit: Unit of the value.
    """

    key: str
    label: str
    aim: Aim
    scale: float = 1.0
    unit: str = ""

    def distance(self, value: float, floor_value: float | None) -> float:
        """Distance from the aim; the best model has the least."""
        if self.aim == "half":
            return abs(value - 0.5)
        if self.aim == "geant4" and floor_value is not None:
            return abs(value - floor_value)
        return -value if self.aim == "high" else value

    def shown(self, value: float) -> float:
        """The value as tables show it."""
        return value * self.scale


def _separation(name: str, label: str) -> Metric:
    return Metric(f"separation_{name}", f"separation power, {label}", "low", 1e3)


def _time(device: str, batch: int) -> Metric:
    words = {"cpu": "CPU", "gpu": "GPU"}[device]
    return Metric(f"time_{device}_{batch}", f"time a shower, {words}, batches of {batch}", "low", 1.0, "ms")


_ALL = (
    Metric("fpd", "FPD", "low", 1e3),
    Metric("kpd", "KPD", "low", 1e3),
    Metric("auc_low", "AUC, low-level classifier", "half"),
    Metric("auc_high", "AUC, high-level classifier", "half"),
    Metric("auc_cnn", "AUC, CNN classifier", "half"),
    _separation("total_energy", "E_tot / E_inc"),
    _separation("layer_energy", "layer energy"),
    _separation("voxel", "voxel energy"),
    _separation("sparsity", "layer sparsity"),
    *(_separation(f"centre_{axis}", f"centre of energy {axis}") for axis in ("eta", "phi", "r")),
    *(_separation(f"width_{axis}", f"width {axis}") for axis in ("eta", "phi", "r")),
    Metric("precision", "precision", "geant4"),
    Metric("recall", "recall", "geant4"),
    Metric("density", "density", "geant4"),
    Metric("coverage", "coverage", "geant4"),
    Metric("log_posterior", "mean log-posterior among all submissions", "high"),
    Metric("log_posterior_cnn", "mean log-posterior among all submissions, CNN", "high"),
    *(_time(device, batch) for device in ("cpu", "gpu") for batch in (1, 100, 10000)),
    Metric("parameters_training", "parameters in training", "low"),
    Metric("parameters_generation", "parameters in generation", "low"),
)

METRICS: Mapping[str, Metric] = MappingProxyType({metric.key: metric for metric in _ALL})
"""Every metric of the published tables, by its key."""


@dataclass(frozen=True)
class PublishedValue:
    """A published number in natural units.

    Args:
        value: The number.
        error: Its error as the source gives it; None where it gives none.
        name: What it belongs to.
        source: Where it was published.
    """

    value: float
    error: float | None
    name: str
    source: str


@dataclass(frozen=True)
class PublishedResult:
    """One row of a published table.

    Args:
        name: The submission or model.
        values: Its numbers by metric; what was not run or not given is absent.
        source: File, paper and arXiv number.
        is_floor: Whether it is Geant4 against Geant4.
        is_comparable: Whether its numbers are on the scale of the challenge's tables.
        why_not: Why they are not; empty if they are.
        note: What else must be known to read it.
    """

    name: str
    values: Mapping[str, PublishedValue]
    source: str
    is_floor: bool = False
    is_comparable: bool = True
    why_not: str = ""
    note: str = ""


@dataclass(frozen=True)
class Place:
    """Where a value would stand among the published ones.

    Args:
        rank: 1 for better than all.
        n_published: Number of submissions that it is held against, the floor not among them.
        best: The best published value.
        floor: Geant4 against Geant4.
    """

    rank: int
    n_published: int
    best: PublishedValue
    floor: PublishedValue | None

    def __str__(self) -> str:
        """The place in words."""
        return f"{self.rank} of {self.n_published + 1}"


@cache
def published_table(dataset: str) -> tuple[PublishedResult, ...]:
    """All rows of the challenge's table, the floor first.

    Args:
        dataset: "ds2" or "ds3".

    Raises:
        DataError: If there is no table of that data set here.
    """
    if dataset not in PUBLISHED_DATASETS:
        raise DataError(f"there is no published table of '{dataset}' here; choose one of {list(PUBLISHED_DATASETS)}")
    content = _content(dataset)
    source = f"{content['file']}; arXiv {content['arxiv']}"
    return tuple(
        PublishedResult(row["name"], _values(row, row["name"], source), source, is_floor=row["name"] == _FLOOR_NAME)
        for row in content["submission"]
    )


@cache
def calo4pqvae_line() -> tuple[PublishedResult, ...]:
    """Figures of the Calo4pQVAE line on data set 2, none of them comparable with the challenge's tables."""
    content = _content("calo4pqvae")
    return tuple(
        PublishedResult(
            row["name"],
            _values(row, row["name"], row["source"]),
            row["source"],
            is_floor=row.get("is_floor", False),
            is_comparable=False,
            why_not=content["why_not_comparable"],
            note=row.get("note", ""),
        )
        for row in content["result"]
    )


def floor(metric: str, dataset: str) -> PublishedValue | None:
    """The challenge's Geant4-against-Geant4 value; None where it gives none."""
    _known(metric)
    return next((row.values.get(metric) for row in published_table(dataset) if row.is_floor), None)


def best(metric: str, dataset: str) -> PublishedValue:
    """The best published value of a metric.

    Raises:
        DataError: If metric or data set is unknown, or no submission has the metric.
    """
    return _ranked(metric, dataset)[0]


def place(metric: str, value: float, dataset: str) -> Place:
    """Where a value would stand: one more than the number of submissions that are strictly better.

    Args:
        metric: A key of :data:`METRICS`.
        value: The value in natural units.
        dataset: "ds2" or "ds3".

    Raises:
        DataError: If metric or data set is unknown, no submission has the metric, or the value is not finite.
    """
    ranked = _ranked(metric, dataset)
    if not abs(value) < float("inf"):
        raise DataError(f"{METRICS[metric].label} = {value} has no place among published values; give a finite one")
    lowest = floor(metric, dataset)
    aim = None if lowest is None else lowest.value
    own = METRICS[metric].distance(value, aim)
    better = sum(METRICS[metric].distance(other.value, aim) < own for other in ranked)
    return Place(better + 1, len(ranked), ranked[0], lowest)


def _ranked(metric: str, dataset: str) -> list[PublishedValue]:
    """All submissions that have the metric, the best first."""
    known = _known(metric)
    lowest = floor(metric, dataset)
    aim = None if lowest is None else lowest.value
    found = [row.values[metric] for row in published_table(dataset) if metric in row.values and not row.is_floor]
    if not found:
        raise DataError(f"no submission to {dataset} has {known.label}")
    return sorted(found, key=lambda entry: known.distance(entry.value, aim))


def _known(metric: str) -> Metric:
    if metric not in METRICS:
        raise DataError(f"'{metric}' is no metric of the published tables; choose one of {list(METRICS)}")
    return METRICS[metric]


def _content(name: str) -> dict[str, Any]:
    path = resources.files("calo4pqvae.evaluation") / "published_results" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _values(row: Mapping[str, Any], name: str, source: str) -> Mapping[str, PublishedValue]:
    values = {}
    for column, entry in row.items():
        key = column.removesuffix(_TIMES_1000)
        if key in METRICS:
            factor = 1e-3 if column.endswith(_TIMES_1000) else 1.0
            numbers = [factor * number for number in (entry if isinstance(entry, list) else [entry])]
            values[key] = PublishedValue(numbers[0], numbers[1] if len(numbers) > 1 else None, name, source)
    return MappingProxyType(values)
