r"""The energy resolution as a calorimeter's is quoted: how the width of the response falls with the incident energy.

In bins of ln E the width of the response over its mean, :math:`\sigma / \mu`, with errors :math:`s`, is fitted by

.. math:: \frac{\sigma}{\mu}(E) = \frac{a}{\sqrt E} + \frac{b}{E} + c, \qquad E \text{ in GeV},

linear least squares with weights :math:`1 / s^2`: a is the stochastic term (per cent, root GeV), b the noise, c the
constant. Without electronics b takes up what a threshold cuts away at low energies, and may come out negative. The
terms are strongly correlated, so that curves are to be compared before terms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calo4pqvae.evaluation.features.showers import EnergyBins, ShowerFeatures
from calo4pqvae.evaluation.metrics.estimate import Estimate, mean_estimate, ratio_estimate, width_estimate

__all__ = ["Resolution", "fit_resolution", "resolution"]

FloatArray = NDArray[np.float64]

_LEAST_SHOWERS = 10


@dataclass(frozen=True, eq=False)
class Resolution:
    """Response and resolution in bins of incident energy, with the fit.

    Args:
        energy: Geometric mean incident energy of each bin in GeV, (B,); NaN where a bin is too empty.
        mean: Mean response, (B,), and its errors.
        width: Width over mean, (B,), and its errors.
        terms: a, b and c of the fit; empty if fewer than four bins are filled.
        chi_square: Of the fit.
        freedom: Its degrees of freedom.
    """

    energy: FloatArray
    mean: tuple[FloatArray, FloatArray]
    width: tuple[FloatArray, FloatArray]
    terms: tuple[Estimate, ...]
    chi_square: float
    freedom: int

    def curve(self, energy: FloatArray) -> FloatArray:
        """The fitted width over mean at energies in GeV."""
        return np.asarray(_design(energy) @ np.array([term.value for term in self.terms]))

    def __str__(self) -> str:
        """The terms in per cent."""
        if not self.terms:
            return "no fit"
        a, b, c = (f"{100 * term.value:.2f} ± {100 * term.error:.2f}" for term in self.terms)
        return f"({a})%/√E + ({b})%/E + ({c})%"

    def to_dict(self) -> dict[str, object]:
        """The fit as plain data."""
        names = ("a_per_sqrt_gev", "b_per_gev", "c")
        return {
            **{name: term.to_dict() for name, term in zip(names, self.terms, strict=False)},
            "chi_square": self.chi_square,
            "degrees_of_freedom": self.freedom,
        }


def resolution(features: ShowerFeatures, bins: EnergyBins) -> Resolution:
    """Response and resolution of a sample in bins of incident energy, and the fit."""
    energy, parts = [], []
    for mask in bins.masks(features.incident_energy):
        response = features.response[mask]
        if len(response) < _LEAST_SHOWERS:
            energy.append(np.nan)
            parts.append((Estimate(np.nan, np.nan, len(response)),) * 2)
            continue
        mean, width = mean_estimate(response), width_estimate(response)
        energy.append(float(np.exp(np.log(features.incident_energy[mask]).mean())) / 1e3)
        parts.append((mean, ratio_estimate(width, mean)))
    columns = [
        (np.array([part[k].value for part in parts]), np.array([part[k].error for part in parts])) for k in range(2)
    ]
    places = np.array(energy)
    terms, chi_square, freedom = fit_resolution(places, *columns[1])
    return Resolution(places, columns[0], columns[1], terms, chi_square, freedom)


def fit_resolution(
    energy: FloatArray, values: FloatArray, errors: FloatArray
) -> tuple[tuple[Estimate, ...], float, int]:
    """The terms a, b, c with their errors, chi-square and degrees of freedom; no terms from fewer than four points.

    Args:
        energy: In GeV, (B,); points that are not finite are left out.
        values: Width over mean, (B,).
        errors: Standard errors, (B,).
    """
    good = np.isfinite(energy) & np.isfinite(values) & (errors > 0)
    n = int(good.sum())
    if n < 4:
        return (), float("nan"), 0
    design = _design(energy[good]) / errors[good, None]
    covariance = np.linalg.pinv(design.T @ design)
    found = covariance @ (design.T @ (values[good] / errors[good]))
    residuals = values[good] / errors[good] - design @ found
    terms = tuple(Estimate(float(v), float(np.sqrt(s)), n) for v, s in zip(found, np.diag(covariance), strict=True))
    return terms, float(residuals @ residuals), n - 3


def _design(energy: FloatArray) -> FloatArray:
    return np.column_stack([1 / np.sqrt(energy), 1 / energy, np.ones_like(energy)])
