import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from calo4pqvae.config import DecoderConfig
from calo4pqvae.models.qvae.decoder import HitMap, LayerHead, VoxelHead
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.showers.geometry import Geometry
from tests.models.qvae.conftest import shake

N_BITS = 7


def settings(**options: object) -> DecoderConfig:
    sizes = {"base_channels": 4, "channels": 6, "hidden": 16, "position_channels": 3, "head_hidden": 10}
    return DecoderConfig.model_validate(sizes | options)


def voxel_head(grid: Geometry, *, shaken: bool = True, layout: str = "cylinder", **options: object) -> VoxelHead:
    torch.manual_seed(0)
    layers, _, radii = grid.grid_shape
    occupancy = torch.linspace(0.05, 0.9, layers * radii).view(layers, radii)
    voxels = torch.linspace(1, 6, layers * radii).view(layers, radii)
    head = VoxelHead(settings(**options), GridPlan(grid, layout), N_BITS, occupancy, voxels)  # type: ignore[arg-type]
    if shaken:
        shake(head)
    return head


def regular(layers: int, angles: int, radii: int) -> Geometry:
    return Geometry.regular("grid", layers, angles, radii, 10.0, threshold_mev=0.1)


def rotates(head: VoxelHead) -> bool:
    """Whether logits turn by scale x cell sectors when the base turns by one, for every turn of the base."""
    head, plan = head.double(), head.plan
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    base, log_layers = random(2, 4, *plan.base), random(2, plan.shape[0])
    per_layer = plan.layers_to_parents(random(2, plan.shape[0], 2))
    step = plan.scale[1] * plan.cell[1]
    with torch.no_grad():
        logits = head.from_base(base, per_layer, log_layers).logits.view(2, *plan.shape)
        for turn in range(1, plan.base[1]):
            turned = head.from_base(base.roll(turn, dims=3), per_layer, log_layers).logits.view(2, *plan.shape)
            if not torch.allclose(turned, logits.roll(turn * step, dims=2), rtol=0, atol=1e-11):
                return False
    return True


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    ("shape", "base"), [((6, 8, 3), 2), ((4, 12, 9), 3), ((5, 15, 2), 5), ((3, 20, 14), 5), ((3, 16, 9), 4)]
)
def test_hits_turn_with_the_base_grid(shape: tuple[int, int, int], base: int, attention: bool) -> None:
    head = voxel_head(regular(*shape), attention=attention)
    assert head.plan.base[1] == base
    assert rotates(head)


def test_zero_padding_and_the_scrambled_layout_do_not_turn() -> None:
    assert not rotates(voxel_head(regular(6, 12, 3), periodic=False))
    assert not rotates(voxel_head(regular(6, 12, 3), layout="scrambled"))


def test_layer_widths_know_the_energy_alone() -> None:
    """What layers have in common can then only travel through the bits."""
    torch.manual_seed(0)
    head = LayerHead(settings(), N_BITS, 5)
    shake(head)
    position = torch.linspace(-1, 1, 4)[:, None]
    bits = torch.zeros(4, N_BITS)
    for bit in range(N_BITS):
        flipped = bits.clone()
        flipped[:, bit] = 1
        before, after = head(bits, position), head(flipped, position)
        assert torch.equal(before.response_log_std, after.response_log_std)
        assert torch.equal(before.layer_log_std, after.layer_log_std)
        for name in ("response_mean", "layer_mean", "on_logits"):
            assert (getattr(before, name) != getattr(after, name)).all()
    law = head(bits, position)
    assert law.response_mean.shape == law.response_log_std.shape == (4, 1)
    assert law.layer_mean.shape == law.layer_log_std.shape == law.on_logits.shape == (4, 5)
    assert len(law.layer_log_std[:, 0].unique()) == 4


def test_layer_widths_start_at_one_and_stay_bounded() -> None:
    head = LayerHead(settings(), N_BITS, 5)
    bits, position = torch.ones(2, N_BITS), torch.tensor([[-1.0], [1.0]])
    assert not head(bits, position).layer_log_std.any()
    shake(head, 50.0)
    log_std = head(bits, position).layer_log_std
    assert log_std.min() >= -4
    assert log_std.max() <= 2


def test_hits_start_at_the_occupancy_of_their_ring(grid: Geometry) -> None:
    head = voxel_head(grid, shaken=False)
    layers, _, radii = grid.grid_shape
    ones = torch.ones(1, layers)
    hit_map = head(torch.ones(1, N_BITS), torch.zeros(1, 1), torch.zeros(1, 1), 0 * ones, ones, ones)
    expected = torch.linspace(0.05, 0.9, layers * radii).view(layers, 1, radii).expand(grid.grid_shape)
    torch.testing.assert_close(torch.sigmoid(hit_map.logits).view(grid.grid_shape), expected)


@pytest.mark.parametrize("argument", range(6))
def test_every_input_moves_the_hits(grid: Geometry, argument: int) -> None:
    head, layers = voxel_head(grid), grid.n_layers
    inputs = [torch.zeros(1, width) for width in (N_BITS, 1, 1, layers, layers, layers)]
    before = head(*inputs).logits
    inputs[argument] = inputs[argument].clone()
    inputs[argument][0, -1] = 1.0
    changed = head(*inputs).logits != before
    assert changed.any()
    if argument == 5:  # ln E_l / t enters through the slopes of its own layer
        assert not changed[0, : -grid.grid_shape[1] * grid.grid_shape[2]].any()


def test_drawn_hits_are_bernoulli_in_layers_that_are_never_empty(grid: Geometry, generator: torch.Generator) -> None:
    n, head = 4000, voxel_head(grid)
    logits = torch.linspace(-3, 4, grid.n_voxels).expand(n, -1).contiguous()
    logits = logits[:, torch.randperm(grid.n_voxels, generator=generator)]
    hits = head.draw_hits(logits, torch.ones(n, grid.n_layers), generator)
    p = stats.logistic.cdf(logits[0].double().numpy())
    z = (hits.double().mean(0).numpy() - p) / np.sqrt(p * (1 - p) / n)
    assert np.abs(z).max() < stats.norm.isf(1e-4 / (2 * len(z)))


def test_hits_fall_in_layers_with_energy_and_at_least_once_in_each(grid: Geometry, generator: torch.Generator) -> None:
    head, n = voxel_head(grid), 200
    layer_on = (torch.rand(n, grid.n_layers, generator=generator) < 0.5).float()
    for logit in (-30.0, 0.0, 30.0):
        hits = head.draw_hits(torch.full((n, grid.n_voxels), logit), layer_on, generator)
        counts = hits.view(n, grid.n_layers, -1).sum(2)
        assert set(hits.unique().tolist()) == {0.0, 1.0}
        assert torch.equal((counts > 0).float(), layer_on)
        if logit == -30:
            assert torch.equal(counts, layer_on)


def test_lonely_hits_of_a_layer_fall_where_the_odds_are(generator: torch.Generator) -> None:
    """Far below zero one hit is left; it falls on voxel i about in proportion to exp(logit)."""
    head, n = voxel_head(regular(3, 16, 9)), 2000
    logits = torch.full((n, 432), -12.0)
    logits[:, ::2] += math.log(3)
    hits = head.draw_hits(logits, torch.ones(n, 3), generator)
    assert float(hits.sum()) == pytest.approx(3 * n, rel=0.01)
    assert float(hits[:, ::2].sum() / hits.sum()) == pytest.approx(0.75, abs=0.03)


def chosen(grid: Geometry, head: VoxelHead) -> tuple[HitMap, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, head.plan.n_parents, head.hits[0].in_features, generator=generator)
    voxel = torch.arange(grid.n_voxels).repeat(2)
    batch = torch.arange(2).repeat_interleave(grid.n_voxels)
    log_layers, log_counts = torch.rand(2, 2, grid.n_layers, generator=generator) * 5
    return HitMap(torch.zeros(2, grid.n_voxels), features), batch, voxel, log_layers, log_counts


@pytest.mark.parametrize("components", [1, 3])
def test_voxel_energies_start_about_the_mean_of_their_ring(grid: Geometry, components: int) -> None:
    head = voxel_head(grid, shaken=False, components=components)
    law = head.activation(*chosen(grid, head))
    layers, _, radii = grid.grid_shape
    means = torch.linspace(1, 6, layers * radii).view(layers, 1, radii).expand(grid.grid_shape).flatten().repeat(2)
    spread = torch.linspace(0.4, -1.5, components) if components > 1 else torch.zeros(1)
    torch.testing.assert_close(law.centres, means[:, None] + 1.5 * spread)
    torch.testing.assert_close(law.log_weights.exp().sum(1), torch.ones(len(means)))


def test_voxel_energies_read_their_own_parent_slot_layer_and_ring(grid: Geometry) -> None:
    head = voxel_head(grid)
    hit_map, batch, voxel, log_layers, log_counts = chosen(grid, head)
    before = head.activation(hit_map, batch, voxel, log_layers, log_counts).centres
    features = hit_map.features.clone()
    features[1, 3] += 1.0
    moved = head.activation(hit_map._replace(features=features), batch, voxel, log_layers, log_counts).centres != before
    is_inside = (batch == 1) & (head.plan.parent_of_voxel[voxel] == 3)
    assert torch.equal(moved.any(1), is_inside)
    for argument in (3, 4):
        known = [hit_map, batch, voxel, log_layers, log_counts]
        known[argument] = known[argument].clone()
        known[argument][0, 2] += 1.0
        moved = head.activation(*known).centres != before
        assert torch.equal(moved.any(1), (batch == 0) & (head.plan.layer_of_voxel[voxel] == 2))


def test_chosen_voxels_may_come_in_any_order(grid: Geometry) -> None:
    head = voxel_head(grid)
    hit_map, batch, voxel, log_layers, log_counts = chosen(grid, head)
    everywhere = head.activation(hit_map, batch, voxel, log_layers, log_counts)
    order = torch.randperm(len(voxel), generator=torch.Generator().manual_seed(0))[:50]
    some = head.activation(hit_map, batch[order], voxel[order], log_layers, log_counts)
    for before, after in zip(everywhere, some, strict=True):
        torch.testing.assert_close(after, before[order])


def test_widths_of_voxel_energies_are_bounded(grid: Geometry) -> None:
    head = voxel_head(grid)
    shake(head, 30.0)
    law = head.activation(*chosen(grid, head))
    assert law.widths.min() >= math.exp(-3.5) * (1 - 1e-5)
    assert law.widths.max() <= math.exp(1.2) * (1 + 1e-5)
    assert torch.isfinite(law.log_weights).all()
