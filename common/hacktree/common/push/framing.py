"""The body of a batch: many objects in one stream. docs/format.md, "Batch".

The decoder is a machine without I/O: bytes go in as they arrive, events come out. It holds no more
than one header, whatever length a header claims.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ID_LENGTH, ObjectId
from hacktree.common.objects.tree import MAX_FILE_SIZE, MAX_TREE_SIZE

BATCH_END: Final = b"\0"
"""Follows the last object: a batch that was cut between two objects doesn't look whole."""

_HEADER: Final = struct.Struct(f"<B{ID_LENGTH}sQ")
HEADER_LENGTH: Final = _HEADER.size


class ObjectKind(enum.IntEnum):
    """What an object is; the byte that begins its header."""

    META = 1
    FILE = 2


class ObjectKey(NamedTuple):
    """What identifies an object."""

    kind: ObjectKind
    id: ObjectId


MAX_LENGTHS: Final = {
    ObjectKind.META: max(MAX_TREE_SIZE, MAX_COMMIT_SIZE),
    # ZSTD_compressBound of the longest content, rounded up.
    ObjectKind.FILE: MAX_FILE_SIZE + (MAX_FILE_SIZE >> 7) + 4096,
}
"""Bytes of one object as it is sent: a meta as it is, a content as one zstd frame."""


class ObjectBegin(msgspec.Struct, frozen=True):
    """An object of `length` bytes follows."""

    key: ObjectKey
    length: int


class ObjectPart(msgspec.Struct, frozen=True):
    """The next bytes of the object; valid until the next piece is fed."""

    data: memoryview


class ObjectEnd(msgspec.Struct, frozen=True):
    """The object has all its bytes."""


BatchEvent = ObjectBegin | ObjectPart | ObjectEnd


def encode_header(key: ObjectKey, length: int) -> bytes:
    """What stands before the `length` bytes of an object; raises `FormatError` out of bounds."""
    _check_length(key.kind, length)
    return _HEADER.pack(key.kind, key.id, length)


def _check_length(kind: ObjectKind, length: int) -> None:
    if not 1 <= length <= MAX_LENGTHS[kind]:
        raise FormatError(
            f"an object of {length} bytes; {kind.name.lower()} objects have 1 to "
            f"{MAX_LENGTHS[kind]}"
        )


class BatchDecoder:
    """Cuts a stream into objects; raises `FormatError` at the first byte that can't be one."""

    def __init__(self) -> None:
        self.finished = False
        self._header = bytearray()
        self._remaining = 0

    def feed(self, data: bytes) -> Iterator[BatchEvent]:
        """The events that `data`, the next bytes of the stream, completes; to be exhausted."""
        view = memoryview(data)
        while view:
            if self._remaining:
                piece = view[: self._remaining]
                view = view[len(piece) :]
                self._remaining -= len(piece)
                yield ObjectPart(piece)
                if not self._remaining:
                    yield ObjectEnd()
                continue
            if self.finished:
                raise FormatError("bytes follow the end of the batch")
            taken = view[: HEADER_LENGTH - len(self._header)]
            if not self._header and taken[0] == BATCH_END[0]:
                self.finished = True
                view = view[1:]
                continue
            self._header += taken
            view = view[len(taken) :]
            if len(self._header) == HEADER_LENGTH:
                yield self._begin()

    def _begin(self) -> ObjectBegin:
        number, object_id, length = _HEADER.unpack(self._header)
        self._header.clear()
        try:
            kind = ObjectKind(number)
        except ValueError:
            raise FormatError(f"{number} is no kind of object") from None
        _check_length(kind, length)
        self._remaining = length
        return ObjectBegin(ObjectKey(kind, ObjectId(object_id)), length)

    def close(self) -> None:
        """The stream has ended; raises `FormatError` unless the batch has too."""
        if not self.finished:
            raise FormatError("the batch is cut short")
