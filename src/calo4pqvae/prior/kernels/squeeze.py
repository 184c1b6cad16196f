r"""Sixteen random bits decide nearly every draw: brackets of the probability of the rarer outcome.

Let :math:`x = \beta f \log_2 e` be the log-odds of a bit in powers of two. The outcome against its field has

.. math:: p(x) = \frac{1}{1 + 2^{|x|}} \leq \tfrac12 .

With :math:`r` the upper 16 bits of a 32-bit uniform number u, and integers :math:`T \leq 2^{16} p \leq T + w`,

* :math:`r < T` proves :math:`u < p`;
* :math:`r \geq T + w` proves :math:`u \geq p`;
* otherwise, in a share :math:`w / 2^{16}` of all draws, the other 16 bits of u are drawn and p is computed in float32.

The outcome is that of the 32-bit number in every case: brackets save work and change no law, tails included.

The lower edge T is piecewise quadratic in 16-bit integers. The upper five bits of
:math:`a = \min(\mathrm{round}(2^{11} |x|), 2^{15} - 1)` choose one of 32 pieces, its lower ten, shifted to the left by
six, are q, and

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
        pieces = np.repeat(self.coefficients.astype(np.int64), _N_VALUES // _N_PIECES, axis=1)
        return _lower(pieces, (np.arange(_N_VALUES) << 6) & 0xFFFF)


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
    places = np.arange(_N_VALUES // _N_PIECES)
    pieces = []
    for part in low.reshape(_N_PIECES, -1):
        curve, slope, start = np.polyfit(places / len(places), part, 2)
        piece = np.maximum(np.rint([start, -slope, curve]), 0).astype(np.int64)
        piece[0] -= max(0, int((_lower(piece, places << 6) - part).max()))
        pieces.append(piece if _lower(piece, places << 6).min() >= 0 else np.zeros_like(piece))
    table = np.stack(pieces, axis=1).astype(np.uint16)
    return Squeeze(table, int((high - Squeeze(table, 0).lower()).max()))


def _lower(coefficients: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.int64]:
    first, second, third = coefficients
    lower: NDArray[np.int64] = first - ((place * second) >> 16) + ((((place * place) >> 16) * third) >> 16)
    return lower
