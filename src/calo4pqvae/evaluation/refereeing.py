"""Computes the full set of metrics: from two shower files to the rows of a referee's table.

The floor of a distance depends on the reference alone, so that it is computed once for several generated samples.
FPD runs on one thread of BLAS, which is faster than several for its many small products. Voxels are read again, a
chunk at a time, where they are needed; PRDC and voxel correlations take a random part of a large sample, which is said.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.evaluation.classifiers.importance import feature_families
from calo4pqvae.evaluation.classifiers.referee_rows import classify_samples
from calo4pqvae.evaluation.classifiers.training import ClassifierResult
from calo4pqvae.evaluation.features.highlevel import FeatureKind, feature_names, feature_samples, file_chunks
from calo4pqvae.evaluation.features.screening import Sample, find_warnings
from calo4pqvae.evaluation.metrics.correlation_distance import (
    CorrelationDistance,
    layer_correlation_distance,
    voxel_correlation_distance,
)
from calo4pqvae.evaluation.metrics.estimate import Estimate, Splits
from calo4pqvae.evaluation.metrics.frechet import FrechetResult, FrechetSettings, feature_contributions, fpd
from calo4pqvae.evaluation.metrics.kernel_distance import KernelResult, KernelSettings, kpd
from calo4pqvae.evaluation.metrics.prdc import PRDC_NAMES, log_voxels, prdc
from calo4pqvae.evaluation.metrics.published import METRICS
from calo4pqvae.evaluation.metrics.sample_pairs import floor_and_value
from calo4pqvae.evaluation.metrics.separation import SeparationPower, VoxelSpectra, separation_powers, voxel_spectrum
from calo4pqvae.evaluation.metrics.wasserstein import wasserstein_distances, wasserstein_summary
from calo4pqvae.evaluation.referee import (
    RefereeResult,
    RefereeRow,
    RefereeSettings,
    SampleResult,
    published_place,
    why_not_comparable,
)
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.geometry import Geometry

__all__ = ["run_referee"]

FloatArray = NDArray[np.float64]
Progress = Callable[[str, int, int], None]

_CHUNK = 1000
_MOST_VOXELS = 65_000_000  # of a sample in memory: 10,000 showers of data set 2
_LEAST_CLASSIFIER_SHOWERS = 10_000
_PACKAGES = ("calo4pqvae", "numpy", "scipy", "torch", "scikit-learn", "h5py", "matplotlib")
_SEPARATION_KEYS = {
    "E_tot / E_inc": "total_energy",
    "layer energy": "layer_energy",
    "voxel energy": "voxel",
    "layer sparsity": "sparsity",
    "centre of energy eta": "centre_eta",
    "centre of energy phi": "centre_phi",
    "centre of energy r": "centre_r",
    "width eta": "width_eta",
    "width phi": "width_phi",
    "width r": "width_r",
}


def run_referee(
    reference: Sample,
    generated: Mapping[str, Sample],
    settings: RefereeSettings,
    *,
    context: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> RefereeResult:
    """The full set of metrics of some generated samples.

    Args:
        reference: Geant4 showers that no model saw.
        generated: Generated samples by name, the main one first.
        settings: What is computed, and how.
        context: What else to record, such as the command.
        progress: Called with (step, done, in all).

    Raises:
        DataError: If the samples cannot be compared.
        ConfigError: If a device is not there.
    """
    clock = _Clock(progress)
    bench = _Bench(reference, settings, clock)
    samples = {name: bench.judge(name, sample) for name, sample in generated.items()}
    screenings = {name: sample.screening for name, sample in generated.items()}
    versions = {package: version(package) for package in _PACKAGES}
    return RefereeResult(
        dataset=reference.features.geometry.name,
        settings=settings,
        reference=reference.screening,
        generated=screenings,
        samples=samples,
        warnings=tuple(find_warnings(reference.screening, screenings)),
        seconds={step: round(seconds, 3) for step, seconds in clock.seconds.items()},
        context={"versions": versions, **(context or {})},
    )


@dataclass(eq=False)
class _Clock:
    """Wall time by step, and what the caller is told about it."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Times a step; gives a function to tell how far it has come."""
        start = time.perf_counter()
        self._tell(name, 0, 1)
        yield lambda done, total: self._tell(name, done, total)
        self._tell(name, 1, 1)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _tell(self, name: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(name, done, total)


class _Remembered:
    """A distance that is not computed a second time for the same samples."""

    def __init__(self, distance: Callable[..., Any]) -> None:
        self._distance = distance
        self._found: dict[bytes, Any] = {}

    def __call__(self, *, reference: ArrayLike, generated: ArrayLike) -> Any:  # noqa: ANN401  # whatever it gives
        arrays = [np.ascontiguousarray(array) for array in (reference, generated)]
        key = b"".join(hashlib.sha256(array.data).digest() for array in arrays)
        if key not in self._found:
            self._found[key] = self._distance(reference=reference, generated=generated)
        return self._found[key]


class _Bench:
    """Holds the reference and what is computed of it once; judges one generated sample after the other."""

    def __init__(self, reference: Sample, settings: RefereeSettings, clock: _Clock) -> None:
        self.reference = reference
        self.settings = settings
        self.clock = clock
        self.geometry: Geometry = reference.features.geometry
        self._distances: dict[object, _Remembered] = {}
        self._spectrum: tuple[FloatArray, NDArray[np.int32]] | None = None

    def judge(self, name: str, sample: Sample) -> SampleResult:
        """All rows of a sample."""
        groups, rows = self.settings.groups, []
        found: dict[str, Any] = {}
        if "distances" in groups:
            rows += self._distance_rows(name, sample, "challenge", self.settings.fpd, self.settings.kpd)
            found["contributions"] = self._contributions(sample)
        if self.settings.classifiers != "off":
            classified, found["importance"] = classify_samples(
                self.reference, sample, self.settings, lambda step: self.clock.step(f"{step}: {name}")
            )
            found["classifiers"] = classified
            rows += [self._classifier_row(kind, result, sample) for kind, result in classified.items()]
        if "separation" in groups:
            found["separation"] = self._separation(name, sample)
            rows += [self._separation_row(power, sample) for power in found["separation"]]
            rows += [self._chi_square_row(power, sample) for power in found["separation"]]
        if "prdc" in groups or "correlations" in groups:
            rows += self._voxel_rows(name, sample)
        if "wasserstein" in groups:
            found["wasserstein"], found["families"], row = self._wasserstein(name, sample)
            rows.append(row)
        if "calo4pqvae-226" in groups:
            fpd_settings, kpd_settings = self.settings.fpd_226, self.settings.kpd_226
            rows += self._distance_rows(name, sample, "calo4pqvae-226", fpd_settings, kpd_settings)
        return SampleResult(tuple(rows), **found)

    def _sizes(self, sample: Sample) -> tuple[int, int]:
        return self.reference.features.n_showers, sample.features.n_showers

    def _row(self, key: str, group: str, sample: Sample, value: Estimate, **more: Any) -> RefereeRow:  # noqa: ANN401
        """A row with its published place, and label and scale of the published table where it has them."""
        sizes = more.pop("sizes", self._sizes(sample))
        known = METRICS.get(key)
        if known is not None:
            more = {"label": known.label, "scale": known.scale, **more}
        where = published_place(key, value.value, self.geometry.name)
        reasons = () if where is None else why_not_comparable(key, self.geometry.name, sizes, self.settings)
        return RefereeRow(
            key=key,
            group=group,
            value=value,
            seed=more.pop("seed", self.settings.seed),
            n_reference=sizes[0],
            n_generated=sizes[1],
            place=where,
            why_not=reasons,
            **more,
        )

    def _distance_rows(
        self, name: str, sample: Sample, kind: FeatureKind, fpd_settings: FrechetSettings, kpd_settings: KernelSettings
    ) -> list[RefereeRow]:
        pair = feature_samples(reference=self.reference.features, generated=sample.features, kind=kind)
        suffix, label = ("", "") if kind == "challenge" else ("_226", " of 226 features")
        rows = []
        measures: dict[str, tuple[Callable[..., Any], FrechetSettings | KernelSettings]] = {
            "fpd": (partial(fpd, settings=fpd_settings), fpd_settings),
            "kpd": (partial(kpd, settings=kpd_settings), kpd_settings),
        }
        for key, (distance, chosen) in measures.items():
            compute = self._distances.setdefault((key, chosen, kind), _Remembered(distance))
            with self.clock.step(f"{key.upper()}{label}: {name}"):
                whole: FrechetResult | KernelResult = compute(reference=pair[0], generated=pair[1])
                parts = floor_and_value(compute, reference=pair[0], generated=pair[1], seed=self.settings.seed)
            sampling = getattr(whole, "error_sampling", float("nan"))
            rows.append(
                self._row(
                    key + suffix,
                    "distances" if kind == "challenge" else kind,
                    sample,
                    Estimate(whole.value, whole.error, min(whole.n_reference, whole.n_generated)),
                    label=f"{key.upper()}{label}",
                    scale=1e3,
                    error_kind="of the fit" if key == "fpd" else "spread of the batches",
                    sampling_error=sampling if np.isfinite(sampling) else None,
                    matched=Estimate(parts.value.value, parts.value.error, parts.size),
                    floor=Estimate(parts.floor.value, parts.floor.error, parts.size),
                    seed=whole.seed,
                    settings={**asdict(chosen), "features": kind, "n_features": whole.n_features},
                    caveats=(whole.note,) if whole.note else (),
                )
            )
        return rows

    def _contributions(self, sample: Sample) -> Any:  # noqa: ANN401
        pair = feature_samples(reference=self.reference.features, generated=sample.features)
        return feature_contributions(reference=pair[0], generated=pair[1], names=feature_names(self.geometry))

    def _separation(self, name: str, sample: Sample) -> tuple[SeparationPower, ...]:
        with self.clock.step(f"separation powers: {name}"):
            if self._spectrum is None:
                edges = VoxelSpectra.edges_of(self.reference.screening.largest_voxel_mev, self.geometry)
                self._spectrum = (edges, self._voxel_counts(self.reference, edges))
            edges, counts = self._spectrum
            spectra = VoxelSpectra(edges, counts, self._voxel_counts(sample, edges))
            powers = separation_powers(
                self.reference.features, sample.features, seed=self.settings.seed, spectra=spectra
            )
        return tuple(powers)

    def _voxel_counts(self, sample: Sample, edges: FloatArray) -> NDArray[np.int32]:
        showers = (voxels for _, voxels in file_chunks(sample.path, self.geometry, _CHUNK))
        return voxel_spectrum(showers, edges, self.geometry)

    def _separation_row(self, power: SeparationPower, sample: Sample) -> RefereeRow:
        return self._row(
            f"separation_{_SEPARATION_KEYS[power.name]}",
            "separation",
            sample,
            power.value,
            error_kind="bootstrap",
            matched=_level(power.matched),
            floor=_level(power.floor),
            settings={"layers": len(power.per_layer)},
        )

    def _chi_square_row(self, power: SeparationPower, sample: Sample) -> RefereeRow:
        free = sum(power.chi_square.freedom)
        is_law = power.chi_square.p_values is not None
        spread = float(np.sqrt(2 / free)) if free and is_law else float("nan")
        note = "Bins are correlated, since a shower makes many entries: a distance, without a probability."
        return self._row(
            f"chi_square_{_SEPARATION_KEYS[power.name]}",
            "chi-square",
            sample,
            Estimate(power.chi_square.per_freedom, spread, power.value.n),
            label=f"chi-square per degree of freedom, {power.name}",
            error_kind="sqrt(2 / degrees of freedom)",
            settings={"degrees_of_freedom": free},
            caveats=() if is_law else (note,),
        )

    def _voxel_rows(self, name: str, sample: Sample) -> list[RefereeRow]:
        rows, groups, chosen = [], self.settings.groups, self.settings
        with self.clock.step(f"voxels: {name}"):
            parts = [
                self._voxels(label, part) for label, part in (("reference", self.reference), ("generated", sample))
            ]
        sizes = (len(parts[0][0]), len(parts[1][0]))
        if "correlations" in groups:
            with self.clock.step(f"correlations: {name}"):
                layers = layer_correlation_distance(
                    reference=self.reference.features, generated=sample.features, seed=chosen.seed
                )
                voxels = voxel_correlation_distance(
                    reference=parts[0], generated=parts[1], geometry=self.geometry, seed=chosen.seed
                )
            rows.append(self._correlation_row("layers", layers, sample, self._sizes(sample)))
            rows.append(self._correlation_row("voxels", voxels, sample, sizes))
        if "prdc" in groups:
            points = [log_voxels(showers, self.geometry) for _, showers in parts]
            del parts
            with self.clock.step(f"PRDC: {name}") as tell:
                found = prdc(
                    reference=points[0],
                    generated=points[1],
                    seed=chosen.seed,
                    device=chosen.chosen_device,
                    progress=tell,
                )
            size = min(sizes)
            rows = [
                self._row(
                    measure,
                    "prdc",
                    sample,
                    getattr(found, measure),
                    error_kind="delete-half jackknife",
                    matched=_level(found.matched[measure]),
                    floor=_level(found.floor[measure]),
                    settings={"k": found.k},
                    sizes=(size, size),
                )
                for measure in PRDC_NAMES
            ] + rows
        return rows

    def _correlation_row(
        self, what: str, found: CorrelationDistance, sample: Sample, sizes: tuple[int, int]
    ) -> RefereeRow:
        return self._row(
            f"correlation_{what}",
            "correlations",
            sample,
            found.distance,
            label=f"distance of the correlations of {what}",
            error_kind="jackknife",
            matched=_level(found.matched),
            floor=_level(found.floor),
            settings={"n_columns": found.n_columns, "rms_of_a_coefficient": found.per_pair.value},
            sizes=sizes,
        )

    def _voxels(self, label: str, sample: Sample) -> tuple[FloatArray, NDArray[np.float32]]:
        """Incident energies and showers of a random part of a file, negative voxels as zero."""
        n = sample.features.n_showers
        most = min(self.settings.voxel_showers, max(1000, _MOST_VOXELS // self.geometry.n_voxels))
        chosen = np.ones(n, dtype=np.bool_)
        if n > most:
            generator = np.random.default_rng(derive_seed(self.settings.seed, "referee voxels", label))
            chosen[generator.choice(n, n - most, replace=False)] = False
        showers = np.empty((int(chosen.sum()), self.geometry.n_voxels), dtype=np.float32)
        done = start = 0
        for energies, voxels in file_chunks(sample.path, self.geometry, _CHUNK):
            kept = voxels[chosen[start : start + len(energies)]]
            showers[done : done + len(kept)] = kept
            done, start = done + len(kept), start + len(energies)
        np.maximum(showers, 0.0, out=showers)
        return sample.features.incident_energy[chosen], showers

    def _wasserstein(self, name: str, sample: Sample) -> tuple[Any, Any, RefereeRow]:
        names = feature_names(self.geometry)
        pair = feature_samples(reference=self.reference.features, generated=sample.features)
        with self.clock.step(f"Wasserstein distances: {name}"):
            found = wasserstein_distances(reference=pair[0], generated=pair[1], names=names, seed=self.settings.seed)
        every = wasserstein_summary(found, {"all": names})[0]
        families = wasserstein_summary(found, feature_families(names))
        varying = [entry for entry in found if np.isfinite(entry.distance.value)]
        size = varying[0].floor.sizes[0] if varying else 0
        row = self._row(
            "wasserstein",
            "wasserstein",
            sample,
            every.mean,
            label="Wasserstein distance, mean of features",
            error_kind="bootstrap, features taken as fully correlated",
            matched=_mean_level([entry.matched for entry in varying], size),
            floor=_mean_level([entry.floor for entry in varying], size),
            settings={
                "n_features": every.n_features,
                "unit": "standard deviation of the reference",
                "worst": every.worst_name,
                "worst_value": every.worst.value,
            },
        )
        return tuple(found), tuple(families), row

    def _classifier_row(self, kind: str, result: ClassifierResult, sample: Sample) -> RefereeRow:
        size = min(self._sizes(sample))
        caveats = list(result.warnings)
        if size < _LEAST_CLASSIFIER_SHOWERS:
            caveats.append(
                f"{size:,} showers of each sample train the classifier badly: a larger sample would give a larger AUC."
            )
        if result.form == "quick":
            caveats.append("Quick form: a smaller network, whose AUC is not that of the challenge's networks.")
        label = METRICS[f"auc_{kind}"].label + (" (quick form)" if result.form == "quick" else "")
        return self._row(
            f"auc_{kind}",
            "classifiers",
            sample,
            result.auc,
            label=label,
            error_kind="spread over trainings or DeLong, the larger",
            floor=Estimate(0.5, 0.0, size),
            settings={"form": result.form, "jsd_bits": result.jsd.value, "trainings": len(result.runs)},
            caveats=tuple(caveats),
            sizes=(size, size),
        )


def _level(splits: Splits) -> Estimate:
    """Median over splits and its distance to the 84 % quantile."""
    return Estimate(splits.median, splits.quantile84 - splits.median, splits.sizes[0])


def _mean_level(splits: list[Splits], size: int) -> Estimate | None:
    if not splits:
        return None
    median = float(np.mean([part.median for part in splits]))
    upper = float(np.mean([part.quantile84 for part in splits]))
    return Estimate(median, upper - median, size)
