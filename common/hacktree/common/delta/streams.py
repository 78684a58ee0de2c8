"""Compressed byte strings of a pack: the smallest of a few methods, decoded within a bound.

docs/format.md, "Packs". The encoder may try what it likes; a decoder obeys the method named.
"""

import enum
import lzma
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import (
    MAX_WINDOW_LOG,
    MIN_PREFIX,
    decompress_with_prefix,
    zstd,
)

MAX_LENGTH: Final = 16 << 30
"""Bytes of one decoded stream: what any caller's own bound stays below."""

_MIN_DICTIONARY: Final = 4 << 10
_MAX_DICTIONARY: Final = 64 << 20
_THOROUGH: Final = 4 << 20
"""Streams up to this many bytes are tried with several settings; of larger ones a sample is."""

_SAMPLE: Final = 1 << 20

_DENSE: Final = 0.97
"""What no method makes so much smaller is stored, if it has more bytes than a sample: decoding it
would take longer than fetching the rest.
"""


class Method(enum.IntEnum):
    """How a stream is compressed."""

    STORED = 0
    ZSTD = 1
    ZSTD_DICTIONARY = 2
    LZMA = 3
    LZMA_X86 = 4
    ZSTD_PREFIX = 5


class Blob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A compressed byte string and the exact length, in bytes, of what it decodes to."""

    method: Annotated[int, Meta(ge=0, le=5)]
    length: Annotated[int, Meta(ge=0, le=MAX_LENGTH)]
    data: bytes


def pack_blob(
    data: bytes,
    *,
    context: bytes = b"",
    candidates: Sequence[Method] = (Method.ZSTD, Method.LZMA),
) -> Blob:
    """The smallest of `candidates`, or stored where that is hardly more.

    `context` is the dictionary or prefix.
    """
    best = Blob(Method.STORED, len(data), data)
    if len(data) > _THOROUGH:
        candidates = [_best_on_sample(data, context, candidates)]
    for method in candidates if len(data) > 4 else ():
        for packed in _attempts(method, data, context):
            if len(packed) < len(best.data):
                best = Blob(method, len(data), packed)
    if len(data) > _SAMPLE and len(best.data) > _DENSE * len(data):
        return Blob(Method.STORED, len(data), data)
    return best


def _best_on_sample(data: bytes, context: bytes, candidates: Sequence[Method]) -> Method:
    middle = (len(data) - _SAMPLE) // 2
    sample = data[middle : middle + _SAMPLE]
    sizes = [min(map(len, _attempts(method, sample, context))) for method in candidates]
    return candidates[sizes.index(min(sizes))]


def unpack_blob(blob: Blob, max_length: int, *, context: bytes = b"") -> bytes:
    """What `blob` decodes to; raises `FormatError` if that is not exactly its declared length.

    Memory: the length, and for LZMA a dictionary of the next power of two, 64 MiB at most.
    """
    if blob.length > max_length:
        raise FormatError(f"a stream of {blob.length} bytes where at most {max_length} are due")
    method = Method(blob.method)
    if method is Method.STORED:
        data = blob.data
    elif method in (Method.LZMA, Method.LZMA_X86):
        data = _decode_lzma(blob, method)
    else:
        data = decompress_with_prefix(
            blob.data, blob.length, b"" if method is Method.ZSTD else context
        )
    if len(data) != blob.length:
        raise FormatError(f"a stream holds {len(data)} bytes instead of {blob.length}")
    return data


def _dictionary_size(length: int) -> int:
    return min(max(1 << (length - 1).bit_length(), _MIN_DICTIONARY), _MAX_DICTIONARY)


def _filters(method: Method, length: int, **options: int) -> list[dict[str, Any]]:
    last = {"id": lzma.FILTER_LZMA2, "dict_size": _dictionary_size(length), **options}
    return [{"id": lzma.FILTER_X86}, last] if method is Method.LZMA_X86 else [last]


def _decode_lzma(blob: Blob, method: Method) -> bytes:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_filters(method, blob.length))
    try:
        data = decoder.decompress(blob.data, blob.length + 1)
        if not decoder.eof and len(data) == blob.length:
            # The end marker may not have been looked at when the output was complete.
            data += decoder.decompress(b"", 1)
    except (lzma.LZMAError, EOFError) as error:
        raise FormatError(f"not an LZMA stream: {error}") from error
    if not decoder.eof or decoder.unused_data:
        raise FormatError("an LZMA stream is truncated, too long, or followed by other bytes")
    return data


def _attempts(method: Method, data: bytes, context: bytes) -> list[bytes]:
    if method in (Method.LZMA, Method.LZMA_X86):
        settings = [(3, 0, 0)]
        if len(data) <= _THOROUGH:
            settings += [(0, 0, 0), (3, 0, 2), (0, 2, 2)]
        return [_encode_lzma(method, data, *setting) for setting in settings]
    if method is Method.STORED:
        return [data]
    return [_encode_zstd(data, b"" if method is Method.ZSTD else context)]


def _encode_lzma(method: Method, data: bytes, lc: int, lp: int, pb: int) -> bytes:
    options = {"preset": 9 | lzma.PRESET_EXTREME, "nice_len": 273, "lc": lc, "lp": lp, "pb": pb}
    return lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(method, len(data), **options))


def _encode_zstd(data: bytes, context: bytes) -> bytes:
    window = min(max((len(data) + len(context)).bit_length(), 10), MAX_WINDOW_LOG)
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: 19,
        zstd.CompressionParameter.window_log: window,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    prefix = zstd.ZstdDict(context, is_raw=True).as_prefix if len(context) >= MIN_PREFIX else None
    return zstd.compress(data, options=options, zstd_dict=prefix)
