from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from calo4pqvae.models.qvae.cylinder import CylindricalConv3d, CylindricalUpsample, LinearAttention, pad_cylinder

EXACT = {"rtol": 0.0, "atol": 1e-12}


def field(channels: int = 2, layers: int = 5, angles: int = 8, radii: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, layers, angles, radii, generator=generator, dtype=torch.float64)


def turned(cells: Tensor, k: int) -> Tensor:
    return cells.roll(k, dims=3)


def convolution(**options: object) -> CylindricalConv3d:
    torch.manual_seed(0)
    return CylindricalConv3d(2, 3, **options).double()  # type: ignore[arg-type]


def reach(module: nn.Module, place: tuple[int, int, int], shape: tuple[int, int, int]) -> set[tuple[int, int, int]]:
    """Output cells that change when one input cell does."""
    zeros = torch.zeros(1, 2, *shape, dtype=torch.float64)
    delta = zeros.clone()
    delta[(0, slice(None), *place)] = 1.0
    with torch.no_grad():
        changed = (module(delta) - module(zeros)).abs().amax(dim=(0, 1)) > 1e-12
    return {(int(layer), int(angle), int(radius)) for layer, angle, radius in changed.nonzero()}


class WrongAxis(CylindricalConv3d):
    """A planted bug: the radius is closed to a circle and the angle is not."""

    def forward(self, cells: Tensor) -> Tensor:
        layer, angle, radius = self.padding
        closed = torch.cat([cells[..., -radius:], cells, cells[..., :radius]], dim=-1)
        padded = nn.functional.pad(closed, (0, 0, angle, angle, layer, layer))
        return self.convolution(padded)  # type: ignore[no-any-return]


class NoHalfTurn(CylindricalConv3d):
    """A planted bug: beyond the axis lies the same sector instead of the opposite one."""

    def forward(self, cells: Tensor) -> Tensor:
        layer, angle, radius = self.padding
        cells = torch.cat([cells[..., :radius].flip(-1), cells], dim=-1)
        cells = torch.cat([cells[..., -angle:, :], cells, cells[..., :angle, :]], dim=-2)
        padded = nn.functional.pad(cells, (0, radius, 0, 0, layer, layer))
        return self.convolution(padded)  # type: ignore[no-any-return]


def commutes(module: nn.Module, cells: Tensor, k: int, k_out: int | None = None) -> bool:
    with torch.no_grad():
        expected = turned(module(cells), k if k_out is None else k_out)
        return torch.allclose(module(turned(cells, k)), expected, **EXACT)


@pytest.mark.parametrize("angles", [1, 2, 5, 7, 8])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 1), (3, 1, 3)])
def test_convolution_commutes_with_every_rotation(angles: int, kernel: tuple[int, int, int]) -> None:
    module, cells = convolution(kernel=kernel), field(angles=angles)
    for k in range(angles):
        assert commutes(module, cells, k), f"rotation by {k} of {angles}"


def test_wide_kernel_commutes_too() -> None:
    module, cells = convolution(kernel=(3, 5, 7)), field(angles=6)
    assert all(commutes(module, cells, k) for k in range(6))


@pytest.mark.parametrize(("angles", "stride"), [(8, 2), (12, 3), (12, 4)])
def test_strided_convolution_commutes_with_multiples_of_its_stride(angles: int, stride: int) -> None:
    module, cells = convolution(stride=(2, stride, 2)), field(angles=angles)
    for k in range(angles // stride):
        assert commutes(module, cells, k * stride, k)
    assert not any(commutes(module, cells, 1, k) for k in range(angles // stride))


@pytest.mark.parametrize("scale", [(1, 2, 3), (2, 3, 1), (1, 1, 1)])
def test_upsampling_maps_a_rotation_by_one_to_one_by_the_scale(scale: tuple[int, int, int]) -> None:
    module, cells = CylindricalUpsample(scale), field(angles=5)
    assert module(cells).shape == (2, 2, 5 * scale[0], 5 * scale[1], 4 * scale[2])
    for k in range(5):
        assert commutes(module, cells, k, k * scale[1])


def test_upsampling_repeats_the_cell_above_it() -> None:
    cells = field(layers=2, angles=3, radii=2)
    fine = CylindricalUpsample((1, 2, 3))(cells)
    for angle in range(6):
        for radius in range(6):
            assert torch.equal(fine[..., angle, radius], cells[..., angle // 2, radius // 3])


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_commutes_with_rotations_and_any_permutation(heads: int) -> None:
    torch.manual_seed(0)
    module, cells = LinearAttention(2, heads, 5).double(), field(angles=7)
    for k in range(7):
        assert commutes(module, cells, k)
    order = torch.randperm(5 * 7 * 4, generator=torch.Generator().manual_seed(1))
    shuffled = cells.flatten(2)[..., order].view_as(cells)
    with torch.no_grad():
        expected = module(cells).flatten(2)[..., order].view_as(cells)
        torch.testing.assert_close(module(shuffled), expected, **EXACT)


def test_attention_follows_its_formula() -> None:
    torch.manual_seed(0)
    module, cells = LinearAttention(2, 1, 3).double(), field(layers=2, angles=3, radii=1)[:1]
    flat = cells[0].flatten(1)  # (channel, cell)
    normal = (flat - flat.mean()) / (flat.var(unbiased=False) + module.norm.eps).sqrt()
    weight = module.qkv.weight.detach()
    query, key, value = (weight[3 * i : 3 * i + 3] @ normal for i in range(3))
    mixed = torch.zeros(3, 6, dtype=torch.float64)
    for i in range(6):
        share = query[:, i].exp() / query[:, i].exp().sum() / 3**0.5
        for channel in range(3):
            attention = key[channel].exp() / key[channel].exp().sum()
            mixed[:, i] += share[channel] * (value @ attention)
    expected = flat + module.out.weight @ mixed + module.out.bias[:, None]
    torch.testing.assert_close(module(cells)[0].flatten(1), expected, rtol=0, atol=1e-12)


def test_signal_crosses_the_seam_in_angle() -> None:
    reached = reach(convolution(), (2, 0, 4), (5, 16, 9))
    assert {angle for _, angle, _ in reached} == {15, 0, 1}


def test_signal_crosses_the_axis_to_the_opposite_side() -> None:
    reached = reach(convolution(), (2, 0, 0), (5, 16, 9))
    assert {angle for _, angle, radius in reached if radius == 0} == {15, 0, 1, 7, 8, 9}
    assert {angle for _, angle, radius in reached if radius == 1} == {15, 0, 1}


def test_signal_crosses_the_axis_between_two_sectors_if_their_number_is_odd() -> None:
    reached = reach(convolution(kernel=(1, 1, 3)), (2, 0, 0), (5, 5, 4))
    assert {angle for _, angle, radius in reached if radius == 0} == {0, 2, 3}


def test_outer_radius_and_both_ends_in_depth_are_borders() -> None:
    outermost = reach(convolution(), (2, 0, 8), (5, 16, 9))
    assert {radius for _, _, radius in outermost} == {7, 8}
    assert {layer for layer, _, _ in reach(convolution(), (0, 3, 4), (5, 16, 9))} == {0, 1}
    assert {layer for layer, _, _ in reach(convolution(), (4, 3, 4), (5, 16, 9))} == {3, 4}


def test_ring_number_minus_k_is_ring_k_minus_one_half_a_turn_away() -> None:
    cells = field(angles=6)
    padded = pad_cylinder(cells, 1, 2, 2)
    assert padded.shape == (2, 2, 7, 10, 8)
    inner = padded[:, :, 1:-1]
    for angle in range(-2, 8):
        for ring in (0, 1):
            opposite = cells[..., (angle + 3) % 6, ring]
            assert torch.equal(inner[..., angle + 2, 1 - ring], opposite)
            assert not inner[..., angle + 2, 6 + ring].any()
        assert torch.equal(inner[..., angle + 2, 2:6], cells[..., angle % 6, :])
    assert not padded[:, :, [0, -1]].any()


@pytest.mark.parametrize("make", [lambda: convolution(periodic=False), lambda: WrongAxis(2, 3).double()])
def test_zero_padding_and_a_wrong_axis_do_not_commute(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module, cells = make(), field(angles=8)
    assert not any(commutes(module, cells, k) for k in range(1, 8))


def test_a_missing_half_turn_is_seen() -> None:
    """It commutes with rotations, so only the reach across the axis tells it from the true rule."""
    torch.manual_seed(0)
    wrong = NoHalfTurn(2, 3).double()
    assert commutes(wrong, field(angles=8), 1)
    assert not any(angle in (7, 8, 9) for _, angle, _ in reach(wrong, (2, 0, 0), (5, 16, 9)))


def test_zero_padding_reaches_neither_across_the_seam_nor_the_axis() -> None:
    reached = reach(convolution(periodic=False), (2, 0, 0), (5, 16, 9))
    assert {angle for _, angle, _ in reached} == {0, 1}


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="kernel sizes must be odd"):
        CylindricalConv3d(1, 1, (3, 2, 3))
    with pytest.raises(ValueError, match="cannot pad 3 sectors"):
        pad_cylinder(field(angles=3), angle=4)
    with pytest.raises(ValueError, match="4 rings by 1 and 5"):
        pad_cylinder(field(), radius=5)
