"""Arrays of integers as bytes: LEB128 varints and zigzag, in numpy passes instead of loops.

docs/format.md, "Packs". Canonical: the shortest form of each value, so one encoding per array.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hacktree.common.objects.errors import FormatError

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_LONGEST: Final = 10
"""Bytes of the varint of 2**64 - 1."""

_FEW_BYTES: Final = 48
"""Up to so many bytes a loop is quicker than 25 numpy calls; a pack has thousands of such."""


def zigzag(values: I64) -> U64:
    """0, -1, 1, -2… as 0, 1, 2, 3…, so that small magnitudes are short varints."""
    return ((values << 1) ^ (values >> 63)).view(np.uint64)


def unzigzag(values: U64) -> I64:
    """The inverse of `zigzag`."""
    halves = (values >> np.uint64(1)).view(np.int64)
    return halves ^ -(values & np.uint64(1)).view(np.int64)


def encode_varints(values: U64) -> bytes:
    """LEB128 of each value, one after the other."""
    if len(values) == 0:
        return b""
    largest = int(values.max())
    if largest < 0x80:
        return values.astype(np.uint8).tobytes()
    longest = -(-largest.bit_length() // 7)
    lengths = np.ones(len(values), np.int64)
    for k in range(1, longest):
        lengths += values >= np.uint64(1 << (7 * k))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    out = np.empty(int(ends[-1]), np.uint8)
    for k in range(longest):
        chosen = lengths > k
        part = (values[chosen] >> np.uint64(7 * k)).astype(np.uint8) & np.uint8(0x7F)
        out[starts[chosen] + k] = part | (np.uint8(0x80) * (lengths[chosen] > k + 1))
    return out.tobytes()


def decode_varints(data: bytes | memoryview, count: int) -> U64:
    """Exactly `count` values that fill `data`; raises `FormatError` for anything else.

    Costs memory of 8 bytes for each byte of `data` at most, whatever `count` says.
    """
    if len(data) <= _FEW_BYTES:
        return _decode_few(bytes(data), count)
    raw = np.frombuffer(data, np.uint8)
    if count > len(raw):
        raise FormatError(f"{count} integers do not fit into {len(raw)} bytes")
    last = np.flatnonzero(raw < 0x80)
    if len(last) != count or (len(raw) > 0 and raw[-1] >= 0x80):
        raise FormatError(f"{len(last)} integers where {count} are due")
    if count == len(raw):
        return raw.astype(np.uint64)
    starts = np.empty_like(last)
    starts[0] = 0
    starts[1:] = last[:-1] + 1
    lengths = last - starts + 1
    longest = int(lengths.max())
    if longest > _LONGEST:
        raise FormatError("an integer is longer than 10 bytes")
    tops = raw[last]
    if np.any((tops == 0) & (lengths > 1)) or np.any((lengths == _LONGEST) & (tops > 1)):
        raise FormatError("an integer is not in its shortest form, or exceeds 64 bits")
    values = (raw[starts] & 0x7F).astype(np.uint64)
    for k in range(1, longest):
        chosen = np.flatnonzero(lengths > k)
        part = (raw[starts[chosen] + k] & 0x7F).astype(np.uint64)
        values[chosen] |= part << np.uint64(7 * k)
    return values


def split_varints(data: bytes | memoryview, sizes: I64) -> tuple[U64, I64]:
    """The values of several arrays that stand one after the other, and how many each has.

    `sizes` are the arrays' bytes, which fill `data`. Raises `FormatError` as `decode_varints`.
    """
    last = np.frombuffer(data, np.uint8) < 0x80
    before = np.zeros(len(last) + 1, np.int64)
    np.cumsum(last, out=before[1:])
    ends = np.cumsum(sizes)
    if not last[ends[sizes > 0] - 1].all():
        raise FormatError("an integer reaches into the next array")
    return decode_varints(data, int(before[-1])), before[ends] - before[ends - sizes]


def _decode_few(data: bytes, count: int) -> U64:
    values: list[int] = []
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte >= 0x80:
            shift += 7
            continue
        if value >> 64 or (byte == 0 and shift):
            raise FormatError("an integer is not in its shortest form, or exceeds 64 bits")
        values.append(value)
        value = shift = 0
    if shift or len(values) != count:
        raise FormatError(f"{len(values)} integers where {count} are due")
    return np.array(values, np.uint64)
