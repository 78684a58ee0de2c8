"""Which objects of a push are verified and durable: what the server has acknowledged.

Records are appended after the objects they name were synced, so a record that is here speaks of
bytes that are on disk. Each has a checksum: what a power cut left of the last ones is not believed.
"""

import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.objects.ids import ID_LENGTH, ObjectId
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.common.repository.durable import write_all

_RECORD: Final = struct.Struct(f"<B{ID_LENGTH}sQQ")
_CHECKSUM: Final = struct.Struct("<I")
_LENGTH: Final = _RECORD.size + _CHECKSUM.size


class StagedObject(msgspec.Struct, frozen=True):
    """A verified object: bytes in its file, and bytes of what it holds."""

    key: ObjectKey
    stored: int
    size: int


def read_journal(path: Path) -> list[StagedObject]:
    """The records up to the first that is damaged; none if there is no journal."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for start in range(0, len(data) - _LENGTH + 1, _LENGTH):
        record = data[start : start + _RECORD.size]
        (checksum,) = _CHECKSUM.unpack_from(data, start + _RECORD.size)
        if zlib.crc32(record) != checksum:
            break
        kind, object_id, stored, size = _RECORD.unpack(record)
        found.append(StagedObject(ObjectKey(ObjectKind(kind), ObjectId(object_id)), stored, size))
    return found


def append_to_journal(path: Path, known: int, objects: Iterable[StagedObject]) -> None:
    """Add records behind the `known` that are sound, durably."""
    records = b"".join(map(_encode, objects))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, known * _LENGTH)
        os.lseek(descriptor, 0, os.SEEK_END)
        write_all(descriptor, records)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode(staged: StagedObject) -> bytes:
    record = _RECORD.pack(staged.key.kind, staged.key.id, staged.stored, staged.size)
    return record + _CHECKSUM.pack(zlib.crc32(record))
