r"""Block Gibbs on a GPU: all sweeps of a call in one launch, 32 chains in a word.

The law is that of every kernel: partition after partition, bit :math:`i` becomes one with probability

.. math:: \sigma\Big(\beta \big(f_i + \sum_{j \sim i} W_{ij} z_j\big)\Big)

on any graph in partitions, with :math:`f` the part of the field that stays (biases, condition, clamped neighbours). One
program owns some words of 32 chains for the whole call, so that nothing but the start and the end of a call passes
through the memory of the GPU as floats. :mod:`~calo4pqvae.prior.kernels.triton_program` says how an update is made.

**Random numbers** depend on (seed, sweep, bit, chain) alone. The same seed draws the same bits, whatever the number of
chains and the shape of programs. A call draws its seed from the generator: ten sweeps have other numbers than four and
then six, with the same law.

**What bounds the speed.** An update of a bit with 20 neighbours takes about 45 instructions as compiled for Hopper, 32
for the neighbours and 13 for the draw. 132 multiprocessors that start 128 of them in each of 1.755e9 cycles a second
could make 650 updates a nanosecond, if nothing had to wait. These are counts of instructions and no measurement;
``benchmarks/gpu_sweeps.py`` measures.

Triton is imported by the first call. With the environment variable ``TRITON_INTERPRET=1`` set before that, its
interpreter runs the same program on the CPU: slowly, for tests.
"""

import importlib
import importlib.util
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Self

import torch
from torch import Tensor

from calo4pqvae.errors import PriorError

__all__ = ["NeighbourTable", "is_available", "triton_sweeps", "unavailable_because"]

_LOG2_E = math.log2(math.e)
_LANES = 256  # bits that a program updates together, one a thread
_INTERPRETED_LANES = 1 << 14  # the interpreter pays for operations, not for lanes
_WARPS = _LANES // 32
_REGISTERS = 128  # a thread; two programs then share a multiprocessor
_LEAST_CAPABILITY = (7, 0)
_NARROWER = 1.1  # least gain in steps for which a program takes half as many bits of twice as many words
_NARROWEST = 32  # bits, so that the lanes of a warp read side by side
_AHEAD = 2  # rows of the neighbour table that a program reads beyond the last neighbour
_MOST_ENTRIES = 2**31  # of the neighbour table, which is addressed with 32 bits


def unavailable_because(device: torch.device) -> str | None:
    """Why this kernel cannot run on a device; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"it runs on a CUDA device, the machine is on {device}"
    if torch.version.cuda is None:
        return "it is written for NVIDIA GPUs"
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return f"the GPU is older than compute capability {_LEAST_CAPABILITY[0]}.{_LEAST_CAPABILITY[1]}"
    return None


def is_available(device: torch.device) -> bool:
    """Whether this kernel can run on a device."""
    return unavailable_because(device) is None


@dataclass(frozen=True)
class NeighbourTable:
    """Neighbour lists of the free bits as lanes read them: entry k of all bits side by side.

    Made once for a graph and a clamp mask, used by all calls.

    Args:
        neighbours: Neighbour number k of every bit, int32, shape (largest degree + 2, n); 0 where there is none.
        entries: Which weight belongs to it, int64, the same shape; one past the last weight where there is none.
        degrees: Largest number of neighbours in each partition, int32, shape (P,).
        starts: First bit of each partition and the number of bits, int32, shape (P + 1,).
        sizes: Bits in each partition.
    """

    neighbours: Tensor
    entries: Tensor
    degrees: Tensor
    starts: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, indices: Tensor, offsets: Tensor, partition_offsets: Sequence[int]) -> Self:
        """Lays out compressed rows.

        Args:
            indices: Neighbours of bit 0, then of bit 1, ..., int32, shape (E,).
            offsets: Start of every bit's share of ``indices``, shape (n + 1,).
            partition_offsets: First bit of each partition, and n.

        Raises:
            PriorError: If the partitions do not make up the bits, or the table is too large.
        """
        bounds, n = [int(bound) for bound in partition_offsets], len(offsets) - 1
        sizes = tuple(stop - start for start, stop in itertools.pairwise(bounds))
        if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != n or min(sizes) < 0:
            raise PriorError(f"partitions that start at {bounds} do not make up {n} bits; give starts from 0 to {n}")
        counts = offsets.diff()
        on_host = counts.cpu()
        degrees = [int(part.max()) if len(part) else 0 for part in torch.split(on_host, list(sizes))]
        depth = max(degrees) + _AHEAD
        if depth * n >= _MOST_ENTRIES:
            raise PriorError(f"{n} bits with up to {max(degrees)} neighbours are too many for this kernel; use torch")
        order = torch.arange(depth, device=indices.device)[:, None]
        entries = torch.where(order < counts, offsets[:-1] + order, len(indices)).to(torch.int64)
        return cls(
            neighbours=_padded(indices)[entries].to(torch.int32),
            entries=entries,
            degrees=torch.tensor(degrees, dtype=torch.int32, device=indices.device),
            starts=torch.tensor(bounds, dtype=torch.int32, device=indices.device),
            sizes=sizes,
        )

    @torch.no_grad()
    def sweeps(
        self, values: Tensor, weights: Tensor, constant: Tensor, beta: Tensor, n_sweeps: int, seed: int
    ) -> Tensor:
        """Continues the chains; arguments as of :func:`triton_sweeps`."""
        n, n_chains = values.shape
        self._check(values, constant, beta, n_sweeps)
        if 0 in (n, n_chains, n_sweeps):
            return values.clone()
        program = _program()
        rates = -_LOG2_E * beta.to(values.device, torch.float32)
        common = torch.ones_like(rates[0]) if rates.ndim else rates
        scaled = _padded((common * weights).to(torch.float32))[self.entries]
        table = torch.stack([self.neighbours, scaled.view(torch.int32)], dim=-1).view(torch.int64)
        fields = (common * constant).to(torch.float32).t().contiguous()
        start, result = values.contiguous(), torch.empty_like(values, memory_format=torch.contiguous_format)
        n_words = -(-n_chains // program.BITS)
        nodes, words = self._shape(n_words, values.device, program.is_interpreted)
        with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
            program.gibbs_program[(-(-n_words // words),)](
                start,
                result,
                torch.empty(n_words, n, dtype=torch.int32, device=values.device),
                table,
                self.degrees,
                self.starts,
                fields,
                rates,
                seed,
                n_chains,
                n,
                n_sweeps,
                len(self.sizes),
                CHAIN_FIELD=len(fields) > 1,
                CHAIN_RATE=rates.ndim > 0,
                NODES=nodes,
                WORDS=words,
                ASSEMBLY=not program.is_interpreted,
                num_warps=_WARPS,
                maxnreg=_REGISTERS,
                enable_fp_fusion=True,
            )
        return result

    def _shape(self, n_words: int, device: torch.device, is_interpreted: bool) -> tuple[int, int]:
        """Bits and words that a program updates together: few steps of the busiest multiprocessor."""
        if is_interpreted:
            nodes, words = (1 << (largest - 1).bit_length() for largest in (max(self.sizes), n_words))
            return nodes, min(words, max(1, _INTERPRETED_LANES // nodes))
        n_processors = torch.cuda.get_device_properties(device).multi_processor_count

        def cost(shift: int) -> float:
            steps = sum(-(-size // (_LANES >> shift)) for size in self.sizes)
            programs = -(-n_words // (1 << shift))
            return -(-programs // n_processors) * steps * _NARROWER**shift

        shift = min(range((_LANES // _NARROWEST).bit_length()), key=cost)
        return _LANES >> shift, 1 << shift

    def _check(self, values: Tensor, constant: Tensor, beta: Tensor, n_sweeps: int) -> None:
        reason = unavailable_because(values.device)
        if reason is not None:
            raise PriorError(f"the triton kernel cannot run: {reason}; use another kernel")
        n, n_chains = values.shape
        if n != sum(self.sizes) or tuple(constant.shape) not in {(n, 1), (n, n_chains)}:
            raise PriorError(
                f"values {tuple(values.shape)} and constant fields {tuple(constant.shape)} do not fit a table of "
                f"{sum(self.sizes)} bits; give (bits, chains) and (bits, 1) or (bits, chains)"
            )
        if beta.ndim and tuple(beta.shape) != (n_chains,):
            raise PriorError(f"beta has shape {tuple(beta.shape)}; give a number or one for each of {n_chains} chains")
        if n_sweeps < 0:
            raise PriorError(f"{n_sweeps} sweeps cannot be made; ask for 0 or more")


def triton_sweeps(
    values: Tensor,
    indices: Tensor,
    offsets: Tensor,
    weights: Tensor,
    partition_offsets: Sequence[int],
    constant: Tensor,
    beta: Tensor,
    n_sweeps: int,
    seed: int,
) -> Tensor:
    """Draws every bit ``n_sweeps`` times, partition after partition.

    Args:
        values: Free bits of all chains, zeros and ones of any type, shape (n, chains).
        indices: Neighbours of bit 0, then of bit 1, ..., among the free bits, int32, shape (E,).
        offsets: Start of every bit's share of ``indices``, int32, shape (n + 1,).
        weights: W of each entry of ``indices``, float32, shape (E,).
        partition_offsets: First bit of each partition, and n.
        constant: Part of the field that stays, not scaled by beta, shape (n, 1) or (n, chains).
        beta: Inverse temperature, one number or one for each chain, shape () or (chains,).
        n_sweeps: Sweeps.
        seed: Seed of 63 bits.

    Returns:
        The new bits, of the type of ``values``.

    Raises:
        PriorError: If the kernel cannot run there, or a shape does not fit.
    """
    table = NeighbourTable.of(indices, offsets, partition_offsets)
    return table.sweeps(values, weights, constant, beta, n_sweeps, seed)


def _padded(entries: Tensor) -> Tensor:
    """The entries and a zero, for places without neighbour."""
    return torch.cat([entries, entries.new_zeros(1)])


def _program() -> ModuleType:
    """The program's module, which imports Triton."""
    return importlib.import_module("calo4pqvae.prior.kernels.triton_program")
