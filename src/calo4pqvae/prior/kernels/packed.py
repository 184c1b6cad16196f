r"""The packed CPU kernel: 64 chains a word, every block of 64 chains runs all its sweeps alone.

A block's words (8 bytes a node) stay in the cache nearest to a core while it sweeps; blocks are shared out to threads,
whose number changes nothing in the result. Each call draws new streams of random numbers from the generator, so that a
call of ten sweeps has other numbers than calls of four and six; both have the same law.

Row i sums its field in 32-bit integers, in steps of

.. math:: \delta_i = \frac{\max(\sum_j W_{ij}^+, \sum_j W_{ij}^-) + |\phi_i|}{2^{31} - 2 - d},

where d is the largest degree, so that no sum can overflow. Rounding moves no log-odds by more than
:math:`(d + 1) \delta_i / 2`, which is :math:`(d + 1) / 2^{32}` of the largest that the row can have: less than the error
of a sum in float32.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calo4pqvae.errors import PriorError
from calo4pqvae.prior.kernels.call import SweepCall
from calo4pqvae.prior.kernels.packed_lanes import N_STREAMS, TABLE, sweep, sweep_mixed
from calo4pqvae.prior.kernels.packed_rows import PackedRows
from calo4pqvae.prior.kernels.packing import BLOCK, Words, pack, unpack
from calo4pqvae.prior.kernels.squeeze import tabulate
from calo4pqvae.prior.topology import Topology

__all__ = ["PackedBlocks"]

Number = TypeVar("Number", bound=np.generic)

_LOG2_E = math.log2(math.e)
_SWEEPS_AT_A_TIME = 1000  # compiled code cannot be interrupted; about a second
_STREAM_WORDS = 4
_LEAST_SHARED = 20_000  # words to draw from which starting threads pays: about half a millisecond


@dataclass(frozen=True)
class PackedBlocks:
    """The kernel."""

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> "PackedPlan":
        """What follows from graph and clamp mask (N,)."""
        del device
        return PackedPlan.of(topology, PackedRows.of(topology, mask))

    def run(self, plan: "PackedPlan", call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
        words = pack(call.states)
        if words is None:
            raise PriorError("chain states must be zeros and ones; round them first")
        work = _Work.of(plan, call, words)
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
    def of(cls, plan: PackedPlan, call: SweepCall, words: Words) -> "_Work":
        rows, n_blocks = plan.rows, len(words)
        fields = call.fields.detach().numpy()[..., rows.nodes].astype(np.float64)
        betas = call.betas
        rate = -_LOG2_E * (float(call.beta) if betas is None else 1.0)
        scaled = _Scaled.of(rows, rate * call.couplings.detach().numpy().astype(np.float64), rate * fields)
        is_mixed = betas is not None or bool((scaled.shifts < 1).any())
        constant = scaled.fields if is_mixed else scaled.fields + (1 << (scaled.shifts - 1)).astype(np.int32)
        has_own_fields, squeeze = fields.ndim > 1, tabulate()
        same: dict[str, NDArray[np.generic]] = {
            "common": plan.common,
            "common_weights": scaled.common,
            "own": plan.own,
            "own_weights": scaled.own,
            "own_offsets": rows.own_offsets,
            "places": plan.places,
            "steps": (2.0 ** -(scaled.shifts + 11.0)).astype(np.float32),
            "shifts": scaled.shifts,
            "brackets": squeeze.coefficients,
        }
        by_block: dict[str, NDArray[np.generic]] = {
            "words": words,
            "rates": _padded(np.ones(len(call.states), dtype=np.float32) if betas is None else betas.numpy(), n_blocks),
            "streams": _streams(n_blocks, call.generator),
        }
        (by_block if has_own_fields else same)["fields"] = (
            _by_block(constant, n_blocks) if has_own_fields else constant
        )
        numbers = {
            "has_own_fields": int(has_own_fields),
            "width": squeeze.width,
        }
        table = numbers | {name: _address(array) for name, array in (same | by_block).items()}
        tables = np.tile(np.array([table[name] for name in TABLE], dtype=np.int64), (n_blocks, 1))
        for name, array in by_block.items():
            tables[:, TABLE.index(name)] += np.arange(n_blocks) * (array.nbytes // n_blocks)
        return cls(sweep_mixed if is_mixed else sweep, rows.groups, tables, call.n_sweeps, (*same.values(), *by_block.values()))

    def sweep(self, block: int) -> None:
        """Runs all sweeps of one block of chains."""
        for start in range(0, self.n_sweeps, _SWEEPS_AT_A_TIME):
            self.sweeper(self.tables[block], self.groups, min(_SWEEPS_AT_A_TIME, self.n_sweeps - start))


@dataclass(frozen=True)
class _Scaled:
    """Parameters as integers in steps of each row."""

    shifts: NDArray[np.int32]  # (rows,): step 2**-(11 + shift) of x
    common: NDArray[np.int32]
    own: NDArray[np.int32]
    fields: NDArray[np.int32]  # (rows,) or (chains, rows)

    @classmethod
    def of(cls, rows: PackedRows, couplings: NDArray[np.float64], fields: NDArray[np.float64]) -> "_Scaled":
        common, own = couplings[rows.common_couplers], couplings[rows.own_couplers]
        largest = np.zeros(len(rows.nodes))
        for sign in (1, -1):
            sums = np.bincount(rows.common_rows, np.maximum(sign * common, 0), len(largest))
            sums += np.bincount(rows.own_rows, np.maximum(sign * own, 0), len(largest))
            np.maximum(largest, sums, out=largest)
        largest += np.abs(fields).max(axis=0, initial=0.0) if fields.ndim > 1 else np.abs(fields)
        with np.errstate(divide="ignore"):
            bits = np.floor(np.log2((2.0**31 - 2 - 2**20 - rows.largest_degree) / largest))
        shifts = np.minimum(bits - 11, 20).astype(np.int32)
        scale = 2.0 ** (shifts + 11)
        return cls(
            shifts,
            np.rint(common * scale[rows.common_rows]).astype(np.int32),
            np.rint(own * scale[rows.own_rows]).astype(np.int32),
            np.rint(fields * scale).astype(np.int32),
        )


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _streams(n_blocks: int, generator: torch.Generator) -> NDArray[np.int32]:
    """Fresh generator states of all blocks, (blocks, 4, streams)."""
    shape = (n_blocks, _STREAM_WORDS, N_STREAMS)
    drawn: NDArray[np.int32] = torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int32).numpy()
    return drawn


def _padded(values: NDArray[Number], n_blocks: int) -> NDArray[Number]:
    """Rows for full blocks of chains; chains that fill up the last are zero."""
    missing = n_blocks * BLOCK - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), dtype=values.dtype)])


def _by_block(fields: NDArray[np.int32], n_blocks: int) -> NDArray[np.int32]:
    """Fields (chains, rows) as (blocks, rows, 64)."""
    return np.ascontiguousarray(_padded(fields, n_blocks).reshape(n_blocks, BLOCK, -1).transpose(0, 2, 1))
