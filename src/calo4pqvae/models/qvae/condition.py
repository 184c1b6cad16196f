r"""Incident energies as bits: the code that a Boltzmann machine is conditioned on.

Both codes are functions of the position of :math:`\ln E` between the ends of the range, so that their relative
resolution is the same everywhere, and neither has a bit that is constant on the range.

* ``thermometer``: bit i is 1 when :math:`\ln E` exceeds threshold i; the n thresholds lie at
  :math:`\ln E_0 + (i + \tfrac12)\,(\ln E_1 - \ln E_0)/n`. A flipped bit moves the energy by one step at most. The
  thresholds are dealt to the nodes in golden-ratio order, so that the few condition nodes that one latent node is
  coupled to on a chip are spread over the whole range.
* ``gray``: the index of one of 2^k equal intervals in Gray code, k at most 12, repeated cyclically up to n bits.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from calo4pqvae.showers.energies import check_energies

__all__ = ["CodeKind", "EnergyCode"]

CodeKind = Literal["thermometer", "gray"]

_GRAY_BITS = 12
_GOLDEN = (math.sqrt(5) - 1) / 2


class EnergyCode:
    """Writes incident energies as bits and reads them back.

    Args:
        kind: ``thermometer`` or ``gray``.
        n_bits: Length of the code.
        low_mev: Lower end of the range in MeV.
        high_mev: Upper end of the range in MeV.
    """

    def __init__(self, kind: CodeKind, n_bits: int, low_mev: float, high_mev: float) -> None:
        self.kind, self.n_bits = kind, n_bits
        self.low_mev, self.high_mev = low_mev, high_mev
        order = torch.argsort(torch.argsort((torch.arange(n_bits, dtype=torch.float64) * _GOLDEN) % 1.0))
        self._thresholds = (order.double() + 0.5) / n_bits
        self._gray_bits = min(n_bits, _GRAY_BITS)

    @property
    def n_values(self) -> int:
        """Number of different codes."""
        return self.n_bits + 1 if self.kind == "thermometer" else 2**self._gray_bits

    def encode(self, incident_energies: Tensor) -> Tensor:
        """Bits of energies.

        Args:
            incident_energies: MeV, with shape (batch, 1).

        Returns:
            Float tensor of 0 and 1 with shape (batch, n_bits), on the same device.

        Raises:
            DataError: If an energy is outside the range.
        """
        check_energies(incident_energies, self.low_mev, self.high_mev)
        position = self._position(incident_energies)
        if self.kind == "thermometer":
            return (position > self._thresholds.to(position.device)).to(torch.float32)
        level = (position * 2**self._gray_bits).long().clamp(0, 2**self._gray_bits - 1)
        gray: Tensor = level ^ (level >> 1)
        shifts = torch.arange(self.n_bits, device=gray.device) % self._gray_bits
        bits: Tensor = (gray >> shifts) & 1
        return bits.to(torch.float32)

    def decode(self, bits: Tensor) -> Tensor:
        """Energies at the middle of the interval that the bits name.

        Args:
            bits: Codes with shape (batch, n_bits).

        Returns:
            Incident energies in MeV with shape (batch, 1), float64.
        """
        if self.kind == "thermometer":
            position = bits.double().sum(1, keepdim=True) / self.n_bits
        else:
            position = (self._gray_level(bits) + 0.5) / 2**self._gray_bits
        low, high = math.log(self.low_mev), math.log(self.high_mev)
        energies: Tensor = (low + position.clamp(0, 1) * (high - low)).exp()
        return energies

    def _position(self, incident_energies: Tensor) -> Tensor:
        low, high = math.log(self.low_mev), math.log(self.high_mev)
        return ((incident_energies.double().log() - low) / (high - low)).clamp(0, 1)

    def _gray_level(self, bits: Tensor) -> Tensor:
        highest_first = bits[:, : self._gray_bits].long().flip(1)
        binary = highest_first.cumsum(1) % 2
        weights = 2 ** torch.arange(self._gray_bits - 1, -1, -1, device=bits.device)
        return (binary * weights).sum(1, keepdim=True).double()
