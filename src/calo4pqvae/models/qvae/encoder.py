r"""The hierarchical encoder: a shower and its energy become groups of bits, one group a level.

A shared cylindrical trunk reads the voxels once. Level k then sees the trunk, the energy and **the sampled bits of all
levels before it**,

.. math:: q(z \mid x, E) = \prod_k q(z_k \mid z_{<k}, x, E), \qquad q(z_k \mid \cdot) = \prod_i \mathrm{Bernoulli},

so that the posterior is not a product over levels: a later level can correct what an earlier one has drawn.

Every bit has a logit of its own. Encoders that write few quantities along bands of a chip are in
:mod:`calo4pqvae.models.qvae.factor_encoder`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calo4pqvae.config import EncoderConfig
from calo4pqvae.models.qvae.cylinder import CylindricalConv3d, LinearAttention
from calo4pqvae.models.qvae.grid import GridPlan
from calo4pqvae.models.qvae.observables import ShowerView
from calo4pqvae.models.qvae.relaxation import Relaxation, bit_entropy, draw_bits, relax_bits
from calo4pqvae.showers.transforms import LogitTransform

__all__ = ["EnergyEmbedding", "HierarchicalEncoder", "Posterior", "multilayer"]


class Posterior(NamedTuple):
    """Bits of a batch and where they come from.

    Attributes:
        bits: (B, n_bits), level after level.
        logits: Logits they were drawn with, (B, n_bits).
    """

    bits: Tensor
    logits: Tensor

    def entropy(self) -> Tensor:
        """Entropy of each shower's posterior, given the bits drawn on the way, in nats, (B,)."""
        return bit_entropy(self.logits).sum(1)

    def information(self) -> Tensor:
        """Nats by which ln 2 a bit exceeds the entropy, (B,): what fair coins would not tell about the shower."""
        return (math.log(2) - bit_entropy(self.logits)).sum(1)


class EnergyEmbedding(nn.Module):
    """Powers 1 to 3 of the position of ln E, which are of order one; (B, 1) to (B, 3)."""

    size = 3

    def forward(self, position: Tensor) -> Tensor:
        """Maps positions (B, 1) to (B, 3)."""
        return torch.cat([position, position**2, position**3], dim=1)


def multilayer(*sizes: int) -> nn.Sequential:
    """Linear layers of the given sizes with SiLU between them."""
    steps: list[nn.Module] = []
    for before, after in pairwise(sizes):
        steps += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*steps[:-1])


class HierarchicalEncoder(nn.Module):
    """Encoder with one group of bits a level.

    Args:
        config: Sizes.
        plan: The grid.
        level_sizes: Number of bits of each level.
        periodic: False for the zero padding of older models.
    """

    def __init__(
        self,
        config: EncoderConfig,
        plan: GridPlan,
        level_sizes: Sequence[int],
        *,
        periodic: bool = True,
    ) -> None:
        super().__init__()
        self.plan, self.level_sizes = plan, tuple(level_sizes)
        self.embedding = EnergyEmbedding()
        self.logit = LogitTransform() if config.voxels == "logit" else None
        self.trunk = _trunk(config, periodic=periodic)
        with torch.no_grad():
            n_features = self.trunk(torch.zeros(1, 1, *plan.shape)).shape[1]
        n_totals = 2 * plan.shape[0] + 1 + self.embedding.size
        self.summary = nn.Sequential(nn.Linear(n_features + n_totals, config.hidden), nn.SiLU())
        n_common = config.hidden + self.embedding.size
        starts = [sum(self.level_sizes[:level]) for level in range(len(self.level_sizes))]
        self.levels = nn.ModuleList(
            multilayer(n_common + start, config.hidden, size)
            for start, size in zip(starts, self.level_sizes, strict=True)
        )

    @property
    def n_read(self) -> int:
        """Numbers that a decoder reads from the bits."""
        return sum(self.level_sizes)

    def fit(self, layers: Tensor, position: Tensor) -> None:
        """Free logits have nothing to fit before training; takes what the encoder of factors takes."""

    def read(self, bits: Tensor) -> Tensor:
        """What a decoder is given of bits (B, n_bits): every bit as -1 or 1."""
        return 2 * bits - 1

    def forward(
        self,
        view: ShowerView,
        uniform: Tensor,
        tau: float | None = None,
        relaxation: Relaxation = "straight-through",
    ) -> Posterior:
        """Draws bits for a batch.

        Args:
            view: The showers.
            uniform: Noise between 0 and 1 that decides the draws, (B, n_bits).
            tau: Sharpness of relaxed bits; None draws plain bits that carry no gradient.
            relaxation: Kind of relaxed bits.

        Returns:
            Bits and logits.
        """
        common = self._common(view)
        bits: list[Tensor] = []
        logits: list[Tensor] = []
        noises = torch.split(uniform, list(self.level_sizes), dim=1)
        for level, noise in zip(self.levels, noises, strict=True):
            logit = level(torch.cat([common, *(2 * drawn - 1 for drawn in bits)], dim=1))
            bits.append(draw_bits(logit, noise) if tau is None else relax_bits(logit, noise, tau, relaxation))
            logits.append(logit)
        return Posterior(torch.cat(bits, dim=1), torch.cat(logits, dim=1))

    def _common(self, view: ShowerView) -> Tensor:
        energy = self.embedding(view.position)
        features = self.trunk(self.plan.to_grid(self._voxels(view)))
        totals = [view.layers, view.layer_on, view.response, energy]
        return torch.cat([self.summary(torch.cat([features, *totals], dim=1)), energy], dim=1)

    def _voxels(self, view: ShowerView) -> Tensor:
        if self.logit is None:
            return view.voxels / 4
        energies = view.voxels.exp() * view.hits * self.plan.threshold_mev
        return self.logit.forward(energies / view.incident_energies, view.incident_energies) / 8


def _trunk(config: EncoderConfig, *, periodic: bool) -> nn.Sequential:
    first, second, third = config.channels
    steps: list[nn.Module] = [
        CylindricalConv3d(1, first, stride=(3, 2, 1), periodic=periodic),
        nn.SiLU(),
        CylindricalConv3d(first, second, stride=(2, 2, 2), periodic=periodic),
        nn.GroupNorm(1, second),
        nn.SiLU(),
        CylindricalConv3d(second, third, stride=(2, 1, 1), periodic=periodic),
        nn.GroupNorm(1, third),
        nn.SiLU(),
    ]
    if config.attention:
        steps.append(LinearAttention(third))
    return nn.Sequential(*steps, nn.Flatten())
