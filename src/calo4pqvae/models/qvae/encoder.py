r"""The hierarchical encoder: a shower and its energy become groups of bits, one group a level.

A shared cylindrical trunk reads the voxels once. Level k then sees the trunk, the energy and **the sampled bits of all
levels before it**,

.. math:: q(z \mid x, E) = \prod_k q(z_k \mid z_{<k}, x, E), \qquad q(z_k \mid \cdot) = \prod_i \mathrm{Bernoulli},

so that the posterior is not a product over levels: a later level can correct what an earlier one has drawn.

**Factors.** A level does not choose its logits one by one. It computes a few quantities :math:`f_g` (depth, length,
width and the like, whatever training makes of them) and writes each into the bits of one region of the graph,

.. math:: \ell_i = a_i f_{g(i)} + c_i ,

like a thermometer with learned marks. All dependence that a quantity brings among its bits is then among nodes that are
close on the chip and can be carried by its couplers; a code spread over all bits would need a dense machine. The
factors start at the principal components of the layers' energies, of unit variance at every E, and
:func:`energy_correlation` keeps their mean and variance from following E: the decoder is given E, and a machine whose
condition acts through fields has couplings that are the same at all E.
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
from calo4pqvae.models.qvae.observables import PrincipalLayers, ShowerView
from calo4pqvae.models.qvae.relaxation import Relaxation, bit_entropy, draw_bits, relax_bits
from calo4pqvae.showers.transforms import LogitTransform

__all__ = ["EnergyEmbedding", "FactorWriter", "HierarchicalEncoder", "Posterior", "energy_correlation", "multilayer"]


class Posterior(NamedTuple):
    """Bits of a batch and where they come from.

    Attributes:
        bits: (B, n_bits), level after level.
        logits: Logits they were drawn with, (B, n_bits).
        factors: Quantities written into the bits, (B, levels, factors); no factors with free logits.
    """

    bits: Tensor
    logits: Tensor
    factors: Tensor

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


class FactorWriter(nn.Module):
    r"""Writes factors into logits, :math:`\ell_i = a_i f_{g(i)} + c_i`; regions are equal stretches of the bits.

    Args:
        n_bits: Number of bits of the level.
        n_factors: Number of factors.
        phase: Between 0 and 1; shifts the starting marks, so that levels interleave.
    """

    region: Tensor

    def __init__(self, n_bits: int, n_factors: int, phase: float) -> None:
        super().__init__()
        region = torch.arange(n_bits) * n_factors // n_bits
        self.register_buffer("region", region, persistent=False)
        place = torch.arange(n_bits) - torch.searchsorted(region, region)
        size = torch.bincount(region)[region]
        self.slopes = nn.Parameter(1.5 + 0.3 * torch.randn(n_bits))
        self.offsets = nn.Parameter(4 * (place + phase) / size - 2)

    def forward(self, factors: Tensor) -> Tensor:
        """Maps factors (B, n_factors) to logits (B, n_bits)."""
        logits: Tensor = self.slopes * factors[:, self.region] + self.offsets
        return logits


def energy_correlation(factors: Tensor, position: Tensor) -> Tensor:
    r"""How much mean and variance of the factors of a batch follow the incident energy.

    .. math:: \sum_{k,g} \sum_{u \in \{f, (f - \bar f)^2\}} \big[\rho(u_{kg}, t)^2 + \rho(u_{kg}, t^2)^2\big]

    Args:
        factors: (B, levels, factors).
        position: Place t of ln E in its range, (B, 1).

    Returns:
        A number, 0 without factors.
    """
    values = factors.flatten(1)
    squares = (values - values.mean(0)).square()
    followers, energy = torch.cat([values, squares], dim=1), torch.cat([position, position**2], dim=1)
    total: Tensor = (_normed(followers).T @ _normed(energy)).square().sum()
    return total


def _normed(columns: Tensor) -> Tensor:
    centred = columns - columns.mean(0)
    scale: Tensor = centred.norm(dim=0) + 1e-3 * len(columns) ** 0.5
    return centred / scale


class HierarchicalEncoder(nn.Module):
    """Encoder with one group of bits a level.

    Args:
        config: Sizes.
        plan: The grid.
        level_sizes: Number of bits of each level.
        n_factors: Factors of a level; 0 gives every bit a logit of its own.
        periodic: False for the zero padding of older models.
    """

    def __init__(
        self,
        config: EncoderConfig,
        plan: GridPlan,
        level_sizes: Sequence[int],
        n_factors: int = 0,
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
        self.n_factors = n_factors
        # no empty parameter without factors: it would never have a gradient, which data-parallel training waits for
        self.principal = PrincipalLayers(plan.shape[0], n_factors) if n_factors else None
        self.levels = nn.ModuleList(
            multilayer(n_common + start, config.hidden, n_factors or size)
            for start, size in zip(starts, self.level_sizes, strict=True)
        )
        phases = [level / len(self.level_sizes) for level in range(len(self.level_sizes))]
        self.writers = nn.ModuleList(
            FactorWriter(size, n_factors, phase) if n_factors else nn.Identity()
            for size, phase in zip(self.level_sizes, phases, strict=True)
        )

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
        factors: list[Tensor] = []
        for level, writer, noise in zip(self.levels, self.writers, noises, strict=True):
            written = level(torch.cat([common, *(2 * drawn - 1 for drawn in bits)], dim=1))
            if self.principal is not None:
                written = written + self.principal(view.layers, view.position)
            logit = writer(written)
            factors.append(written[:, : self.n_factors])
            bits.append(draw_bits(logit, noise) if tau is None else relax_bits(logit, noise, tau, relaxation))
            logits.append(logit)
        return Posterior(torch.cat(bits, dim=1), torch.cat(logits, dim=1), torch.stack(factors, dim=1))

    @torch.no_grad()
    def start_at_principal_layers(self, layers: Tensor, position: Tensor) -> None:
        """Starts the factors of every level at the principal components of the layers; nothing without factors.

        Args:
            layers: Standardised layers of training showers, (N, L).
            position: Places of ln E in its range, (N, 1).
        """
        if self.principal is None:
            return
        self.principal.fit(layers, position)
        for level in self.levels:
            level[-1].weight.mul_(0.1)  # type: ignore[index]
            level[-1].bias.zero_()  # type: ignore[index]

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
