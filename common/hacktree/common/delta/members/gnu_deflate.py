"""Deflate as gzip(1) and zip(1) write it, from the tokens that zlib finds.

Both look for matches exactly as zlib does (it descends from them), but end blocks elsewhere: after
32,767 tokens, or after a multiple of 4,096 when the block compresses well. No zlib parameter gives
that, and nearly every .gz file of a distribution is made so. They also search a little further
where a match reaches the end of the content: one file in a hundred differs by that. The encoder
compares, and leaves it as it is.
"""

from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hacktree.common.delta.members.deflate_tokens import (
    DISTANCE_BASE,
    DISTANCE_EXTRA,
    END_OF_BLOCK,
    FIRST_LENGTH,
    LENGTH_BASE,
    LENGTH_EXTRA,
    Tokens,
    canonical_codes,
    fixed_lengths,
    zlib_tokens,
)
from hacktree.common.delta.members.huffman import BIT_LENGTH_ORDER, Code, build_code, run_lengths
from hacktree.common.objects.errors import FormatError

MAX_CONTENT: Final = 32 << 20
"""Bytes of content: the tokens take up to 30 times as much memory."""

_BLOCK_TOKENS: Final = 0x7FFF
_TEST_EVERY: Final = 0x1000
_FIRST_TESTED_LEVEL: Final = 3
_FIRST_LAZY_LEVEL: Final = 4
_LOOKAHEAD: Final = 1024
"""Bytes at a prefix's end whose tokens may depend on what follows: 258 and some for laziness."""

_DISTANCE_SYMBOLS: Final = 30
_RUN_EXTRA: Final = {16: 2, 17: 3, 18: 7}
_FIXED_DISTANCES: Final = np.full(_DISTANCE_SYMBOLS, 5, np.int64)


class _Block(msgspec.Struct, frozen=True):
    """Tokens from `start` up to `end`."""

    start: int
    end: int
    last: bool


class _Bits(msgspec.Struct, frozen=True):
    """Numbers to be written one after another, lowest bit first, and the bits of each."""

    values: NDArray[np.int64]
    counts: NDArray[np.int64]


def _cut(tokens: Tokens, level: int) -> Iterator[_Block]:
    """ct_tally: where blocks end. A cut at the very end leaves an empty last block."""
    total = len(tokens.symbols)
    starts = np.cumsum(tokens.lengths, dtype=np.int64) - tokens.lengths
    lazy = level >= _FIRST_LAZY_LEVEL
    # The last literal of a lazy search is told after the loop, where no block is cut.
    usable = total - (1 if lazy and total and tokens.distances[-1] == 0 else 0)
    start = 0
    while True:
        end = start + _BLOCK_TOKENS
        if level >= _FIRST_TESTED_LEVEL:
            for tested in range(start + _TEST_EVERY, min(end, usable + 1), _TEST_EVERY):
                if _compresses_well(tokens, starts, start, tested, int(lazy)):
                    end = tested
                    break
        if end > usable:
            break
        yield _Block(start, end, last=False)
        start = end
    yield _Block(start, total, last=True)


def _compresses_well(
    tokens: Tokens, starts: NDArray[np.int64], start: int, end: int, lazy: int
) -> bool:
    """ct_tally's guess that a block is best ended here: few matches, and half the size saved."""
    distances = tokens.distances[start:end]
    distances = distances[distances > 0]
    bits = 8 * (end - start) + int((5 + DISTANCE_EXTRA[_distance_symbols(distances)]).sum())
    covered = int(starts[end - 1] - starts[start]) + lazy
    return len(distances) < (end - start) // 2 and bits >> 3 < covered // 2


def _distance_symbols(distances: NDArray[np.int32]) -> NDArray[np.intp]:
    return np.searchsorted(DISTANCE_BASE, distances, side="right") - 1


def _dynamic_header(literals: Code, distances: Code) -> tuple[_Bits, int]:
    """The header that describes two codes, after its three bits, and its length in bits."""
    runs = run_lengths(literals.lengths[: literals.max_symbol + 1])
    runs += run_lengths(distances.lengths[: distances.max_symbol + 1])
    frequencies = np.bincount([symbol for symbol, _ in runs], minlength=19)
    code = build_code(frequencies.tolist(), 7)
    codes = canonical_codes(np.array(code.lengths, np.int64))
    described = max(
        3, max(index for index, symbol in enumerate(BIT_LENGTH_ORDER) if code.lengths[symbol])
    )
    values = [literals.max_symbol - 256, distances.max_symbol, described - 3]
    counts = [5, 5, 4]
    for symbol in BIT_LENGTH_ORDER[: described + 1]:
        values.append(code.lengths[symbol])
        counts.append(3)
    for symbol, extra in runs:
        values.append(int(codes[symbol]) | extra << code.lengths[symbol])
        counts.append(code.lengths[symbol] + _RUN_EXTRA.get(symbol, 0))
    bits = _Bits(np.array(values, np.int64), np.array(counts, np.int64))
    return bits, sum(counts)


def _body(
    symbols: NDArray[np.int64],
    lengths: NDArray[np.int64],
    distances: NDArray[np.int32],
    literal_bits: NDArray[np.int64],
    distance_bits: NDArray[np.int64],
) -> _Bits:
    """The tokens of one block, with the end of block that `symbols` ends with."""
    values = canonical_codes(literal_bits)[symbols]
    counts = literal_bits[symbols]
    match = np.flatnonzero(symbols >= FIRST_LENGTH)
    index = symbols[match] - FIRST_LENGTH
    distance = distances[match]
    symbol = _distance_symbols(distance)
    codes = canonical_codes(distance_bits)
    value, count = values[match], counts[match]
    for part, bits in (
        (lengths[match] - LENGTH_BASE[index], LENGTH_EXTRA[index]),
        (codes[symbol], distance_bits[symbol]),
        (distance - DISTANCE_BASE[symbol], DISTANCE_EXTRA[symbol]),
    ):
        value |= part << count
        count += bits
    values[match], counts[match] = value, count
    return _Bits(values, counts)


def _encode_block(tokens: Tokens, block: _Block) -> list[_Bits]:
    """flush_block: fixed or dynamic codes, whichever is shorter; fixed ones in a tie."""
    part = slice(block.start, block.end)
    symbols = np.append(tokens.symbols[part].astype(np.int64), END_OF_BLOCK)
    lengths = np.append(tokens.lengths[part].astype(np.int64), 0)
    distances = np.append(tokens.distances[part], np.int32(0))
    frequencies = np.bincount(symbols, minlength=286)
    matches = distances[distances > 0]
    distance_frequencies = np.bincount(_distance_symbols(matches), minlength=_DISTANCE_SYMBOLS)
    literal_code = build_code(frequencies.tolist(), 15)
    distance_code = build_code(distance_frequencies.tolist(), 15)
    literal_bits = np.array(literal_code.lengths, np.int64)
    distance_bits = np.array(distance_code.lengths, np.int64)
    header, header_length = _dynamic_header(literal_code, distance_code)
    fixed = fixed_lengths()
    extra = int(frequencies[FIRST_LENGTH:] @ LENGTH_EXTRA + distance_frequencies @ DISTANCE_EXTRA)
    dynamic_length = (
        header_length
        + extra
        + int(frequencies @ literal_bits + distance_frequencies @ distance_bits)
    )
    fixed_length = extra + int(frequencies @ fixed[:286]) + 5 * len(matches)
    if min((dynamic_length + 10) >> 3, (fixed_length + 10) >> 3) >= int(lengths.sum()) + 4:
        raise FormatError("gzip would store a block instead of compressing it")
    if (fixed_length + 10) >> 3 <= (dynamic_length + 10) >> 3:
        kind = _Bits(np.array([2 + block.last]), np.array([3]))
        return [kind, _body(symbols, lengths, distances, fixed, _FIXED_DISTANCES)]
    kind = _Bits(np.array([4 + block.last]), np.array([3]))
    return [kind, header, _body(symbols, lengths, distances, literal_bits, distance_bits)]


def _pack(parts: list[_Bits], carry: int, carry_bits: int) -> tuple[bytes, int]:
    """Whole bytes and the rest's bits after `carry_bits` (below 8) in `carry`; and all the bits."""
    values = np.concatenate([[carry], *(part.values for part in parts)]).astype(np.uint64)
    counts = np.concatenate([[carry_bits], *(part.counts for part in parts)])
    ends = np.cumsum(counts)
    offsets = ends - counts
    total = int(ends[-1])
    words = np.zeros((total >> 6) + 2, "<u8")
    word = offsets >> 6
    shift = (offsets & 63).astype(np.uint64)
    # No number is longer than 48 bits, so one begins in every word but perhaps the last.
    first = np.flatnonzero(np.diff(word, prepend=-1))
    words[word[first]] = np.bitwise_or.reduceat(values << shift, first)
    high = (values >> np.uint64(1)) >> (np.uint64(63) - shift)
    crossing = np.flatnonzero(high)
    words[word[crossing] + 1] |= high[crossing]
    return words.tobytes(), total


def _blocks(content: bytes | memoryview, level: int) -> Iterator[tuple[bytes, bool, int]]:
    """Whole bytes of the stream block by block, whether it was the last, and content covered."""
    if len(content) > MAX_CONTENT:
        raise FormatError(f"{len(content)} bytes in one member of gzip's deflate")
    tokens = zlib_tokens(content, level)
    carry, carry_bits = 0, 0
    covered = 0
    for block in _cut(tokens, level):
        packed, total = _pack(_encode_block(tokens, block), carry, carry_bits)
        whole, carry_bits = total >> 3, total & 7
        covered += int(tokens.lengths[block.start : block.end].sum(dtype=np.int64))
        if block.last:
            yield packed[: (total + 7) >> 3], True, covered
        else:
            carry = packed[whole] if carry_bits else 0
            yield packed[:whole], False, covered


def gnu_deflate(content: bytes | memoryview, level: int) -> bytes:
    """What gzip(1) or zip(1) make of `content` at a level, without their headers.

    Raises `FormatError` for content that does not compress, which they would store.
    """
    return b"".join(data for data, _, _ in _blocks(content, level))


def gnu_deflate_prefix(content: bytes | memoryview, level: int) -> bytes:
    """How the stream begins for any content that begins so: the blocks that are certain."""
    certain = len(content) - _LOOKAHEAD
    return b"".join(
        data for data, last, covered in _blocks(content, level) if not last and covered <= certain
    )
