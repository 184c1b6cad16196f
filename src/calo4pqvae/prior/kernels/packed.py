r"""The packed CPU kernel: 64 chains a word, every block of 64 chains runs all its sweeps alone.

A block's words (8 bytes a node) stay in the cache nearest to a core while it sweeps; blocks are shared out to threads,
whose number changes nothing in the result. Each call draws new streams of random numbers from the generator, so that a
call of ten sweeps has other numbers than calls of four and six; both have the same law.

Row i sums :math:`x = -\beta f \log_2 e` in 32-bit integers, in steps of :math:`2^{-11 - s_i}`. The shift :math:`s_i` is
the largest up to 20 with which no sum can overflow,

.. math:: 2^{11 + s_i} L_i + 2^{20} + d \leq 2^{31} - 2, \qquad L_i = \sum_j |X_{ij}| + \max_c |x^0_{ic}|,

where X and :math:`x^0` are couplings and constant parts in units of x, and d is the largest degree. Rounding moves x by
no more than half a step for each of d + 1 terms, that is by :math:`(d + 1)\, 2^{-31} \max(1.01\, L_i, 1)`: less than
the error of a sum in float32.
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
from calo4pqvae.prior.graph.topology import Topology
from calo4pqvae.prior.kernels.call import SweepCall
from calo4pqvae.prior.kernels.packed_lanes import N_STREAMS, TABLE, sweep, sweep_mixed
from calo4pqvae.prior.kernels.packed_rows import PackedRows
from calo4pqvae.prior.kernels.packing import BLOCK, Words, pack_into, unpack_into
from calo4pqvae.prior.kernels.squeeze import UNIT_BITS, tabulate

__all__ = ["PackedBlocks", "ScaledRows"]

Number = TypeVar("Number", bound=np.generic)

_LOG2_E = math.log2(math.e)
_SWEEPS_AT_A_TIME = 1000  # compiled code cannot be interrupted; about a second
_STREAM_WORDS = 4
_GAP = 128  # bytes that a processor may fetch together; blocks that share them make their threads wait for each other
_MOST_SHIFT = 20
_ROOM = 2**20  # of an integer sum: what is added for rounding, and more
_LEAST_SHARED = 20_000  # words to draw from which starting threads pays: about a third of a millisecond


@dataclass(frozen=True)
class PackedBlocks:
    """The kernel."""

    def plan(self, topology: Topology, mask: NDArray[np.bool_], device: torch.device) -> "PackedPlan":
        """What follows from graph and clamp mask (N,)."""
        del device
        return PackedPlan.of(topology, PackedRows.of(topology, mask))

    def run(self, plan: "PackedPlan", call: SweepCall) -> Tensor:
        """All bits (chains, N) after the sweeps."""
        n_blocks = -(-len(call.states) // BLOCK)
        words = np.zeros((n_blocks, call.states.shape[1] + _GAP // 8), dtype=np.uint64)
        work = _Work.of(plan, call, words)
        is_short = n_blocks * len(plan.rows.nodes) * call.n_sweeps < _LEAST_SHARED
        n_threads = 1 if is_short else min(torch.get_num_threads(), n_blocks)
        if n_threads == 1:
            are_bits = [work.run(block) for block in range(n_blocks)]
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                are_bits = list(pool.map(work.run, range(n_blocks)))
        if not all(are_bits):
            raise PriorError("chain states must be zeros and ones; round them first")
        return torch.from_numpy(work.after)


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
    before: NDArray[np.float32]  # (chains, N)
    after: NDArray[np.float32]
    words: Words  # (blocks, N and a gap)
    arrays: tuple[NDArray[np.generic], ...]

    @classmethod
    def of(cls, plan: PackedPlan, call: SweepCall, words: Words) -> "_Work":
        rows, n_blocks = plan.rows, len(words)
        fields = call.fields.detach().to(torch.float32).numpy()[..., rows.nodes]
        betas = call.betas
        rate = -_LOG2_E * (float(call.beta) if betas is None else 1.0)
        couplings = call.couplings.detach().numpy().astype(np.float64)
        scaled = ScaledRows.of(rows, rate * couplings, rate * fields)
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
            "steps": (2.0 ** -(scaled.shifts + float(UNIT_BITS))).astype(np.float32),
            "shifts": scaled.shifts,
            "brackets": squeeze.coefficients,
        }
        by_block: dict[str, NDArray[np.generic]] = {
            "words": words,
            "rates": _padded(np.ones(len(call.states), dtype=np.float32) if betas is None else betas.numpy(), n_blocks),
            "streams": _streams(n_blocks, call.generator),
        }
        (by_block if has_own_fields else same)["fields"] = _by_block(constant, n_blocks) if has_own_fields else constant
        numbers = {"has_own_fields": int(has_own_fields), "width": squeeze.width}
        table = numbers | {name: _address(array) for name, array in (same | by_block).items()}
        tables = np.tile(np.array([table[name] for name in TABLE], dtype=np.int64), (n_blocks, 1))
        for name, array in by_block.items():
            tables[:, TABLE.index(name)] += np.arange(n_blocks) * (array.nbytes // n_blocks)
        before = np.ascontiguousarray(call.states.detach().numpy())
        return cls(
            sweeper=sweep_mixed if is_mixed else sweep,
            groups=rows.groups,
            tables=tables,
            n_sweeps=call.n_sweeps,
            before=before,
            after=np.empty_like(before),
            words=words,
            arrays=(*same.values(), *by_block.values()),
        )

    def run(self, block: int) -> bool:
        """Runs all sweeps of one block of chains; false if its states are no bits."""
        chains, words = slice(BLOCK * block, BLOCK * (block + 1)), self.words[block : block + 1]
        if not pack_into(self.before[chains], words):
            return False
        for start in range(0, self.n_sweeps, _SWEEPS_AT_A_TIME):
            self.sweeper(self.tables[block], self.groups, min(_SWEEPS_AT_A_TIME, self.n_sweeps - start))
        unpack_into(words, self.after[chains].view(np.uint32))
        return True


@dataclass(frozen=True)
class ScaledRows:
    """Parameters as integers, in steps of 2**-(11 + shift) of x that each row has for itself.

    Args:
        shifts: Shift of every row, shape (rows,).
        common: Couplings of the shared neighbours, as in :class:`PackedRows`.
        own: Couplings of the other neighbours, likewise.
        fields: Constant parts, (rows,) or (chains, rows).
    """

    shifts: NDArray[np.int32]
    common: NDArray[np.int32]
    own: NDArray[np.int32]
    fields: NDArray[np.int32]

    @classmethod
    def of(cls, rows: PackedRows, couplings: NDArray[np.float64], fields: NDArray[np.floating]) -> "ScaledRows":
        """Takes the finest steps; couplings (M,) and fields (rows,) or (chains, rows) are in units of x."""
        common, own = couplings[rows.common_couplers], couplings[rows.own_couplers]
        largest = np.maximum(fields.max(axis=0), -fields.min(axis=0)) if fields.ndim > 1 else np.abs(fields)
        for places, weights in ((rows.common_rows, common), (rows.own_rows, own)):
            largest = largest + np.bincount(places, np.abs(weights), len(rows.nodes))
        most = 2.0**31 - 2 - _ROOM - rows.largest_degree
        bits = np.floor(np.log2(most / np.maximum(largest, 1.0)))
        shifts = np.minimum(bits - UNIT_BITS, _MOST_SHIFT).astype(np.int32)
        scale = 2.0 ** (shifts + UNIT_BITS)
        return cls(
            shifts,
            np.rint(common * scale[rows.common_rows]).astype(np.int32),
            np.rint(own * scale[rows.own_rows]).astype(np.int32),
            np.rint(fields * scale.astype(fields.dtype)).astype(np.int32),
        )


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _streams(n_blocks: int, generator: torch.Generator) -> NDArray[np.int32]:
    """Fresh generator states of all blocks, (blocks, 4, streams), and a gap after each."""
    shape = (n_blocks, _STREAM_WORDS * N_STREAMS)
    drawn = torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int32).numpy()
    return np.pad(drawn, ((0, 0), (0, _GAP // 4)))


def _padded(values: NDArray[Number], n_blocks: int) -> NDArray[Number]:
    """Rows for full blocks of chains; chains that fill up the last are zero."""
    missing = n_blocks * BLOCK - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]), dtype=values.dtype)])


def _by_block(fields: NDArray[np.int32], n_blocks: int) -> NDArray[np.int32]:
    """Fields (chains, rows) as (blocks, rows, 64)."""
    return np.ascontiguousarray(_padded(fields, n_blocks).reshape(n_blocks, BLOCK, -1).transpose(0, 2, 1))
