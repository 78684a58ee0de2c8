"""Finding compressed members, for the encoder: where they are, and what made them.

Formats: Linux boot protocol (bzImage); RFC 1952 (gzip); .xz file format 1.1; RFC 8878 (zstd);
APPNOTE (zip). A member counts only if compressing its content again gives the very same bytes.
"""

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import msgspec

from hacktree.common.delta.members.conformance import conformance
from hacktree.common.delta.members.engines import compress, compression_cost
from hacktree.common.delta.members.gnu_deflate import MAX_CONTENT, gnu_deflate_prefix
from hacktree.common.delta.members.layout import MAX_MEMBERS, Engine, Layout, Member, Recipe
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import decompress_bounded, zstd

DEFAULT_WORK: Final = 120_000_000
"""Microseconds, estimated, that a search may take."""

_MAX_CONTENT: Final = 1 << 29
_ZIP_LEVEL: Final = 6
_SAMPLE: Final = 128 << 10
_SURE: Final = 64
_XZ_MAGIC: Final = b"\xfd7zXZ\0"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b\x08"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_LZMA_LEVELS: Final = tuple(
    (preset, extreme) for extreme in (0, 1) for preset in (6, 5, 4, 3, 2, 1, 0)
)
_DAMAGE: Final = (
    FormatError,
    LookupError,
    ValueError,
    EOFError,
    MemoryError,
    NotImplementedError,
    lzma.LZMAError,
    zlib.error,
    zstd.ZstdError,
    struct.error,
    zipfile.BadZipFile,
)
"""What the parsers of damaged or strange files raise: such a file has no members."""

_ZSTD_LEVELS: Final = (19, 22, 3, 9, 6, 10, 15, 1)


_RecipeKey = tuple[Engine, tuple[int, ...]]


class _Found(msgspec.Struct, frozen=True):
    """A compressed stretch [start, end) and its content; `recipes` to try, the likeliest first."""

    start: int
    end: int
    content: bytes
    recipes: Sequence[_RecipeKey]


class _Proven(msgspec.Struct, frozen=True):
    """A stretch [start, end) that `recipe` makes of a content of `length` bytes."""

    start: int
    end: int
    length: int
    recipe: _RecipeKey


def find_members(data: bytes, work: int = DEFAULT_WORK, *, exact: bool = True) -> Layout | None:
    """The layout of `data`, or None if nothing in it can be compressed again exactly.

    Gives up when the tries would take more than `work` microseconds, about; what was proven until
    then counts. Without `exact` nothing is tried: the layout serves for reading the contents only.
    """
    proven: list[_Proven] = []
    recipe: _RecipeKey | None
    last: _RecipeKey | None = None
    try:
        for found in _find(data):
            if len(proven) == MAX_MEMBERS:
                break
            if exact:
                recipe, work = _prove(data, found, _likeliest_first(found.recipes, last), work)
            else:
                recipe = found.recipes[0] if found.content else None
            if recipe is not None:
                proven.append(_Proven(found.start, found.end, len(found.content), recipe))
                last = recipe
            if work <= 0:
                break
    except _DAMAGE:
        # What was proven before still holds.
        pass
    return _layout(data, proven) if proven else None


def _likeliest_first(
    recipes: Sequence[_RecipeKey], last: _RecipeKey | None
) -> Sequence[_RecipeKey]:
    """One program made all members of an archive, so what made the last comes first."""
    if last is None or last not in recipes:
        return recipes
    return [last, *(recipe for recipe in recipes if recipe != last)]


def _layout(data: bytes, proven: Sequence[_Proven]) -> Layout | None:
    recipes: dict[_RecipeKey, int] = {}
    members, position = [], 0
    for item in sorted(proven, key=lambda item: item.start):
        if item.start < position:
            return None
        number = recipes.setdefault(item.recipe, len(recipes))
        members.append(Member(item.start - position, number, item.length, item.end - item.start))
        position = item.end
    made = tuple(Recipe(*recipe, _conformance(*recipe)) for recipe in recipes)
    return Layout(1, made, tuple(members), len(data) - position)


@cache
def _conformance(engine: Engine, parameters: tuple[int, ...]) -> bytes:
    return conformance(engine, parameters)


def _find(data: bytes) -> Iterator[_Found]:
    if data[0x202:0x206] == b"HdrS":
        yield from _find_kernel(data)
    elif data.startswith(_ZIP_MAGIC):
        yield from _find_zip(data)
    else:
        yield from _find_stream(data, 0, len(data))


def _find_kernel(data: bytes) -> Iterator[_Found]:
    """The payload of a bzImage; its compressed stream is followed by four bytes of size."""
    setup = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup + 1) * 512 + offset
    if start + length <= len(data):
        yield from _find_stream(data, start, start + length)


def _find_stream(data: bytes, start: int, end: int) -> Iterator[_Found]:
    magic = data[start : start + 6]
    if magic == _XZ_MAGIC:
        yield from _find_xz(data, start, end)
    elif magic.startswith(_GZIP_MAGIC):
        yield from _find_gzip(data, start, end)
    elif magic.startswith(_ZSTD_MAGIC):
        yield from _find_zstd(data, start, end)


def _find_gzip(data: bytes, start: int, end: int) -> Iterator[_Found]:
    flags = data[start + 3]
    position = start + 10
    if flags & 4:
        position += 2 + struct.unpack_from("<H", data, position)[0]
    for bit in (8, 16):
        if flags & bit:
            position = data.index(b"\0", position, end) + 1
    if flags & 2:
        position += 2
    yield from _find_deflate(data, position, end, {2: 9, 4: 1}.get(data[start + 8], 6))


def _find_deflate(data: bytes, start: int, end: int, likely: int) -> Iterator[_Found]:
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    content = decoder.decompress(data[start:end], _MAX_CONTENT)
    if decoder.eof:
        levels = sorted(range(1, 10), key=lambda level: (level != likely, -level))
        gnu = [(Engine.GNU_DEFLATE, (level,)) for level in levels if len(content) <= MAX_CONTENT]
        plain = [(Engine.DEFLATE, (level, memory)) for memory in (8, 9) for level in levels]
        yield _Found(
            start,
            end - len(decoder.unused_data),
            content,
            [*plain[:2], *gnu[:2], *plain[2:], *gnu[2:]],
        )


def _find_zstd(data: bytes, start: int, end: int) -> Iterator[_Found]:
    decoder = zstd.ZstdDecompressor()
    decoder.decompress(data[start:end], _MAX_CONTENT)
    if not decoder.eof:
        return
    end -= len(decoder.unused_data)
    descriptor = data[start + 4]
    checksum, sized = descriptor >> 2 & 1, int(descriptor & 0xE0 != 0)
    content = decompress_bounded(data[start:end], _MAX_CONTENT)
    recipes = [
        (Engine.ZSTD, (level, checksum, sized, threads))
        for level in _ZSTD_LEVELS
        for threads in (1, 0)
    ]
    yield _Found(start, end, content, recipes)


def _find_xz(data: bytes, start: int, end: int) -> Iterator[_Found]:
    """The one block of an .xz stream: the header says everything but the preset."""
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    content = decoder.decompress(data[start:end], _MAX_CONTENT)
    if not decoder.eof:
        return
    end -= len(decoder.unused_data)
    check = {0: 0, 1: 4, 4: 8, 10: 32}.get(data[start + 7] & 15)
    header = start + 12
    first = header + 4 * (data[header] + 1)
    filters = _xz_filters(data[header:first])
    index_size = 4 * (struct.unpack_from("<I", data, end - 8)[0] + 1)
    index = data[end - 12 - index_size : end - 12]
    if check is None or filters is None or index[:2] != b"\0\1":
        return
    unpadded, _ = _xz_number(index, 2)
    dictionary, x86 = filters
    recipes = [
        (Engine.LZMA2, (preset, extreme, dictionary, x86)) for preset, extreme in _LZMA_LEVELS
    ]
    yield _Found(first, header + unpadded - check, content, recipes)


def _xz_number(data: bytes, position: int) -> tuple[int, int]:
    """A multibyte integer, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position


def _xz_filters(header: bytes) -> tuple[int, int] | None:
    """(dictionary bytes, x86) of a block header whose chain is [x86,] LZMA2."""
    flags, position = header[1], 2
    for bit in (0x40, 0x80):
        if flags & bit:
            _, position = _xz_number(header, position)
    x86 = 0
    for _ in range((flags & 3) + 1):
        kind, position = _xz_number(header, position)
        size, position = _xz_number(header, position)
        if kind == 4 and size == 0:
            x86 = 1
        elif kind == 0x21 and size == 1:
            bits = header[position]
            return (2 | bits & 1) << (bits // 2 + 11), x86
        else:
            return None
        position += size
    return None


def _find_zip(data: bytes) -> Iterator[_Found]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in sorted(archive.infolist(), key=lambda item: item.header_offset):
            if info.compress_type != zipfile.ZIP_DEFLATED or info.compress_size == 0:
                continue
            name, extra = struct.unpack_from("<HH", data, info.header_offset + 26)
            start = info.header_offset + 30 + name + extra
            try:
                yield from _find_deflate(data, start, start + info.compress_size, _ZIP_LEVEL)
            except zlib.error:
                # Encrypted or damaged; the others may be sound.
                continue


def _prove(
    data: bytes, found: _Found, recipes: Sequence[_RecipeKey], work: int
) -> tuple[_RecipeKey | None, int]:
    """The recipe that gives the member again, bit for bit, and the work that is left."""
    if not found.content:
        return None, work
    wanted = data[found.start : found.end]
    for engine, parameters in recipes:
        if len(found.content) > _SAMPLE:
            work -= compression_cost(engine, parameters, _SAMPLE)
            if not _may_be(engine, parameters, found.content[:_SAMPLE], wanted):
                continue
        work -= compression_cost(engine, parameters, len(found.content))
        if work <= 0:
            return None, work
        if _makes(engine, parameters, found.content, wanted):
            return (engine, parameters), work
    return None, work


def _makes(engine: Engine, parameters: tuple[int, ...], content: bytes, wanted: bytes) -> bool:
    try:
        return compress(engine, parameters, content) == wanted
    except FormatError:
        return False


def _may_be(engine: Engine, parameters: tuple[int, ...], sample: bytes, wanted: bytes) -> bool:
    """Whether what the engine makes of the content's first bytes begins as the member does."""
    if engine is Engine.GNU_DEFLATE:
        try:
            return wanted.startswith(gnu_deflate_prefix(sample, parameters[0]))
        except FormatError:
            return False
    if engine is Engine.DEFLATE:
        level, memory = parameters
        encoder = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
        return wanted.startswith(encoder.compress(sample))
    if engine is Engine.LZMA2:
        # The first chunk of 64 KiB or so depends little on what follows: its beginning, not at all.
        made = compress(engine, parameters, sample)
        return made[6 : 6 + _SURE] == wanted[6 : 6 + _SURE]
    return True
