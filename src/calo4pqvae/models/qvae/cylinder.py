r"""Layers on a cylinder: the one place that knows how a calorimeter grid closes on itself.

A shower is a field on cells (layer z, angle alpha, radius r), stored as ``(batch, channel, layer, angle, radius)``.

* The angle is periodic: the last sector touches the first.
* The radius has an inner end on the axis. Crossing the axis at angle alpha one arrives at alpha + pi, so the
  virtual ring number -k is ring k - 1 turned by half a turn. With an odd number of sectors half a turn falls
  between two sectors, and their mean is taken.
* The outer radius and both ends in depth are true borders, padded with zeros.

A convolution that pads by this rule commutes with every rotation by whole sectors, a strided one with rotations by
multiples of its angular stride. Upsampling repeats cells and so maps a rotation by one sector to one by the scale.
Linear attention has no notion of position and commutes with every permutation of cells.

``periodic=False`` gives the borders of the older models of this line (zero padding everywhere), kept as a baseline.

References:
    Amram and Pedro, Denoising diffusion models with geometry adaptation for high fidelity calorimeter simulation
    (2023), arXiv 2308.03876. Katharopoulos et al., Transformers are RNNs (2020), arXiv 2006.16236.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CylindricalConv3d", "CylindricalUpsample", "LinearAttention", "pad_cylinder"]


def pad_cylinder(cells: Tensor, layer: int = 1, angle: int = 1, radius: int = 1, *, periodic: bool = True) -> Tensor:
    """Surrounds cells by their neighbours on the cylinder.

    Args:
        cells: Field with shape (batch, channel, layer, angle, radius).
        layer: Number of zero layers added at both ends in depth.
        angle: Number of sectors added on both sides, taken from the other end; at most the number of sectors.
        radius: Number of rings added inside (from beyond the axis) and outside (zeros).
        periodic: False pads with zeros everywhere.

    Returns:
        Field with shape (batch, channel, layer + 2 layer', angle + 2 angle', radius + 2 radius').

    Raises:
        ValueError: If more sectors or rings are asked for than there are.
    """
    if not periodic:
        return functional.pad(cells, (radius, radius, angle, angle, layer, layer))
    n_angle, n_radius = cells.shape[-2:]
    if angle > n_angle or radius > n_radius:
        raise ValueError(f"cannot pad {n_angle} sectors and {n_radius} rings by {angle} and {radius}")
    if radius:
        cells = torch.cat([_half_turn(cells[..., :radius].flip(-1)), cells], dim=-1)
    if angle:
        cells = torch.cat([cells[..., -angle:, :], cells, cells[..., :angle, :]], dim=-2)
    return functional.pad(cells, (0, radius, 0, 0, layer, layer))


def _half_turn(rings: Tensor) -> Tensor:
    n_angle = rings.shape[-2]
    turned = rings.roll(n_angle // 2, dims=-2)
    if n_angle % 2 == 0:
        return turned
    return (turned + rings.roll(n_angle // 2 + 1, dims=-2)) / 2


class CylindricalConv3d(nn.Module):
    """Convolution whose padding follows the cylinder.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel sizes in (layer, angle, radius).
        stride: Strides in (layer, angle, radius).
        periodic: False for zero padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
        *,
        periodic: bool = True,
    ) -> None:
        super().__init__()
        if any(size % 2 == 0 for size in kernel):
            raise ValueError(f"kernel sizes must be odd, not {kernel}")
        self.padding = tuple((size - 1) // 2 for size in kernel)
        self.periodic = periodic
        self.convolution = nn.Conv3d(in_channels, out_channels, kernel, stride=stride)

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (batch, in, layer, angle, radius) to (batch, out, layer', angle', radius')."""
        layer, angle, radius = self.padding
        padded = pad_cylinder(cells, layer, angle, radius, periodic=self.periodic)
        return self.convolution(padded)  # type: ignore[no-any-return]


class CylindricalUpsample(nn.Module):
    """Repeats every cell ``scale`` times along (layer, angle, radius); exactly periodic by construction."""

    def __init__(self, scale: tuple[int, int, int]) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (batch, channel, z, a, r) to (batch, channel, z s_z, a s_a, r s_r)."""
        for axis, scale in zip((-3, -2, -1), self.scale, strict=True):
            if scale > 1:
                cells = cells.repeat_interleave(scale, dim=axis)
        return cells


class LinearAttention(nn.Module):
    r"""Residual attention over all cells at linear cost.

    .. math:: y = x + W_o\,\Big[\sum_j \phi_k(k_j) v_j^T\Big]^T \phi_q(q_i)

    with :math:`\phi_q` a softmax over channels times :math:`d^{-1/2}` and :math:`\phi_k` a softmax over cells, after
    a normalisation over channels and cells.

    Args:
        channels: Channels of the field.
        heads: Number of heads.
        head_channels: Channels of a head.
    """

    def __init__(self, channels: int, heads: int = 1, head_channels: int = 32) -> None:
        super().__init__()
        self.heads, self.head_channels = heads, head_channels
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Linear(channels, 3 * heads * head_channels, bias=False)
        self.out = nn.Linear(heads * head_channels, channels)

    def forward(self, cells: Tensor) -> Tensor:
        """Maps (batch, channel, layer, angle, radius) to the same shape."""
        flat = self.norm(cells).flatten(2).transpose(1, 2)
        batch, positions, _ = flat.shape
        shape = (batch, positions, 3, self.heads, self.head_channels)
        query, key, value = self.qkv(flat).view(shape).unbind(2)
        query = query.softmax(-1) * self.head_channels**-0.5
        context = torch.einsum("bphc,bphd->bhcd", key.softmax(1), value)
        mixed = torch.einsum("bphc,bhcd->bphd", query, context)
        update: Tensor = self.out(mixed.flatten(2))
        return cells + update.transpose(1, 2).reshape(cells.shape)
