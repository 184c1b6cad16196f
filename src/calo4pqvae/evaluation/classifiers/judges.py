"""The judges: classifiers between a generated sample and Geant4, each beside what it makes of Geant4 itself.

**Floor.** A classifier is trained between two disjoint halves of the reference, and again between one of them and as
many generated showers. Only these two are of equal size: the AUC of a classifier grows with the showers that it learns
from, so that an AUC without a size says nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.evaluation.classifiers.data import ClassifierInput, FeatureInput, VoxelInput, find_copies
from calo4pqvae.evaluation.classifiers.importance import (
    Importance,
    feature_families,
    feature_layers,
    permutation_importance,
)
from calo4pqvae.evaluation.classifiers.training import (
    ClassifierResult,
    TrainedClassifier,
    classifier_settings,
    combine_runs,
    train_classifier,
)
from calo4pqvae.evaluation.classifiers.trees import TreeResult, grow_trees
from calo4pqvae.evaluation.clock import Clock
from calo4pqvae.evaluation.features.fine import FineFeatures, fine_features
from calo4pqvae.evaluation.features.highlevel import feature_names, feature_samples, file_chunks
from calo4pqvae.evaluation.features.screening import Sample
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.settings import RefereeSettings
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.store import ShowerStore

__all__ = ["Judgement", "Judges"]

Kind = Literal["low", "high", "cnn"]
IndexArray = NDArray[np.int64]

_CHUNK = 1000
_REPEATS = 5
_WORDS = {"low": "low-level classifier", "high": "high-level classifier", "cnn": "CNN classifier"}


@dataclass(frozen=True)
class Judgement:
    """What one classifier says about a sample.

    Args:
        result: Between all showers, over several trainings.
        matched: AUC of one training between half of the reference and as many generated showers.
        floor: The same between the halves of the reference.
        importance: Loss of AUC by level of grouping, where it was looked for.
    """

    result: ClassifierResult | TreeResult
    matched: Estimate
    floor: Estimate
    importance: Mapping[str, tuple[Importance, ...]]


class Judges:
    """Holds the reference and its floors; judges one generated sample after the other.

    Args:
        reference: Geant4 showers.
        settings: Forms, seeds and device.
        clock: Told the steps.
        size: Showers of a side at the floor's size.
    """

    def __init__(self, reference: Sample, settings: RefereeSettings, clock: Clock, size: int) -> None:
        self.reference = reference
        self.settings = settings
        self.clock = clock
        self.size = size
        self._floors: dict[str, Estimate] = {}

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The networks that are asked for and can look at this geometry."""
        if self.settings.network_form is None:
            return ()
        return ("low", "high", "cnn") if self.reference.features.geometry.is_regular else ("low", "high")

    def judge(self, name: str, sample: Sample) -> dict[str, Judgement]:
        """Trains all classifiers that are asked for against a sample; by the key of their metric.

        Raises:
            DataError: If the samples cannot be compared.
        """
        found: dict[str, Judgement] = {}
        if self.kinds:
            features = feature_samples(reference=self.reference.features, generated=sample.features)
            energies = (self.reference.features.incident_energy, sample.features.incident_energy)
            voxels = (self._reference_voxels, _voxels(sample))
            pairs: dict[Kind, tuple[ClassifierInput, ClassifierInput]] = {
                "high": (FeatureInput(features[0], energies[0]), FeatureInput(features[1], energies[1])),
                "low": voxels,
                "cnn": voxels,
            }
            found |= {f"auc_{kind}": self._networks(name, kind, pairs[kind]) for kind in self.kinds}
        if "hard" in self.settings.forms:
            found["auc_hard"] = self._trees(name, sample)
        return found

    @cached_property
    def _reference_voxels(self) -> VoxelInput:
        return _voxels(self.reference)

    @cached_property
    def _reference_fine(self) -> FineFeatures:
        return _fine(self.reference)

    def _trees(self, name: str, sample: Sample) -> Judgement:
        with self.clock.step(f"fine features: {name}"):
            reference, generated = self._reference_fine, _fine(sample)
        seed = derive_seed(self.settings.seed, "referee trees")
        with self.clock.step(f"boosted trees: {name}") as tell:
            grown = grow_trees(reference.matrix, generated.matrix, seed=seed, progress=tell)
        with self.clock.step(f"boosted trees at the floor's size: {name}"):
            one, other = self._halves(len(reference.matrix))
            first = reference.matrix[one]
            if "hard" not in self._floors:
                self._floors["hard"] = grow_trees(first, reference.matrix[other], seed=seed).result.auc
            part = generated.matrix[self._drawn(name, len(generated.matrix))]
            matched = grow_trees(first, part, seed=seed).result.auc
        with self.clock.step(f"importance of fine features: {name}"):
            families = grown.importance(reference.names, reference.families, seed=self.settings.seed)
            single = {member: (member,) for family in families[:2] for member in reference.families[family.group]}
            importance = {
                "family": families,
                "feature": grown.importance(reference.names, single, seed=self.settings.seed),
            }
        return Judgement(grown.result, matched, self._floors["hard"], importance)

    def _networks(self, name: str, kind: Kind, pair: tuple[ClassifierInput, ClassifierInput]) -> Judgement:
        with self.clock.step(f"{_WORDS[kind]}: {name}") as tell:
            n_seeds = self.settings.n_classifier_seeds
            trained: list[TrainedClassifier] = []
            for number in range(n_seeds):

                def shifted(epoch: int, most: int, _: float, before: int = number) -> None:
                    tell(before * most + epoch, n_seeds * most)

                trained.append(self._train(kind, *pair, number, shifted))
        with self.clock.step(f"{_WORDS[kind]} at the floor's size: {name}"):
            one, other = self._halves(len(pair[0]))
            if kind not in self._floors:
                self._floors[kind] = self._train(kind, pair[0].part(one), pair[0].part(other), 0).run.auc
            matched = self._train(kind, pair[0].part(one), pair[1].part(self._drawn(name, len(pair[1]))), 0).run.auc
        importance = self._importance(name, trained[0]) if kind == "high" else {}
        result = combine_runs([each.run for each in trained], find_copies(*pair))
        return Judgement(result, matched, self._floors[kind], importance)

    def _train(
        self,
        kind: Kind,
        reference: ClassifierInput,
        generated: ClassifierInput,
        number: int,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> TrainedClassifier:
        chosen = classifier_settings(kind, cast(Literal["quick", "full"], self.settings.network_form))
        seed = derive_seed(self.settings.seed, "referee classifier", number)
        device = self.settings.chosen_device
        return train_classifier(reference, generated, chosen, seed=seed, device=device, progress=progress)

    def _drawn(self, name: str, n: int) -> IndexArray:
        """As many generated showers, at random."""
        order = np.random.default_rng(derive_seed(self.settings.seed, "judged", name)).permutation(n)
        return np.sort(order[: self.size])

    def _halves(self, n: int) -> tuple[IndexArray, IndexArray]:
        """Two disjoint parts of the reference, of the floor's size."""
        order = np.random.default_rng(derive_seed(self.settings.seed, "judges", "halves")).permutation(n)
        return np.sort(order[: self.size]), np.sort(order[self.size : 2 * self.size])

    def _importance(self, name: str, first: TrainedClassifier) -> dict[str, tuple[Importance, ...]]:
        names = feature_names(self.reference.features.geometry)
        groups = {"feature": None, "family": feature_families(names), "layer": feature_layers(names)}
        with self.clock.step(f"importance of features: {name}"):
            return {
                level: tuple(
                    permutation_importance(
                        first, names, members, n_repeats=2 if members is None else _REPEATS, seed=self.settings.seed
                    )
                )
                for level, members in groups.items()
            }


def _fine(sample: Sample) -> FineFeatures:
    geometry = sample.features.geometry
    return fine_features(file_chunks(sample.path, geometry, _CHUNK), geometry)


def _voxels(sample: Sample) -> VoxelInput:
    """The showers compressed, thresholded as the classifiers see them, so that faulty ones stay in."""
    geometry = sample.features.geometry
    parts = [
        ShowerStore.from_arrays(np.where(voxels >= geometry.threshold_mev, voxels, 0.0), energies)
        for energies, voxels in file_chunks(sample.path, geometry, _CHUNK)
    ]
    ends = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    store = ShowerStore(
        np.concatenate([part.incident_energies for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.voxels for part in parts]),
        np.concatenate([*offsets, ends[-1:]]),
        geometry.n_voxels,
    )
    return VoxelInput(store, geometry)
