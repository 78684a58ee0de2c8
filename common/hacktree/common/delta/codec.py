"""Choosing and undoing the encoding of one object."""

from hacktree.common.delta.entry import EncodedEntry, EntryKind, StreamKind
from hacktree.common.delta.plain import Parts, decode_plain, encode_plain
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError


def encode_delta(old: bytes, new: bytes, shared: Shared) -> EncodedEntry:
    """A delta from `old` to `new`, ELF-aware where that pays."""
    return encode_plain(old, new)


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
        return
    raise FormatError(f"entries of kind {kind} are not known")
