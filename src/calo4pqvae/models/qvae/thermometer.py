r"""The thermometer code: factors between 0 and 1 written into bands of bits, and read again.

Bit k of m of a band is one with probability

.. math:: P(z_k = 1) = \sigma(\ell_k), \qquad \ell_k = \frac{4}{w}\Big(m v - k - \tfrac12\Big),

so that about m v bits of it are ones, the first ones, and one wall separates them from the zeros: the domain-wall
code (N. Chancellor, Quantum Sci. Technol. 4, 045004 (2019)). Marks are at quantiles of the factor, which is uniform.
The wall is w nodes wide (from 12 % to 88 %); couplers between bits near each other on the band carry it
(:mod:`calo4pqvae.prior.graph.bands`). A sharp wall says more and needs larger couplings, a soft one needs couplers
over more places. Codes are set, not learned: what is written along a band stays a thermometer.

**Reading.** The value of a band is its number of ones. Whoever decodes is given that number, so that a stray bit
shifts a value a little and cannot say more. Bits in no band are fair coins and say nothing.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from calo4pqvae.errors import ConfigError
from calo4pqvae.prior.graph.bands import Bands

__all__ = ["ThermometerCode", "band_length"]

_LONGEST = 64  # nodes beyond which a wall walks for long and says little more
_POINTS_A_NODE = 64  # of the integral over a factor
_SPREAD = 12**0.5  # makes the reading of a uniform factor one of unit variance


def band_length(n_bits: int, n_factors: int) -> int:
    """Nodes of a band by default: seven eighths of the share of a factor, so that a search for bands has room.

    Args:
        n_bits: Latent bits of all levels.
        n_factors: Number of factors, at least one.

    Raises:
        ConfigError: If there are too few bits.
    """
    length = min(_LONGEST, 7 * n_bits // (8 * n_factors))
    if length < 2:
        raise ConfigError(f"{n_factors} factors do not fit in {n_bits} bits: lower latent.factors or give more bits")
    return length


class ThermometerCode(nn.Module):
    """Which bit is which place of which factor; part of a model's weights.

    Args:
        level_sizes: Number of bits of each level.
        n_factors: Number of factors F.
        length: Nodes m of a band.
        wall: Width w of a wall in nodes.

    Raises:
        ConfigError: If the bands need more bits than there are.
    """

    band: Tensor
    place: Tensor

    def __init__(self, level_sizes: tuple[int, ...], n_factors: int, length: int, wall: float) -> None:
        super().__init__()
        n_bits = sum(level_sizes)
        if n_factors * length > n_bits:
            raise ConfigError(
                f"{n_factors} factors of {length} nodes do not fit in {n_bits} bits: lower latent.factors or "
                "latent.factor_nodes"
            )
        self.n_factors, self.length, self.wall = n_factors, length, wall
        level = np.repeat(np.arange(len(level_sizes)), level_sizes)
        turn = np.concatenate([np.arange(size) for size in level_sizes])
        order = np.lexsort((level, turn))  # from level to level, so that neighbours lie in different partitions
        self.register_buffer("band", torch.zeros(n_bits, dtype=torch.int64))
        self.register_buffer("place", torch.zeros(n_bits, dtype=torch.int64))
        self.lay(Bands(order[: n_factors * length].reshape(n_factors, length)))

    def lay(self, bands: Bands) -> None:
        """Lays the bands along the graph of a machine.

        Args:
            bands: Bits of every factor in order, (F, m).

        Raises:
            ConfigError: If number or length of the bands are not those of the code.
        """
        if bands.nodes.shape != (self.n_factors, self.length):
            raise ConfigError(
                f"{bands.n_bands} bands of {bands.length} nodes do not fit a code of {self.n_factors} factors of "
                f"{self.length} nodes: find bands of that shape"
            )
        band, place = bands.places(len(self.band))
        self.band.copy_(torch.from_numpy(band))
        self.place.copy_(torch.from_numpy(place))

    def bands(self) -> Bands:
        """Bits of every factor in order."""
        band, place = self.band.cpu().numpy(), self.place.cpu().numpy()
        order = np.lexsort((place, band))
        return Bands(order[len(band) - self.n_factors * self.length :].reshape(self.n_factors, self.length))

    def logits(self, factors: Tensor) -> Tensor:
        """Logits (B, n_bits) of factors (B, F) between 0 and 1."""
        written = (self.length * factors[:, self.band.clamp(min=0)] - self.place - 0.5) * (4 / self.wall)
        return torch.where(self.band < 0, torch.zeros_like(written), written)

    def log_law(self, bits: Tensor) -> Tensor:
        r"""Log probability of the bits of each band when its factor is uniform, in nats, (B, F), float64.

        .. math:: \ln q(z) = \ln \int_0^1 dv \prod_k P(z_k \mid v),

        by the midpoint rule: what a machine has to learn of a band. Bits (B, n_bits).
        """
        places = torch.arange(_POINTS_A_NODE * self.length, dtype=torch.float64, device=bits.device)
        factor = (places + 0.5) / len(places)
        marks = torch.arange(self.length, dtype=torch.float64, device=bits.device) + 0.5
        logits = (self.length * factor[:, None] - marks) * (4 / self.wall)
        on, off = nn.functional.logsigmoid(logits), nn.functional.logsigmoid(-logits)
        columns = []
        for nodes in self.bands().nodes:
            own = bits[:, torch.from_numpy(nodes)].double()
            columns.append(torch.logsumexp(own @ on.T + (1 - own) @ off.T, dim=1) - math.log(len(places)))
        return torch.stack(columns, dim=1)

    def read(self, bits: Tensor) -> Tensor:
        """Values (B, F) of bits (B, n_bits), of mean 0 and variance 1 for uniform factors."""
        member = (self.band[:, None] == torch.arange(self.n_factors, device=bits.device)).to(bits.dtype)
        return (bits @ member / self.length - 0.5) * _SPREAD
