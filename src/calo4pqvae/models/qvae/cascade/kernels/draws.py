r"""Uniform numbers of a shower, and the law of a split drawn from them, compiled.

**Counters in place of a stream.** Number n of a shower with key k is the splitmix64 hash of k and n (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): it depends on the shower and the split alone, not
on the other showers of a batch nor on the order of the work.

The law is that of :mod:`calo4pqvae.models.qvae.cascade.law`, in double precision.
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

__all__ = ["draw_left", "uniform", "uniforms"]

Array = NDArray[Any]
Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11)
_MOST_COMPONENTS = 64


@_jit
def uniform(key: np.uint64, counter: int) -> float:
    """Number ``counter`` of a key, in [0, 1), with 53 bits."""
    z = key + (np.uint64(counter) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    z = z ^ (z >> _S31)
    return float(z >> _S11) * (1.0 / 9007199254740992.0)


@_jit
def uniforms(keys: Array, counters: Array) -> Array:
    """Three numbers for each key (n,) and counter (n,), with shape (n, 3)."""
    drawn = np.empty((len(keys), 3))
    for i in range(len(keys)):
        for k in range(3):
            drawn[i, k] = uniform(keys[i], 3 * counters[i] + k)
    return drawn


@_jit
def _logistic_mass(low: float, high: float) -> float:
    """Probability between two scaled edges, without cancellation in the tails."""
    if low > 0:
        low, high = -high, -low
    return (sigmoid(high) - sigmoid(low)) if high > -30 else math.exp(high) - math.exp(low)


@_jit
def draw_left(
    raw: Array, energy: float, n_logistic: int, cumulative: Array, bin_width: float, key: np.uint64, counter: int
) -> float:
    """Energy of the left child of one block.

    Args:
        raw: Output of the network, (outputs,).
        energy: Of the block, in thresholds.
        n_logistic: Logistic components.
        cumulative: Of the spectra at their edges, (spectra, bins + 1).
        bin_width: Of their bins in ln e.
        key: Key of the shower.
        counter: Number of the split in the shower.
    """
    chances = np.empty(3)
    highest = -1e30
    for k in range(3):
        chances[k] = clamped(raw[k], -LARGEST_LOGIT, LARGEST_LOGIT)
        if k == 2 and energy < 2:
            chances[k] = -1e4
        highest = max(highest, chances[k])
    total = 0.0
    for k in range(3):
        chances[k] = math.exp(chances[k] - highest)
        total += chances[k]
    wanted = uniform(key, 3 * counter) * total
    if wanted < chances[0]:
        return energy
    if wanted < chances[0] + chances[1]:
        return 0.0
    shared: float = _shared(raw, energy, n_logistic, cumulative, bin_width, key, counter)
    return shared


@_jit
def _shared(
    raw: Array, energy: float, n_logistic: int, cumulative: Array, bin_width: float, key: np.uint64, counter: int
) -> float:
    """Energy of the left child where both have some."""
    n_spectra, n_bins = len(cumulative), cumulative.shape[1] - 1
    n_components = n_logistic + 2 * n_spectra
    bound = edge_of(energy)
    weights = np.empty(_MOST_COMPONENTS)
    highest = -1e30
    for k in range(n_components):
        place = 3 + k if k < n_logistic else 3 + 2 * n_logistic + k
        weights[k] = clamped(raw[place], -LARGEST_LOGIT, LARGEST_LOGIT)
        highest = max(highest, weights[k])
    reach = clamped(bound / bin_width, 0.0, n_bins - 1e-3)
    edge = int(reach)
    total = 0.0
    for k in range(n_components):
        if k < n_logistic:
            centre = clamped(2.0 * raw[3 + n_logistic + k], -LARGEST_CENTRE, LARGEST_CENTRE)
            log_width = clamped(raw[3 + 2 * n_logistic + k], LEAST_LOG_WIDTH, LARGEST_LOG_WIDTH)
            inverse = math.exp(-log_width)
            mass = _logistic_mass((-bound - centre) * inverse, (bound - centre) * inverse)
        else:
            s = (k - n_logistic) % n_spectra
            mass = cumulative[s, edge] + (cumulative[s, edge + 1] - cumulative[s, edge]) * (reach - edge)
        weights[k] = math.exp(weights[k] - highest) * mass
        total += weights[k]
    wanted, passed, component = uniform(key, 3 * counter + 1) * total, 0.0, n_components - 1
    for k in range(n_components):
        passed += weights[k]
        if wanted < passed:
            component = k
            break
    value = _value(raw, energy, bound, component, n_logistic, cumulative, bin_width, uniform(key, 3 * counter + 2))
    kept: float = clamped(value, 1.0, energy - 1.0)
    return kept


@_jit
def _value(
    raw: Array,
    energy: float,
    bound: float,
    component: int,
    n_logistic: int,
    cumulative: Array,
    bin_width: float,
    share: float,
) -> float:
    """Energy of the left child given the component, by inversion."""
    if component < n_logistic:
        centre = clamped(2.0 * raw[3 + n_logistic + component], -LARGEST_CENTRE, LARGEST_CENTRE)
        width = math.exp(clamped(raw[3 + 2 * n_logistic + component], LEAST_LOG_WIDTH, LARGEST_LOG_WIDTH))
        low, high = sigmoid((-bound - centre) / width), sigmoid((bound - centre) / width)
        p = clamped(low + (high - low) * share, 1e-12, 1 - 1e-12)
        y = clamped(centre + width * math.log(p / (1 - p)), -bound, bound)
        shared: float = energy * sigmoid(y)
        return shared
    n_spectra, n_bins = len(cumulative), cumulative.shape[1] - 1
    number = component - n_logistic
    table = cumulative[number % n_spectra]
    reach = clamped(bound / bin_width, 0.0, n_bins - 1e-3)
    edge = int(reach)
    wanted = share * (table[edge] + (table[edge + 1] - table[edge]) * (reach - edge))
    bins = min(max(int(np.searchsorted(table, wanted, side="right")), 1), n_bins) - 1
    step = max(table[bins + 1] - table[bins], 1e-12)
    log_energy = (bins + clamped((wanted - table[bins]) / step, 0.0, 1.0)) * bin_width
    child = math.exp(min(log_energy, bound))
    return child if number < n_spectra else energy - child
