"""Choosing and undoing the encoding of one object."""

from typing import Final

import numpy as np

from hacktree.common.delta.elfdelta import decode_elf, encode_elf
from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.plain import Parts, decode_plain, encode_plain
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError

_ELF_MAGIC: Final = b"\x7fELF"
_WORTH: Final = 0.97
"""An ELF-aware entry must be this much smaller than a plain one: it takes longer to decode."""


def encode_delta(old: bytes, new: bytes, shared: Shared) -> EncodedEntry:
    """A delta from `old` to `new`, ELF-aware where that pays."""
    if not (old.startswith(_ELF_MAGIC) and new.startswith(_ELF_MAGIC)):
        return encode_plain(old, new)
    entry = encode_elf(np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8))
    if entry is None or not _decodes(entry, old, new, shared):
        return encode_plain(old, new)
    return entry


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
    if kind is EntryKind.DELTA:
        decode_plain(parts, old, output)
    elif kind is EntryKind.ELF:
        decode_elf(parts, old, output)
    else:
        raise FormatError(f"entries of kind {kind} are not known")
