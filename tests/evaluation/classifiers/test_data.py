import numpy as np
import pytest
import torch

from calo4pqvae.errors import DataError
from calo4pqvae.evaluation.classifiers.data import PARTS, FeatureInput, VoxelInput, find_copies, make_split
from calo4pqvae.evaluation.classifiers.rows import LabelledRows, Standardiser
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.store import ShowerStore


def noise(n: int, seed: int, width: int = 3) -> FeatureInput:
    return FeatureInput(np.random.default_rng(seed).normal(size=(n, width)))


def test_no_shower_is_in_two_parts_and_none_is_lost() -> None:
    split = make_split(noise(100, 0), noise(100, 1), seed=5)
    for sample in (split.reference, split.generated):
        rows = np.concatenate([sample[part] for part in PARTS])
        assert sorted(rows) == list(range(100))
        assert [len(sample[part]) for part in PARTS] == [60, 20, 20]
    assert not np.array_equal(split.reference["train"], split.generated["train"])
    assert split.n_unused == 0


def test_the_seed_decides_the_split() -> None:
    one, same, other = (make_split(noise(80, 0), noise(80, 1), seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.reference["test"], same.reference["test"])
    assert not np.array_equal(one.reference["test"], other.reference["test"])


def test_the_larger_sample_is_cut_at_random() -> None:
    split = make_split(noise(100, 0), noise(300, 1), seed=0)
    used = np.concatenate([split.generated[part] for part in PARTS])
    assert split.n_unused == 200
    assert len(set(used)) == 100
    assert used.max() > 200
    assert split.labels("test").tolist() == [True] * 20 + [False] * 20


@pytest.mark.parametrize("most_bytes", [0, 2**30])
def test_labelled_rows_are_the_rows_of_their_sample(monkeypatch: pytest.MonkeyPatch, most_bytes: int) -> None:
    monkeypatch.setattr("calo4pqvae.evaluation.classifiers.rows._MOST_BYTES_IN_MEMORY", most_bytes)
    first, second = (FeatureInput(sign * np.arange(1.0, 101.0)[:, None]) for sign in (1, -1))
    split = make_split(first, second, seed=3)
    rows = LabelledRows(first, second, split, "test", torch.float64, torch.device("cpu"))
    inputs, labels = rows.batch(torch.tensor([0, 39, 19, 20]))
    expected = [split.reference["test"][0], split.generated["test"][19], split.reference["test"][19]]
    assert inputs[:3, 0].tolist() == [expected[0] + 1, -expected[1] - 1, expected[2] + 1]
    assert labels.tolist() == [1, 0, 1, 0]
    assert torch.equal(torch.cat([batch for batch, _ in rows])[:, 0] > 0, torch.from_numpy(rows.labels))


def test_voxel_inputs_by_hand() -> None:
    grid = Geometry.regular("small", 1, 2, 2, 10.0, threshold_mev=0.1)
    store = ShowerStore.from_arrays([[0.05, 0.2, 0.0, 5.0], [0.0, 0.1, 7.0, 0.0]], [[100.0], [1000.0]])
    inputs = VoxelInput(store, grid).batch(np.array([1, 0]), torch.float64)
    expected = [[3.0, 0.0, 1e-4, 7e-3, 0.0], [2.0, 0.0, 2e-3, 0.0, 5e-2]]
    np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-6)
    assert inputs.dtype == torch.float64


def test_standardised_and_decorrelated_inputs() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(200, 4)) * [1, 10, 0, 1] + [0, 5, 3, 0]
    matrix[:, 3] = matrix[:, 0] + 0.1 * matrix[:, 3]
    sample = FeatureInput(matrix)
    rows = LabelledRows(sample, sample, make_split(sample, sample, 0), "train", torch.float64, torch.device("cpu"))
    inputs = torch.cat([batch for batch, _ in rows])
    scaled = Standardiser.of(rows, is_decorrelated=False)(inputs).numpy()
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0, 1], atol=1e-12)
    turned = Standardiser.of(rows, is_decorrelated=True)(inputs).numpy()
    covariance = np.cov(turned.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag([0, 1, 1, 1]), atol=1e-9)


def test_rare_voxels_are_not_blown_up() -> None:
    grid = Geometry.regular("small", 1, 1, 2, 10.0)
    showers = np.zeros((400, 2))
    showers[:, 0] = np.random.default_rng(0).uniform(1, 50, 400)
    showers[0, 1] = 1.0
    sample = VoxelInput(ShowerStore.from_arrays(showers, np.full(400, 100.0)), grid)
    rows = LabelledRows(sample, sample, make_split(sample, sample, 0), "train", torch.float32, torch.device("cpu"))
    scale = Standardiser.of(rows, is_decorrelated=False).scale
    assert scale[2].item() == pytest.approx(10 * scale[1].item(), rel=1e-5)


def test_copies_are_found() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    assert find_copies(FeatureInput(first), FeatureInput(second)) == ()
    first[7] = first[3]
    second[[0, 1]] = first[[10, 11]]
    warnings = find_copies(FeatureInput(first), FeatureInput(second))
    assert len(warnings) == 2
    assert "reference sample holds 1 showers" in warnings[0]
    assert "2 generated showers are exact copies" in warnings[1]


def test_bad_samples_are_told() -> None:
    with pytest.raises(DataError, match="3 inputs a shower and the generated sample 4"):
        make_split(noise(100, 0), noise(100, 1, width=4), seed=0)
    with pytest.raises(DataError, match="at least 50 showers of each sample"):
        make_split(noise(100, 0), noise(49, 1), seed=0)
    with pytest.raises(DataError, match=r"NaN or infinity in columns \[1\]"):
        FeatureInput([[0.0, np.nan]])
    with pytest.raises(DataError, match="give a matrix"):
        FeatureInput(np.zeros(5))
    with pytest.raises(DataError, match="2 energies come with 3 rows"):
        FeatureInput(np.zeros((3, 2)), np.ones(2))
    low, high = (FeatureInput(np.zeros((200, 1)), scale * np.linspace(1e3, 1e5, 200)) for scale in (1, 2))
    with pytest.raises(DataError, match="incident energies of the two samples have different laws"):
        make_split(low, high, seed=0)


def test_bad_showers_are_told() -> None:
    grid = Geometry.regular("small", 1, 1, 2, 10.0)
    with pytest.raises(DataError, match="3 voxels but geometry small has 2"):
        VoxelInput(ShowerStore.from_arrays(np.ones((4, 3)), np.ones(4)), grid)
    with pytest.raises(DataError, match="NaN or infinite"):
        VoxelInput(ShowerStore.from_arrays([[1.0, np.nan]], [1.0]), grid)
    with pytest.raises(DataError, match="not positive"):
        VoxelInput(ShowerStore.from_arrays([[1.0, 1.0]], [0.0]), grid)
