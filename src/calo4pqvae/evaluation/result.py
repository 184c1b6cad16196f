"""One result of an evaluation: what page, terminal and JSON file show of generated samples beside Geant4.

**Floor.** Beside a value stands what Geant4 shows against itself, between two halves of the reference; and, because
most metrics of finite samples depend on the sample size, the same metric between one half and as many generated
showers ("at the floor's size"). These two are held against each other.

**Published values.** A number is ranked among those of the challenge. It is on their scale only if the reference is the
official file of the data set (the caller must say so, it cannot be seen), samples are large enough, and the classifier
is in its full form. Otherwise the reasons stand with the number, and its place is for orientation.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from calo4pqvae.evaluation.classifiers.importance import Importance
from calo4pqvae.evaluation.classifiers.judges import Judgement
from calo4pqvae.evaluation.features.screening import Screening
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.metric import Measured, Metric
from calo4pqvae.evaluation.metrics.correlations import PriorRow
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.frechet import FrechetContributions
from calo4pqvae.evaluation.metrics.published import Place
from calo4pqvae.evaluation.metrics.separation import SeparationPower
from calo4pqvae.evaluation.metrics.targets import TargetTable
from calo4pqvae.evaluation.metrics.wasserstein import FamilySummary, WassersteinDistance
from calo4pqvae.evaluation.settings import RefereeSettings

__all__ = ["SCHEMA_VERSION", "Evaluation", "RefereeRow", "SampleResult"]

SCHEMA_VERSION = 2
"""Version of the layout of :meth:`Evaluation.to_dict`; a change that breaks readers raises it."""

_FEW_SHOWERS = 5_000


@dataclass(frozen=True)
class RefereeRow:
    """One number of one sample.

    Args:
        metric: What it is.
        found: What was measured.
        seed: Seed of its draws.
        sizes: Showers of the reference and generated ones behind it.
        place: Place among published values; None where there are none.
        why_not: Why it is not on their scale; empty if it is.
    """

    metric: Metric
    found: Measured
    seed: int
    sizes: tuple[int, int]
    place: Place | None = None
    why_not: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the metric."""
        return self.metric.key

    @property
    def label(self) -> str:
        """The metric in words."""
        return self.found.label or self.metric.label

    @property
    def scale(self) -> float:
        """Factor by which tables show it."""
        return self.metric.scale

    @property
    def value(self) -> Estimate:
        """Over the whole samples, in natural units."""
        return self.found.value

    @property
    def matched(self) -> Estimate | None:
        """At the floor's size."""
        return self.found.matched

    @property
    def floor(self) -> Estimate | None:
        """Geant4 against Geant4."""
        return self.found.floor

    @property
    def excess(self) -> float:
        """The metric at the floor's size in units of the floor; NaN where that means nothing."""
        if self.floor is None or self.matched is None or self.metric.floor != "ratio" or not self.floor.value > 0:
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
            "group": self.metric.group,
            "label": self.label,
            "value": self.value.to_dict(),
            "error_kind": self.found.error_kind,
            "quoted_error": self.found.quoted_error,
            "n_reference": self.sizes[0],
            "n_generated": self.sizes[1],
            "seed": self.seed,
            "at_floor_size": None if self.matched is None else self.matched.to_dict(),
            "floor": None if self.floor is None else self.floor.to_dict(),
            "settings": dict(self.found.settings),
            "caveats": list(self.found.caveats),
            "published": place_data,
        }


@dataclass(frozen=True)
class SampleResult:
    """All that was found about one generated sample; what was not asked for is empty or None.

    Args:
        n_showers: Its size.
        acceptance: The acceptance table.
        fluctuations: Widths and correlations of layer energies by bin of energy.
        rows: The numbers, in the order of the tables.
        contributions: What each feature adds to the Fréchet distance.
        separation: Separation powers with their layers.
        by_energy: Separation powers in each bin of energy, by the bin in words.
        wasserstein: Distances of all features.
        families: The same by family.
        judgements: What the classifiers say, by the key of their metric.
    """

    n_showers: int
    acceptance: TargetTable
    fluctuations: tuple[PriorRow, ...] = ()
    rows: tuple[RefereeRow, ...] = ()
    contributions: FrechetContributions | None = None
    separation: tuple[SeparationPower, ...] = ()
    by_energy: Mapping[str, tuple[SeparationPower, ...]] = field(default_factory=dict)
    wasserstein: tuple[WassersteinDistance, ...] = ()
    families: tuple[FamilySummary, ...] = ()
    judgements: Mapping[str, Judgement] = field(default_factory=dict)

    def row(self, key: str) -> RefereeRow | None:
        """The row of a metric, if it was computed."""
        return next((row for row in self.rows if row.key == key), None)

    @property
    def importance(self) -> dict[str, Mapping[str, tuple[Importance, ...]]]:
        """What the classifiers live on, by the key of their metric and the level of grouping."""
        return {key: found.importance for key, found in self.judgements.items() if found.importance}

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
        for key, levels in self.importance.items():
            drivers[key] = {level: [entry.to_dict() for entry in found] for level, found in levels.items()}
        return {
            "n_showers": self.n_showers,
            "acceptance": self.acceptance.to_dict(),
            "layer_fluctuations": [row.to_dict() for row in self.fluctuations],
            "metrics": [row.to_dict() for row in self.rows],
            "separation_powers": [power.to_dict() for power in self.separation],
            "separation_powers_by_energy": {
                label: [power.to_dict() for power in powers] for label, powers in self.by_energy.items()
            },
            "wasserstein": [distance.to_dict() for distance in self.wasserstein],
            "wasserstein_families": [family.to_dict() for family in self.families],
            "classifiers": {key: found.result.to_dict() for key, found in self.judgements.items()},
            "drivers": drivers,
        }


@dataclass(frozen=True)
class Evaluation:
    """All that was found about all samples; the first one is the one that the report is about.

    Args:
        dataset: Name of the geometry.
        bins: Bins of incident energy.
        settings: What was computed, and how.
        reference: What was seen of the reference file.
        generated: The same of each generated file, by the name of the sample.
        samples: The numbers of each sample, the main one first.
        warnings: Sentences on what makes the comparison doubtful.
        seconds: Wall time by step.
        context: Command, versions of packages.
    """

    dataset: str
    bins: EnergyBins
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
                for caveat in row.found.caveats if row.metric.floor != "none" else ():
                    found.setdefault(caveat, []).append(name)
        several = len(self.samples) > 1
        sentences = [f"{', '.join(dict.fromkeys(n))}: {text}" if several else text for text, n in found.items()]
        few = [f"{name} ({size:,})" for name, size in self.sizes.items() if size < _FEW_SHOWERS]
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

    @property
    def sizes(self) -> dict[str, int]:
        """Showers of the reference ("Geant4") and of each sample."""
        return {
            "Geant4": len(self.reference.incident_energy),
            **{name: sample.n_showers for name, sample in self.samples.items()},
        }

    @property
    def provenance(self) -> dict[str, object]:
        """What must be known to repeat it: command, versions, settings, hashes of the files' contents."""
        files = {"Geant4": self.reference, **self.generated}
        chosen = self.settings
        return {
            **self.context,
            "files": {
                name: f"{seen.file}, SHA-256 of its numbers {seen.content_sha256}" for name, seen in files.items()
            },
            "showers": {name: f"{size:,}" for name, size in self.sizes.items()},
            "bins of incident energy": ", ".join(self.bins.labels),
            "metrics": ", ".join(chosen.groups) or "none",
            "classifiers": chosen.classifiers,
            "trainings of each classifier": chosen.n_classifier_seeds,
            "seed of splits, bootstraps and classifiers": chosen.seed,
            "showers with voxels, at most": chosen.voxel_showers,
            "reference declared official": chosen.is_official,
        }

    def to_dict(self) -> dict[str, object]:
        """Everything as plain data; the layout is that of :data:`SCHEMA_VERSION`."""
        chosen = self.settings
        return {
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset,
            "energy_bins_mev": list(self.bins.edges),
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
        }
