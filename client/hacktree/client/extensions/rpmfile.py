"""Reading the headers of an RPM file: a lead, a signature's header, the header; "RPM v4 package".

The payload is rpm's to check (`rpm -K`). Everything a header says is bounded by its own size.
"""

import struct
from pathlib import Path
from typing import IO, Final

from hacktree.client.extensions.package import (
    MAX_FILES,
    BadPackageError,
    PackageFile,
    PackedFile,
    packed_path,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_RPM_HEADER_SIZE, parse_rpm_header

LEAD: Final = struct.Struct(">4sBBHH66sHH16s")
LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"
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

_SOURCE_RPM: Final = 1044
_FILE_MODES: Final = 1030
_FILE_DIGESTS: Final = 1035
_FILE_TARGETS: Final = 1036
_FILE_FLAGS: Final = 1037
_FILE_OWNERS: Final = 1039
_FILE_GROUPS: Final = 1040
_REQUIRE_NAMES: Final = 1049
_DIRECTORY_INDEXES: Final = 1116
_BASE_NAMES: Final = 1117
_DIRECTORY_NAMES: Final = 1118
_DIGEST_ALGORITHM: Final = 5011
_SHA256: Final = 8
_GHOST: Final = 1 << 6
"""A file that the package owns and doesn't bring."""

_WANTED: Final = frozenset(
    {
        _SOURCE_RPM,
        _FILE_MODES,
        _FILE_DIGESTS,
        _FILE_TARGETS,
        _FILE_FLAGS,
        _FILE_OWNERS,
        _FILE_GROUPS,
        _REQUIRE_NAMES,
        _DIRECTORY_INDEXES,
        _BASE_NAMES,
        _DIRECTORY_NAMES,
        _DIGEST_ALGORITHM,
    }
)

_Header = dict[int, list[int] | list[bytes]]


def read_rpm(path: Path) -> PackageFile:
    """What the RPM file is and brings; raises `BadPackageError`."""
    try:
        with open(path, "rb") as stream:
            blob = _header_blob(stream)
        package = parse_rpm_header(blob)
        header = _parse(blob)
        if _SOURCE_RPM not in header:
            raise FormatError("a source package, not one to install")
        files = _files(header, path)
    except FormatError as error:
        raise BadPackageError(f"{path}: not an RPM file that can be used: {error}") from error
    requires = tuple(name.decode("utf-8", "replace") for name in _texts(header, _REQUIRE_NAMES))
    return PackageFile(path, "rpm", package, files, requires)


def list_header_files(blob: bytes) -> list[bytes]:
    """The paths, relative, that a header of an rpm database lists; raises `FormatError`."""
    if not SIZES.size <= len(blob) <= MAX_RPM_HEADER_SIZE:
        raise FormatError(f"an rpm header of {len(blob)} bytes")
    header = _parse(blob)
    names, directories = _texts(header, _BASE_NAMES), _texts(header, _DIRECTORY_NAMES)
    indexes = _numbers(header, _DIRECTORY_INDEXES)
    if len(indexes) != len(names) or any(index >= len(directories) for index in indexes):
        raise FormatError("an rpm header whose files are in no directory")
    return [
        (directories[index] + name).lstrip(b"/") for index, name in zip(indexes, names, strict=True)
    ]


def _header_blob(stream: IO[bytes]) -> bytes:
    """The main header, without its magic, as an rpm database has it."""
    lead = stream.read(LEAD.size)
    if len(lead) != LEAD.size or not lead.startswith(LEAD_MAGIC):
        raise FormatError("it doesn't begin as one")
    signature = _read_header(stream)
    stream.read(-len(signature) % 8)
    return _read_header(stream)


def _read_header(stream: IO[bytes]) -> bytes:
    start = stream.read(len(HEADER_MAGIC) + SIZES.size)
    if len(start) != len(HEADER_MAGIC) + SIZES.size or not start.startswith(HEADER_MAGIC):
        raise FormatError("a header is missing")
    sizes = start[len(HEADER_MAGIC) :]
    count, data = SIZES.unpack(sizes)
    size = count * ENTRY.size + data
    if size > MAX_RPM_HEADER_SIZE:
        raise FormatError(f"a header of {size} bytes")
    rest = stream.read(size)
    if len(rest) != size:
        raise FormatError("it is cut short")
    return sizes + rest


def _parse(blob: bytes) -> _Header:
    """The tags that are read, as lists."""
    count, _ = SIZES.unpack_from(blob)
    start = SIZES.size + count * ENTRY.size
    data = blob[start:]
    header: _Header = {}
    for tag, kind, offset, values in ENTRY.iter_unpack(blob[SIZES.size : start]):
        if tag not in _WANTED or tag in header:
            continue
        if values > MAX_FILES:
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


def _texts(header: _Header, tag: int) -> list[bytes]:
    return [value for value in header.get(tag, []) if isinstance(value, bytes)]


def _numbers(header: _Header, tag: int) -> list[int]:
    return [value for value in header.get(tag, []) if isinstance(value, int)]


def _files(header: _Header, path: Path) -> tuple[PackedFile, ...]:
    names, directories = _texts(header, _BASE_NAMES), _texts(header, _DIRECTORY_NAMES)
    indexes, modes = _numbers(header, _DIRECTORY_INDEXES), _numbers(header, _FILE_MODES)
    flags = _numbers(header, _FILE_FLAGS)
    hashed = _numbers(header, _DIGEST_ALGORITHM) == [_SHA256]
    columns: list[list[bytes]] = [
        _texts(header, tag) for tag in (_FILE_DIGESTS, _FILE_TARGETS, _FILE_OWNERS, _FILE_GROUPS)
    ]
    lengths = {len(indexes), len(modes), len(flags), *map(len, columns)}
    if lengths != {len(names)}:
        raise FormatError("its lists of files differ in length")
    if any(index >= len(directories) for index in indexes):
        raise FormatError("a file of it is in no directory")

    files = []
    for number, name in enumerate(names):
        if flags[number] & _GHOST:
            continue
        digest, target, owner, group = (column[number] for column in columns)
        files.append(
            PackedFile(
                packed_path(directories[indexes[number]] + name, path),
                modes[number],
                _unhex(digest) if hashed else b"",
                target,
                owner.decode("utf-8", "replace"),
                group.decode("utf-8", "replace"),
            )
        )
    return tuple(files)


def _unhex(digits: bytes) -> bytes:
    try:
        return bytes.fromhex(digits.decode("latin-1"))
    except ValueError:
        raise FormatError("a file's digest is none") from None
