r"""The networks of the binary classifiers: a perceptron and a three-dimensional residual network.

Both map a row of inputs to one logit, log odds that the shower is a Geant4 one. They are those of the CaloChallenge:

* the perceptron has equal hidden layers, leaky rectifiers (slope 0.01) and no dropout: three layers of 2048;
* the residual network is an 18-layer one with two basic blocks at each of the widths 32, 64, 64 and 128, the last
  three groups starting with stride 2, a stem of 7 x 7 x 7 with stride 2 followed by max pooling 3 x 3 x 3 with
  stride 2, zero padding everywhere (in angle too, so that it is not periodic), a mean over what is left of the grid,
  and log10 of the incident energy, batch-normalised, beside the pooled channels before the last layer.

Smaller ones of the same kinds are made by other arguments; :meth:`Stem.patches` cuts the grid into patches instead of
the overlapping stem, which is many times cheaper on a CPU.

References:
    Krause et al., CaloChallenge 2022, arXiv 2410.21611; He et al., Deep residual learning, arXiv 1512.03385.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Perceptron", "ResidualBlock", "ResidualNetwork", "Stem"]

Triple = tuple[int, int, int]


class Perceptron(nn.Module):
    """Fully connected layers with leaky rectifiers and one logit at the end.

    Args:
        n_inputs: Width of the input, (batch, n_inputs).
        hidden: Widths of the hidden layers.
        generator: Source of the first weights.
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((n_inputs, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))
        _start_linear(self, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch,) of inputs (batch, n_inputs)."""
        logits: Tensor = self.layers(inputs)
        return logits.squeeze(1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 x 3 convolutions with batch normalisation around a shortcut.

    Args:
        before: Channels that come in.
        after: Channels that go out.
        stride: Stride of the first convolution and of the shortcut, which is a 1 x 1 x 1 convolution where the shape
            changes.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm3d(after),
            nn.ReLU(inplace=True),
            nn.Conv3d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm3d(after),
        )
        changes = stride != 1 or before != after
        self.shortcut: nn.Module = (
            nn.Sequential(nn.Conv3d(before, after, 1, stride=stride, bias=False), nn.BatchNorm3d(after))
            if changes
            else nn.Identity()
        )

    def forward(self, field: Tensor) -> Tensor:
        """Maps (batch, before, layers, angles, rings) to ``after`` channels, rectified."""
        return torch.relu(self.body(field) + self.shortcut(field))


@dataclass(frozen=True)
class Stem:
    """The first convolution of a residual network.

    Args:
        kernel: Its width along layers, angle and rings.
        stride: Its stride.
        padding: Zeros added on either side.
        pool: Whether max pooling 3 x 3 x 3 with stride 2 follows.
    """

    kernel: Triple = (7, 7, 7)
    stride: Triple = (2, 2, 2)
    padding: Triple = (3, 3, 3)
    pool: bool = True

    @classmethod
    def patches(cls, grid_shape: Triple, most: Triple = (9, 4, 3)) -> "Stem":
        """Cuts the grid into patches that do not overlap, at most ``most`` of them along each axis."""
        size = [-(-cells // limit) for cells, limit in zip(grid_shape, most, strict=True)]
        missing = [-cells % step for cells, step in zip(grid_shape, size, strict=True)]
        kernel, padding = (size[0], size[1], size[2]), tuple(-(-cells // 2) for cells in missing)
        return cls(kernel, kernel, (padding[0], padding[1], padding[2]), pool=False)


class ResidualNetwork(nn.Module):
    """Residual network over the (layer, angle, ring) grid, joined by the incident energy before its last layer.

    Args:
        grid_shape: Layers, angular cells and rings.
        planes: Channels of each group of blocks.
        blocks: Blocks in each group.
        stem: The first convolution.
        generator: Source of the first weights.
    """

    def __init__(
        self,
        grid_shape: Triple,
        planes: Sequence[int],
        blocks: int,
        stem: Stem,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.grid_shape = grid_shape
        self.stem = nn.Sequential(
            nn.Conv3d(1, planes[0], stem.kernel, stride=stem.stride, padding=stem.padding, bias=False),
            nn.BatchNorm3d(planes[0]),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, stride=2, padding=1) if stem.pool else nn.Identity(),
        )
        groups: list[nn.Module] = []
        for group, (before, after) in enumerate(itertools.pairwise((planes[0], *planes))):
            for block in range(blocks):
                first = block == 0
                groups.append(ResidualBlock(before if first else after, after, 2 if first and group else 1))
        self.groups = nn.Sequential(*groups)
        self.energy_norm = nn.BatchNorm1d(1)
        self.last = nn.Linear(planes[-1] + 1, 1)
        _start_convolutions(self, generator)
        _start_linear(self, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (batch,) of inputs (batch, 1 + voxels): log10 of the incident energy, then the voxels."""
        field = inputs[:, 1:].reshape(-1, 1, *self.grid_shape)
        pooled = self.groups(self.stem(field)).mean(dim=(2, 3, 4))
        logits: Tensor = self.last(torch.cat([pooled, self.energy_norm(inputs[:, :1])], dim=1))
        return logits.squeeze(1)


def _start_linear(network: nn.Module, generator: torch.Generator) -> None:
    """Uniform weights and biases within 1 / sqrt(inputs), PyTorch's own law, from ``generator``."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)


def _start_convolutions(network: nn.Module, generator: torch.Generator) -> None:
    """Normal weights of variance 2 / (output channels x kernel volume)."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
