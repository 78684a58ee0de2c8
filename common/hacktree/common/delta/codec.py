"""Choosing and undoing the encoding of one object."""

from typing import Final

import numpy as np
from msgspec.structs import replace

from hacktree.common.delta.btf import rewrite
from hacktree.common.delta.elf import U8, Elf, NotElfError, parse_elf
from hacktree.common.delta.elfdelta import decode_elf, encode_elf
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.plain import Parts, decode_plain, encode_plain
from hacktree.common.delta.shared import Shared
from hacktree.common.delta.varint import decode_varints, encode_varints
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import compress, prefix_ratio

_MICROSECONDS_FOR_A_BYTE: Final = 10
"""What an entry may take longer to decode for each byte that it saves."""

_SMALL: Final = 1 << 20
"""ELF files up to this many bytes are tried both ways."""

_LARGE_OBJECT: Final = 256 << 10
_REBUILT: Final = 0.1
"""An object file of so many bytes that knowing the old one does not shorten to this is not searched
as plain bytes first.
"""

_POOR: Final = 0.4
"""An ELF-aware entry that leaves more than this of the whole file is compared with a plain one."""

_HARDLY_MORE: Final = 3000
"""A module's plain delta up to this many bytes is mostly its signature: no references to save."""


def encode_delta(old: bytes, new: bytes, shared: Shared) -> EncodedEntry:
    """The cheapest way from `old` to `new`, counting bytes and time to decode."""
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    base, parameters = _renumber(before, shared)
    candidates = [entry for entry in _candidates(base, after) if entry is not None]
    best = _with_parameters(min(candidates, key=_price), parameters)
    if best.kind is EntryKind.ELF and not _decodes(best, old, new, shared):
        best = _with_parameters(encode_plain(base, after), parameters)
    return best


def _with_parameters(entry: EncodedEntry, parameters: bytes) -> EncodedEntry:
    if not parameters:
        return entry
    return replace(entry, parts={**entry.parts, StreamKind.PARAMETERS: parameters})


def estimate(entry: EncodedEntry) -> int:
    """About the bytes that the entry will take; quicker than making a frame of it."""
    return sum(len(compress(part, 6)) for part in entry.parts.values() if part)


def _price(entry: EncodedEntry) -> float:
    return estimate(entry) + entry.cost / _MICROSECONDS_FOR_A_BYTE


def _candidates(before: U8, after: U8) -> list[EncodedEntry | None]:
    try:
        old, new = parse_elf(before), parse_elf(after)
    except NotElfError:
        return [encode_plain(before, after)]
    if old.is_relocatable and not _is_rebuilt(before, after):
        plain = encode_plain(before, after)
        if estimate(plain) <= _HARDLY_MORE:
            return [plain]
        return [plain, _encode_elf(old, new)]
    aware = _encode_elf(old, new)
    if aware is None or len(after) <= _SMALL or _is_poor(aware, after):
        return [encode_plain(before, after), aware]
    return [aware]


def _encode_elf(old: Elf, new: Elf) -> EncodedEntry | None:
    try:
        return encode_elf(old, new)
    except FormatError:
        return None


def _is_poor(entry: EncodedEntry, after: U8) -> bool:
    return estimate(entry) > _POOR * len(compress(after.tobytes(), 3))


def _is_rebuilt(before: U8, after: U8) -> bool:
    """Whether so much of a large object file changed that its references decide."""
    if len(after) < _LARGE_OBJECT:
        return False
    return prefix_ratio(after.tobytes(), before.tobytes()) > _REBUILT


def _renumber(before: U8, shared: Shared) -> tuple[U8, bytes]:
    """The base with its .BTF section renumbered, and the parameters that say where that is."""
    if shared.is_empty:
        return before, b""
    try:
        section = parse_elf(before).section(b".BTF")
    except NotElfError:
        return before, b""
    if section is None or section.end == section.offset:
        return before, b""
    base = before.copy()
    rewrite([base[section.offset : section.end]], shared.types)
    where = np.array([section.offset, section.end - section.offset], np.uint64)
    return base, encode_varints(where)


def _renumbered(parameters: memoryview, old: memoryview, shared: Shared) -> memoryview:
    """The decoder's side of `_renumber`."""
    offset, size = (int(x) for x in decode_varints(parameters, 2))
    if offset + size > len(old):
        raise FormatError("the type information of a delta lies outside its base")
    base = np.frombuffer(old, np.uint8).copy()
    rewrite([base[offset : offset + size]], shared.types)
    return base.data


def _decodes(entry: EncodedEntry, old: bytes, new: bytes, shared: Shared) -> bool:
    """Whether the entry gives `new`: an ELF file that lies about itself may break predictions."""
    output = bytearray(len(new))
    parts = {kind: memoryview(part) for kind, part in entry.parts.items() if part}
    try:
        decode_entry(entry.kind, parts, memoryview(old), memoryview(output), shared)
    except FormatError:
        return False
    return output == new


def decode_entry(
    kind: EntryKind, parts: Parts, old: memoryview | None, output: memoryview, shared: Shared
) -> None:
    """Fill `output`, whose length is the object's size, exactly; raises `FormatError`."""
    if kind is EntryKind.FULL:
        content = parts.get(StreamKind.CONTENT, memoryview(b""))
        if len(content) != len(output):
            raise FormatError("an object's content has another size than the tree says")
        output[:] = content
        return
    if old is None:
        raise FormatError("a delta without a base")
    parameters = parts.get(StreamKind.PARAMETERS)
    if kind in (EntryKind.DELTA, EntryKind.ELF):
        base = old if parameters is None else _renumbered(parameters, old, shared)
        decode = decode_plain if kind is EntryKind.DELTA else decode_elf
        decode(parts, base, output)
        return
    raise FormatError(f"entries of kind {kind} are not known")
