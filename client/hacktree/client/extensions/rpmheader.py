"""The headers of an rpm file or database: an index of tags, and their data; "RPM v4 package".

Pure. Everything a header says is bounded by its own size.
"""

import struct
from collections.abc import Collection
from typing import Final

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_RPM_HEADER_SIZE

HEADER_MAGIC: Final = b"\x8e\xad\xe8\x01\0\0\0\0"
SIZES: Final = struct.Struct(">II")
ENTRY: Final = struct.Struct(">IIII")

INT16: Final = 3
INT32: Final = 4
STRING: Final = 6
BINARY: Final = 7
STRINGS: Final = 8
TRANSLATED: Final = 9

_NUMBERS: Final = {INT16: "H", INT32: "I"}
_STRINGS: Final = frozenset({STRING, STRINGS, TRANSLATED})

_MAX_VALUES: Final = 500_000
_MAX_PATHS: Final = 256 << 20
"""Bytes of all paths of a package: a header repeats no directory, but the list does."""

DIRECTORY_INDEXES: Final = 1116
BASE_NAMES: Final = 1117
DIRECTORY_NAMES: Final = 1118
_PATHS: Final = frozenset({DIRECTORY_INDEXES, BASE_NAMES, DIRECTORY_NAMES})

Tags = dict[int, list[int] | list[bytes]]
"""The values of a header's tags."""


def list_header_files(blob: bytes) -> list[bytes]:
    """The paths, relative, that a header of an rpm database lists; raises `FormatError`."""
    if not SIZES.size <= len(blob) <= MAX_RPM_HEADER_SIZE:
        raise FormatError(f"an rpm header of {len(blob)} bytes")
    header = parse_tags(blob, _PATHS)
    names, directories = texts_of(header, BASE_NAMES), texts_of(header, DIRECTORY_NAMES)
    indexes = numbers_of(header, DIRECTORY_INDEXES)
    if len(indexes) != len(names) or any(index >= len(directories) for index in indexes):
        raise FormatError("an rpm header whose files are in no directory")
    if sum(len(directories[index]) for index in indexes) > _MAX_PATHS:
        raise FormatError(f"an rpm header whose paths take more than {_MAX_PATHS} bytes")
    return [
        (directories[index] + name).lstrip(b"/") for index, name in zip(indexes, names, strict=True)
    ]


def parse_tags(blob: bytes, wanted: Collection[int]) -> Tags:
    """The wanted tags of a header whose sizes were checked; raises `FormatError`."""
    count, _ = SIZES.unpack_from(blob)
    start = SIZES.size + count * ENTRY.size
    data = blob[start:]
    header: Tags = {}
    for tag, kind, offset, values in ENTRY.iter_unpack(blob[SIZES.size : start]):
        if tag not in wanted or tag in header:
            continue
        if values > _MAX_VALUES:
            raise FormatError(f"its header's tag {tag} has {values} values")
        if kind in _NUMBERS:
            form = f">{values}{_NUMBERS[kind]}"
            if offset + struct.calcsize(form) > len(data):
                raise FormatError(f"its header's tag {tag} is cut short")
            header[tag] = list(struct.unpack_from(form, data, offset))
        elif kind in _STRINGS:
            header[tag] = _split(data, offset, values, tag)
    return header


def _split(data: bytes, offset: int, count: int, tag: int) -> list[bytes]:
    found = []
    for _ in range(count):
        end = data.find(b"\0", offset)
        if end < 0:
            raise FormatError(f"its header's tag {tag} is cut short")
        found.append(data[offset:end])
        offset = end + 1
    return found


def texts_of(header: Tags, tag: int) -> list[bytes]:
    """The strings of a tag; none if it is absent or of another type."""
    return [value for value in header.get(tag, []) if isinstance(value, bytes)]


def numbers_of(header: Tags, tag: int) -> list[int]:
    """The numbers of a tag; none if it is absent or of another type."""
    return [value for value in header.get(tag, []) if isinstance(value, int)]
