r"""The packed CPU kernel: 64 chains a word, every block of 64 chains runs all its sweeps alone.

A block's words (8 bytes a node) stay in the cache nearest to a core while it sweeps; blocks are shared out to threads,
whose number changes nothing in the result. Each call draws new streams of random numbers from the generator, so that a
call of ten sweeps has other numbers than calls of four and six; both have the same law.

Couplings are held in one of two precisions:

- ``float32``: as given.
- ``int16``: rounded to multiples of one step :math:`\delta`, chosen so that no sum of a row overflows 16 bits:
  :math:`\delta = \max_i \max(\sum_j W_{ij}^+, \sum_j W_{ij}^-) / (32767 - d)`, where d is the largest degree. The law
  is exactly that of the machine with rounded couplings; no log-odds is off by more than :math:`d \delta / 2`
  (:func:`rounding`).
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.kernels.call import SweepCall
from calo4pqvae.prior.kernels.choice import Precision
from calo4pqvae.prior.kernels.packed_lanes import MAX_EXPONENT, TABLE, sweep_float32, sweep_int16
from calo4pqvae.prior.kernels.packed_rows import PackedRows
from calo4pqvae.prior.kernels.packing import BLOCK, Words, pack, unpack
from calo4pqvae.prior.topology import Topology

__all__ = ["PackedBlocks", "Rounding", "rounding"]


_LOG2_E = math.log2(math.e)
_SWEEPS_AT_A_TIME = 1000  # compiled code cannot be interrupted; about a second
_STREAM_WORDS = 4
_LEAST_SHARED = 20_000  # words to draw from which starting threads pays: about half a millisecond


@dataclass(frozen=True)
class Rounding:
    """What 16-bit couplings do to a machine.

    Args:
        step: The step of the couplings, in nats.
        couplings: The couplings whose law is sampled, shape (M,).
        largest_error: Bound of the error of any bit's log-odds, in nats.
    """

    step: float
    couplings: Tensor
    largest_error: float


def rounding(topology: Topology, couplings: Tensor) -> Rounding:
    """Step, rounded couplings and error bound of the ``int16`` kernel.

    Args:
        topology: The graph.
        couplings: W (M,).
    """
    values = couplings.detach().cpu().numpy().astype(np.float64)
    degrees = np.bincount(topology.edges.ravel(), minlength=topology.n_nodes)
    largest = 0.0
    for part in (np.maximum(values, 0), np.maximum(-values, 0)):
        sums = sum(np.bincount(ends, weights=part, minlength=topology.n_nodes) for ends in topology.edges.T)
        largest = max(largest, float(np.max(sums, initial=0.0)))
    degree = int(degrees.max(initial=0))
    step = float(np.float32(largest / (32767 - degree))) or 1.0
    rounded = np.rint(values / step) * step
    return Rounding(step, torch.from_numpy(rounded.astype(np.float32)), degree * step / 2)


@dataclass(frozen=True)
class PackedBlocks:
    """The kernel.

    Args:
        precision: How couplings are held.
    """

    precision: Precision = "float32"

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> "PackedPlan":
        """What follows from graph and clamp mask (N,)."""
        del device
        return PackedPlan.of(topology, PackedRows.of(topology, mask))

    def run(self, plan: "PackedPlan", call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
        words = pack(call.states)
        if words is None:
            raise PriorError("chain states must be zeros and ones; round them first")
        work = _Work.of(plan, call, words, self.precision)
        is_short = len(words) * len(plan.rows.nodes) * call.n_sweeps < _LEAST_SHARED
        n_threads = 1 if is_short else min(torch.get_num_threads(), len(words))
        if n_threads == 1:
            for block in range(len(words)):
                work.sweep(block)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(work.sweep, range(len(words))))
        return unpack(words, len(call.states))


@dataclass(frozen=True)
class PackedPlan:
    """Neighbour lists as the compiled code reads them: places of words in bytes."""

    topology: Topology
    rows: PackedRows
    common: NDArray[np.int32]
    own: NDArray[np.int32]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, topology: Topology, rows: PackedRows) -> "PackedPlan":
        """Turns node numbers into places."""
        return cls(topology, rows, (8 * rows.common).astype(np.int32), (8 * rows.own).astype(np.int32), 8 * rows.nodes)


@dataclass(frozen=True)
class _Work:
    """A running call: what the compiled code reads for each block, and the arrays that must outlive it."""

    sweeper: Callable[..., None]
    groups: NDArray[np.int64]
    tables: NDArray[np.int64]  # (blocks, entries of TABLE)
    n_sweeps: int
    arrays: tuple[NDArray[np.generic], ...]

    @classmethod
    def of(cls, plan: PackedPlan, call: SweepCall, words: Words, precision: Precision) -> "_Work":
        rows, n_blocks = plan.rows, len(words)
        common, own, step = _weights(plan, call.couplings, precision)
        betas = torch.full((len(call.states),), float(call.beta)) if call.betas is None else call.betas
        largest = float(betas.abs().max())
        fields = call.fields.detach().to(torch.float32).numpy()
        is_wide = fields.ndim > 1
        by_block: dict[str, NDArray[np.generic]] = {
            "words": words,
            "fields": _by_block(fields[:, rows.nodes], n_blocks) if is_wide else fields[rows.nodes],
            "rates": -_LOG2_E * _padded(betas.numpy(), n_blocks).reshape(n_blocks, BLOCK),
            "streams": _streams(n_blocks, call.generator),
        }
        same: dict[str, NDArray[np.generic]] = {
            "common": plan.common,
            "common_weights": common,
            "own": plan.own,
            "own_weights": own,
            "own_offsets": rows.own_offsets,
            "places": plan.places,
        }
        limit = MAX_EXPONENT / (_LOG2_E * largest) if largest > 0 else MAX_EXPONENT
        numbers = {"is_wide": int(is_wide), "step": _bits(step), "limit": _bits(limit)}
        table = numbers | {name: _address(array) for name, array in (same | by_block).items()}
        tables = np.tile(np.array([table[name] for name in TABLE], dtype=np.int64), (n_blocks, 1))
        for name, array in by_block.items():
            if name != "fields" or is_wide:
                tables[:, TABLE.index(name)] += np.arange(n_blocks) * (array.nbytes // n_blocks)
        arrays = (*same.values(), *by_block.values())
        sweeper = sweep_float32 if precision == "float32" else sweep_int16
        return cls(sweeper, rows.groups, tables, call.n_sweeps, arrays)

    def sweep(self, block: int) -> None:
        """Runs all sweeps of one block of chains."""
        for start in range(0, self.n_sweeps, _SWEEPS_AT_A_TIME):
            self.sweeper(self.tables[block], self.groups, min(_SWEEPS_AT_A_TIME, self.n_sweeps - start))


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _streams(n_blocks: int, generator: torch.Generator) -> NDArray[np.int32]:
    """Fresh generator states of all chains, (blocks, 4, 64)."""
    shape = (n_blocks, _STREAM_WORDS, BLOCK)
    drawn: NDArray[np.int32] = torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int32).numpy()
    return drawn


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _weights(
    plan: PackedPlan, couplings: Tensor, precision: Precision
) -> tuple[NDArray[np.generic], NDArray[np.generic], float]:
    """Weights of the shared and of the own neighbours, four bytes each, and the step."""
    rows = plan.rows
    if precision == "float32":
        values = couplings.detach().to(torch.float32).numpy()
        return values[rows.common_couplers], values[rows.own_couplers], 1.0
    rounded = rounding(plan.topology, couplings)
    steps = np.rint(rounded.couplings.numpy().astype(np.float64) / rounded.step).astype(np.int16)
    twice = np.repeat(steps, 2).view(np.int32)
    return twice[rows.common_couplers], twice[rows.own_couplers], rounded.step


def _padded(values: NDArray[np.float32], n_blocks: int) -> NDArray[np.float32]:
    """Rows for full blocks of chains; chains that fill up the last are zero."""
    missing = n_blocks * BLOCK - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), dtype=np.float32)])


def _by_block(fields: NDArray[np.float32], n_blocks: int) -> NDArray[np.float32]:
    """Fields (chains, rows) as (blocks, rows, 64)."""
    return np.ascontiguousarray(_padded(fields, n_blocks).reshape(n_blocks, BLOCK, -1).transpose(0, 2, 1))
