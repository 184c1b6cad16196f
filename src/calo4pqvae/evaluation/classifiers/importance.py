r"""Which features a classifier lives on: the AUC that it loses when they are shuffled among the validation showers.

Shuffling the columns of a group together, over showers of both classes, leaves their own law but cuts them off from
the class and from all other features. The drop of the AUC of the network (before calibration) is the importance of the
group. Features that say the same share what they say: neither loses much alone. Groups (families of features, layers)
are therefore shown beside single ones.

The error adds the spread over the shuffles, divided by their number, and DeLong's error of the paired difference.

References:
    Breiman, Random forests, Machine Learning 45 (2001) 5; Fisher, Rudin, Dominici, arXiv 1801.01489.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.classifiers.training import TrainedClassifier
from calo4pqvae.evaluation.metrics.estimate import Estimate
from calo4pqvae.evaluation.metrics.receiver_operating import auc_components, auc_difference
from calo4pqvae.seeds import derive_seed

__all__ = ["Importance", "feature_families", "feature_layers", "permutation_importance"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Importance of one group of features.

    Args:
        group: Its name.
        auc_drop: Loss of AUC when the group is shuffled.
        n_features: Features in it.
        n_repeats: Shuffles.
        seed: Their seed.
    """

    group: str
    auc_drop: Estimate
    n_features: int
    n_repeats: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """The numbers as plain data."""
        return {
            "group": self.group,
            "auc_drop": self.auc_drop.to_dict(),
            "n_features": self.n_features,
            "n_repeats": self.n_repeats,
            "seed": self.seed,
        }


def feature_families(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Features by what they measure: their names without the number of the layer.

    Example:
        >>> feature_families(["log10_incident_energy", "width_eta_0", "width_eta_1"])
        {'log10_incident_energy': ('log10_incident_energy',), 'width_eta': ('width_eta_0', 'width_eta_1')}
    """
    return _grouped(names, lambda family, _: family)


def feature_layers(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Features by the layer that ends their names; those of the whole shower together.

    Example:
        >>> feature_layers(["log10_incident_energy", "width_eta_0", "width_r_0"])
        {'whole shower': ('log10_incident_energy',), 'layer 0': ('width_eta_0', 'width_r_0')}
    """
    return _grouped(names, lambda _, layer: "whole shower" if layer is None else f"layer {layer}")


def permutation_importance(
    classifier: TrainedClassifier,
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    n_repeats: int = 5,
    seed: int = 0,
) -> list[Importance]:
    """Importance of groups of features for a classifier, on its validation part.

    Args:
        classifier: Trained on features (kind ``high``).
        names: What its inputs are called, one each.
        groups: Names of the features of each group; by default every feature by itself.
        n_repeats: Shuffles of each group, at least 2.
        seed: Seed of the shuffles.

    Returns:
        The groups, the most important first.

    Raises:
        DataError: If there is not one name for each input, or a group is empty or names an unknown feature.
    """
    columns = _columns(classifier, names, groups)
    rows = classifier.rows["validation"]
    inputs = torch.cat([batch for batch, _ in rows])
    intact = auc_components(_scores(classifier, inputs), rows.labels)
    found = []
    for group, members in columns.items():
        generator = np.random.default_rng(derive_seed(seed, "importance", group))
        drops = []
        for _ in range(n_repeats):
            shuffled = inputs.clone()
            order = torch.from_numpy(generator.permutation(len(inputs))).to(inputs.device)
            shuffled[:, members] = inputs[order][:, members]
            drops.append(auc_difference(intact, auc_components(_scores(classifier, shuffled), rows.labels)))
        values = np.array([drop.value for drop in drops])
        sampling = np.mean([drop.error**2 for drop in drops])
        error = float(np.sqrt(values.var(ddof=1) / n_repeats + sampling))
        found.append(
            Importance(group, Estimate(float(values.mean()), error, len(inputs)), len(members), n_repeats, seed)
        )
    return sorted(found, key=lambda importance: -importance.auc_drop.value)


def _columns(
    classifier: TrainedClassifier, names: Sequence[str], groups: Mapping[str, Sequence[str]] | None
) -> dict[str, list[int]]:
    n_inputs = classifier.rows["validation"].samples[0].n_inputs
    if len(names) != n_inputs or len(set(names)) != n_inputs:
        raise DataError(f"{len(set(names))} different names are given for {n_inputs} inputs; give one for each")
    wanted = {name: (name,) for name in names} if groups is None else groups
    place = {name: column for column, name in enumerate(names)}
    for group, members in wanted.items():
        unknown = [name for name in members if name not in place]
        if unknown or not members:
            raise DataError(f"group {group!r} names {unknown or 'no feature'}; name inputs of the classifier")
    return {group: [place[name] for name in members] for group, members in wanted.items()}


@torch.no_grad()
def _scores(classifier: TrainedClassifier, inputs: torch.Tensor) -> FloatArray:
    classifier.network.eval()
    scores: FloatArray = classifier.network(inputs).double().cpu().numpy()
    return scores


def _grouped(names: Sequence[str], key: Callable[[str, str | None], str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        family, _, tail = name.rpartition("_")
        is_layered = tail.isdigit() and family != ""
        groups.setdefault(key(family if is_layered else name, tail if is_layered else None), []).append(name)
    return {group: tuple(members) for group, members in groups.items()}
