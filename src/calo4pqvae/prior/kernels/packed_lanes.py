r"""Compiled sweeps over bit-packed chains: one machine word holds a bit of 64 chains.

A block of 64 chains is one word a node. For a row i (a free bit) the field of all 64 chains is summed at once,

.. math:: f_i^{(c)} = \phi_i^{(c)} + \sum_{j \sim i} W_{ij} z_j^{(c)},

by additions that the bits of word j mask lane by lane. Rows of one partition that share neighbours are summed
together, four or two at a time, so that a mask is loaded once for all of them.

**Sums are integers.** What is summed is :math:`x = -\beta f \log_2 e`, the log-odds of a zero in powers of two, in
32-bit steps of :math:`2^{-11 - s_i}` with a shift :math:`s_i` that each row has for itself
(:mod:`~calo4pqvae.prior.kernels.packed`). Integers are added in any order without loss, at twice the rate of floating
point, and a shift to the right leaves the 16 bits that most draws need.

**Draws.** What is drawn is the outcome against the field, of probability :math:`1 / (1 + 2^{|x|})`. Sixteen random bits
decide it, unless they fall within the narrow bracket of :mod:`~calo4pqvae.prior.kernels.squeeze`; then sixteen more are
drawn, and

.. math:: u\, 2^{|x|} < 1 - u, \qquad u = (2k + 1) / 2^{32}, \; k = 0 \dots 2^{31} - 1,

decides, without a division and with full precision in either tail. The exponential is a polynomial of degree five after
range reduction, relative error below 4e-7: an error of 4e-7 in the log-odds. Random numbers are xoshiro128++ (Blackman
and Vigna, arXiv 1805.01407), 16 streams a block.

**Mixed** calls have chains with different beta, or fields too large for a shift: there x is summed at beta = 1 and
multiplied by the chain's own rate in float32.

The vector code is written as LLVM vectors of 16 or 32 lanes through numba, and compiled for the processor at hand:
AVX-512 runs it as it is, other processors in several instructions. Without AVX-512BW, which looks up brackets, every
draw takes 32 bits. Compiled code is cached on disk by numba.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["N_STREAMS", "TABLE", "sweep", "sweep_mixed"]

N_STREAMS = 16
"""Random-number streams of a block, four 32-bit words each."""

TABLE = (
    "words", "common", "common_weights", "own", "own_weights", "own_offsets", "places", "fields", "has_own_fields",
    "shifts", "steps", "rates", "streams", "brackets", "width",
)  # fmt: skip
"""What a sweep is given, in the order of its table of 64-bit entries; most are addresses of arrays:

- ``words`` (N,): uint64, the bits of 64 chains; ``places`` (rows,): int64, byte offset of a row's word;
- ``common``, ``common_weights``: byte offsets (int32) of neighbours that the rows of a group share, and their weights
  (neighbours, rows of the group) in steps of the row; ``own``, ``own_weights``, ``own_offsets``: the other neighbours,
  row by row;
- ``fields`` (rows,) or, if ``has_own_fields``, (rows, 64): constant part of x in steps, int32; unless the call is
  mixed with half a unit of 2**-11 added, so that shifting rounds;
- ``shifts`` (rows,), int32, and ``steps`` (rows,): 2**-(11 + shift), float32; ``rates`` (64,): by what x is multiplied
  in mixed calls, float32;
- ``streams`` (4, 16): states of the generators, uint32;
- ``brackets`` (3, 32), uint16, and ``width``: :class:`~calo4pqvae.prior.kernels.squeeze.Squeeze`.
"""

_LANES = 16
_PARTS = 64 // _LANES
_F32, _I16, _I32, _I64, _BIT = ir.FloatType(), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.IntType(1)
_FLOATS, _INTS, _BITS = (ir.VectorType(kind, _LANES) for kind in (_F32, _I32, _BIT))
_SHORTS = ir.VectorType(_I16, 2 * _LANES)
_QUADS = ir.VectorType(_I64, 8)
_AT_ONCE = 8  # neighbours added between two jumps
_TO_INTEGER = 1.5 * 2.0**23  # adding it rounds to an integer, which is then in the low bits
_HALF_UNIT = 0.5 / 2**11
_TO_UNITS = 1.5 * 2.0**12  # likewise to units of 2**-11
_LAST = 2**15 - 1  # of the values in the table of brackets
_LARGEST = _LAST / 2**11
_MAX_EXPONENT = 120.0  # |x| beyond counts as 120, where one outcome has probability 1e-36
_EXP2 = (0.0013333558, 0.0096181291, 0.0555041087, 0.2402265070, 0.6931471806, 1.0)

IntArray = NDArray[np.int64]
Given = dict[str, ir.Value]
Jit = Callable[[Callable[..., None]], Callable[..., None]]
_jit = cast(Jit, njit(nogil=True, cache=True, boundscheck=False))


class _Code:
    """The few LLVM forms that the kernel needs, on one builder.

    Args:
        builder: Where the code goes.
        features: What the processor can do, in the words of LLVM.
        is_mixed: Whether chains have their own rates.
    """

    def __init__(self, builder: ir.IRBuilder, features: str, is_mixed: bool) -> None:
        self.b = builder
        self.is_mixed = is_mixed
        self.has_brackets = "+avx512bw" in features.split(",")

    def address(self, base: ir.Value, n_bytes: int) -> ir.Value:
        return self.b.add(base, _long(n_bytes)) if n_bytes else base

    def load(self, address: ir.Value, kind: ir.Type, align: int = 4) -> ir.Value:
        return self.b.load(self.b.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: ir.Value, address: ir.Value, align: int = 4) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer()), align=align)

    def entry(self, base: ir.Value, index: ir.Value, kind: ir.Type, n_bytes: int) -> ir.Value:
        return self.load(self.b.add(base, self.b.mul(index, _long(n_bytes))), kind, align=n_bytes)

    def variable(self, value: ir.Value) -> ir.Value:
        """A place that holds a value and changes; the compiler makes it a register."""
        place: ir.Value = cgutils.alloca_once(self.b, value.type)  # type: ignore[no-untyped-call]
        self.b.store(value, place)
        return place

    def splat(self, value: ir.Value, kind: ir.VectorType) -> ir.Value:
        one = self.b.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
        return self.b.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

    def lanes(self, value: ir.Value, first: int) -> ir.Value:
        """Sixteen lanes of a vector."""
        places = ir.Constant(_INTS, [first + lane for lane in range(_LANES)])
        return self.b.shuffle_vector(value, value, places)

    def clamp(self, value: ir.Value, low: float, high: float) -> ir.Value:
        below = self.b.select(self.b.fcmp_ordered("<", value, _floats(high)), value, _floats(high))
        return self.b.select(self.b.fcmp_ordered(">", below, _floats(low)), below, _floats(low))

    def rotate(self, value: ir.Value, n_bits: int) -> ir.Value:
        return self.b.or_(self.b.shl(value, _ints(n_bits)), self.b.lshr(value, _ints(32 - n_bits)))

    def fma(self, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        return self._call(f"llvm.fma.v{_LANES}f32", _FLOATS, x, y, z)

    def look_up(self, table: ir.Value, index: ir.Value) -> ir.Value:
        """Entries of a table of 32 shorts."""
        return self._call("llvm.x86.avx512.permvar.hi.512", _SHORTS, table, index)

    def high_product(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Upper halves of products of unsigned shorts."""
        return self._call("llvm.x86.avx512.pmulhu.w.512", _SHORTS, x, y)

    def saturated(self, low: ir.Value, high: ir.Value) -> ir.Value:
        """Shorts from two vectors of integers, at their limits where they do not fit."""
        packed = self._call("llvm.x86.avx512.packssdw.512", _SHORTS, low, high)
        quads = self.b.bitcast(packed, _QUADS)
        order = ir.Constant(ir.VectorType(_I32, 8), [0, 2, 4, 6, 1, 3, 5, 7])
        return self.b.bitcast(self.b.shuffle_vector(quads, quads, order), _SHORTS)

    def _call(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        function = self.b.module.globals.get(name)
        if function is None:
            function = ir.Function(self.b.module, ir.FunctionType(result, [value.type for value in values]), name)
        return self.b.call(function, values)


def _long(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _floats(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * _LANES)


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * _LANES)


def _shorts(value: int) -> ir.Constant:
    return ir.Constant(_SHORTS, [value] * _SHORTS.count)


class _Random:
    """Sixteen streams of xoshiro128++, in registers while a group of rows is drawn."""

    def __init__(self, code: _Code, address: ir.Value) -> None:
        self.code = code
        self.homes = [code.address(address, 4 * N_STREAMS * word) for word in range(4)]
        self.places = [code.variable(code.load(home, _INTS)) for home in self.homes]

    def draw(self) -> ir.Value:
        """The next 32 times 16 random bits."""
        b = self.code.b
        s0, s1, s2, s3 = (b.load(place) for place in self.places)
        drawn = b.add(self.code.rotate(b.add(s0, s3), 7), s0)
        shifted = b.shl(s1, _ints(9))
        s2, s3 = b.xor(s2, s0), b.xor(s3, s1)
        s1, s0 = b.xor(s1, s2), b.xor(s0, s3)
        for place, word in zip(self.places, (s0, s1, b.xor(s2, shifted), self.code.rotate(s3, 11)), strict=True):
            b.store(word, place)
        return b.bitcast(drawn, _SHORTS)

    def keep(self) -> None:
        """Writes the states back."""
        for place, home in zip(self.places, self.homes, strict=True):
            self.code.store(self.code.b.load(place), home)


def _for_each(code: _Code, start: ir.Value, stop: ir.Value, body: Callable[[ir.Value], None]) -> None:
    """``for k in range(start, stop): body(k)``, some at once, and the rest by one jump, which is easily foreseen."""
    b = code.b
    middle = b.add(start, b.and_(b.sub(stop, start), _long(-_AT_ONCE)))
    index = code.variable(start)
    inside, after = b.append_basic_block("inside"), b.append_basic_block("after")
    rest = [b.append_basic_block(f"rest{n_left}") for n_left in range(_AT_ONCE)]
    b.cbranch(b.icmp_signed("<", start, middle), inside, after)
    b.position_at_end(inside)
    at = b.load(index)
    for step in range(_AT_ONCE):
        body(b.add(at, _long(step)))
    following = b.add(at, _long(_AT_ONCE))
    b.store(following, index)
    b.cbranch(b.icmp_signed("<", following, middle), inside, after)
    b.position_at_end(after)
    jump = b.switch(b.sub(stop, middle), rest[0])
    for n_left in range(_AT_ONCE - 1, 0, -1):
        jump.add_case(_long(n_left), rest[n_left])
        b.position_at_end(rest[n_left])
        body(b.sub(stop, _long(n_left)))
        b.branch(rest[n_left - 1])
    b.position_at_end(rest[0])


def _sum_rows(code: _Code, n_rows: int, span: tuple[ir.Value, ...], given: Given) -> list[list[ir.Value]]:
    """Fields of a group in steps, [row][part of 16 chains]: constant, shared and own neighbours."""
    b = code.b
    start, stop, row, shift = span
    rows = [b.add(row, _long(place)) for place in range(n_rows)]
    sums = [[code.variable(part) for part in _constant(code, given, at)] for at in rows]

    def add(totals: list[ir.Value], masks: list[ir.Value], weight: ir.Value) -> None:
        wide = code.splat(weight, _INTS)
        for place, mask in zip(totals, masks, strict=True):
            total = b.load(place)
            b.store(b.select(mask, b.add(total, wide), total), place)

    def masks(offsets: ir.Value, index: ir.Value) -> list[ir.Value]:
        word = b.add(given["words"], b.sext(code.entry(offsets, index, _I32, 4), _I64))
        return [b.bitcast(code.load(code.address(word, 2 * part), _I16, align=2), _BITS) for part in range(_PARTS)]

    def shared(index: ir.Value) -> None:
        loaded = masks(given["common"], index)
        first = b.add(b.mul(index, _long(n_rows)), shift)
        for place in range(n_rows):
            add(sums[place], loaded, code.entry(given["common_weights"], b.add(first, _long(place)), _I32, 4))

    if n_rows > 1:
        _for_each(code, start, stop, shared)
    for place, at in enumerate(rows):
        first, last = (code.entry(given["own_offsets"], b.add(at, _long(end)), _I64, 8) for end in (0, 1))

        def single(index: ir.Value, totals: list[ir.Value] = sums[place]) -> None:
            add(totals, masks(given["own"], index), code.entry(given["own_weights"], index, _I32, 4))

        _for_each(code, first, last, single)
    return [[b.load(part) for part in totals] for totals in sums]


def _constant(code: _Code, given: Given, row: ir.Value) -> list[ir.Value]:
    """Constant part of a row's field, 4 x 16 chains: each of its own, or one for all."""
    b = code.b
    each, one, after = (b.append_basic_block(name) for name in ("each", "one", "after"))
    b.cbranch(b.icmp_signed("!=", given["has_own_fields"], _long(0)), each, one)
    b.position_at_end(each)
    base = b.add(given["fields"], b.mul(row, _long(4 * 64)))
    own = [code.load(code.address(base, 64 * part), _INTS) for part in range(_PARTS)]
    b.branch(after)
    b.position_at_end(one)
    same = code.splat(code.entry(given["fields"], row, _I32, 4), _INTS)
    b.branch(after)
    b.position_at_end(after)
    values = []
    for vector in own:
        value = b.phi(_INTS)
        value.add_incoming(vector, each)
        value.add_incoming(same, one)
        values.append(value)
    return values


def _draw_row(code: _Code, given: Given, row: ir.Value, sums: list[ir.Value], source: _Random) -> None:
    """Draws one row for 64 chains and stores its word."""
    b = code.b
    place = b.add(given["words"], code.entry(given["places"], row, _I64, 8))
    if not code.has_brackets:
        for part, x in enumerate(_logs(code, given, row, sums)):
            bits = _is_below(code, b.bitcast(source.draw(), _INTS), x)
            code.store(b.bitcast(bits, _I16), code.address(place, 2 * part), align=2)
        return
    drawn = [source.draw() for _ in range(2)]
    units = _units(code, given, row, sums)
    flips = [b.icmp_signed("<", part, _shorts(0)) for part in units]
    is_open = ir.Constant(_I32, 0)
    for half in range(2):
        size = b.select(flips[half], b.neg(units[half]), units[half])
        size = b.select(b.icmp_unsigned("<", size, _shorts(_LAST)), size, _shorts(_LAST))  # -2**15 has no opposite
        rare, unsure = _squeeze(code, given, size, drawn[half])
        code.store(b.bitcast(b.xor(rare, flips[half]), _I32), code.address(place, 4 * half))
        is_open = b.or_(is_open, b.bitcast(unsure, _I32))
    exact, after = b.append_basic_block("exact"), b.append_basic_block("after")
    b.cbranch(b.icmp_unsigned("!=", is_open, ir.Constant(_I32, 0)), exact, after).set_weights([1, 63])
    b.position_at_end(exact)
    _draw_again(code, _logs(code, given, row, sums), flips, drawn, place, source)
    b.branch(after)
    b.position_at_end(after)


def _logs(code: _Code, given: Given, row: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
    """The x of 4 x 16 chains in float32."""
    b = code.b
    step = code.splat(code.entry(given["steps"], row, _F32, 4), _FLOATS)
    values = [b.sitofp(part, _FLOATS) for part in sums]
    if not code.is_mixed:
        return [code.fma(value, step, _floats(-_HALF_UNIT)) for value in values]
    rates = [code.load(code.address(given["rates"], 64 * part), _FLOATS) for part in range(_PARTS)]
    return [b.fmul(value, b.fmul(step, rate)) for value, rate in zip(values, rates, strict=True)]


def _units(code: _Code, given: Given, row: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
    """The x of 2 x 32 chains in units of 2**-11, rounded to shorts that stop at their limits."""
    b = code.b
    if not code.is_mixed:
        shift = code.splat(code.entry(given["shifts"], row, _I32, 4), _INTS)
        near = [b.ashr(part, shift) for part in sums]
        return [code.saturated(near[half], near[half + 1]) for half in (0, 2)]
    low_halves = ir.Constant(ir.VectorType(_I32, _SHORTS.count), list(range(0, 2 * _SHORTS.count, 2)))
    near = []
    for x in _logs(code, given, row, sums):
        clamped = code.clamp(b.fadd(x, _floats(_TO_UNITS)), _TO_UNITS - _LARGEST, _TO_UNITS + _LARGEST)
        near.append(b.bitcast(clamped, _SHORTS))
    return [b.shuffle_vector(near[half], near[half + 1], low_halves) for half in (0, 2)]


def _squeeze(code: _Code, given: Given, value: ir.Value, drawn: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Whether 16 bits give the outcome against the field, and whether they leave it open."""
    b = code.b
    piece, place = b.lshr(value, _shorts(10)), b.shl(value, _shorts(6))
    first, second, third = (
        code.look_up(code.load(code.address(given["brackets"], 64 * part), _SHORTS), piece) for part in range(3)
    )
    line = b.sub(first, code.high_product(place, second))
    lower = b.add(line, code.high_product(code.high_product(place, place), third))
    width = code.splat(b.trunc(given["width"], _I16), _SHORTS)
    return b.icmp_unsigned("<", drawn, lower), b.icmp_unsigned("<", b.sub(drawn, lower), width)


def _draw_again(
    code: _Code, logs: list[ir.Value], flips: list[ir.Value], drawn: list[ir.Value], place: ir.Value, source: _Random
) -> None:
    """Draws one row with 32 random bits a chain, of which ``drawn`` are the upper 16."""
    b = code.b
    for half in range(2):
        more = source.draw()
        for part in (2 * half, 2 * half + 1):
            lane = _LANES * (part % 2)
            flip, upper, lower = (code.lanes(vector, lane) for vector in (flips[half], drawn[half], more))
            uniform = b.or_(b.shl(b.zext(upper, _INTS), _ints(16)), b.zext(lower, _INTS))
            rare = _is_below(code, uniform, b.select(flip, b.fneg(logs[part]), logs[part]))
            code.store(b.bitcast(b.xor(rare, flip), _I16), code.address(place, 2 * part), align=2)


def _is_below(code: _Code, uniform: ir.Value, x: ir.Value) -> ir.Value:
    """Whether u 2**x < 1 - u for 16 chains, where u is an integer of 32 bits made odd."""
    b = code.b
    x = code.clamp(x, -_MAX_EXPONENT, _MAX_EXPONENT)
    rounded = b.fadd(x, _floats(_TO_INTEGER))
    rest = b.fsub(x, b.fsub(rounded, _floats(_TO_INTEGER)))
    power = _floats(_EXP2[0])
    for coefficient in _EXP2[1:]:
        power = code.fma(power, rest, _floats(coefficient))
    exponent = b.shl(b.bitcast(rounded, _INTS), _ints(23))
    odds = b.bitcast(b.add(b.bitcast(power, _INTS), exponent), _FLOATS)
    odd = b.or_(uniform, _ints(1))
    below, above = b.uitofp(odd, _FLOATS), b.uitofp(b.sub(_ints(0), odd), _FLOATS)
    return b.fcmp_ordered("<", b.fmul(below, odds), above)


def _updater(n_rows: int, is_mixed: bool) -> Any:  # noqa: ANN401
    """Intrinsic that draws rows ``row ... row + n_rows - 1``, which share neighbours ``start ... stop - 1``."""

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> ir.Value:  # noqa: ANN401
        table, start, stop, row, shift = values
        _triple, _name, features = context.codegen().magic_tuple()
        code = _Code(builder, features, is_mixed)
        given = {name: code.load(code.address(table, 8 * at), _I64, align=8) for at, name in enumerate(TABLE)}
        sums = _sum_rows(code, n_rows, (start, stop, row, shift), given)
        source = _Random(code, given["streams"])
        for place in range(n_rows):
            _draw_row(code, given, builder.add(row, _long(place)), sums[place], source)
        source.keep()
        return context.get_dummy_value()

    def update(_context: Any, _table: Any, _start: Any, _stop: Any, _row: Any, _shift: Any) -> Any:  # noqa: ANN401
        return types.void(*[types.intp] * 5), generate

    return intrinsic(update)


_four_rows, _two_rows, _one_row = (_updater(n_rows, False) for n_rows in (4, 2, 1))
_four_mixed, _two_mixed, _one_mixed = (_updater(n_rows, True) for n_rows in (4, 2, 1))


@_jit
def sweep(table: IntArray, groups: IntArray, n_sweeps: int) -> None:
    """Sweeps 64 chains in place; ``groups`` is that of :class:`PackedRows`."""
    address = table.ctypes.data
    for _ in range(n_sweeps):
        for group in range(len(groups)):
            n_rows, row, start, stop, shift = groups[group]
            if n_rows == 4:
                _four_rows(address, start, stop, row, shift)
            elif n_rows == 2:
                _two_rows(address, start, stop, row, shift)
            else:
                _one_row(address, start, stop, row, shift)


@_jit
def sweep_mixed(table: IntArray, groups: IntArray, n_sweeps: int) -> None:
    """As :func:`sweep`, for mixed calls."""
    address = table.ctypes.data
    for _ in range(n_sweeps):
        for group in range(len(groups)):
            n_rows, row, start, stop, shift = groups[group]
            if n_rows == 4:
                _four_mixed(address, start, stop, row, shift)
            elif n_rows == 2:
                _two_mixed(address, start, stop, row, shift)
            else:
                _one_mixed(address, start, stop, row, shift)
