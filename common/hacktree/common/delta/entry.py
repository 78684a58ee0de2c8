"""One object of a pack: whole, or as a delta against an object that the client has.

An entry is a handful of byte strings, one for each stream of its frame that it uses: what is of a
kind compresses best together. docs/format.md, "Entries".
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec


class EntryKind(enum.IntEnum):
    """How an object is encoded."""

    FULL = 0
    DELTA = 1
    ELF = 2
    MEMBER = 3


class StreamKind(enum.IntEnum):
    """What a stream of a frame holds."""

    RECORDS = 0
    PARAMETERS = 1
    COPY_LENGTHS = 2
    COPY_GAPS = 3
    COPY_SEEKS = 4
    DIFF_GAPS = 5
    DIFF_VALUES = 6
    EXTRA = 7
    CONTENT = 8
    POINT_GAPS = 9
    POINT_MOVES = 10
    REFERENCE_GAPS = 11
    REFERENCE_VALUES = 12
    DERIVED = 13


PART_KINDS: Final = tuple(StreamKind)[1:]
"""The streams that entries have parts in, in the order of a frame's records."""


FULL_SPEED: Final = 100
STORED_SPEED: Final = 200
"""Bytes a microsecond of whole objects: compressed by LZMA, and stored."""


class EncodedEntry(msgspec.Struct, frozen=True):
    """An entry before compression; `cost` estimates its decoding in microseconds."""

    kind: EntryKind
    parts: Mapping[StreamKind, bytes]
    cost: int


def encode_full(new: bytes) -> EncodedEntry:
    """The object as it is."""
    cost = 20 + len(new) // FULL_SPEED
    return EncodedEntry(EntryKind.FULL, {StreamKind.CONTENT: new}, cost)
