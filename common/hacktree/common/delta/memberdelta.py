"""Deltas of files that hold compressed data, made on the content. docs/format.md, "Members".

The old and the new file are expanded (contents first, then what stands between them), one delta
leads from the one to the other, and the members are compressed again, bit for bit as they were:
the encoder has proven that it can be done, the hash of the object shows that it was.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.delta.codec import decode_entry
from hacktree.common.delta.entry import EntryKind, StreamKind
from hacktree.common.delta.members.conformance import conforms
from hacktree.common.delta.members.expansion import expand, rebuild
from hacktree.common.delta.members.layout import (
    MAX_LAYOUT_SIZE,
    Layout,
    decode_layout,
    expanded_length,
)
from hacktree.common.delta.plain import Parts
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError

MAX_EXPANDED: Final = 1 << 30
"""Bytes of an expanded form."""

_MAX_GROWTH: Final = 64
"""Times its own size that a file may expand to, and one MiB: a bound on what a layout may claim."""


class MemberParameters(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How the result of the inner entry, of kind `inner`, becomes the file; layouts encoded."""

    version: Literal[1]
    inner: Annotated[int, Meta(ge=int(EntryKind.DELTA), le=int(EntryKind.ELF))]
    old: Annotated[bytes, Meta(max_length=MAX_LAYOUT_SIZE)]
    new: Annotated[bytes, Meta(max_length=MAX_LAYOUT_SIZE)]


PARAMETERS_CODEC = Codec(MemberParameters, "set of member parameters", 2 * MAX_LAYOUT_SIZE + 64)


def expanded_bound(size: int) -> int:
    """Bytes that the expanded form of a file of `size` bytes may have."""
    return min(_MAX_GROWTH * size + (1 << 20), MAX_EXPANDED)


def read_layouts(parts: Parts, old_size: int, new_size: int) -> tuple[Layout | None, Layout]:
    """The layouts of an entry's base and result; raises `FormatError`."""
    parameters = _read_parameters(parts)
    new = decode_layout(parameters.new, new_size, expanded_bound(new_size))
    if not parameters.old:
        return None, new
    return decode_layout(parameters.old, old_size, MAX_EXPANDED), new


def decode_object(
    kind: EntryKind, parts: Parts, old: memoryview | None, output: memoryview, shared: Shared
) -> None:
    """Fill `output`, whose length is the object's size, exactly; raises `FormatError`."""
    if kind is not EntryKind.MEMBER:
        decode_entry(kind, parts, old, output, shared)
        return
    if old is None:
        raise FormatError("a delta without a base")
    before, layout = read_layouts(parts, len(old), len(output))
    if not conforms(layout.recipes, CONFORMANCE):
        raise FormatError("this machine's compression libraries make other bytes")
    base = old if before is None else memoryview(expand(old, before, MAX_EXPANDED))
    expanded = bytearray(expanded_length(layout))
    inner: dict[StreamKind, memoryview] = {
        k: part for k, part in parts.items() if k is not StreamKind.PARAMETERS
    }
    inner_kind = EntryKind(_read_parameters(parts).inner)
    decode_entry(inner_kind, inner, base, memoryview(expanded), Shared())
    rebuild(expanded, layout, output)


CONFORMANCE: Final[dict[str, bool]] = {}
"""What this process knows about its compressors: found out, or told by whoever forks a decoder."""


def _read_parameters(parts: Parts) -> MemberParameters:
    part = parts.get(StreamKind.PARAMETERS)
    if part is None:
        raise FormatError("a member without parameters")
    return PARAMETERS_CODEC.decode(bytes(part))
