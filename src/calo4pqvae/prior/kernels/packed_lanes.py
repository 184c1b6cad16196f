r"""Compiled sweeps over bit-packed chains: one machine word holds a bit of 64 chains.

A block of 64 chains is one word a node. For a row i (a free bit) the field of all 64 chains is summed at once,

.. math:: f_i^{(c)} = \phi_i^{(c)} + \sum_{j \sim i} W_{ij} z_j^{(c)},

by additions that the bits of word j mask lane by lane. Rows of one partition that share neighbours are summed
together, four or two at a time, so that a mask is loaded once for all of them. The new bits are

.. math:: z = 1 \iff u\, e^{-\beta f} < 1 - u, \qquad u = (2k + 1) / 2^{32}, \; k = 0 \dots 2^{31} - 1,

which is :math:`u < \sigma(\beta f)` without a division; u comes as an odd 32-bit integer, so that both sides keep their
precision in either tail. The exponential is a polynomial of degree five after range reduction, relative error below
4e-7: an error of 4e-7 in the log-odds. Random numbers are xoshiro128+ (Blackman and Vigna, arXiv 1805.01407), one
stream of 128 random bits of state for each chain.

**Precision.** ``float32`` couplings are added as they are. ``int16`` couplings are integer multiples of one step
:math:`\delta`; sums are exact, so that the law is the Boltzmann law of the machine with rounded couplings.

The vector code is written as LLVM vectors of 16 or 32 lanes through numba, and compiled for the processor at hand:
AVX-512 runs it as it is, other processors in several instructions. Compiled code is cached on disk by numba.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["MAX_EXPONENT", "TABLE", "sweep_float32", "sweep_int16"]

MAX_EXPONENT = 120.0
"""Fields beyond |beta f| log2(e) = 120 count as 120, where one state has probability 1e-36."""

_LANES = 16
_F32, _I16, _I32, _I64, _BIT = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.IntType(1)
_FLOATS, _INTS, _BITS = (ir.VectorType(kind, _LANES) for kind in (_F32, _I32, _BIT))
_SHORTS = ir.VectorType(_I16, 2 * _LANES)
_ROUND = 12582912.0  # 1.5 * 2**23: adding it rounds to an integer, which is then in the low bits
_EXP2 = (0.0013333558, 0.0096181291, 0.0555041087, 0.2402265070, 0.6931471806, 1.0)
_STREAM_WORDS = 4  # 32-bit words of a generator's state

IntArray = NDArray[np.int64]
Jit = Callable[[Callable[..., None]], Callable[..., None]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))


class _Code:
    """The few LLVM forms that the kernels need, on one builder."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.b = builder

    def address(self, base: ir.Value, n_bytes: int) -> ir.Value:
        return self.b.add(base, ir.Constant(_I64, n_bytes)) if n_bytes else base

    def load(self, address: ir.Value, kind: ir.Type, align: int = 4) -> ir.Value:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: ir.Value, address: ir.Value, align: int = 4) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def entry(self, base: ir.Value, index: ir.Value, kind: ir.Type, n_bytes: int) -> ir.Value:
        return self.load(self.b.add(base, self.b.mul(index, ir.Constant(_I64, n_bytes))), kind, align=n_bytes)

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def clamp(self, value: ir.Value, limit: ir.Value) -> ir.Value:
        low = self.b.select(self.b.fcmp_ordered("<", value, limit), value, limit)
        least = self.b.fneg(limit)
        return self.b.select(self.b.fcmp_ordered(">", low, least), low, least)

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        name = f"llvm.fma.v{_LANES}f32"
        function = self.b.module.globals.get(name)
        if function is None:
            function = ir.Function(self.b.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), name)
        return self.b.call(function, [x, y, z])


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * _LANES)


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * _LANES)


def _draw(code: _Code, streams: ir.Value, group: int) -> ir.Value:
    """Next 32 random bits of 16 chains; xoshiro128+, state in memory word by word."""
    b = code.b
    places = [code.address(streams, 64 * (4 * word + group)) for word in range(_STREAM_WORDS)]
    s0, s1, s2, s3 = (code.load(place, _INTS) for place in places)
    drawn = b.add(s0, s3)
    shifted = b.shl(s1, _ints(9))
    s2, s3 = b.xor(s2, s0), b.xor(s3, s1)
    s1, s0 = b.xor(s1, s2), b.xor(s0, s3)
    s2, s3 = b.xor(s2, shifted), b.or_(b.shl(s3, _ints(11)), b.lshr(s3, _ints(21)))
    for state, place in zip((s0, s1, s2, s3), places, strict=True):
        code.store(state, place)
    return drawn


def _accept(code: _Code, field: ir.Value, rates: ir.Value, drawn: ir.Value) -> ir.Value:
    """Sixteen new bits: u exp(-beta f) < 1 - u, where rates = -beta log2(e)."""
    b = code.b
    rounded = code.fma(field, rates, _floats(_ROUND))
    rest = code.fma(field, rates, b.fsub(_floats(_ROUND), rounded))
    power = _floats(_EXP2[0])
    for coefficient in _EXP2[1:]:
        power = code.fma(power, rest, _floats(coefficient))
    exponent = b.shl(b.bitcast(rounded, _INTS), _ints(23))
    odds = b.bitcast(b.add(b.bitcast(power, _INTS), exponent), _FLOATS)
    odd = b.or_(drawn, _ints(1))
    low, high = b.uitofp(odd, _FLOATS), b.uitofp(b.sub(_ints(0), odd), _FLOATS)
    return b.fcmp_ordered("<", b.fmul(low, odds), high)


class _Sum:
    """How couplings are summed: accumulators of a row over 64 chains, one masked addition, and the field at last."""

    def __init__(self, precision: Literal["float32", "int16"]) -> None:
        short = precision == "int16"
        self.weight: ir.Type = _I32 if short else _F32
        self.repeated = ir.VectorType(self.weight, _LANES)
        self.vector = _SHORTS if short else _FLOATS
        self.mask = _I32 if short else _I16
        self.bits = ir.VectorType(_BIT, self.vector.count)
        self.n_parts = 64 // self.vector.count
        self.zero = ir.Constant(self.vector, [0 if short else 0.0] * self.vector.count)

    def add(self, code: _Code, sums: list[ir.Value], masks: list[ir.Value], weight: ir.Value) -> list[ir.Value]:
        b = code.b
        wide = b.bitcast(code.splat(weight, self.repeated), self.vector)
        plus = b.add if self.vector is _SHORTS else b.fadd
        return [b.select(mask, plus(total, wide), total) for total, mask in zip(sums, masks, strict=True)]

    def masks(self, code: _Code, word: ir.Value) -> list[ir.Value]:
        step = 8 // self.n_parts
        parts = (code.load(code.address(word, step * part), self.mask, align=step) for part in range(self.n_parts))
        return [code.b.bitcast(part, self.bits) for part in parts]

    def field(self, code: _Code, sums: list[ir.Value], group: int, step: ir.Value, constant: ir.Value) -> ir.Value:
        if self.vector is _FLOATS:
            return code.b.fadd(sums[group], constant)
        half = [_LANES * (group % 2) + lane for lane in range(_LANES)]
        part = code.b.shuffle_vector(sums[group // 2], sums[group // 2], ir.Constant(_INTS, half))
        return code.fma(code.b.sitofp(code.b.sext(part, _INTS), _FLOATS), step, constant)


def _loop(
    code: _Code, start: ir.Value, stop: ir.Value, carried: list[ir.Value], body: Callable[..., list[ir.Value]]
) -> list[ir.Value]:
    """``for k in range(start, stop): carried = body(k, carried)``."""
    b = code.b
    before = b.block
    inside, after = b.append_basic_block("inside"), b.append_basic_block("after")
    b.cbranch(b.icmp_signed("<", start, stop), inside, after)
    b.position_at_end(inside)
    index = b.phi(_I64)
    index.add_incoming(start, before)
    values = [b.phi(value.type) for value in carried]
    for value, first in zip(values, carried, strict=True):
        value.add_incoming(first, before)
    new = body(index, values)
    following = b.add(index, ir.Constant(_I64, 1))
    index.add_incoming(following, b.block)
    for value, last in zip(values, new, strict=True):
        value.add_incoming(last, b.block)
    end = b.block
    b.cbranch(b.icmp_signed("<", following, stop), inside, after)
    b.position_at_end(after)
    results = [b.phi(value.type) for value in carried]
    for result, first, last in zip(results, carried, new, strict=True):
        result.add_incoming(first, before)
        result.add_incoming(last, end)
    return results


TABLE = (
    "words", "common", "common_weights", "own", "own_weights", "own_offsets", "places", "fields", "is_wide", "rates",
    "streams", "step", "limit",
)  # fmt: skip
"""What a sweep is given, in the order of its table of 64-bit entries; most are addresses of arrays:

- ``words`` (N,): uint64, the bits of 64 chains; ``places`` (rows,): int64, byte offset of a row's word;
- ``common``, ``common_weights``: byte offsets (int32) of neighbours that the rows of a group share, and their weights
  (neighbours, rows of the group); ``own``, ``own_weights``, ``own_offsets``: the other neighbours, row by row;
- ``fields`` (rows,) or, if ``is_wide``, (rows, 64): constant part of the field, float32;
- ``rates`` (64,): -beta log2(e), float32; ``streams`` (4, 64): states of the generators, uint32;
- ``step``: bits of the float32 step of int16 weights; ``limit``: bits of the largest |field| that is told apart,
  float32.
"""


def _sum_rows(
    code: _Code, kind: _Sum, n_rows: int, span: tuple[ir.Value, ...], given: dict[str, ir.Value]
) -> list[list[ir.Value]]:
    """Accumulators [row][part] over shared and own neighbours."""
    b = code.b
    start, stop, row, shift = span

    def shared(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        offset = b.sext(code.entry(given["common"], index, _I32, 4), _I64)
        masks = kind.masks(code, b.add(given["words"], offset))
        weights = b.add(given["common_weights"], b.mul(index, ir.Constant(_I64, 4 * n_rows)))
        weights = b.add(weights, b.mul(shift, ir.Constant(_I64, 4)))
        new: list[ir.Value] = []
        for place in range(n_rows):
            weight = code.load(code.address(weights, 4 * place), kind.weight)
            new += kind.add(code, sums[kind.n_parts * place : kind.n_parts * (place + 1)], masks, weight)
        return new

    def single(index: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
        offset = b.sext(code.entry(given["own"], index, _I32, 4), _I64)
        masks = kind.masks(code, b.add(given["words"], offset))
        weight = code.entry(given["own_weights"], index, kind.weight, 4)
        return kind.add(code, sums, masks, weight)

    sums = [kind.zero] * (kind.n_parts * n_rows)
    if n_rows > 1:
        sums = _loop(code, start, stop, sums, shared)
    result = []
    for place in range(n_rows):
        at = b.add(row, ir.Constant(_I64, place))
        first = code.entry(given["own_offsets"], at, _I64, 8)
        last = code.entry(given["own_offsets"], b.add(at, ir.Constant(_I64, 1)), _I64, 8)
        part = sums[kind.n_parts * place : kind.n_parts * (place + 1)]
        result.append(_loop(code, first, last, part, single))
    return result


def _draw_row(code: _Code, kind: _Sum, sums: list[ir.Value], row: ir.Value, given: dict[str, ir.Value]) -> None:
    """Draws one row for 64 chains and stores its word."""
    b = code.b
    wide = b.icmp_signed("!=", given["is_wide"], ir.Constant(_I64, 0))
    stride = b.select(wide, ir.Constant(_I64, 4 * 64), ir.Constant(_I64, 4))
    field = b.add(given["fields"], b.mul(row, stride))
    step, limit = (code.splat(b.bitcast(b.trunc(given[name], _I32), _F32), _FLOATS) for name in ("step", "limit"))
    place = b.add(given["words"], code.entry(given["places"], row, _I64, 8))
    constants = _constants(code, field, wide)
    for group in range(4):
        total = code.clamp(kind.field(code, sums, group, step, constants[group]), limit)
        rates = code.load(code.address(given["rates"], 64 * group), _FLOATS)
        bits = _accept(code, total, rates, _draw(code, given["streams"], group))
        code.store(b.bitcast(bits, _I16), code.address(place, 2 * group), align=2)


def _constants(code: _Code, field: ir.Value, wide: ir.Value) -> list[ir.Value]:
    """Constant fields of 4 x 16 chains: loaded, or one number for all."""
    b = code.b
    each, one, after = (b.append_basic_block(name) for name in ("each", "one", "fields"))
    b.cbranch(wide, each, one)
    b.position_at_end(each)
    loaded = [code.load(code.address(field, 64 * group), _FLOATS) for group in range(4)]
    b.branch(after)
    b.position_at_end(one)
    same = code.splat(code.load(field, _F32), _FLOATS)
    b.branch(after)
    b.position_at_end(after)
    values = []
    for own in loaded:
        value = b.phi(_FLOATS)
        value.add_incoming(own, each)
        value.add_incoming(same, one)
        values.append(value)
    return values


def _updater(precision: Literal["float32", "int16"], n_rows: int) -> Any:  # noqa: ANN401
    """Intrinsic that draws rows ``row ... row + n_rows - 1``, which share neighbours ``start ... stop - 1``."""
    kind = _Sum(precision)

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:  # noqa: ANN401
        table, start, stop, row, shift = values
        code = _Code(builder)
        given = {name: code.load(code.address(table, 8 * at), _I64, align=8) for at, name in enumerate(TABLE)}
        sums = _sum_rows(code, kind, n_rows, (start, stop, row, shift), given)
        for place in range(n_rows):
            _draw_row(code, kind, sums[place], builder.add(row, ir.Constant(_I64, place)), given)
        return context.get_dummy_value()

    def update(_context: Any, _table: Any, _start: Any, _stop: Any, _row: Any, _shift: Any) -> Any:  # noqa: ANN401
        return types.void(*[types.intp] * 5), generate

    return intrinsic(update)


_four_floats, _two_floats, _one_float = (_updater("float32", n_rows) for n_rows in (4, 2, 1))
_four_shorts, _two_shorts, _one_short = (_updater("int16", n_rows) for n_rows in (4, 2, 1))


@_jit
def sweep_float32(table: IntArray, groups: IntArray, n_sweeps: int) -> None:
    """Sweeps 64 chains in place; ``groups`` is that of :class:`PackedRows`."""
    address = table.ctypes.data
    for _ in range(n_sweeps):
        for group in range(len(groups)):
            n_rows, row, start, stop, shift = groups[group]
            if n_rows == 4:
                _four_floats(address, start, stop, row, shift)
            elif n_rows == 2:
                _two_floats(address, start, stop, row, shift)
            else:
                _one_float(address, start, stop, row, shift)


@_jit
def sweep_int16(table: IntArray, groups: IntArray, n_sweeps: int) -> None:
    """As :func:`sweep_float32`, with int16 weights."""
    address = table.ctypes.data
    for _ in range(n_sweeps):
        for group in range(len(groups)):
            n_rows, row, start, stop, shift = groups[group]
            if n_rows == 4:
                _four_shorts(address, start, stop, row, shift)
            elif n_rows == 2:
                _two_shorts(address, start, stop, row, shift)
            else:
                _one_short(address, start, stop, row, shift)
