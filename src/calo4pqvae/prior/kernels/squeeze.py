r"""Sixteen random bits decide nearly every draw: brackets of the probability of the rarer outcome.

Let :math:`x = \beta f \log_2 e` be the log-odds of a bit in powers of two. The outcome against its field has

.. math:: p(x) = \frac{1}{1 + 2^{|x|}} \leq \tfrac12 .

With :math:`r` the upper 16 bits of a 32-bit uniform number u, and integers :math:`T \leq 2^{16} p \leq T + w`,

* :math:`r < T` proves :math:`u < p`;
* :math:`r \geq T + w` proves :math:`u \geq p`;
* otherwise, in a share :math:`w / 2^{16}` of all draws, the other 16 bits of u are drawn and p is computed in float32.

The outcome is that of the 32-bit number in every case: brackets save work and change no law, tails included.

The lower edge T is piecewise quadratic in 16-bit integers. Let :math:`a = \min(\mathrm{round}(2^{11} |x|), 2^{15} - 1)`;
its upper five bits choose one of 32 pieces, its lower ten, shifted to the left by six, are q, and

.. math:: T = A - \lfloor q B / 2^{16} \rfloor + \lfloor \lfloor q^2 / 2^{16} \rfloor C / 2^{16} \rfloor .

:func:`tabulate` fits the pieces and lowers them until the bracket holds for all of the 32,768 values of a, with half a
unit and a hundredth for the rounding of x; w is what is then needed. All is checked value by value.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["UNIT_BITS", "Squeeze", "bounds", "tabulate"]

UNIT_BITS = 11
"""Values of a for a factor of two in the odds: 2**11."""

_N_PIECES = 32
_N_VALUES = 1 << 15
_ROUNDING = 0.51  # of x, in units of a: half a unit, and more than float32 adds to it


@dataclass(frozen=True)
class Squeeze:
    """The bracket of all values of a.

    Args:
        coefficients: A, B and C of the pieces, uint16 (3, 32).
        width: w.
    """

    coefficients: NDArray[np.uint16]
    width: int

    def lower(self) -> NDArray[np.int64]:
        """T of all values of a, (32768,), by the arithmetic of the kernel."""
        first, second, third = (np.repeat(part.astype(np.int64), _N_VALUES // _N_PIECES) for part in self.coefficients)
        place = (np.arange(_N_VALUES) << 6) & 0xFFFF
        return _lower(first, second, third, place)


def bounds() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Largest integers below and smallest above 2**16 p, whatever x was rounded to each value of a."""
    value = np.arange(_N_VALUES) / (1 << UNIT_BITS)
    slack = _ROUNDING / (1 << UNIT_BITS)
    low = 2.0**16 / (1 + 2.0 ** (value + slack))
    low[-1] = 0.0  # stands for every larger x
    high = 2.0**16 / (1 + 2.0 ** (value - slack))
    return np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64)


@cache
def tabulate() -> Squeeze:
    """Fits the pieces; w is as small as they allow."""
    low, high = bounds()
    per_piece = _N_VALUES // _N_PIECES
    place = np.arange(per_piece) / per_piece
    table = np.zeros((3, _N_PIECES), dtype=np.int64)
    for piece in range(_N_PIECES):
        part = low[piece * per_piece : (piece + 1) * per_piece]
        curve, slope, start = np.polyfit(place, part, 2)
        table[:, piece] = np.maximum(np.rint([start, -slope, curve]), 0)
        places = np.arange(per_piece) << 6
        table[0, piece] -= max(0, int((_lower(*table[:, piece], places) - part).max()))
        if _lower(*table[:, piece], places).min() < 0:
            table[:, piece] = 0
    squeeze = Squeeze(table.astype(np.uint16), 0)
    return Squeeze(squeeze.coefficients, int((high - squeeze.lower()).max()))


def _lower(
    first: NDArray[np.int64], second: NDArray[np.int64], third: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.int64]:
    return first - ((place * second) >> 16) + ((((place * place) >> 16) * third) >> 16)
