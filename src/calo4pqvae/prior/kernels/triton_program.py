r"""The program that the GPU runs for :mod:`~calo4pqvae.prior.kernels.triton_sweeps`. Importing it imports Triton.

**Words.** 32 chains of one bit are packed in one word. A lane (a thread on the GPU) updates one bit of 32 chains: it
holds their 32 fields in registers and walks over the neighbours, for each of which it loads one weight and one word
and adds the weight to those fields whose chain has a one there. A program owns ``WORDS`` words of every bit, from the
first sweep to the last, so programs never wait for each other; inside one, a barrier stands between partitions. What
a partition has drawn is handed to the next through global memory: a barrier orders the writes and reads of one program,
and the words of a program (4 bytes a bit) stay in the first-level cache.

**Instructions.** 20 neighbours make 20 additions an update, and nothing else may cost as much. Written plainly, each
addition comes with a test of one bit. Hopper can move seven bits of a word into predicates by one instruction (R2P),
but the compiler finds this only if the seven tests and the seven conditional additions follow each other, which LLVM
does not keep; hence the few lines of assembly. They do what :func:`_add_plainly` does.

**Random numbers** are Philox-4x32 with 7 rounds, the fewest with which it passes the BigCrush tests: the counter is
(bit, chain / 4, sweep, 0), the key the seed, and the four results serve four chains. A bit is one if
:math:`u (1 + e^{-\beta f}) < 1`, with :math:`u` one of the :math:`2^{23}` midpoints :math:`(k + 1/2) 2^{-23}`; it never
is zero or one, so that an infinite field decides.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), doi 10.1145/2063384.2063405.
"""

# Triton's language is not annotated and knows no unpacking; arguments in capitals are constants of its compiler.
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call, assignment"
# ruff: noqa: ANN001, ANN201, ANN202, N803, RUF005

import triton
import triton.language as tl

__all__ = ["BITS", "adding_assembly", "gibbs_program", "is_interpreted"]

BITS = 32  # chains a word
_GROUP = 7  # bits that one instruction moves into predicates


def adding_assembly() -> str:
    """PTX that adds a weight to those of 32 fields whose bit of a word is one.

    Operands: 32 results, the word, the weight, 32 fields.
    """
    lines = ["{", f".reg .pred p<{_GROUP}>; .reg .b32 part; .reg .b32 bit; .reg .f32 sum;"]
    for start in range(0, BITS, _GROUP):
        group = list(enumerate(range(start, min(start + _GROUP, BITS))))
        lines.append(f"shr.u32 part, ${BITS}, {start};")
        lines += [f"and.b32 bit, part, {1 << place}; setp.ne.u32 p{place}, bit, 0;" for place, _ in group]
        for place, chain in group:
            field = f"${BITS + 2 + chain}"
            lines.append(f"add.f32 sum, {field}, ${BITS + 1}; selp.f32 ${chain}, sum, {field}, p{place};")
    return "\n".join([*lines, "}"])


_BITS = tl.constexpr(BITS)
_ROUNDS = tl.constexpr(7)
_ASSEMBLY = tl.constexpr(adding_assembly())
_OPERANDS = tl.constexpr(",".join(["=&f"] * BITS + ["r"] + ["f"] * (BITS + 1)))
_RESULTS = tl.constexpr((tl.float32,) * BITS)


@triton.jit
def _philox(c0, c1, c2, c3, key_low, key_high, ROUNDS: tl.constexpr):
    """Four random words of counter and key, all uint32."""
    for _ in tl.static_range(ROUNDS):
        first = c0.to(tl.uint64) * 0xD2511F53
        second = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (second >> 32).to(tl.uint32) ^ c1 ^ key_low
        c2 = (first >> 32).to(tl.uint32) ^ c3 ^ key_high
        c1 = second.to(tl.uint32)
        c3 = first.to(tl.uint32)
        key_low += 0x9E3779B9
        key_high += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _add_plainly(fields, state, weight):
    """Adds the weight to the fields whose bit is one."""
    sums = ()
    for c in tl.static_range(_BITS):
        sums = sums + (tl.where(((state >> c) & 1) != 0, fields[c] + weight, fields[c]),)
    return sums


@triton.jit
def _first_fields(constant, row, word, n_chains, n_nodes, CHAIN_FIELD: tl.constexpr):
    """The part of 32 fields that does not change."""
    fields = ()
    if CHAIN_FIELD:
        for c in tl.static_range(_BITS):
            chain = tl.minimum(word * _BITS + c, n_chains - 1).to(tl.int64)
            fields = fields + (tl.load(constant + chain * n_nodes + row),)
    else:
        field = tl.load(constant + row)
        for _ in tl.static_range(_BITS):
            fields = fields + (field,)
    return fields


@triton.jit
def _add_neighbours(fields, mine, row, pairs, degree, n_nodes, ASSEMBLY: tl.constexpr):
    """Adds the weights of neighbours that are one; reads words one neighbour ahead and the table two."""
    entry = pairs + row
    pair = tl.load(entry)
    following = tl.load(entry + n_nodes)
    state = tl.load(mine + pair.to(tl.int32))
    for number in tl.range(0, degree, loop_unroll_factor=4):
        next_state = tl.load(mine + following.to(tl.int32))
        after = tl.load(entry + (number + 2) * n_nodes)
        weight = (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
        if ASSEMBLY:
            fields = tl.inline_asm_elementwise(_ASSEMBLY, _OPERANDS, (state, weight) + fields, _RESULTS, True, 1)
        else:
            fields = _add_plainly(fields, state, weight)
        pair, following, state = following, after, next_state
    return fields


@triton.jit
def _draw(fields, row, word, sweep, seed, rates, n_chains, CHAIN_RATE: tl.constexpr):
    """One bit of 32 chains from their fields, scaled by minus beta over ln 2."""
    key_low = (seed & 0xFFFFFFFF).to(tl.uint32)
    key_high = (seed >> 32).to(tl.uint32)
    drawn = tl.zeros(row.shape, tl.uint32)
    zero = tl.zeros(row.shape, tl.uint32)
    for c in tl.static_range(_BITS):
        if c % 4 == 0:
            part = (word * (_BITS // 4) + c // 4).to(tl.uint32)
            random = _philox(row.to(tl.uint32), part, zero + sweep, zero, key_low, key_high, _ROUNDS)
        between_one_and_two = ((random[c % 4] & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        uniform = between_one_and_two - 0.99999994039535522
        exponent = fields[c]
        if CHAIN_RATE:
            exponent *= tl.load(rates + tl.minimum(word * _BITS + c, n_chains - 1))
        drawn = tl.where(uniform * tl.exp2(exponent) + uniform < 1.0, drawn | (1 << c), drawn)
    return drawn


@triton.jit
def _pack(values, mine, node, chain, is_chain, is_word, n_chains, n_nodes, NODES: tl.constexpr):
    """Words of a program from values (nodes, chains)."""
    places = tl.arange(0, _BITS)
    for first in range(0, n_nodes, NODES):
        row = first + node
        at = row[:, None].to(tl.int64) * n_chains + chain
        bits = tl.load(values + at, mask=(row < n_nodes)[:, None] & is_chain, other=0).to(tl.int32)
        tl.store(mine + row, tl.sum(bits << places[None, :], axis=1), mask=(row < n_nodes) & is_word)


@triton.jit
def _unpack(result, mine, node, chain, is_chain, n_chains, n_nodes, NODES: tl.constexpr):
    """Values (nodes, chains) from the words of a program."""
    places = tl.arange(0, _BITS)
    for first in range(0, n_nodes, NODES):
        row = first + node
        state = tl.load(mine + row, mask=row < n_nodes, other=0)
        bits = ((state[:, None] >> places[None, :]) & 1).to(result.dtype.element_ty)
        at = row[:, None].to(tl.int64) * n_chains + chain
        tl.store(result + at, bits, mask=(row < n_nodes)[:, None] & is_chain)


@triton.jit(do_not_specialize=["seed", "n_chains", "n_nodes", "n_sweeps", "n_partitions"])
def gibbs_program(
    values,  # zeros and ones (nodes, chains)
    result,  # the same, after the sweeps
    words,  # room for int32 (words, nodes)
    pairs,  # int64 (largest degree + 2, nodes): neighbour below, float32 weight above
    degrees,  # int32: largest number of neighbours in a partition
    starts,  # int32: first node of each partition, and the number of nodes
    constant,  # float32 (nodes,), or (chains, nodes) for CHAIN_FIELD
    rates,  # float32 (chains,), read for CHAIN_RATE
    seed: tl.int64,
    n_chains: tl.int32,
    n_nodes: tl.int32,
    n_sweeps: tl.int32,
    n_partitions: tl.int32,
    CHAIN_FIELD: tl.constexpr,
    CHAIN_RATE: tl.constexpr,
    NODES: tl.constexpr,
    WORDS: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):
    """All sweeps of ``WORDS`` words; lane ``w * NODES + i`` updates bit i of a stretch of ``NODES`` in word w."""
    lane = tl.arange(0, NODES * WORDS)
    node = lane % NODES
    n_words = tl.cdiv(n_chains, _BITS)
    owned = tl.program_id(0) * WORDS + lane // NODES
    is_word = owned < n_words
    word = tl.minimum(owned, n_words - 1)
    mine = words + word.to(tl.int64) * n_nodes
    chain = word[:, None] * _BITS + tl.arange(0, _BITS)[None, :]
    is_chain = (chain < n_chains) & is_word[:, None]
    _pack(values, mine, node, chain, is_chain, is_word, n_chains, n_nodes, NODES)
    tl.debug_barrier()
    for sweep in range(n_sweeps):
        for partition in range(n_partitions):
            stop = tl.load(starts + partition + 1)
            degree = tl.load(degrees + partition)
            for first in range(tl.load(starts + partition), stop, NODES):
                row = tl.minimum(first + node, n_nodes - 1)
                fields = _first_fields(constant, row, word, n_chains, n_nodes, CHAIN_FIELD)
                fields = _add_neighbours(fields, mine, row, pairs, degree, n_nodes, ASSEMBLY)
                drawn = _draw(fields, row, word, sweep, seed, rates, n_chains, CHAIN_RATE)
                tl.store(mine + row, drawn.to(tl.int32, bitcast=True), mask=(first + node < stop) & is_word)
            tl.debug_barrier()
    _unpack(result, mine, node, chain, is_chain, n_chains, n_nodes, NODES)


is_interpreted = not isinstance(gibbs_program, triton.JITFunction)
"""Whether Triton was imported with ``TRITON_INTERPRET=1``: programs then run on the CPU, for tests."""
