r"""Log-likelihood of splits and its gradient in one pass, compiled.

The law is that of :mod:`calo4pqvae.models.qvae.cascade.law`. With weights :math:`\pi = \mathrm{softmax}(a)`, densities
:math:`f_k` and masses :math:`Z_k`, shares :math:`r_k = \pi_k f_k / \sum \pi f` and
:math:`s_k = \pi_k Z_k / \sum \pi Z`, the log-likelihood :math:`\ell = \ln \sum \pi f - \ln \sum \pi Z` has

.. math:: \frac{\partial \ell}{\partial a_k} = r_k - s_k, \qquad
          \frac{\partial \ell}{\partial \theta_k} = r_k \frac{\partial \ln f_k}{\partial \theta_k}
          - s_k \frac{\partial \ln Z_k}{\partial \theta_k} .

A spectrum takes part through the density at one bin and through the cumulative, which all bins below the bound share.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calo4pqvae.models.qvae.cascade.kernels.scalars import (
    LARGEST_CENTRE,
    LARGEST_LOG_WIDTH,
    LARGEST_LOGIT,
    LEAST_LOG_WIDTH,
    clamped,
    edge_of,
    sigmoid,
)

__all__ = ["split_gradients", "split_log_likelihoods"]

Array = NDArray[Any]
Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))

_TINY = 1e-9


@_jit
def _outcome_chances(row: Array, energy: float, chances: Array) -> None:
    highest = -1e30
    for k in range(3):
        chances[k] = clamped(row[k], -LARGEST_LOGIT, LARGEST_LOGIT)
        if k == 2 and energy < 2:
            chances[k] = -1e4
        highest = max(highest, chances[k])
    total = 0.0
    for k in range(3):
        chances[k] = math.exp(chances[k] - highest)
        total += chances[k]
    for k in range(3):
        chances[k] /= total


@_jit
def _mixture(
    row: Array,
    energy: float,
    left: float,
    right: float,
    n_logistic: int,
    shares: Array,
    cumulative: Array,
    bin_width: float,
    density: Array,
    mass: Array,
) -> float:
    """Fills weighted densities and masses of all components, up to one common factor; their log ratio."""
    n_spectra, n_bins = shares.shape
    n = n_logistic + 2 * n_spectra
    bound = edge_of(energy)
    log_left, log_right, log_energy = math.log(left), math.log(right), math.log(energy)
    y = log_left - log_right
    reach = clamped(bound / bin_width, 0.0, n_bins - 1e-3)
    edge = int(reach)
    highest = -1e30
    for k in range(n):
        place = 3 + k if k < n_logistic else 3 + 2 * n_logistic + k
        highest = max(highest, clamped(row[place], -LARGEST_LOGIT, LARGEST_LOGIT))
    total_density, total_mass = 0.0, 0.0
    for k in range(n):
        place = 3 + k if k < n_logistic else 3 + 2 * n_logistic + k
        weight = math.exp(clamped(row[place], -LARGEST_LOGIT, LARGEST_LOGIT) - highest)
        if k < n_logistic:
            centre = clamped(2.0 * row[3 + n_logistic + k], -LARGEST_CENTRE, LARGEST_CENTRE)
            inverse = math.exp(-clamped(row[3 + 2 * n_logistic + k], LEAST_LOG_WIDTH, LARGEST_LOG_WIDTH))
            at = sigmoid((y - centre) * inverse)
            density[k] = weight * at * (1.0 - at) * inverse
            low, high = (-bound - centre) * inverse, (bound - centre) * inverse
            if low > 0:
                low, high = -high, -low
            mass[k] = weight * max(sigmoid(high) - sigmoid(low), 1e-30)
        else:
            s = (k - n_logistic) % n_spectra
            log_child, log_other = (log_left, log_right) if k < n_logistic + n_spectra else (log_right, log_left)
            own = min(max(int(log_child / bin_width), 0), n_bins - 1)
            density[k] = weight * shares[s, own] / bin_width * math.exp(log_other - log_energy)
            below = cumulative[s, edge] + shares[s, edge] * (reach - edge)
            mass[k] = weight * max(below, _TINY)
        total_density += density[k]
        total_mass += mass[k]
    for k in range(n):
        density[k] /= max(total_density, 1e-300)
        mass[k] /= total_mass
    return math.log(max(total_density, 1e-300)) - math.log(total_mass)


@_jit
def split_log_likelihoods(
    raw: Array, energies: Array, n_logistic: int, shares: Array, cumulative: Array, bin_width: float
) -> Array:
    """Log-likelihood of every split, (n,).

    Args:
        raw: Output of the network, (n, outputs).
        energies: Of block, left and right child, in thresholds, (3, n).
        n_logistic: Logistic components.
        shares: Of the bins of the spectra, (spectra, bins).
        cumulative: At their edges, (spectra, bins + 1).
        bin_width: Of the bins in ln e.
    """
    n = len(raw)
    told = np.empty(n)
    chances, density, mass = np.empty(3), np.empty(raw.shape[1]), np.empty(raw.shape[1])
    for i in range(n):
        energy, left, right = energies[0, i], energies[1, i], energies[2, i]
        _outcome_chances(raw[i], energy, chances)
        if left > 0 and right > 0:
            ratio = _mixture(
                raw[i], energy, left, right, n_logistic, shares, cumulative, bin_width, density, mass
            )  # fmt: skip
            told[i] = math.log(max(chances[2], 1e-300)) + ratio
        else:
            told[i] = math.log(max(chances[0 if left > 0 else 1], 1e-300))
    return told


@_jit
def split_gradients(
    raw: Array,
    energies: Array,
    weights: Array,
    n_logistic: int,
    shares: Array,
    cumulative: Array,
    bin_width: float,
) -> tuple[Array, Array]:
    """Gradients of the weighted sum of the log-likelihoods.

    Args:
        raw: As for :func:`split_log_likelihoods`.
        energies: Likewise.
        weights: Of every split, (n,).
        n_logistic: Logistic components.
        shares: Of the bins of the spectra.
        cumulative: At their edges.
        bin_width: Of the bins.

    Returns:
        With respect to the outputs (n, outputs), and to the shares of the bins (spectra, bins).
    """
    n, n_spectra, n_bins = len(raw), shares.shape[0], shares.shape[1]
    by_raw, by_shares = np.zeros(raw.shape, dtype=np.float32), np.zeros(shares.shape)
    below = np.zeros((n_spectra, n_bins + 1))  # what all bins below an edge share
    chances, density, mass = np.empty(3), np.empty(raw.shape[1]), np.empty(raw.shape[1])
    for i in range(n):
        energy, left, right = energies[0, i], energies[1, i], energies[2, i]
        weight = weights[i]
        _outcome_chances(raw[i], energy, chances)
        is_both = left > 0 and right > 0
        outcome = 2 if is_both else (0 if left > 0 else 1)
        for k in range(3):
            if -LARGEST_LOGIT < raw[i, k] < LARGEST_LOGIT:
                by_raw[i, k] = weight * ((1.0 if k == outcome else 0.0) - chances[k])
        if not is_both:
            continue
        _mixture(raw[i], energy, left, right, n_logistic, shares, cumulative, bin_width, density, mass)
        bound = edge_of(energy)
        y = math.log(left) - math.log(right)
        for k in range(n_logistic + 2 * n_spectra):
            place = 3 + k if k < n_logistic else 3 + 2 * n_logistic + k
            if -LARGEST_LOGIT < raw[i, place] < LARGEST_LOGIT:
                by_raw[i, place] = weight * (density[k] - mass[k])
            if k < n_logistic:
                _logistic_gradient(raw[i], k, n_logistic, y, bound, weight * density[k], weight * mass[k], by_raw[i])
            else:
                s = (k - n_logistic) % n_spectra
                child = left if k < n_logistic + n_spectra else right
                own = min(max(int(math.log(child) / bin_width), 0), n_bins - 1)
                by_shares[s, own] += weight * density[k] / max(shares[s, own], 1e-30)
                reach = clamped(bound / bin_width, 0.0, n_bins - 1e-3)
                edge = int(reach)
                total = cumulative[s, edge] + shares[s, edge] * (reach - edge)
                if total > _TINY:
                    below[s, edge] -= weight * mass[k] / total
                    by_shares[s, edge] -= weight * mass[k] / total * (reach - edge)
    for s in range(n_spectra):
        shared = 0.0
        for number in range(n_bins - 1, -1, -1):
            shared += below[s, number + 1]
            by_shares[s, number] += shared
    return by_raw, by_shares


@_jit
def _logistic_gradient(
    row: Array, k: int, n_logistic: int, y: float, bound: float, density: float, mass: float, out: Array
) -> None:
    """Derivatives by centre and log width of one component, with weighted shares of density and mass."""
    raw_centre, raw_width = 2.0 * row[3 + n_logistic + k], row[3 + 2 * n_logistic + k]
    centre = clamped(raw_centre, -LARGEST_CENTRE, LARGEST_CENTRE)
    inverse = math.exp(-clamped(raw_width, LEAST_LOG_WIDTH, LARGEST_LOG_WIDTH))
    z = (y - centre) * inverse
    low, high = (-bound - centre) * inverse, (bound - centre) * inverse
    at, at_low, at_high = sigmoid(z), sigmoid(low), sigmoid(high)
    slope_low, slope_high = at_low * (1 - at_low), at_high * (1 - at_high)
    total = max(at_high - at_low, 1e-30)
    bend = 1.0 - 2.0 * at
    if -LARGEST_CENTRE < raw_centre < LARGEST_CENTRE:
        out[3 + n_logistic + k] = 2.0 * inverse * (-density * bend - mass * (slope_low - slope_high) / total)
    if LEAST_LOG_WIDTH < raw_width < LARGEST_LOG_WIDTH:
        change = (low * slope_low - high * slope_high) / total
        out[3 + 2 * n_logistic + k] = density * (-bend * z - 1.0) - mass * change
