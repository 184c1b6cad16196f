r"""Bits of many chains in machine words, and pair counts over them.

Chains are taken 64 at a time; bit c of word (block, node) is the bit of chain 64 block + c. Chains that fill up the
last block are zero. With words node by node, the number of chains in which both ends of a coupler are one is

.. math:: n_{ij} = \sum_w \mathrm{popcount}(x_{iw} \wedge x_{jw}),

which costs one word operation for 64 chains.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BLOCK", "Words", "pack", "pack_into", "pair_counts", "unpack", "unpack_into"]

BLOCK = 64
"""Chains a word."""

Words = NDArray[np.uint64]
Function = TypeVar("Function", bound=Callable[..., Any])
_jit = cast(Callable[[Function], Function], njit(nogil=True, cache=True, boundscheck=False))


def _count_ones(_context: Any, _word: Any) -> Any:  # noqa: ANN401
    def generate(_target: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:  # noqa: ANN401
        return builder.ctpop(values[0])

    return types.uint64(types.uint64), generate


_popcount: Any = intrinsic(_count_ones)


@_jit
def pack_into(states: NDArray[np.float32], words: Words) -> bool:
    """Sets words (blocks, N), all zero before, by bits (chains, N); false if a value is neither zero nor one."""
    n_chains, n_nodes = states.shape
    n_bad = 0
    for chain in range(n_chains):
        row, place = words[chain // 64], np.uint64(chain % 64)
        for node in range(n_nodes):
            value = states[chain, node]
            is_one = value == np.float32(1.0)
            n_bad += (not is_one) & (value != np.float32(0.0))
            row[node] |= np.uint64(is_one) << place
    return n_bad == 0


@_jit
def unpack_into(words: Words, states: NDArray[np.uint32]) -> None:
    """Sets the bit patterns (chains, N) of float32 zeros and ones, which costs no conversion."""
    n_chains, n_nodes = states.shape
    for chain in range(n_chains):
        row, place = words[chain // 64], np.uint64(chain % 64)
        for node in range(n_nodes):
            states[chain, node] = np.uint32((row[node] >> place) & np.uint64(1)) * np.uint32(0x3F800000)


@_jit
def _count(words: Words, first: NDArray[np.int64], second: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    for pair in range(len(first)):
        left, right = words[first[pair]], words[second[pair]]
        total = np.uint64(0)
        for block in range(len(left)):
            total += _popcount(left[block] & right[block])
        counts[pair] = np.int64(total)


def pack(states: Tensor) -> Words | None:
    """Words (blocks, N) of bits (chains, N) in float32 on the CPU; None if a value is neither zero nor one."""
    values = np.ascontiguousarray(states.detach().numpy())
    words = np.zeros((-(-len(values) // BLOCK), values.shape[1]), dtype=np.uint64)
    return words if pack_into(values, words) else None


def unpack(words: Words, n_chains: int) -> Tensor:
    """Bits (chains, N) in float32 of words (blocks, N)."""
    states = np.empty((n_chains, words.shape[1]), dtype=np.float32)
    unpack_into(words, states.view(np.uint32))
    return torch.from_numpy(states)


def pair_counts(words: Words, ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In how many chains a bit is one (N,), and in how many both ends of a pair are (M,).

    Args:
        words: Words (blocks, N).
        ends: Pairs of nodes (M, 2).
    """
    by_node = np.ascontiguousarray(words.T)
    nodes = np.arange(len(by_node))
    ones, both = np.empty(len(nodes), dtype=np.int64), np.empty(len(ends), dtype=np.int64)
    _count(by_node, nodes, nodes, ones)
    _count(by_node, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]), both)
    return ones, both
