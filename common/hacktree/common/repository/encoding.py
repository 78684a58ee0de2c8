"""Encoding one object: the only place that decides which of the codec's entries are made."""

import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import msgspec

from hacktree.common.delta.codec import encode_delta, estimate
from hacktree.common.delta.entry import EncodedEntry, EntryKind, encode_full
from hacktree.common.delta.memberdelta import decode_object
from hacktree.common.delta.memberencoding import encode_member
from hacktree.common.delta.members.detect import DEFAULT_WORK
from hacktree.common.delta.shared import Shared
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.zstandard import compress, prefix_ratio

_WORTH: Final = 0.95
"""A delta must be this much smaller than the object as a whole."""

_DENSE: Final = 0.97
_LOOKED_AT: Final = 1 << 20
_LONG_SEARCH: Final = 16 << 20
"""Files of so many bytes, the less if they compress no better, are looked at before a search."""

_HARDLY_RELATED: Final = 0.85
"""What knowing the old file shortens no more than so is not searched: that would take minutes
(firefox 140 to 153: eight), and LZMA makes less of the whole than of the delta.
"""

_WHOLE_LEVEL: Final = 6
_SMALLEST_MEMBER: Final = 1000
_MUCH: Final = 0.6

_CODEC_PACKAGE: Final = "hacktree.common.delta"


class Chosen(msgspec.Struct, frozen=True):
    """An entry, and the bytes that it will take in a frame, about."""

    entry: EncodedEntry
    estimate: int


def encode_best(old: bytes, new: bytes, shared: Shared) -> Chosen:
    """The cheapest entry for `new` by bytes and decoding time: a delta against `old`, or whole."""
    whole = len(compress(new, _WHOLE_LEVEL))
    if _is_hopeless(old, new, whole):
        return Chosen(encode_full(new), whole)
    entry = encode_delta(old, new, shared)
    size = estimate(entry)
    if size > _WORTH * whole or not decodes(entry, old, new, shared):
        return Chosen(encode_full(new), whole)
    return Chosen(entry, size)


def _is_hopeless(old: bytes, new: bytes, whole: int) -> bool:
    """Whether a long search would find nothing that is worth it."""
    dense = whole > _DENSE * len(new)
    if len(new) < (_LOOKED_AT if dense else _LONG_SEARCH):
        return False
    return prefix_ratio(new, old) > _HARDLY_RELATED


def decodes(entry: EncodedEntry, old: bytes, new: bytes, shared: Shared) -> bool:
    """Whether the entry gives `new`: what a client would reject is not worth sending."""
    output = bytearray(len(new))
    parts = {kind: memoryview(part) for kind, part in entry.parts.items() if part}
    try:
        decode_object(entry.kind, parts, memoryview(old), memoryview(output), shared)
    except FormatError:
        return False
    return output == new


def encode_choices(old: bytes, new: bytes, shared: Shared) -> list[Chosen]:
    """The entries that a pack should offer for `new`.

    Where recompressing its members saves much, that is a second one: it takes long, and not every
    machine can do it exactly. The reader chooses.
    """
    best = encode_best(old, new, shared)
    if best.estimate < _SMALLEST_MEMBER:
        return [best]
    member = encode_member(old, new, DEFAULT_WORK)
    if member is None:
        return [best]
    size = estimate(member)
    if size > _MUCH * best.estimate:
        return [best]
    return [best, Chosen(member, size)]


def is_whole(entry: EncodedEntry) -> bool:
    """Whether the entry is the object as it is."""
    return entry.kind is EntryKind.FULL


def codec_version() -> bytes:
    """A hash of the codec's own code: what another version of it encoded is encoded anew."""
    digest = hashlib.sha256()
    for source in sorted(_sources(resources.files(_CODEC_PACKAGE)), key=lambda file: file.name):
        digest.update(source.read_bytes())
    digest.update(resources.files(__package__).joinpath("encoding.py").read_bytes())
    return digest.digest()


def _sources(directory: Traversable) -> list[Traversable]:
    found = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _sources(entry)
        elif entry.name.endswith(".py"):
            found.append(entry)
    return found
