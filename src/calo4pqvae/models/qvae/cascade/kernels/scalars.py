"""Limits of what the network may say of a split, and the few functions of one number that the compiled laws share."""

import math
from collections.abc import Callable
from typing import Any, cast

from numba import njit

__all__ = [
    "LARGEST_CENTRE",
    "LARGEST_LOGIT",
    "LARGEST_LOG_WIDTH",
    "LEAST_LOG_WIDTH",
    "clamped",
    "edge_of",
    "sigmoid",
]

Jit = Callable[[Callable[..., Any]], Callable[..., Any]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))

LARGEST_LOGIT = 30.0
LARGEST_CENTRE = 12.0
LEAST_LOG_WIDTH = -4.5
LARGEST_LOG_WIDTH = 0.0


@_jit
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


@_jit
def clamped(x: float, low: float, high: float) -> float:
    """X between two limits."""
    return min(max(x, low), high)


@_jit
def edge_of(energy: float) -> float:
    """B = ln(e - 1), kept above 0 where no energy is left to share."""
    return max(math.log(max(energy - 1.0, 1e-3)), 1e-3)
