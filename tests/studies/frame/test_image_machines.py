"""Trainings on images in a file of grey values, pooled or not; what cannot be pooled."""

from pathlib import Path

import numpy as np
import pytest

from calo4pqvae.errors import ConfigError
from calo4pqvae.studies.frame.image_machines import ImageMachineSettings, bipartite_training, four_partite_training
from calo4pqvae.studies.frame.study import silent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Grey values of 8 x 8 pixels under one name, and something else under another."""
    grey = np.random.default_rng(0).integers(0, 256, (300, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "grey.npz", x_train=grey, other=np.zeros((300, 3, 3), np.uint8))
    return tmp_path / "grey.npz"


def test_machines_of_a_file_of_grey_values(file: Path, tmp_path: Path) -> None:
    settings = ImageMachineSettings(data=str(file), dataset="x_train", threshold=0.5, pool=2, n_hidden=8, epochs=2)
    folder = tmp_path / "out" / "a-study"
    bipartite = bipartite_training(settings, folder, 1, silent)
    four = four_partite_training(settings, folder, 1, silent)
    assert bipartite.final.topology.sizes == (16, 8)
    assert four.final.topology.sizes == (4, 4, 4, 4)
    grey = np.load(file)["x_train"]
    ones = (grey > 127.5).reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4))
    assert bipartite.data.n_bits == 16
    means = np.sort((ones >= 2).reshape(-1, 16).mean(axis=0))
    assert np.sort(bipartite.data.bits.mean(axis=0)) == pytest.approx(means, abs=0.06)  # but for those held out
    whole = bipartite_training(settings.model_copy(update={"pool": 1}), folder, 1, silent)
    assert whole.final.topology.sizes == (64, 8)


def test_images_that_cannot_be_pooled_are_refused(file: Path, tmp_path: Path) -> None:
    settings = ImageMachineSettings(data=str(file), dataset="x_train", threshold=0.5, pool=3, n_hidden=8, epochs=2)
    with pytest.raises(ConfigError, match="cannot be pooled by 3"):
        bipartite_training(settings, tmp_path / "out" / "a-study", 1, silent)
