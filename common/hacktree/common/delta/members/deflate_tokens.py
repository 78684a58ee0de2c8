"""The literals and matches that zlib chooses for a content, before they become deflate blocks.

zlib is asked for fixed Huffman codes, so that one table decodes the whole stream: the length of a
token is computed at every bit position at once, and the chain of true positions is then followed.
RFC 1951 has the codes.
"""

import zlib
from collections.abc import Iterator
from functools import cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hacktree.common.objects.errors import FormatError

END_OF_BLOCK: Final = 256
FIRST_LENGTH: Final = 257
"""The first of the literal/length symbols that stand for a match."""

LENGTH_EXTRA: Final = np.array([0] * 8 + [n for n in range(1, 6) for _ in range(4)] + [0], np.int64)
LENGTH_BASE: Final = np.append(3 + np.cumsum(np.append(0, 1 << LENGTH_EXTRA[:27])), 258)
DISTANCE_EXTRA: Final = np.array([0, 0] + [n for n in range(14) for _ in range(2)], np.int64)
DISTANCE_BASE: Final = 1 + np.cumsum(np.append(0, 1 << DISTANCE_EXTRA[:29]))
"""Extra bits of the 29 length and 30 distance symbols, and the smallest value of each."""

_CHUNK: Final = 1 << 17
"""Compressed bytes decoded at a time, each at 8 bit positions."""


class Tokens(msgspec.Struct, frozen=True):
    """What deflate says of a content, in order.

    `symbols` are literal bytes or, from `FIRST_LENGTH`, length symbols; `lengths` the bytes that
    a token covers; `distances` 0 for literals.
    """

    symbols: NDArray[np.int16]
    lengths: NDArray[np.int16]
    distances: NDArray[np.int32]


def fixed_lengths() -> NDArray[np.int64]:
    """Bits of the 288 literal/length symbols in blocks with fixed codes."""
    return np.repeat(np.array([8, 9, 7, 8], np.int64), [144, 112, 24, 8])


def canonical_codes(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The codes that RFC 1951 gives to symbols of these lengths, first bit lowest."""
    counts = np.bincount(lengths, minlength=17)
    counts[0] = 0
    first = np.zeros(17, np.int64)
    for bits in range(1, 17):
        first[bits] = (first[bits - 1] + counts[bits - 1]) << 1
    order = np.argsort(lengths, kind="stable")
    rank = np.empty_like(lengths)
    rank[order] = np.arange(len(lengths)) - np.searchsorted(lengths[order], lengths[order])
    return reverse_bits(first[lengths] + rank, lengths)


def reverse_bits(values: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The low `counts` (at most 16) bits of each value in the opposite order."""
    reversed_ = np.zeros_like(values)
    for bit in range(16):
        reversed_ |= ((values >> bit) & 1) << (15 - bit)
    return reversed_ >> (16 - counts)


def _fixed_table() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every 9 bits that may follow: the symbol they begin with, and the bits of its code."""
    lengths = fixed_lengths()
    codes = canonical_codes(lengths)
    symbols = np.zeros(512, np.int64)
    for bits in (7, 8, 9):
        chosen = np.flatnonzero(lengths == bits)
        rest = np.arange(1 << (9 - bits)) << bits
        symbols[(codes[chosen, None] | rest).ravel()] = np.repeat(chosen, len(rest))
    return symbols, lengths[symbols]


_SYMBOLS, _SYMBOL_BITS = _fixed_table()
_REVERSED_5: Final = reverse_bits(np.arange(32), np.full(32, 5))
# Indexed by symbol - FIRST_LENGTH, and by distance symbol; 286, 287, 30 and 31 don't exist.
_LENGTH_EXTRA: Final = np.append(LENGTH_EXTRA, [0, 0])
_LENGTH_BASE: Final = np.append(LENGTH_BASE, [0, 0])
_DISTANCE_EXTRA: Final = np.append(DISTANCE_EXTRA, [0, 0])
_DISTANCE_BASE: Final = np.append(DISTANCE_BASE, [0, 0])


def _token_bits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Per 9 bits: those of the symbol with its extra bits; per 5: those of a distance's."""
    length = np.maximum(_SYMBOLS - FIRST_LENGTH, 0)
    bits = _SYMBOL_BITS + np.where(_SYMBOLS >= FIRST_LENGTH, _LENGTH_EXTRA[length], 0)
    # The header of the next block follows the end of one.
    bits += np.where(_SYMBOLS == END_OF_BLOCK, 3, 0)
    return bits.astype(np.uint8), (5 + _DISTANCE_EXTRA[_REVERSED_5]).astype(np.uint8)


_HEAD_BITS, _DISTANCE_BITS = _token_bits()
_IS_MATCH: Final = _SYMBOLS >= FIRST_LENGTH


def _windows(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """For each byte, it and the 7 bytes after it as one little-endian number."""
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.zeros(len(data), np.uint64)
    for index in range(8):
        words |= padded[index : index + len(data)].astype(np.uint64) << np.uint64(8 * index)
    return words


_LENGTH_BITS: Final = 19
"""What the length of a token depends on: 9 bits of its symbol, at most 5 more, 5 of a distance."""


@cache
def _length_table() -> NDArray[np.uint8]:
    """The bits of the token that begins with each `_LENGTH_BITS` bits."""
    bits = np.arange(1 << _LENGTH_BITS)
    head = _HEAD_BITS[bits & 511]
    distance = _DISTANCE_BITS[(bits >> head) & 31]
    lengths: NDArray[np.uint8] = np.where(_IS_MATCH[bits & 511], head + distance, head)
    return lengths


def _token_lengths(words: NDArray[np.uint64]) -> bytes:
    """At every bit position: the bits of the token that begins there, if one does."""
    table, mask = _length_table(), np.uint32((1 << _LENGTH_BITS) - 1)
    low = words.astype(np.uint32)
    lengths = np.empty((len(words), 8), np.uint8)
    for shift in range(8):
        lengths[:, shift] = table[(low >> np.uint32(shift)) & mask]
    return lengths.tobytes()


def _chain(words: NDArray[np.uint64], start: int, end: int) -> tuple[NDArray[np.int64], int]:
    """The bit positions before `end` of the tokens from `start` on, and that of the next."""
    steps = _token_lengths(words)
    chain: list[int] = []
    append = chain.append
    position = start
    # Each step depends on the one before: 80 ns a token, a tenth of what zlib took.
    while position < end:
        append(position)
        position += steps[position]
    return np.array(chain, np.int64), position


def _check_headers(words: NDArray[np.uint64], positions: NDArray[np.int64]) -> None:
    """Refuse a header of three bits that does not announce fixed codes."""
    headers = words[positions >> 3] >> (positions & 7).astype(np.uint64)
    if np.any((headers >> np.uint64(1)) & np.uint64(3) != 1):
        raise FormatError("zlib stored a block instead of compressing it")


def _fields(words: NDArray[np.uint64], low: NDArray[np.intp]) -> Tokens:
    """The tokens that `words` begin with, whose low 9 bits are given as well."""
    symbols = _SYMBOLS[low]
    match = _IS_MATCH[low]
    index = np.maximum(symbols - FIRST_LENGTH, 0)
    words = words >> _SYMBOL_BITS[low].astype(np.uint64)
    extra = _LENGTH_EXTRA[index]
    lengths = _LENGTH_BASE[index] + (words.astype(np.int64) & ((1 << extra) - 1))
    words >>= extra.astype(np.uint64)
    distance = _REVERSED_5[(words & np.uint64(31)).astype(np.intp)]
    words >>= np.uint64(5)
    extra = _DISTANCE_EXTRA[distance]
    distances = _DISTANCE_BASE[distance] + (words.astype(np.int64) & ((1 << extra) - 1))
    return Tokens(
        symbols=symbols.astype(np.int16),
        lengths=np.where(match, lengths, 1).astype(np.int16),
        distances=np.where(match, distances, 0).astype(np.int32),
    )


def _decode(data: NDArray[np.uint8]) -> Iterator[Tokens]:
    """The tokens of a stream whose blocks all have fixed codes, chunk by chunk."""
    # The end of the last block stands in the last byte, that of no other does.
    last_byte = 8 * (len(data) - 1)
    _check_headers(_windows(data[:1]), np.zeros(1, np.int64))
    position = 3
    for base in range(0, len(data), _CHUNK):
        words = _windows(data[base : base + _CHUNK + 8])
        end = 8 * min(_CHUNK, len(data) - base)
        positions, position = _chain(words, position, end)
        position -= 8 * _CHUNK
        at = words[positions >> 3] >> (positions & 7).astype(np.uint64)
        low = (at & np.uint64(511)).astype(np.intp)
        is_end = _SYMBOLS[low] == END_OF_BLOCK
        headers = positions[is_end] + 7
        inner = headers + 8 * base <= last_byte
        _check_headers(words, headers[inner])
        if not inner.all():
            length = int(np.flatnonzero(is_end)[np.flatnonzero(~inner)[0]])
            at, low, is_end = at[:length], low[:length], is_end[:length]
        yield _fields(at[~is_end], low[~is_end])


def zlib_tokens(content: bytes | memoryview, level: int) -> Tokens:
    """The tokens of `content` at a level; `FormatError` where zlib does not compress it.

    memLevel 8 gives the hash chains that gzip(1) and zip(1) have.
    """
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15, 8, zlib.Z_FIXED)
    stream = compressor.compress(content) + compressor.flush()
    chunks = list(_decode(np.frombuffer(stream, np.uint8)))
    tokens = Tokens(
        symbols=np.concatenate([chunk.symbols for chunk in chunks]),
        lengths=np.concatenate([chunk.lengths for chunk in chunks]),
        distances=np.concatenate([chunk.distances for chunk in chunks]),
    )
    if int(tokens.lengths.sum(dtype=np.int64)) != len(content):
        raise FormatError("zlib's tokens do not cover the content")
    return tokens
