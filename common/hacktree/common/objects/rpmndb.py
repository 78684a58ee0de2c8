"""rpm's database of kind `ndb`, as openSUSE keeps it: the headers in a `Packages.db`. Pure.

Numbers are little-endian. Slots of 16 bytes fill the first pages of 4,096 bytes, but for the file's
own header in the place of the first two. A slot leads to a blob: a head, a package's header, zeros
up to a multiple of 16 with the tail, and the tail. It is read here as Debian's rpm has no ndb, and
one that has it trusts what it reads. Indexes are in another file, `Index.db`; rpm makes them anew
where that is of another generation.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_PACKAGES, MAX_RPM_HEADER_SIZE

_FILE: Final = struct.Struct("<4sIIII12x")
"""Magic, version, generation, pages of slots, the next package's number."""

_SLOT: Final = struct.Struct("<4sIII")
"""Magic, package number (0: free), and where its blob is and how long, in blocks."""

_HEAD: Final = struct.Struct("<4sIII")
"""Magic, package number, generation, length of the header."""

_TAIL: Final = struct.Struct("<II4s")
"""Adler-32 of all that is before it, length of the header, magic."""

_PAGE: Final = 4096
_BLOCK: Final = 16
_OURS: Final = 1 << 31
"""Added to the generation that we write, so that it is none that rpm has counted up to."""


def ndb_headers(database: bytes) -> Iterator[bytes]:
    """Yield each package's header, by package number; raises `FormatError`."""
    if len(database) < _FILE.size:
        raise FormatError("an rpm database of kind ndb that is cut short")
    magic, version, _, pages, _ = _FILE.unpack_from(database)
    if magic != b"RpmP" or version != 0:
        raise FormatError("not an rpm database of kind ndb, or of a newer version")
    end = pages * _PAGE
    if not _FILE.size <= end <= len(database):
        raise FormatError("an rpm database of kind ndb whose slots are cut short")
    slots: dict[int, tuple[int, int]] = {}
    for magic, number, start, blocks in _SLOT.iter_unpack(database[_FILE.size : end]):
        if magic != b"Slot" or number in slots:
            raise FormatError("an rpm database of kind ndb with a slot that can't be")
        if number:
            slots[number] = (start * _BLOCK, blocks * _BLOCK)
    # Blobs are disjoint parts of a sound database: together they fit in it.
    if len(slots) > MAX_PACKAGES or sum(size for _, size in slots.values()) > len(database):
        raise FormatError("an rpm database of kind ndb that holds more than it can")
    for number, (start, size) in sorted(slots.items()):
        yield _read_blob(database, number, start, size)


def _read_blob(database: bytes, number: int, start: int, size: int) -> bytes:
    wrong = FormatError(f"an rpm database of kind ndb whose package {number} is damaged")
    tail = start + size - _TAIL.size
    if size < _HEAD.size + _TAIL.size or start + size > len(database):
        raise wrong
    magic, named, _, length = _HEAD.unpack_from(database, start)
    checksum, repeated, ending = _TAIL.unpack_from(database, tail)
    first = start + _HEAD.size
    fits = first + length <= tail < first + length + _BLOCK and length <= MAX_RPM_HEADER_SIZE
    if (magic, named, ending, repeated) != (b"BlbS", number, b"BlbE", length) or not fits:
        raise wrong
    if zlib.adler32(memoryview(database)[start:tail]) != checksum:
        raise wrong
    return database[first : first + length]


def encode_ndb(headers: Sequence[bytes]) -> bytes:
    """A database of these headers, numbered from 1: the same bytes for the same headers.

    rpm as root makes the indexes anew when it is first asked.
    """
    pages = -(-(_FILE.size + len(headers) * _SLOT.size) // _PAGE)
    generation = _OURS | zlib.crc32(b"".join(headers))
    slots = [_FILE.pack(b"RpmP", 0, generation, pages, len(headers) + 1)]
    blobs: list[bytes] = []
    start = pages * _PAGE // _BLOCK
    for number, header in enumerate(headers, 1):
        blob = _encode_blob(number, header)
        slots.append(_SLOT.pack(b"Slot", number, start, len(blob) // _BLOCK))
        blobs.append(blob)
        start += len(blob) // _BLOCK
    used = sum(map(len, slots))
    free = _SLOT.pack(b"Slot", 0, 0, 0) * ((pages * _PAGE - used) // _SLOT.size)
    return b"".join((*slots, free, *blobs))


def _encode_blob(number: int, header: bytes) -> bytes:
    padding = -(_HEAD.size + len(header) + _TAIL.size) % _BLOCK
    blob = _HEAD.pack(b"BlbS", number, 0, len(header)) + header + bytes(padding)
    return blob + _TAIL.pack(zlib.adler32(blob), len(header), b"BlbE")
