"""Every switch of the variants reaches the trained model, and the study compares them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import calo4pqvae.studies.variants.study as variants
from calo4pqvae.config import Config
from calo4pqvae.errors import ConfigError
from calo4pqvae.models.qvae.cylinder import LinearAttention
from calo4pqvae.models.qvae.trained import TrainedModel, as_qvae
from calo4pqvae.runs.generation import load_model
from calo4pqvae.showers.geometry import geometry
from calo4pqvae.studies.frame.study import silent
from calo4pqvae.studies.frame.trained import finished_run
from calo4pqvae.studies.variants.training import VARIANTS, seam, variant_config
from calo4pqvae.workshop.rundir import RunDirectory
from tests.small_runs import TINY, tiny_config, tiny_file

NAMED = {
    "lively-grass-519", "worthy-paper-518", "devoted-lion-515", "hearty-moon-514", "divine-dream-509",
    "stilted-disco-503", "skilled-gift-494",
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny_config(tiny_file(tmp_path_factory.mktemp("showers")), {"latent.factors": 0})


@pytest.fixture(scope="module")
def runs(base: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every variant, of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        one.name: finished_run(variant_config(base, one, {"training.epochs": 1}), folder / one.name, one.name, silent)
        for one in VARIANTS
    }


@pytest.fixture(scope="module")
def models(runs: dict[str, Path]) -> dict[str, TrainedModel]:
    return {name: as_qvae(load_model(path)) for name, path in runs.items()}


def crosses_the_seam(model: TrainedModel) -> bool:
    """Whether the hits of the last sector know of the first base sector, which is not beside it but across the seam."""
    plan, head = model.autoencoder.plan, model.autoencoder.voxel_head
    config = model.config.decoder
    base = torch.zeros(1, config.base_channels, *plan.base, requires_grad=True)
    per_layer = torch.zeros(1, 2 * plan.cell[0], *plan.parents)
    trunk, mix = head.trunk
    # GroupNorm and attention mix all places by themselves: convolutions and upsampling alone are looked at
    cells = base
    for module in trunk:
        cells = cells if isinstance(module, torch.nn.GroupNorm) else module(cells)
    cells = mix[0](torch.cat([cells, per_layer], dim=1))
    cells[..., -1, :].sum().backward()
    assert base.grad is not None
    return bool(base.grad[..., 0, :].abs().sum() > 0)


def test_the_named_runs_and_the_baselines_are_there() -> None:
    assert {one.name for one in VARIANTS} >= NAMED
    assert len({one.name for one in VARIANTS}) == len(VARIANTS)


def test_the_graph_is_that_of_the_variant(models: dict[str, TrainedModel]) -> None:
    families = {name: model.prior.topology.name for name, model in models.items()}
    pegasus = {name for name, family in families.items() if "pegasus" in family.lower() or family.startswith("P")}
    assert pegasus == {"stilted-disco-503", "pegasus"}


def test_the_layout_is_that_of_the_variant(models: dict[str, TrainedModel]) -> None:
    scrambled = {name for name, model in models.items() if not model.autoencoder.plan.in_file_order}
    assert scrambled == {"stilted-disco-503", "skilled-gift-494"}


def test_only_periodic_decoders_cross_the_seam(models: dict[str, TrainedModel]) -> None:
    assert {name for name, model in models.items() if crosses_the_seam(model)} == {"periodic", "staged"}


def test_attention_is_in_encoder_and_decoder_and_is_trained(
    runs: dict[str, Path], models: dict[str, TrainedModel], base: Config
) -> None:
    has = {
        name: tuple(
            any(isinstance(part, LinearAttention) for part in module.modules())
            for module in (model.autoencoder.encoder, model.autoencoder.voxel_head)
        )
        for name, model in models.items()
    }
    assert {name for name, both in has.items() if both == (True, True)} == {"hearty-moon-514", "worthy-paper-518"}
    assert set(has.values()) == {(True, True), (False, False)}
    worthy = next(one for one in VARIANTS if one.name == "worthy-paper-518")
    longer = variant_config(base, worthy, {"training.epochs": 2})
    moved = finished_run(longer, runs["worthy-paper-518"].parent / "longer", "longer", silent)
    first, second = (load_file(path / "autoencoder.safetensors") for path in (runs["worthy-paper-518"], moved))
    inside = [
        f"{path}.{own}"
        for path, part in models["worthy-paper-518"].autoencoder.named_modules()
        if isinstance(part, LinearAttention)
        for own, _ in part.named_parameters()
    ]
    assert len(inside) >= 6
    assert all(not torch.equal(first[name], second[name]) for name in inside)


def test_the_mask_reaches_loss_and_generation(runs: dict[str, Path], models: dict[str, TrainedModel]) -> None:
    """Without it the activation is trained on all voxels, so that the voxel term is of another size."""
    unmasked = {name for name, model in models.items() if not model.autoencoder.voxel_head.mask}
    assert unmasked == {"divine-dream-509", "hearty-moon-514"}
    terms = {
        name: RunDirectory.open(runs[name]).metrics()[0]["train"]["voxels"]
        for name in ("devoted-lion-515", "divine-dream-509")
    }
    assert terms["divine-dream-509"] > 1.3 * terms["devoted-lion-515"]


def test_the_update_of_the_machine_is_that_of_the_variant(runs: dict[str, Path]) -> None:
    moved = {}
    for name in ("devoted-lion-515", "lively-grass-519"):
        couplings = load_file(runs[name] / "prior.safetensors")["machine.couplings"]
        moved[name] = couplings
    assert not torch.equal(moved["devoted-lion-515"], moved["lively-grass-519"])
    stages = {name: {row["stage"] for row in RunDirectory.open(path).metrics()} for name, path in runs.items()}
    assert {name for name, seen in stages.items() if "prior" in seen} == {"staged"}


def test_the_seam_of_planted_showers() -> None:
    grid = geometry("ds2")
    generator = torch.Generator().manual_seed(1)
    showers = torch.rand(400, *grid.grid_shape, generator=generator)
    fair = seam(showers.flatten(1), grid, 1)
    assert abs(fair.value - 1) < 5 * fair.error
    stepped = showers + torch.linspace(0, 1, 16)[:, None]
    broken = seam(stepped.flatten(1), grid, 1)
    assert broken.value > 2
    turned = seam(stepped.roll(5, dims=2).flatten(1), grid, 1)
    assert turned.value < 1


def test_the_study_compares_what_is_asked_for(base: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "load_config", lambda name: base)  # noqa: ARG005
    chosen = '["devoted-lion-515", "lively-grass-519"]'
    settings = variants.STUDY.configure(
        quick=True,
        overrides=[f"variants={chosen}", "small_networks=false", "max_showers=110", "epochs=1", "n_showers=100"],
    )
    result = variants.STUDY.run(settings, tmp_path, 1)
    written: dict[str, Any] = json.loads((tmp_path / "variants" / "result.json").read_text())["numbers"]
    assert set(written["variants"]) == {"devoted-lion-515", "lively-grass-519"}
    assert set(written["changes"]) == {"exact gradient with its own SGD"}
    one = written["variants"]["lively-grass-519"]
    assert one["FPD 362"]["error"] > 0
    assert one["verdict of the presentation"] == "kept"
    page = (tmp_path / "variants" / variants.TABLE).read_text()
    assert all(name in page for name in ("devoted-lion-515", "lively-grass-519", "Geant4 against Geant4"))
    assert any("1 seed" in text and "not of those runs" in text for text in result.text)


def test_small_networks_are_smaller_and_said_to_be() -> None:
    settings = variants.STUDY.configure(quick=True)
    assert variants._budget(settings)["decoder.channels"] == 8
    assert "decoder.channels" not in variants._budget(variants.STUDY.configure())
    assert not set(variants._SMALL) - set(TINY) - {"training.batch_size"}


def test_an_unknown_variant_is_told() -> None:
    with pytest.raises(ConfigError, match="no variant 'lively'"):
        variants.STUDY.configure(overrides=['variants=["lively"]'])
