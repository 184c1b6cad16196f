"""The full set of metrics of a comparison, as a referee asks for it: numbers with errors, floors and published values.

========================  ==========================================================================================
group                     what
========================  ==========================================================================================
``distances``             FPD and KPD of the 362 features, in the settings of the CaloChallenge
``separation``            separation powers and chi-squares of the challenge's histograms
``wasserstein``           one-dimensional Wasserstein distance of every feature
``prdc``                  precision, recall, density, coverage of voxels
``correlations``          distance of the correlations of layers and of voxels
``calo4pqvae-226``        FPD and KPD of the 226 features and in the settings of the Calo4pQVAE line; only on request
========================  ==========================================================================================

and the classifiers, off, in the quick form, or in the challenge's full form.

**Floor.** Beside a value stands what Geant4 shows against itself, between two halves of the reference; and, because
most metrics of finite samples depend on the sample size, the same metric between one half and as many generated
showers ("at the floor's size"). These two are held against each other.

**Published values.** A number is ranked among those of the challenge. It is on their scale only if the reference is the
official file of the data set (the caller must say so, it cannot be seen), samples are large enough, and the classifier
is in its full form. Otherwise the reasons stand with the number, and its place is for orientation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from calo4pqvae.errors import ConfigError
from calo4pqvae.evaluation.classifiers.importance import Importance
from calo4pqvae.evaluation.classifiers.training import ClassifierResult
from calo4pqvae.evaluation.features.screening import Screening
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import CHALLENGE_FPD, LIBRARY_FPD, FrechetContributions, FrechetSettings
from calo4pqvae.evaluation.metrics.kernel_distance import CHALLENGE_KPD, LIBRARY_KPD, KernelSettings
from calo4pqvae.evaluation.metrics.published import METRICS, PUBLISHED_DATASETS, Place, place
from calo4pqvae.evaluation.metrics.separation import SeparationPower
from calo4pqvae.evaluation.metrics.wasserstein import FamilySummary, WassersteinDistance

__all__ = [
    "ALL_GROUPS",
    "DEFAULT_GROUPS",
    "SCHEMA_VERSION",
    "RefereeResult",
    "RefereeRow",
    "RefereeSettings",
    "SampleResult",
    "published_place",
    "why_not_comparable",
]

SCHEMA_VERSION = 1
"""Version of the layout of :meth:`RefereeResult.to_dict`; a change that breaks readers raises it."""

DEFAULT_GROUPS = ("distances", "separation", "wasserstein", "prdc", "correlations")
ALL_GROUPS = (*DEFAULT_GROUPS, "calo4pqvae-226")

ClassifierForm = Literal["off", "quick", "full"]

_COMPARABLE_SHOWERS = 50_000
_FEW_SHOWERS = 5_000


@dataclass(frozen=True)
class RefereeSettings:
    """What is computed, and how.

    Args:
        groups: Names of :data:`ALL_GROUPS`.
        classifiers: ``off``, ``quick`` or ``full``.
        n_classifier_seeds: Trainings of each classifier.
        seed: Seed of splits, bootstraps and classifiers.
        is_official: Whether the caller declares the reference the official file of the data set.
        voxel_showers: At most so many showers of each sample, drawn at random, enter PRDC and voxel correlations; on
            grids larger than that of data set 2 only those that hold 65 million voxels, but at least 1,000.
        device: Where classifiers and PRDC run: ``cpu``, ``cuda`` or ``auto``.
        fpd: Batches of the FPD.
        kpd: Batches of the KPD.
        fpd_226: Batches of the FPD of 226 features.
        kpd_226: Batches of the KPD of 226 features.

    Raises:
        ConfigError: If a group or form is unknown, or a number is too small.
    """

    groups: tuple[str, ...] = DEFAULT_GROUPS
    classifiers: ClassifierForm = "off"
    n_classifier_seeds: int = 3
    seed: int = 1
    is_official: bool = False
    voxel_showers: int = 10_000
    device: str = "cpu"
    fpd: FrechetSettings = CHALLENGE_FPD
    kpd: KernelSettings = CHALLENGE_KPD
    fpd_226: FrechetSettings = LIBRARY_FPD
    kpd_226: KernelSettings = LIBRARY_KPD

    def __post_init__(self) -> None:
        unknown = [group for group in self.groups if group not in ALL_GROUPS]
        if unknown:
            raise ConfigError(f"there are no metrics '{unknown[0]}'; choose among {', '.join(ALL_GROUPS)}")
        if self.classifiers not in ("off", "quick", "full"):
            raise ConfigError(f"classifiers can be off, quick or full, not '{self.classifiers}'")
        if self.n_classifier_seeds < 1 or self.voxel_showers < 100:
            raise ConfigError(
                f"{self.n_classifier_seeds} seeds of classifiers and {self.voxel_showers} showers with voxels are too "
                "few; give at least 1 and 100"
            )
        if self.device not in ("cpu", "cuda", "auto") or (self.device == "cuda" and not torch.cuda.is_available()):
            raise ConfigError(f"there is no device '{self.device}' here; use cpu or auto")

    @property
    def chosen_device(self) -> str:
        """``cpu`` or ``cuda``."""
        return "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class RefereeRow:
    """One number of one sample.

    Args:
        key: Name of the metric; one of :data:`~calo4pqvae.evaluation.metrics.published.METRICS` where it is published.
        group: The group that it belongs to.
        label: The metric in words.
        value: Over the whole samples, with the error that the literature quotes, in natural units.
        error_kind: What the error is.
        seed: Seed of its draws.
        n_reference: Showers of the reference behind it.
        n_generated: Generated showers behind it.
        scale: Factor by which tables show it.
        sampling_error: Standard error from the finite samples, where ``value`` has another one.
        matched: The metric at the floor's sample size: median over splits and its distance to the 84 % quantile, or
            value and quoted error.
        floor: Geant4 against Geant4, in the same form.
        settings: On what else it depends.
        caveats: Sentences on this number.
        place: Place among published values; None where there are none.
        why_not: Why it is not on their scale; empty if it is.
    """

    key: str
    group: str
    label: str
    value: Estimate
    error_kind: str
    seed: int
    n_reference: int
    n_generated: int
    scale: float = 1.0
    sampling_error: float | None = None
    matched: Estimate | None = None
    floor: Estimate | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()
    place: Place | None = None
    why_not: tuple[str, ...] = ()

    @property
    def excess(self) -> float:
        """The metric at the floor's size in units of the floor; NaN where there is no positive floor."""
        if self.floor is None or self.matched is None or not self.floor.value > 0:
            return float("nan")
        return self.matched.value / self.floor.value

    @property
    def is_comparable(self) -> bool:
        """Whether the place among published values means something."""
        return self.place is not None and not self.why_not

    def to_dict(self) -> dict[str, object]:
        """The row as plain data, in natural units."""
        place_data = None
        if self.place is not None:
            best, low = self.place.best, self.place.floor
            place_data = {
                "rank": self.place.rank,
                "n_published": self.place.n_published,
                "best": {"value": best.value, "error": best.error, "name": best.name, "source": best.source},
                "geant4": None if low is None else {"value": low.value, "error": low.error},
                "is_comparable": self.is_comparable,
                "why_not": list(self.why_not),
            }
        return {
            "key": self.key,
            "group": self.group,
            "label": self.label,
            "value": self.value.to_dict(),
            "error_kind": self.error_kind,
            "sampling_error": self.sampling_error,
            "n_reference": self.n_reference,
            "n_generated": self.n_generated,
            "seed": self.seed,
            "at_floor_size": None if self.matched is None else self.matched.to_dict(),
            "floor": None if self.floor is None else self.floor.to_dict(),
            "settings": dict(self.settings),
            "caveats": list(self.caveats),
            "published": place_data,
        }


@dataclass(frozen=True)
class SampleResult:
    """All that was found about one generated sample; what was not asked for is empty or None.

    Args:
        rows: The numbers, in the order of the tables.
        contributions: What each feature adds to the Fréchet distance.
        separation: Separation powers with their layers.
        wasserstein: Distances of all features.
        families: The same by family.
        classifiers: Results by kind.
        importance: Loss of AUC of the high-level classifier by "feature", "family" and "layer".
    """

    rows: tuple[RefereeRow, ...]
    contributions: FrechetContributions | None = None
    separation: tuple[SeparationPower, ...] = ()
    wasserstein: tuple[WassersteinDistance, ...] = ()
    families: tuple[FamilySummary, ...] = ()
    classifiers: Mapping[str, ClassifierResult] = field(default_factory=dict)
    importance: Mapping[str, tuple[Importance, ...]] = field(default_factory=dict)

    def row(self, key: str) -> RefereeRow | None:
        """The row of a metric, if it was computed."""
        return next((row for row in self.rows if row.key == key), None)

    def to_dict(self) -> dict[str, object]:
        """Everything as plain data."""
        drivers: dict[str, object] = {}
        if self.contributions is not None:
            drivers["frechet"] = {
                "total": self.contributions.total,
                "correlation_term": self.contributions.correlation_term,
                "features": [
                    {"name": part.name, "mean_term": part.mean_term, "width_term": part.width_term}
                    for part in self.contributions.features
                ],
            }
        for level, found in self.importance.items():
            drivers[f"classifier_by_{level}"] = [entry.to_dict() for entry in found]
        return {
            "metrics": [row.to_dict() for row in self.rows],
            "separation_powers": [power.to_dict() for power in self.separation],
            "wasserstein": [distance.to_dict() for distance in self.wasserstein],
            "wasserstein_families": [family.to_dict() for family in self.families],
            "classifiers": {kind: result.to_dict() for kind, result in self.classifiers.items()},
            "drivers": drivers,
        }


@dataclass(frozen=True)
class RefereeResult:
    """The full set of metrics of all samples.

    Args:
        dataset: Name of the geometry.
        settings: What was computed, and how.
        reference: What was seen of the reference file.
        generated: The same of each generated file, by the name of the sample.
        samples: The numbers of each sample, the main one first.
        warnings: Sentences on what makes the comparison doubtful.
        seconds: Wall time by step.
        context: Command, versions of packages.
    """

    dataset: str
    settings: RefereeSettings
    reference: Screening
    generated: Mapping[str, Screening]
    samples: Mapping[str, SampleResult]
    warnings: tuple[str, ...]
    seconds: Mapping[str, float]
    context: Mapping[str, object]

    @property
    def caveats(self) -> tuple[str, ...]:
        """Sentences on what must be known to read the numbers, each once."""
        found: dict[str, list[str]] = {}
        for name, sample in self.samples.items():
            for row in sample.rows:
                for caveat in row.caveats if row.group != "chi-square" else ():
                    found.setdefault(caveat, []).append(name)
        several = len(self.samples) > 1
        sentences = [f"{', '.join(dict.fromkeys(n))}: {text}" if several else text for text, n in found.items()]
        sizes = {"the reference": self.reference, **self.generated}
        few = [
            f"{name} ({len(seen.incident_energy):,})"
            for name, seen in sizes.items()
            if len(seen.incident_energy) < _FEW_SHOWERS
        ]
        if few:
            sentences.insert(
                0,
                f"Few showers: {', '.join(few)}. Small differences cannot be seen, and distances lie above those of "
                "larger samples.",
            )
        note = self.reference.attributes.get("note")
        return (f"The reference file says of itself: {note}.", *sentences) if note else tuple(sentences)

    @property
    def main(self) -> str:
        """Name of the sample that the report is about."""
        return next(iter(self.samples))

    def to_dict(self) -> dict[str, object]:
        """Everything as plain data; the layout is that of :data:`SCHEMA_VERSION`."""
        chosen = self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "reference": self.reference.to_dict(),
            "generated": {name: screening.to_dict() for name, screening in self.generated.items()},
            "settings": {
                "metrics": list(chosen.groups),
                "classifiers": chosen.classifiers,
                "n_classifier_seeds": chosen.n_classifier_seeds,
                "seed": chosen.seed,
                "reference_declared_official": chosen.is_official,
                "voxel_showers": chosen.voxel_showers,
            },
            "warnings": list(self.warnings),
            "caveats": list(self.caveats),
            "samples": {name: sample.to_dict() for name, sample in self.samples.items()},
            "seconds": dict(self.seconds),
            "context": dict(self.context),
        }


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
    if key.startswith("auc") and settings.classifiers != "full":
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
