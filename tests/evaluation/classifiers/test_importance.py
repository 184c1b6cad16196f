import math

import numpy as np
import pytest
from scipy.stats import norm

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.classifiers.data import FeatureInput
from calo4pqvae.evaluation.classifiers.importance import feature_families, feature_layers, permutation_importance
from calo4pqvae.evaluation.classifiers.training import TrainedClassifier, classifier_settings, train_classifier
from calo4pqvae.evaluation.features.highlevel import feature_names
from calo4pqvae.showers.geometry import geometry

NAMES = ("width_r_0", "width_r_1", "sparsity_0", "sparsity_1", "log10_total_energy")


@pytest.fixture(scope="module")
def trained() -> TrainedClassifier:
    """Column 0 is shifted by 1, column 3 by 0.4, the others by nothing."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3000, 5))
    first += [1.0, 0.0, 0.0, 0.4, 0.0]
    return train_classifier(FeatureInput(first), FeatureInput(second), classifier_settings("high"), seed=0)


def test_what_tells_the_classes_apart_comes_first(trained: TrainedClassifier) -> None:
    found = permutation_importance(trained, NAMES, n_repeats=4)
    assert [importance.group for importance in found[:2]] == ["width_r_0", "sparsity_1"]
    for importance in found[2:]:
        assert abs(importance.auc_drop.value) < 3 * importance.auc_drop.error + 1e-3
    # without column 0 the logit is 0.4 x3 and the noise of the shuffled column, of mean 1/2 and of variance 1 + 1/4
    left = norm.cdf(0.16 / math.sqrt(2 * (0.16 + 1.25)))
    expected = norm.cdf(math.sqrt(1.16 / 2)) - left
    assert found[0].auc_drop.value == pytest.approx(expected, abs=4 * found[0].auc_drop.error)
    assert found[0].auc_drop.n == 1200


def test_groups_are_shuffled_together(trained: TrainedClassifier) -> None:
    groups = {**feature_families(NAMES), "everything": NAMES}
    found = {importance.group: importance for importance in permutation_importance(trained, NAMES, groups)}
    assert found["everything"].n_features == 5
    assert found["everything"].auc_drop.value == pytest.approx(trained.run.raw_auc.value - 0.5, abs=0.05)
    assert found["width_r"].n_features == 2
    assert found["width_r"].auc_drop.value > 5 * found["width_r"].auc_drop.error
    again = permutation_importance(trained, NAMES, {"width_r": ("width_r_0", "width_r_1")})
    assert again[0] == found["width_r"]


def test_families_and_layers_of_the_challenge() -> None:
    names = feature_names(geometry("ds2"))
    families, layers = feature_families(names), feature_layers(names)
    assert sum(map(len, families.values())) == sum(map(len, layers.values())) == 362
    assert len(families) == 10
    assert families["centroid_phi"][44] == "centroid_phi_44"
    assert len(layers) == 46
    assert layers["whole shower"] == ("log10_incident_energy", "log10_total_energy")
    assert len(layers["layer 44"]) == 8


def test_names_must_fit(trained: TrainedClassifier) -> None:
    with pytest.raises(DataError, match="4 different names are given for 5 inputs"):
        permutation_importance(trained, NAMES[:4])
    with pytest.raises(DataError, match="group 'x' names"):
        permutation_importance(trained, NAMES, {"x": ["unknown"]})
