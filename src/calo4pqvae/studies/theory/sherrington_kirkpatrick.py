r"""Replica-symmetric phase diagram of the Sherrington-Kirkpatrick spin glass, computed.

Spins :math:`s_i = \pm 1` with :math:`H = -\sum_{i<j} J_{ij} s_i s_j - h \sum_i s_i`, couplings of mean
:math:`\tilde J_0 / N` and variance :math:`\tilde J^2 / N`. With one order parameter for all replicas, and
:math:`Dz` the standard normal measure,

.. math:: m = \int Dz \tanh u, \qquad q = \int Dz \tanh^2 u, \qquad u = \mu + w z, \qquad
    \mu = \beta (\tilde J_0 m + h), \quad w = \beta \tilde J \sqrt q .

Given the mean :math:`\mu` and the width w of the reduced field, m and q are plain integrals, and so are all
coordinates: with :math:`\tilde J = 1` as the unit of energy, :math:`kT = \sqrt q / w`. Every line is therefore found
without iteration to a fixed point:

- paramagnet to ferromagnet: :math:`\tilde J_0 = kT` for :math:`kT > \tilde J` (linear stability of m at q = 0);
- paramagnet to spin glass: :math:`kT = \tilde J` for :math:`\tilde J_0 < \tilde J`;
- spin glass to ferromagnet, replica-symmetric: :math:`\tilde J_0 (1 - q) = kT` at :math:`\mu = 0`, which ends at
  :math:`\tilde J_0 = \sqrt{\pi / 2}\, \tilde J` at zero temperature (the 1.25 of the first paper);
- de Almeida and Thouless: below the line where :math:`(\beta \tilde J)^2 \int Dz\, \mathrm{sech}^4 u = 1` one order
  parameter is not enough. The root :math:`\mu(w)` is the same whether the mean comes from :math:`\tilde J_0` (at
  h = 0) or from h (at :math:`\tilde J_0 = 0`), so one curve gives both lines.

Known limits: :math:`(h / \tilde J)^2 \to \tfrac43 (1 - kT/\tilde J)^3` near the spin-glass point, and
:math:`kT / \tilde J \to \tfrac{4}{3 \sqrt{2\pi}} e^{-h^2 / 2 \tilde J^2}` for strong fields (for strong ferromagnets
with :math:`\tilde J_0` in the place of h). For :math:`\tilde J_0 > \tilde J` the line bounds the *mixed* phase, a
ferromagnet with broken replica symmetry; the true border of the glass and the mixed phase is taken to be vertical.

Sherrington and Kirkpatrick, Phys. Rev. Lett. 35 (1975) 1792; de Almeida and Thouless, J. Phys. A 11 (1978) 983.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, root

from calo4pqvae.errors import PriorError

__all__ = [
    "ZERO_TEMPERATURE_FERROMAGNET",
    "OrderParameters",
    "Phase",
    "almeida_thouless_line",
    "ferromagnet_line",
    "field_moments",
    "glass_ferromagnet_line",
    "phase_of",
    "replica_symmetric",
]

FloatArray = NDArray[np.float64]
Phase = Literal["paramagnet", "ferromagnet", "spin glass", "mixed"]

ZERO_TEMPERATURE_FERROMAGNET = math.sqrt(math.pi / 2)
"""J0~ / J~ where the replica-symmetric border of the ferromagnet meets zero temperature."""

_LEGENDRE_NODES, _LEGENDRE_WEIGHTS = np.polynomial.legendre.leggauss(16)
_REACH = 9.0  # standard deviations beyond which the normal measure is nothing in float64
_KNOTS = np.array([-24.0, -12.0, -6.0, -3.0, -1.5, 0.0, 1.5, 3.0, 6.0, 12.0, 24.0])  # in units of the step of tanh
_ORDERED = 1e-6  # magnetisation or overlap above which a phase counts as ordered
_RESIDUAL = 1e-9


@dataclass(frozen=True)
class OrderParameters:
    """Solution of the replica-symmetric equations at one point.

    Args:
        magnetisation: m.
        overlap: q.
        stability: (J~ / kT)^2 times the mean of sech^4; above one, replica symmetry is broken.
    """

    magnetisation: float
    overlap: float
    stability: float


def field_moments(mu: float, width: float) -> tuple[float, float, float]:
    r"""Means of :math:`\tanh u`, :math:`\tanh^2 u` and :math:`\mathrm{sech}^4 u` for :math:`u = \mu + w z`.

    Gauss-Legendre rules between knots that follow the step of tanh, so that low temperatures (large w) are as exact
    as high ones, where a Gauss-Hermite rule of any affordable order would miss the step.

    Args:
        mu: Mean of the reduced field.
        width: Its standard deviation w, 0 or more.

    Raises:
        PriorError: If the width is negative.
    """
    if width < 0:
        raise PriorError(f"a reduced field of width {width} does not exist; give 0 or more")
    if width == 0:
        tanh = math.tanh(mu)
        return tanh, tanh**2, (1 - tanh**2) ** 2
    steps = np.clip((_KNOTS - mu) / width, -_REACH, _REACH)
    knots = np.union1d(np.linspace(-_REACH, _REACH, 19), steps)
    half = np.diff(knots)[:, None] / 2
    z = (knots[:-1, None] + half + half * _LEGENDRE_NODES).ravel()
    weights = (half * _LEGENDRE_WEIGHTS).ravel() * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    u = mu + width * z
    tanh_u, sech_u = np.tanh(u), 1 / np.cosh(np.clip(u, -300, 300))
    return float(weights @ tanh_u), float(weights @ tanh_u**2), float(weights @ sech_u**4)


def ferromagnet_line(kt: ArrayLike) -> FloatArray:
    r"""J0~ at which the paramagnet becomes a ferromagnet, :math:`\tilde J_0 = kT`, in units of J~.

    Args:
        kt: Temperatures kT / J~, at least one.

    Raises:
        PriorError: If a temperature lies below the spin-glass point.
    """
    temperatures = np.asarray(kt, dtype=np.float64)
    if (temperatures < 1).any():
        raise PriorError("below kT = J~ there is no paramagnet that could become a ferromagnet; give kT / J~ >= 1")
    return temperatures.copy()


def glass_ferromagnet_line(widths: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Replica-symmetric border of spin glass and ferromagnet.

    Args:
        widths: Widths w of the reduced field, positive; small ones are near kT = J~, large ones near kT = 0.

    Returns:
        J0~ / J~ and kT / J~ at each width.
    """
    points = []
    for width in np.asarray(widths, dtype=np.float64).tolist():
        overlap = field_moments(0.0, width)[1]
        kt = math.sqrt(overlap) / width
        points.append((kt / (1 - overlap), kt))
    j0, kt_line = np.array(points).T
    return j0, kt_line


def almeida_thouless_line(widths: ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The line of de Almeida and Thouless.

    Args:
        widths: Widths w of the reduced field, positive; small ones are near kT = J~, large ones near kT = 0.

    Returns:
        kT / J~, the ferromagnetic coupling J0~ / J~ at which it is met without a field, and the field h / J~ at
        which it is met without ferromagnetic couplings; one number a width.
    """

    def excess(mu: float, width: float) -> float:
        _, overlap, sech4 = field_moments(mu, width)
        return width**2 * sech4 / overlap - 1

    points = []
    for width in np.asarray(widths, dtype=np.float64).tolist():
        mu = float(brentq(excess, 0.0, 10 * width + 10, args=(width,), xtol=1e-13, rtol=1e-13))
        magnetisation, overlap, _ = field_moments(mu, width)
        kt = math.sqrt(overlap) / width
        points.append((kt, mu * kt / magnetisation, mu * kt))
    kt_line, j0, field = np.array(points).T
    return kt_line, j0, field


def replica_symmetric(j0: float, kt: float, field: float = 0.0) -> OrderParameters:
    """Order parameters at a point of the diagram, in units of J~; the solution with the largest magnetisation.

    Args:
        j0: Ferromagnetic coupling J0~ / J~.
        kt: Temperature kT / J~, above 0.
        field: Field h / J~, 0 or more.

    Raises:
        PriorError: If the temperature is not positive, the field is negative, or no solution is found.
    """
    if kt <= 0 or field < 0:
        raise PriorError(f"kT = {kt} with field {field} is no point of the diagram; give kT > 0 and a field >= 0")

    def image(point: FloatArray) -> FloatArray:
        mu = (j0 * point[0] + field) / kt
        return np.array(field_moments(mu, math.sqrt(max(point[1], 0.0)) / kt)[:2])

    point = np.ones(2)
    for _ in range(200):
        point = image(point)
    solution = root(lambda x: image(x) - x, point, tol=1e-13)
    # near a critical line the Jacobian is singular and the polished point may be no better than the iterated one
    found = min((solution.x, _iterated(image, point)), key=lambda x: float(np.abs(image(x) - x).max()))
    if not np.abs(image(found) - found).max() < _RESIDUAL:
        raise PriorError(f"the replica-symmetric equations have no clear solution at J0~ = {j0}, kT = {kt}; move it")
    m, q = (float(value) if value > _ORDERED else 0.0 for value in found)
    sech4 = field_moments((j0 * m + field) / kt, math.sqrt(q) / kt)[2]
    return OrderParameters(m, q, sech4 / kt**2)


def phase_of(j0: float, kt: float) -> Phase:
    """Phase without a field.

    Args:
        j0: J0~ / J~.
        kt: kT / J~.
    """
    if kt >= 1:
        return "ferromagnet" if j0 > kt else "paramagnet"
    if j0 <= 1:
        return "spin glass"  # the vertical border, not that of the replica-symmetric solution
    return "mixed" if replica_symmetric(j0, kt).stability > 1 else "ferromagnet"


def _iterated(image: Callable[[FloatArray], FloatArray], point: FloatArray) -> FloatArray:
    """The fixed-point iteration until it stands still."""
    for _ in range(20_000):
        following = image(point)
        if np.abs(following - point).max() < _RESIDUAL / 100:
            break
        point = following
    return following
