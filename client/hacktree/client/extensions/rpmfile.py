"""Reading the headers of an RPM file: a lead, a signature's header, the header; "RPM v4 package".

The payload is rpm's to check (`rpm -K`). Everything a header says is bounded by its own size.
"""

import struct
from pathlib import Path
from typing import IO, Final

from hacktree.client.extensions.package import (
    BadPackageError,
    PackageFile,
    PackedFile,
    packed_path,
)
from hacktree.client.extensions.rpmheader import (
    BASE_NAMES,
    DIRECTORY_INDEXES,
    DIRECTORY_NAMES,
    ENTRY,
    HEADER_MAGIC,
    SIZES,
    Tags,
    numbers_of,
    parse_tags,
    texts_of,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_RPM_HEADER_SIZE, parse_rpm_header

LEAD: Final = struct.Struct(">4sBBHH66sHH16s")
LEAD_MAGIC: Final = b"\xed\xab\xee\xdb"

_SOURCE_RPM: Final = 1044
_FILE_MODES: Final = 1030
_FILE_DIGESTS: Final = 1035
_FILE_TARGETS: Final = 1036
_FILE_FLAGS: Final = 1037
_FILE_OWNERS: Final = 1039
_FILE_GROUPS: Final = 1040
_REQUIRE_NAMES: Final = 1049
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
        DIRECTORY_INDEXES,
        BASE_NAMES,
        DIRECTORY_NAMES,
        _DIGEST_ALGORITHM,
    }
)


def read_rpm(path: Path) -> PackageFile:
    """What the RPM file is and brings; raises `BadPackageError`."""
    try:
        with open(path, "rb") as stream:
            blob = _header_blob(stream)
        package = parse_rpm_header(blob)
        header = parse_tags(blob, _WANTED)
        if _SOURCE_RPM not in header:
            raise FormatError("a source package, not one to install")
        files = _files(header, path)
    except FormatError as error:
        raise BadPackageError(f"{path}: not an RPM file that can be used: {error}") from error
    requires = tuple(name.decode("utf-8", "replace") for name in texts_of(header, _REQUIRE_NAMES))
    return PackageFile(path, "rpm", package, files, requires)


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


def _files(header: Tags, path: Path) -> tuple[PackedFile, ...]:
    names, directories = texts_of(header, BASE_NAMES), texts_of(header, DIRECTORY_NAMES)
    indexes, modes = numbers_of(header, DIRECTORY_INDEXES), numbers_of(header, _FILE_MODES)
    flags = numbers_of(header, _FILE_FLAGS)
    hashed = numbers_of(header, _DIGEST_ALGORITHM) == [_SHA256]
    columns: list[list[bytes]] = [
        texts_of(header, tag) for tag in (_FILE_DIGESTS, _FILE_TARGETS, _FILE_OWNERS, _FILE_GROUPS)
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
