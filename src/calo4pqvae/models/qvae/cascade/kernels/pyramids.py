r"""Energies of all blocks of all layers, running sums over depth, and the contexts of splits, compiled.

A **pyramid** holds the energy of every block of a layer; arrays have the shape (showers, layers, blocks + 1), the last
column being the dummy. What a split sees are numbers :math:`\tfrac14 \ln(1 + e)` of blocks, in this order:

1. its own layer, before the level: the block, four neighbours, parent, grandparent;
2. the layers one, two and three before, and two running sums of all layers before: both children and three outer
   neighbours of each, and four times the difference of the children;
3. the layer itself for the second colour: the six neighbours of the children;
4. :math:`\ln(1 + n)` of the hits of both children, one and two layers before;
5. the ring of the block, one number of ones and zeros a ring;
6. numbers of the layer.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["DECAYS", "LAGS", "add_layer", "count_up", "fill_contexts", "n_context", "sum_up"]

Array = NDArray[Any]
Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))

LAGS = 3
DECAYS = (0.6, 0.9)
_COUNT_LAGS = 2
_N_DECAYS = len(DECAYS)
_DECAYS = np.array(DECAYS, dtype=np.float32)
_QUARTER = np.float32(0.25)


def n_context(n_rings: int, n_layer_numbers: int) -> int:
    """Numbers that a split sees; the six of the second colour are there for both, empty for the first."""
    return 7 + 9 * (LAGS + _N_DECAYS) + 6 + 2 * _COUNT_LAGS + n_rings + n_layer_numbers


@_jit
def sum_up(energies: Array, splits: Array) -> None:
    """Fills the inner blocks of pyramids (..., blocks + 1), whose leaves are there, from the bottom up."""
    flat = energies.reshape(-1, energies.shape[-1])
    for row in range(len(flat)):
        for number in range(len(splits) - 1, -1, -1):
            flat[row, splits[number, 0]] = flat[row, splits[number, 1]] + flat[row, splits[number, 2]]


@_jit
def count_up(energies: Array, leaves: Array, splits: Array, counts: Array) -> None:
    """ln(1 + hits) of every block of pyramids (rows, blocks + 1) into ``counts`` of the same shape."""
    for row in range(len(energies)):
        for leaf in leaves:
            counts[row, leaf] = 1.0 if energies[row, leaf] > 0 else 0.0
        for number in range(len(splits) - 1, -1, -1):
            counts[row, splits[number, 0]] = counts[row, splits[number, 1]] + counts[row, splits[number, 2]]
        for block in range(counts.shape[1]):
            if counts[row, block] > 0:
                counts[row, block] = np.log1p(counts[row, block])


@_jit
def add_layer(energies: Array, running: Array, logs: Array, layer: int) -> None:
    r"""Running sums of a finished layer, :math:`s \leftarrow d\, s + e`, and their logarithms.

    Args:
        energies: Pyramids of the layer, (showers, blocks + 1).
        running: Sums, (decays, showers, blocks + 1); changed.
        logs: Logarithms of sums of all layers before, (decays, showers, layers, blocks + 1); those of the next layer
            are filled.
        layer: Number of the finished layer.
    """
    for decay in range(_N_DECAYS):
        for row in range(len(energies)):
            for block in range(energies.shape[1]):
                value = _DECAYS[decay] * running[decay, row, block] + energies[row, block]
                running[decay, row, block] = value
                if value > 0 and layer + 1 < logs.shape[2]:
                    logs[decay, row, layer + 1, block] = _QUARTER * np.log1p(value)


@_jit
def fill_contexts(
    showers: Array,
    layers: Array,
    places: Array,
    logs: Array,
    running: Array,
    counts: Array,
    around: Array,
    below: Array,
    beside: Array,
    rings: Array,
    numbers: Array,
    contexts: Array,
) -> None:
    """Contexts of chosen splits.

    Args:
        showers: Shower of each, (n,).
        layers: Layer of each, (n,).
        places: Number of each in its turn, (n,).
        logs: Logarithms of pyramids with :data:`LAGS` empty layers before the first, (B, LAGS + L, blocks + 1).
        running: Of running sums, (decays, B, L, blocks + 1).
        counts: Of hits, with :data:`LAGS` empty layers before the first, as ``logs``.
        around: Table of the turn, see :class:`~calo4pqvae.models.qvae.cascade.tree.Turn`.
        below: Likewise.
        beside: Likewise.
        rings: Likewise.
        numbers: Numbers of layers, (B, L, k).
        contexts: Filled, (n, :func:`n_context`).
    """
    n_rings = contexts.shape[1] - 7 - 9 * (LAGS + _N_DECAYS) - 6 - 2 * _COUNT_LAGS - numbers.shape[2]
    for i in range(len(showers)):
        b, layer, j = showers[i], layers[i], places[i]
        own = layer + LAGS
        at = 0
        for k in range(7):
            contexts[i, at] = logs[b, own, around[j, k]]
            at += 1
        for lag in range(1, LAGS + 1):
            for k in range(8):
                contexts[i, at + k] = logs[b, own - lag, below[j, k]]
            contexts[i, at + 8] = 4.0 * (contexts[i, at] - contexts[i, at + 1])
            at += 9
        for decay in range(_N_DECAYS):
            for k in range(8):
                contexts[i, at + k] = running[decay, b, layer, below[j, k]]
            contexts[i, at + 8] = 4.0 * (contexts[i, at] - contexts[i, at + 1])
            at += 9
        for k in range(6):
            contexts[i, at] = logs[b, own, beside[j, k]] if beside.shape[1] else 0.0
            at += 1
        for lag in range(1, _COUNT_LAGS + 1):
            for k in range(2):
                contexts[i, at] = counts[b, own - lag, below[j, k]]
                at += 1
        for ring in range(n_rings):
            contexts[i, at] = 1.0 if rings[j] == ring else 0.0
            at += 1
        for k in range(numbers.shape[2]):
            contexts[i, at] = numbers[b, layer, k]
            at += 1
