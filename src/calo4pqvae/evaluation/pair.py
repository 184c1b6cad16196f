"""A generated sample beside the reference: what several metrics are made of, computed once and only when asked for.

The floor of a distance depends on the reference alone, so that it is computed once for several generated samples, all
of them at one size: half of the reference, or all showers of the smallest sample if these are fewer. FPD runs on one
thread of BLAS, which is faster than several for its many small products. Voxels are read again, a chunk at a time,
where they are needed; PRDC and voxel correlations take a random part of a large sample, which is said.
"""

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calo4pqvae.evaluation.classifiers.judges import Judgement, Judges
from calo4pqvae.evaluation.clock import Clock
from calo4pqvae.evaluation.features.highlevel import FeatureKind, feature_names, feature_samples, file_chunks
from calo4pqvae.evaluation.features.screening import Sample
from calo4pqvae.evaluation.features.showers import EnergyBins
from calo4pqvae.evaluation.metrics.correlation_distance import (
    CorrelationDistance,
    layer_correlation_distance,
    voxel_correlation_distance,
)
from calo4pqvae.evaluation.metrics.frechet import FrechetContributions, FrechetResult, feature_contributions, fpd
from calo4pqvae.evaluation.metrics.kernel_distance import KernelResult, kpd
from calo4pqvae.evaluation.metrics.prdc import Prdc, log_voxels, prdc
from calo4pqvae.evaluation.metrics.sample_pairs import FloorAndValue, floor_and_value
from calo4pqvae.evaluation.metrics.separation import SeparationPower, VoxelSpectra, separation_powers, voxel_spectra
from calo4pqvae.evaluation.metrics.wasserstein import WassersteinDistance, wasserstein_distances
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.seeds import derive_seed

__all__ = ["FINE_SPECTRUM", "Bench", "Pair"]

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int32]

FINE_SPECTRUM = "voxel energy, bins of 0.1 in ln e"

_DISTANCES: dict[str, Callable[..., FrechetResult | KernelResult]] = {"fpd": fpd, "kpd": kpd}
_CHUNK = 1000
_MOST_VOXELS = 65_000_000  # of a sample in memory: 10,000 showers of data set 2


class Bench:
    """The reference, what is computed of it once, and the sizes at which all samples are compared.

    Args:
        reference: Geant4 showers that no model saw.
        generated: All generated samples.
        settings: What is computed, and how.
        clock: Told the steps.
    """

    def __init__(
        self, reference: Sample, generated: Mapping[str, Sample], settings: RefereeSettings, clock: Clock
    ) -> None:
        self.reference = reference
        self.settings = settings
        self.clock = clock
        self.geometry = reference.features.geometry
        fewest = min(sample.features.n_showers for sample in generated.values())
        n = reference.features.n_showers
        self.size = min(n // 2, fewest)
        limit = max(1000, _MOST_VOXELS // self.geometry.n_voxels)
        self.n_common = min(n, fewest)
        self.n_voxel_showers = min(settings.voxel_showers, limit)
        self.judges = Judges(reference, settings, clock, self.size)
        self._distances: dict[object, _Remembered] = {}

    @cached_property
    def edges(self) -> tuple[FloatArray, FloatArray]:
        """Edges in MeV of the challenge's spectrum of voxel energies, and of the fine one."""
        largest = self.reference.screening.largest_voxel_mev
        return (
            VoxelSpectra.edges_of(largest, self.geometry),
            VoxelSpectra.fine_edges_of(largest, self.geometry),
        )

    @cached_property
    def counts(self) -> tuple[CountArray, ...]:
        """Voxels of each reference shower in the bins of both spectra."""
        return self.counts_of(self.reference)

    def counts_of(self, sample: Sample) -> tuple[CountArray, ...]:
        """Voxels of each shower in the bins of both spectra."""
        showers = (voxels for _, voxels in file_chunks(sample.path, self.geometry, _CHUNK))
        return voxel_spectra(showers, self.edges, self.geometry)

    def remembered(self, key: object, distance: Callable[..., Any]) -> "_Remembered":
        """A distance that is not computed a second time for the same samples."""
        return self._distances.setdefault(key, _Remembered(distance))

    def chosen(self, label: str, sample: Sample, most: int) -> NDArray[np.bool_]:
        """A random part of a sample."""
        n = sample.features.n_showers
        chosen = np.ones(n, dtype=np.bool_)
        if n > most:
            generator = np.random.default_rng(derive_seed(self.settings.seed, "referee voxels", label))
            chosen[generator.choice(n, n - most, replace=False)] = False
        return chosen

    def voxels(self, label: str, sample: Sample, most: int) -> tuple[FloatArray, NDArray[np.float32]]:
        """Incident energies and showers of a random part of a file, negative voxels as zero."""
        chosen = self.chosen(label, sample, most)
        showers = np.empty((int(chosen.sum()), self.geometry.n_voxels), dtype=np.float32)
        done = start = 0
        for energies, voxels in file_chunks(sample.path, self.geometry, _CHUNK):
            kept = voxels[chosen[start : start + len(energies)]]
            showers[done : done + len(kept)] = kept
            done, start = done + len(kept), start + len(energies)
        np.maximum(showers, 0.0, out=showers)
        return sample.features.incident_energy[chosen], showers


class Pair:
    """One generated sample on the bench.

    Args:
        bench: The reference.
        name: Name of the sample.
        sample: The sample.
    """

    def __init__(self, bench: Bench, name: str, sample: Sample) -> None:
        self.bench = bench
        self.name = name
        self.sample = sample
        self.settings = bench.settings

    @property
    def sizes(self) -> tuple[int, int]:
        """Showers of the reference and generated ones."""
        return self.bench.reference.features.n_showers, self.sample.features.n_showers

    def features(self, kind: FeatureKind = "challenge") -> tuple[FloatArray, FloatArray]:
        """Feature vectors of reference and sample."""
        return feature_samples(reference=self.bench.reference.features, generated=self.sample.features, kind=kind)

    def distance(
        self, key: str, kind: FeatureKind
    ) -> tuple[FrechetResult | KernelResult, FloorAndValue[FrechetResult | KernelResult]]:
        """FPD or KPD between the whole samples, and at the floor's size with its floor."""
        chosen = getattr(self.settings, key if kind == "challenge" else f"{key}_226")
        compute = self.bench.remembered((key, kind), partial(_DISTANCES[key], settings=chosen))
        first, second = self.features(kind)
        with self.bench.clock.step(f"{key.upper()}{'' if kind == 'challenge' else ' of 226 features'}: {self.name}"):
            whole = compute(reference=first, generated=second)
            parts: FloorAndValue[FrechetResult | KernelResult] = floor_and_value(
                compute, reference=first, generated=second, seed=self.settings.seed, size=self.bench.size
            )
        return whole, parts

    @cached_property
    def contributions(self) -> FrechetContributions:
        """What each feature adds to the Fréchet distance."""
        first, second = self.features()
        return feature_contributions(reference=first, generated=second, names=feature_names(self.bench.geometry))

    @cached_property
    def spectra(self) -> dict[str, VoxelSpectra]:
        """Voxel energies of both samples in the challenge's bins and in fine ones."""
        with self.bench.clock.step(f"voxel spectra: {self.name}"):
            counts = zip(self.bench.edges, self.bench.counts, self.bench.counts_of(self.sample), strict=True)
            return dict(zip(("voxel energy", FINE_SPECTRUM), (VoxelSpectra(*each) for each in counts), strict=True))

    @cached_property
    def separation(self) -> dict[str, SeparationPower]:
        """Separation powers by observable."""
        with self.bench.clock.step(f"separation powers: {self.name}"):
            powers = separation_powers(
                self.bench.reference.features,
                self.sample.features,
                seed=self.settings.seed,
                spectra=self.spectra,
                size=self.bench.size,
            )
        return {power.name: power for power in powers}

    def separation_by_energy(self, bins: EnergyBins) -> dict[str, tuple[SeparationPower, ...]]:
        """Separation powers in bins of incident energy, by the bin in words."""
        reference, generated = self.bench.reference.features, self.sample.features
        masks = zip(bins.masks(reference.incident_energy), bins.masks(generated.incident_energy), strict=True)
        found = {}
        with self.bench.clock.step(f"separation powers in bins of energy: {self.name}"):
            for label, (one, other) in zip(bins.labels, masks, strict=True):
                spectra = {name: each.select(one, other) for name, each in self.spectra.items()}
                powers = separation_powers(
                    reference.select(one), generated.select(other), seed=self.settings.seed, spectra=spectra
                )
                found[label] = tuple(powers)
        return found

    @cached_property
    def of_voxels(self) -> tuple[CorrelationDistance | None, Prdc | None]:
        """Distance of voxel correlations, and precision to coverage, as far as they are asked for."""
        bench, groups, seed = self.bench, self.settings.groups, self.settings.seed
        with bench.clock.step(f"voxels: {self.name}"):
            most = self._most(bench.n_voxel_showers)
            parts = bench.voxels("reference", bench.reference, most), bench.voxels("generated", self.sample, most)
        distance = found = None
        if "correlations" in groups:
            with bench.clock.step(f"correlations: {self.name}"):
                distance = voxel_correlation_distance(
                    reference=parts[0], generated=parts[1], geometry=bench.geometry, seed=seed
                )
        if "prdc" in groups:
            points = [log_voxels(showers, bench.geometry) for _, showers in parts]
            del parts
            with bench.clock.step(f"PRDC: {self.name}") as tell:
                found = prdc(
                    reference=points[0],
                    generated=points[1],
                    seed=seed,
                    device=self.settings.chosen_device,
                    progress=tell,
                )
        return distance, found

    @cached_property
    def layer_correlations(self) -> CorrelationDistance:
        """Distance of the correlations of layer energies."""
        most = self._most(max(self.sizes))
        first, second = self.bench.reference, self.sample
        with self.bench.clock.step(f"correlations: {self.name}"):
            return layer_correlation_distance(
                reference=first.features.select(self.bench.chosen("reference", first, most)),
                generated=second.features.select(self.bench.chosen("generated", second, most)),
                seed=self.settings.seed,
            )

    def _most(self, limit: int) -> int:
        """Showers of a part: no more than the smallest sample holds, so that halves of all samples are alike."""
        return min(limit, self.bench.n_common) if min(self.sizes) > self.bench.n_common else limit

    @cached_property
    def wasserstein(self) -> tuple[WassersteinDistance, ...]:
        """Distances of all features."""
        first, second = self.features()
        with self.bench.clock.step(f"Wasserstein distances: {self.name}"):
            found = wasserstein_distances(
                reference=first,
                generated=second,
                names=feature_names(self.bench.geometry),
                seed=self.settings.seed,
                size=self.bench.size,
            )
        return tuple(found)

    @cached_property
    def judgements(self) -> dict[str, Judgement]:
        """What the classifiers say, by the key of their metric."""
        return self.bench.judges.judge(self.name, self.sample)


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
