"""The binary classifiers of a referee's table: from two samples to AUCs, and to what the high-level one lives on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, cast

import numpy as np

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
from calo4pqvae.evaluation.features.highlevel import feature_names, feature_samples, file_chunks
from calo4pqvae.evaluation.features.screening import Sample
from calo4pqvae.evaluation.referee import RefereeSettings
from calo4pqvae.seeds import derive_seed
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.store import ShowerStore

__all__ = ["classify_samples"]

Tell = Callable[[int, int], None]
Step = Callable[[str], AbstractContextManager[Tell]]

_CHUNK = 1000
_REPEATS = 5


def classify_samples(
    reference: Sample, generated: Sample, settings: RefereeSettings, step: Step
) -> tuple[dict[str, ClassifierResult], dict[str, tuple[Importance, ...]]]:
    """Trains the low-level, high-level and, on regular grids, the CNN classifier.

    Args:
        reference: Geant4 showers.
        generated: Generated showers.
        settings: Form, seeds and device.
        step: Gives a context for a step of the work, which gives a function to tell (done, in all).

    Returns:
        Results by kind, and the importance of features for the first high-level classifier by "feature", "family"
        and "layer".

    Raises:
        DataError: If the samples cannot be compared.
    """
    geometry = reference.features.geometry
    pair = feature_samples(reference=reference.features, generated=generated.features)
    features = (
        FeatureInput(pair[0], reference.features.incident_energy),
        FeatureInput(pair[1], generated.features.incident_energy),
    )
    with step("high-level classifier") as tell:
        high, first = _train("high", *features, settings, tell)
    names = feature_names(geometry)
    groups = {"feature": None, "family": feature_families(names), "layer": feature_layers(names)}
    with step("importance of features"):
        importance = {
            level: tuple(
                permutation_importance(
                    first, names, members, n_repeats=2 if members is None else _REPEATS, seed=settings.seed
                )
            )
            for level, members in groups.items()
        }
    voxels = (VoxelInput(_store(reference), geometry), VoxelInput(_store(generated), geometry))
    with step("low-level classifier") as tell:
        results = {"low": _train("low", *voxels, settings, tell)[0], "high": high}
    if geometry.is_regular:
        with step("CNN classifier") as tell:
            results["cnn"] = _train("cnn", *voxels, settings, tell)[0]
    return results, importance


def _train(
    kind: Literal["low", "high", "cnn"],
    reference: ClassifierInput,
    generated: ClassifierInput,
    settings: RefereeSettings,
    tell: Tell,
) -> tuple[ClassifierResult, TrainedClassifier]:
    """The classifier with all its seeds, and the first one trained."""
    chosen = classifier_settings(kind, cast(Literal["quick", "full"], settings.classifiers))
    trained = []
    for number in range(settings.n_classifier_seeds):

        def shifted(epoch: int, most: int, _: float, before: int = number) -> None:
            tell(before * most + epoch, settings.n_classifier_seeds * most)

        seed = derive_seed(settings.seed, "referee classifier", number)
        trained.append(
            train_classifier(reference, generated, chosen, seed=seed, device=settings.chosen_device, progress=shifted)
        )
    return combine_runs([one.run for one in trained], find_copies(reference, generated)), trained[0]


def _store(sample: Sample) -> ShowerStore:
    """The showers compressed, thresholded as the classifiers see them, so that faulty ones stay in."""
    geometry: Geometry = sample.features.geometry
    parts = [
        ShowerStore.from_arrays(np.where(voxels >= geometry.threshold_mev, voxels, 0.0), energies)
        for energies, voxels in file_chunks(sample.path, geometry, _CHUNK)
    ]
    ends = np.cumsum([0, *(part.offsets[-1] for part in parts)])
    offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
    return ShowerStore(
        np.concatenate([part.incident_energies for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.voxels for part in parts]),
        np.concatenate([*offsets, ends[-1:]]),
        geometry.n_voxels,
    )
