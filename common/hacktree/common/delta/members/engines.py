"""The compressors of members: what each makes of a content under whitelisted parameters, bounded.

Costs are microseconds of one core and bytes of memory, rounded up from what was measured on the
real trees: a kernel of 66 MB takes xz about 14 s.
"""

import lzma
import zlib
from typing import Any, Final

from hacktree.common.delta.members.gnu_deflate import gnu_deflate
from hacktree.common.delta.members.layout import Engine, check_parameters
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import decompress_bounded, zstd

Buffer = bytes | bytearray | memoryview

_COMPRESSION_NANOSECONDS: Final = {
    Engine.LZMA2: 220,
    Engine.DEFLATE: 60,
    Engine.ZSTD: 400,
    Engine.GNU_DEFLATE: 350,
}
"""For each byte of content."""

_DECOMPRESSION_NANOSECONDS: Final = {
    Engine.LZMA2: 25,
    Engine.DEFLATE: 5,
    Engine.ZSTD: 2,
    Engine.GNU_DEFLATE: 5,
}


def compress(engine: Engine, parameters: tuple[int, ...], content: Buffer) -> bytes:
    """The member of this content.

    Raises `FormatError` for parameters that are not allowed, or when the engine can't do it here:
    memory or threads that it may not have.
    """
    check_parameters(engine, parameters)
    try:
        return _compress(engine, parameters, content)
    except (lzma.LZMAError, zlib.error, zstd.ZstdError, MemoryError) as error:
        raise FormatError(f"{engine.name} can't compress a member: {error}") from error


def _compress(engine: Engine, parameters: tuple[int, ...], content: Buffer) -> bytes:
    if engine is Engine.LZMA2:
        return lzma.compress(content, lzma.FORMAT_RAW, filters=lzma_filters(parameters))
    if engine is Engine.DEFLATE:
        level, memory = parameters
        encoder = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
        return encoder.compress(content) + encoder.flush()
    if engine is Engine.ZSTD:
        return _compress_zstd(parameters, content)
    return gnu_deflate(bytes(content), parameters[0])


def lzma_filters(parameters: tuple[int, ...]) -> list[dict[str, Any]]:
    """The filter chain of an .xz block."""
    preset, extreme, dictionary, x86 = parameters
    flags = preset | (lzma.PRESET_EXTREME if extreme else 0)
    last: dict[str, Any] = {"id": lzma.FILTER_LZMA2, "preset": flags, "dict_size": dictionary}
    return [{"id": lzma.FILTER_X86}, last] if x86 else [last]


def _compress_zstd(parameters: tuple[int, ...], content: Buffer) -> bytes:
    level, checksum, content_size, multithreaded = parameters
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: level,
        zstd.CompressionParameter.checksum_flag: checksum,
        zstd.CompressionParameter.content_size_flag: content_size,
        # zstd(1) always uses its threaded path, whose output differs but not with the number.
        zstd.CompressionParameter.nb_workers: multithreaded,
    }
    encoder = zstd.ZstdCompressor(options=options)
    if content_size:
        encoder.set_pledged_input_size(len(content))
    return encoder.compress(content) + encoder.flush()


def decompress(engine: Engine, parameters: tuple[int, ...], data: Buffer, max_length: int) -> bytes:
    """The content of a member, at most `max_length` bytes; raises `FormatError`."""
    check_parameters(engine, parameters)
    if engine is Engine.ZSTD:
        return decompress_bounded(bytes(data), max_length)
    if engine is Engine.LZMA2:
        return _finish(*_read_lzma(parameters, data, max_length), max_length)
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = decoder.decompress(data, max_length + 1)
    except (zlib.error, MemoryError) as error:
        raise FormatError(f"not a deflate stream: {error}") from error
    return _finish(content, decoder.eof and not decoder.unused_data, max_length)


def _read_lzma(parameters: tuple[int, ...], data: Buffer, max_length: int) -> tuple[bytes, bool]:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=lzma_filters(parameters))
    try:
        content = decoder.decompress(data, max_length + 1)
        if not decoder.eof and len(content) == max_length:
            content += decoder.decompress(b"", 1)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise FormatError(f"not an LZMA2 stream: {error}") from error
    return content, decoder.eof and not decoder.unused_data


def _finish(content: bytes, whole: bool, max_length: int) -> bytes:  # noqa: FBT001 - one caller
    if not whole or len(content) > max_length:
        raise FormatError(f"a member is truncated, or longer than {max_length} bytes")
    return content


def compression_cost(engine: Engine, parameters: tuple[int, ...], size: int) -> int:
    """Microseconds of `compress` for `size` bytes of content, about."""
    del parameters
    return 100 + size * _COMPRESSION_NANOSECONDS[engine] // 1000


def decompression_cost(engine: Engine, size: int) -> int:
    """Microseconds of `decompress` for `size` bytes of content, about."""
    return 20 + size * _DECOMPRESSION_NANOSECONDS[engine] // 1000
