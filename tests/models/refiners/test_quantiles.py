"""The refiner of quantiles: spectra are mended, layers and hits stay; it trains, loads and works behind any family."""

from pathlib import Path

import pytest
import torch
from scipy.stats import ks_2samp

from calo4pqvae.config import load_config
from calo4pqvae.errors import CheckpointError, ConfigError
from calo4pqvae.models.refiners.quantiles import QuantileRefiner
from calo4pqvae.models.refiners.registry import make_refiners
from calo4pqvae.runs.generation import generate, load_model
from calo4pqvae.runs.training import train
from calo4pqvae.showers.geometry import Geometry
from calo4pqvae.showers.transforms import LayerSplit
from tests.small_runs import tiny_config, tiny_file

GRID = Geometry.regular("one", 1, 40, 1, 10.0, threshold_mev=1.0)


def showers(n: int, width: float, seed: int) -> torch.Tensor:
    """Log-normal voxels of one ring, a fifth of them empty."""
    generator = torch.Generator().manual_seed(seed)
    values = (2.5 + width * torch.randn(n, GRID.n_voxels, generator=generator)).exp()
    return values.clamp(min=1.0) * (torch.rand(values.shape, generator=generator) > 0.2)


def test_a_wrong_spectrum_becomes_the_true_one() -> None:
    refiner = QuantileRefiner(load_config(), GRID)
    true, drawn = showers(4000, 0.5, 1), showers(4000, 0.8, 2)
    energies = torch.ones(4000, 1)
    refiner.fit([(true, drawn, energies)])
    fresh = showers(2000, 0.8, 3)
    refined = refiner.refine(fresh, energies)
    assert torch.equal(refined > 0, fresh > 0)
    split = LayerSplit(GRID)
    torch.testing.assert_close(split.layer_energies(refined), split.layer_energies(fresh), rtol=1e-5, atol=1e-3)
    # a layer's energy is kept, so that widths of sums stay: the shape within a layer is what is compared
    reference = showers(2000, 0.5, 4)
    shapes = [(rows / rows.sum(1, keepdim=True)).numpy() for rows in (reference, refined, fresh)]
    good, bad = (ks_2samp(shapes[0][shapes[0] > 0], shape[shape > 0]).statistic for shape in shapes[1:])
    assert good < 0.03 < 0.06 < bad


def test_a_ring_without_hits_is_left_alone() -> None:
    refiner = QuantileRefiner(load_config(), GRID)
    empty = torch.zeros(3, GRID.n_voxels)
    refiner.fit([(empty, empty, torch.ones(3, 1))])
    fresh = showers(5, 0.5, 1)
    torch.testing.assert_close(refiner.refine(fresh, torch.ones(5, 1)), fresh)


def test_tables_are_kept_and_damaged_ones_refused() -> None:
    refiner, other = (QuantileRefiner(load_config(), GRID) for _ in range(2))
    refiner.fit([(showers(50, 0.5, 1), showers(50, 0.8, 2), torch.ones(50, 1))])
    other.load(refiner.tensors())
    fresh = showers(20, 0.8, 3)
    assert torch.equal(refiner.refine(fresh, torch.ones(20, 1)), other.refine(fresh, torch.ones(20, 1)))
    with pytest.raises(CheckpointError, match="damaged"):
        other.load({"drawn": torch.zeros(1, 3)})


@pytest.mark.parametrize("family", ["library", "qvae"])
def test_it_is_learned_and_works_behind_any_family(family: str, tmp_path: Path) -> None:
    changes = {"model.family": family, "model.refiners": ["quantiles"], "training.epochs": 1, "prior.updates": 5}
    config = tiny_config(tiny_file(tmp_path), changes)
    run = train(config, tmp_path / "run")
    assert run.has("refiner-quantiles")
    model = load_model(run.path)
    assert [type(refiner) for refiner in model.refiners] == [QuantileRefiner]
    plain = load_model(run.path, changes={"model.refiners": []})
    energies = torch.full((20, 1), 2e4)
    for name, chosen in (("refined", model), ("plain", plain)):
        generate(chosen, energies, tmp_path / f"{name}.hdf5", seed=1)
    assert (tmp_path / "refined.hdf5").read_bytes() != (tmp_path / "plain.hdf5").read_bytes()


def test_refiners_that_are_not_there_are_refused() -> None:
    config = load_config(None, ['model.refiners=["quantile"]'])
    with pytest.raises(ConfigError, match="the nearest one is 'quantiles'"):
        make_refiners(config, GRID)
    with pytest.raises(ConfigError, match="twice"):
        make_refiners(load_config(None, ['model.refiners=["quantiles", "quantiles"]']), GRID)
    with pytest.raises(ConfigError, match=r"quantiles\.knots"):
        make_refiners(load_config(None, ['model.refiners=["quantiles"]', "quantiles.knots=1"]), GRID)
