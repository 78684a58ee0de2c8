"""zstd as objects, packs and pages use it: one frame, bounded windows, our own errors."""

import io
import sys
from collections.abc import Iterator
from typing import IO, Final

from hacktree.common.objects.errors import FormatError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "MAX_WINDOW_LOG",
    "MIN_PREFIX",
    "ZSTD_MAGIC",
    "ZstdReader",
    "compress",
    "decompress_bounded",
    "decompress_chunks",
    "decompress_with_prefix",
    "new_compressor",
    "prefix_ratio",
    "zstd",
]

MAX_WINDOW_LOG: Final = 27
"""A decoder's window is at most 128 MiB, whatever a frame asks for."""

MIN_PREFIX: Final = 8
"""Bytes below which a prefix is not used: zstd refuses shorter ones."""

_OPTIONS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
_CHUNK: Final = 1 << 20

ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


def compress(data: bytes, level: int) -> bytes:
    """One zstd frame of `data`."""
    return zstd.compress(data, level)


def prefix_ratio(data: bytes, prefix: bytes) -> float:
    """Compressed bytes of `data` for whoever knows `prefix`, as a share of those without it.

    About, and quickly (a second for 100 MB): for choosing what is worth a search.
    """
    return _quick_size(data, prefix) / _quick_size(data, b"")


def _quick_size(data: bytes, prefix: bytes) -> int:
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: 3,
        zstd.CompressionParameter.window_log: min((len(data) + len(prefix)).bit_length(), 30),
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    known = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= MIN_PREFIX else None
    return len(zstd.compress(data, options=options, zstd_dict=known))


def new_compressor(level: int) -> zstd.ZstdCompressor:
    """For content that comes in pieces: `compress(piece)`, then `flush()` ends the frame."""
    return zstd.ZstdCompressor(level)


def decompress_bounded(data: bytes, max_size: int) -> bytes:
    """The content of one frame; raises `FormatError` beyond `max_size` bytes or if damaged."""
    return _decompress(zstd.ZstdDecompressor(options=_OPTIONS), data, max_size)


def _decompress(decompressor: zstd.ZstdDecompressor, data: bytes, max_size: int) -> bytes:
    try:
        content = decompressor.decompress(data, max_size + 1)
    except zstd.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error
    if len(content) > max_size:
        raise FormatError(f"decompresses to more than {max_size} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise FormatError("a zstd frame is truncated or followed by other bytes")
    return content


def decompress_with_prefix(data: bytes, max_size: int, prefix: bytes) -> bytes:
    """Like `decompress_bounded`, for a frame made with `prefix` as raw content before it."""
    if len(prefix) < MIN_PREFIX:
        return decompress_bounded(data, max_size)
    dictionary = zstd.ZstdDict(prefix, is_raw=True)
    return _decompress(
        zstd.ZstdDecompressor(dictionary.as_prefix, options=_OPTIONS), data, max_size
    )


def decompress_chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of the one frame in `stream`, at most 1 MiB at a time."""
    decompressor = zstd.ZstdDecompressor(options=_OPTIONS)
    try:
        while not decompressor.eof:
            data = b""
            if decompressor.needs_input:
                data = stream.read(_CHUNK)
                if not data:
                    raise FormatError("a zstd frame is truncated")
            chunk = decompressor.decompress(data, _CHUNK)
            if chunk:
                yield chunk
    except zstd.ZstdError as error:
        raise FormatError(f"not a zstd frame: {error}") from error
    if decompressor.unused_data or stream.read(1):
        raise FormatError("a zstd frame is followed by other bytes")


class ZstdReader(io.RawIOBase):
    """A readable stream over the frames in `stream`; raises `FormatError` if they are damaged."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decompressor = zstd.ZstdDecompressor(options=_OPTIONS)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fill `buffer` with decompressed bytes; 0 at the end."""
        view = memoryview(buffer)
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data or self._stream.read(_CHUNK)
                if not data:
                    return 0
                self._decompressor = zstd.ZstdDecompressor(options=_OPTIONS)
            elif self._decompressor.needs_input:
                data = self._stream.read(_CHUNK)
                if not data:
                    raise FormatError("a zstd frame is truncated")
            try:
                chunk = self._decompressor.decompress(data, len(view))
            except zstd.ZstdError as error:
                raise FormatError(f"not a zstd frame: {error}") from error
            if chunk:
                view[: len(chunk)] = chunk
                return len(chunk)
