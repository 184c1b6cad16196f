"""The shower library: genuine showers of near energies, scaled, turned, mirrored; behind the same commands."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from calo4pqvae.errors import ConfigError, DataError
from calo4pqvae.models.library.family import LibraryModel
from calo4pqvae.models.model import Draws, Model
from calo4pqvae.runs.generation import generate, load_model, reconstruct
from calo4pqvae.runs.report import report_run
from calo4pqvae.runs.training import train
from tests.small_runs import N_VOXELS, tiny_config, tiny_file

GRID = (45, 16, 9)
NEIGHBOURS = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    config = tiny_config(tiny_file(folder), {"model.family": "library", "library.neighbours": NEIGHBOURS})
    return train(config, folder / "run").path


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load_model(run)


def test_drawn_showers_are_kept_ones_turned_or_mirrored(model: Model) -> None:
    """At the energy of a kept shower nothing is scaled: what is drawn is one of its neighbours, cell for cell."""
    assert isinstance(model, LibraryModel)
    energies = torch.from_numpy(model.store.incident_energies)
    drawn = model.generate(energies, "library", Draws(1, 0))
    kept, _ = model.store.batch(np.arange(len(energies)))
    logs = energies.log()[:, 0]
    seen = set()
    for row, shower in enumerate(drawn.view(-1, *GRID)):
        nearest = (logs - logs[row]).abs().argsort()[:NEIGHBOURS].tolist()
        matches = [
            (other, turn, mirror)
            for other in nearest
            for turn in range(GRID[1])
            for mirror in (False, True)
            if torch.allclose(moved(scaled(kept, energies, other, row), turn, mirror=mirror), shower, rtol=1e-5)
        ]
        assert len(matches) >= 1
        seen.add(matches[0][1:])
    assert len(seen) > GRID[1]  # many turns, with and without a mirror


def scaled(kept: torch.Tensor, energies: torch.Tensor, other: int, row: int) -> torch.Tensor:
    shower = kept[other] * (energies[row] / energies[other])
    return (shower * (shower >= 0.5e-3 / 0.033)).view(GRID)


def moved(shower: torch.Tensor, turn: int, *, mirror: bool) -> torch.Tensor:
    flipped = shower[:, (-torch.arange(GRID[1])) % GRID[1]] if mirror else shower
    return torch.roll(flipped, turn, dims=1)


def test_it_generates_and_reports_through_the_same_jobs(model: Model, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "showers.hdf5"
    generate(model, torch.full((30, 1), 2e4), out, seed=3)
    with h5py.File(out) as file:
        assert file["showers"].shape == (30, N_VOXELS)
        assert file.attrs["prior"] == "library"
    with pytest.raises(ConfigError, match="no encoder"):
        reconstruct(model, out, tmp_path / "again.hdf5", seed=1)
    report = report_run(run, n_generated=150, seed=1, progress=lambda *_: None)
    assert "shower library" in report.evaluation.report.read_text(encoding="utf-8")


def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    file = tiny_file(tmp_path)
    for changes, told in (
        ({"library.neighbours": 10_000}, "more than the 84 training showers"),
        ({"library.neighbors": 3}, "the nearest one is 'library.neighbours'"),
        ({"library.neighbours": 0}, "greater than 0"),
    ):
        config = tiny_config(file, {"model.family": "library", **changes})
        with pytest.raises(ConfigError, match=told):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_energies_out_of_range_and_unknown_sources_are_refused(model: Model) -> None:
    with pytest.raises(DataError, match="outside the range"):
        model.generate(torch.tensor([[10.0]]), "library", Draws(1, 0))
    with pytest.raises(ConfigError, match="draws from library"):
        model.generate(torch.tensor([[1e4]]), "boltzmann", Draws(1, 0))
