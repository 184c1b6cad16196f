"""Showers drawn from the cascade, compiled: layer by layer, turn by turn, all showers of a batch side by side.

A turn is: which blocks have energy, their contexts, one small network on all of them, a draw each, the children's
energies. The matrix products go to BLAS, everything else is loops.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calo4pqvae.models.qvae.cascade.kernels.draws import draw_left
from calo4pqvae.models.qvae.cascade.kernels.pyramids import LAGS, add_layer, count_up, fill_contexts

__all__ = ["draw_showers"]

Array = NDArray[Any]
Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))
_SLOPE = np.float32(0.1)
_QUARTER = np.float32(0.25)


@_jit
def _find_active(energies: Array, nodes: Array, showers: Array, places: Array) -> int:
    """Fills shower and place of every block of a turn that has energy; their number."""
    n = 0
    for b in range(len(energies)):
        for j in range(len(nodes)):
            if energies[b, nodes[j]] > 0:
                showers[n], places[n] = b, j
                n += 1
    return n


@_jit
def _add_and_bend(values: Array, bias: Array) -> None:
    """Adds the bias and takes a tenth of what is negative, in place."""
    for i in range(len(values)):
        for j in range(values.shape[1]):
            value = values[i, j] + bias[j]
            values[i, j] = value if value > 0 else _SLOPE * value


@_jit
def draw_showers(
    layer_energies: Array,
    numbers: Array,
    keys: Array,
    turns: tuple[Any, ...],
    leaves: Array,
    splits: Array,
    weights: tuple[Any, ...],
    cumulative: Array,
    bin_width: float,
    n_logistic: int,
    cells: Array,
) -> None:
    """Draws the voxels of a batch.

    Args:
        layer_energies: In thresholds, (B, L).
        numbers: Numbers of layers, (B, L, k).
        keys: One of each shower, (B,), unsigned.
        turns: Starts of the turns in the tables (turns + 1,), then the tables: nodes, left, right, around, below,
            beside, rings, and whether a turn is of the second colour.
        leaves: Block of every cell.
        splits: Node, left and right of every split.
        weights: Of all turns: first (T, F, H), its bias, second (T, H, H), its bias, last (T, H, O), its bias, and the
            direct way (T, F, O).
        cumulative: Of the spectra, (spectra, bins + 1).
        bin_width: Of their bins.
        n_logistic: Logistic components.
        cells: Filled with voxel energies in thresholds, (B, L, cells).
    """
    starts, nodes, lefts, rights, around, below, beside, rings, is_second = turns
    first, first_bias, second, second_bias, last, last_bias, direct = weights
    n_showers, n_layers = layer_energies.shape
    width = splits.max() + 2 if len(splits) else 2
    n_context, n_hidden, n_out = first.shape[1], first.shape[2], last.shape[2]
    logs = np.zeros((n_showers, LAGS + n_layers, width), dtype=np.float32)
    counts = np.zeros((n_showers, LAGS + n_layers, width), dtype=np.float32)
    running_logs = np.zeros((2, n_showers, n_layers, width), dtype=np.float32)
    running = np.zeros((2, n_showers, width), dtype=np.float32)
    most = 1
    for turn in range(len(starts) - 1):
        most = max(most, n_showers * (starts[turn + 1] - starts[turn]))
    showers, places = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)
    layers = np.empty(most, dtype=np.int64)
    contexts = np.empty((most, n_context), dtype=np.float32)
    hidden, deeper = np.empty((most, n_hidden), dtype=np.float32), np.empty((most, n_hidden), dtype=np.float32)
    raw, straight = np.empty((most, n_out), dtype=np.float32), np.empty((most, n_out), dtype=np.float32)
    nothing = np.empty((0, 0), dtype=np.int64)
    for layer in range(n_layers):
        energies = np.zeros((n_showers, width), dtype=np.float32)
        for b in range(n_showers):
            energies[b, 0] = layer_energies[b, layer]
            logs[b, LAGS + layer, 0] = _QUARTER * np.log1p(layer_energies[b, layer])
        layers[:] = layer
        for turn in range(len(starts) - 1):
            own = slice(starts[turn], starts[turn + 1])
            n = _find_active(energies, nodes[own], showers, places)
            if n == 0:
                continue
            fill_contexts(
                showers[:n], layers[:n], places[:n], logs, running_logs, counts, around[own], below[own],
                beside[own] if is_second[turn] else nothing, rings[own], numbers, contexts[:n],
            )  # fmt: skip
            np.dot(contexts[:n], first[turn], hidden[:n])
            _add_and_bend(hidden[:n], first_bias[turn])
            np.dot(hidden[:n], second[turn], deeper[:n])
            _add_and_bend(deeper[:n], second_bias[turn])
            np.dot(deeper[:n], last[turn], raw[:n])
            np.dot(contexts[:n], direct[turn], straight[:n])
            for i in range(n):
                for k in range(n_out):
                    raw[i, k] += straight[i, k] + last_bias[turn, k]
                b, j = showers[i], starts[turn] + places[i]
                energy = energies[b, nodes[j]]
                counter = layer * width + nodes[j]
                left = np.float32(draw_left(raw[i], energy, n_logistic, cumulative, bin_width, keys[b], counter))
                energies[b, lefts[j]], energies[b, rights[j]] = left, energy - left
            for i in range(n):
                b, j = showers[i], starts[turn] + places[i]
                logs[b, LAGS + layer, lefts[j]] = _QUARTER * np.log1p(energies[b, lefts[j]])
                logs[b, LAGS + layer, rights[j]] = _QUARTER * np.log1p(energies[b, rights[j]])
        for b in range(n_showers):
            for cell in range(len(leaves)):
                cells[b, layer, cell] = energies[b, leaves[cell]]
        count_up(energies, leaves, splits, counts[:, LAGS + layer])
        add_layer(energies, running, running_logs, layer)
