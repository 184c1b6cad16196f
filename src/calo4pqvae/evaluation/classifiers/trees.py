"""The hard judge: boosted trees on fine features, cross-validated, on a CPU.

Quick networks see few of the defects that matter: a smeared single-particle peak at 2 MeV escapes a CNN and the
challenge's features alike. Trees on the fine features (:mod:`calo4pqvae.evaluation.features.fine`) see it at once, and
need no graphics card: histogram trees, 150 rounds, learning rate 0.1, at most 8 leaves of at least 20 showers each.
Deeper, finer and more trees were no sharper on smeared and thinned Geant4 showers, and cost two to three times more.

The showers are dealt into five folds. Each is scored by trees that were grown on the others, so that every shower
counts and none was learnt. The AUC is the mean over the folds, with DeLong's error from all showers, about a fifth too
small since the folds share the showers that they are grown on. The importance of a group of features is the AUC that
the scores of all folds lose when the group is shuffled among the showers of a fold.

References:
    Friedman, Annals of Statistics 29 (2001) 1189; Ke et al., LightGBM, NeurIPS 2017, whose histogram trees scikit-learn
    follows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.classifiers.importance import Importance
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.receiver_operating import AucComponents, auc_components, auc_difference
from calo4pqvae.seeds import derive_seed

__all__ = ["GrownTrees", "TreeResult", "grow_trees"]

Matrix = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IndexArray = NDArray[np.int64]

_FOLDS = 5
_LEAST_SHOWERS = 50
_ROUNDS = 150
_TREES = {
    "learning_rate": 0.1,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "max_features": 0.2,
    "max_bins": 63,
    "early_stopping": False,
}


@dataclass(frozen=True)
class TreeResult:
    """What the trees say.

    Args:
        auc: Mean over the folds, with DeLong's error.
        seed: Seed of folds and trees.
        n_features: Features that they saw.
        rounds: Trees of a fold.
        n_folds: Folds.
        warnings: Sentences on what makes it doubtful.
    """

    auc: Estimate
    seed: int
    n_features: int
    rounds: int = _ROUNDS
    n_folds: int = _FOLDS
    warnings: tuple[str, ...] = ()

    @property
    def form(self) -> str:
        """``hard``."""
        return "hard"

    @property
    def error_kind(self) -> str:
        """What the error of the AUC is."""
        return "DeLong, cross-validated"

    def row_settings(self) -> dict[str, object]:
        """What a table says beside the AUC."""
        return {"form": self.form, "features": self.n_features, "folds": self.n_folds, "rounds": self.rounds}

    def to_dict(self) -> dict[str, object]:
        """All numbers as plain data."""
        return {"auc": self.auc.to_dict(), "seed": self.seed, **self.row_settings(), "settings": dict(_TREES)}


@dataclass(frozen=True, eq=False)
class GrownTrees:
    """The trees of all folds with the showers that they have not seen.

    Args:
        trees: One model a fold.
        inputs: Features of the showers of each fold.
        labels: Which of them are reference showers.
        result: The numbers.
    """

    trees: tuple[HistGradientBoostingClassifier, ...]
    inputs: tuple[Matrix, ...]
    labels: tuple[BoolArray, ...]
    result: TreeResult

    def importance(
        self, names: Sequence[str], groups: Mapping[str, Sequence[str]], *, n_repeats: int = 2, seed: int = 0
    ) -> tuple[Importance, ...]:
        """Loss of AUC by group, the greatest first.

        Args:
            names: Of the features.
            groups: Names of the features of each group.
            n_repeats: Shuffles of each group, at least 2.
            seed: Seed of the shuffles.
        """
        place = {name: column for column, name in enumerate(names)}
        intact = self._components(lambda inputs: inputs)
        found = []
        for group, members in groups.items():
            columns = [place[name] for name in members]
            drops = []
            for repeat in range(n_repeats):
                generator = np.random.default_rng(derive_seed(seed, "importance of trees", group, repeat))
                drops.append(auc_difference(intact, self._components(partial(_shuffled, columns, generator))))
            values = np.array([drop.value for drop in drops])
            sampling = np.mean([drop.error**2 for drop in drops])
            error = float(np.sqrt(values.var(ddof=1) / n_repeats + sampling))
            estimate = Estimate(float(values.mean()), error, intact.estimate.n)
            found.append(Importance(group, estimate, len(members), n_repeats, seed))
        return tuple(sorted(found, key=lambda importance: -importance.auc_drop.value))

    def _components(self, change: Callable[[Matrix], Matrix]) -> AucComponents:
        parts = [
            auc_components(_scores(trees, change(inputs)), labels)
            for trees, inputs, labels in zip(self.trees, self.inputs, self.labels, strict=True)
        ]
        return _together(parts)


def grow_trees(
    reference: Matrix,
    generated: Matrix,
    *,
    seed: int,
    rounds: int = _ROUNDS,
    progress: Callable[[int, int], None] | None = None,
) -> GrownTrees:
    """Grows the trees of all folds.

    Args:
        reference: Features of Geant4 showers, (N, F), NaN where there is none.
        generated: The same of generated showers, (M, F); the larger sample is cut at random to the size of the smaller.
        seed: Seed of folds and trees.
        rounds: Trees of a fold.
        progress: Called with (folds done, folds in all).

    Raises:
        DataError: If a sample has fewer than 50 showers, or the widths differ.
    """
    n = min(len(reference), len(generated))
    if n < _LEAST_SHOWERS or reference.shape[1] != generated.shape[1]:
        raise DataError(
            f"the trees need at least {_LEAST_SHOWERS} showers of each sample with the same features; there are "
            f"{reference.shape} and {generated.shape} numbers"
        )
    folds = []
    for name, sample in (("reference", reference), ("generated", generated)):
        order = np.random.default_rng(derive_seed(seed, "folds", name)).permutation(len(sample))[:n]
        folds.append([sample[rows] for rows in np.array_split(order, _FOLDS)])
    inputs = tuple(np.concatenate(pair) for pair in zip(*folds, strict=True))
    labels = tuple(np.repeat([True, False], [len(one), len(two)]) for one, two in zip(*folds, strict=True))
    trees = []
    for fold in range(_FOLDS):
        rest = [k for k in range(_FOLDS) if k != fold]
        state = derive_seed(seed, "trees", fold) % 2**32
        model = HistGradientBoostingClassifier(**_TREES, max_iter=rounds, random_state=state)
        model.fit(np.concatenate([inputs[k] for k in rest]), np.concatenate([labels[k] for k in rest]))
        trees.append(model)
        if progress is not None:
            progress(fold + 1, _FOLDS)
    parts = [
        auc_components(_scores(model, each), label) for model, each, label in zip(trees, inputs, labels, strict=True)
    ]
    result = TreeResult(_together(parts).estimate, seed, reference.shape[1], rounds)
    return GrownTrees(tuple(trees), inputs, labels, result)


def _shuffled(columns: list[int], generator: np.random.Generator, inputs: Matrix) -> Matrix:
    changed = inputs.copy()
    changed[:, columns] = inputs[generator.permutation(len(inputs))][:, columns]
    return changed


def _scores(model: HistGradientBoostingClassifier, inputs: Matrix) -> NDArray[np.float64]:
    return np.asarray(model.decision_function(inputs), dtype=np.float64)


def _together(parts: Sequence[AucComponents]) -> AucComponents:
    """Components of all folds: their mean is that of the folds' AUCs."""
    return AucComponents(
        np.concatenate([part.reference for part in parts]), np.concatenate([part.generated for part in parts])
    )
