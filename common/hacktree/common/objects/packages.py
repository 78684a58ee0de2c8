"""The packages an operating system tree was built from, as its commit records them.

Every value is printable ASCII without spaces. Debian allows nothing else in these fields (Policy
5.6.1, 5.6.8, 5.6.12) and rpm's spec parser refuses anything else; so a package list can be printed
on a terminal and compared byte by byte.
"""

import io
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final

import msgspec

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import display_path

MAX_PACKAGES: Final = 50_000
"""Packages in one tree; a full desktop has about 3,000."""

MAX_FIELD_LENGTH: Final = 256
"""Characters in a name, a version or an architecture."""

MAX_DPKG_STATUS_SIZE: Final = 64 << 20
"""Bytes of a dpkg status file; 3,000 packages take about 5 MB."""

MAX_RPM_HEADER_SIZE: Final = 64 << 20
"""Bytes of one header in an rpm database; a package of 100,000 files takes about 10 MB."""

METADATA_KEY: Final = "packages"
"""Where a commit's metadata holds the list."""

_FIELD = re.compile(rf"[!-~]{{1,{MAX_FIELD_LENGTH}}}")


class Package(msgspec.Struct, frozen=True, order=True):
    """One installed package. `version` is the whole version: `[epoch:]version-release`."""

    name: str
    version: str
    architecture: str

    def __post_init__(self) -> None:
        for text in (self.name, self.version, self.architecture):
            if not _FIELD.fullmatch(text):
                raise FormatError(
                    f"not a package name, version or architecture: {text[:80]!r}",
                    hint=f"1 to {MAX_FIELD_LENGTH} printable ASCII characters, no spaces.",
                )


def packages_to_metadata(packages: Iterable[Package]) -> list[str | list[str]]:
    """The value of a commit's metadata: `[name, version, architecture]` each, sorted, unique."""
    unique = sorted(set(packages))
    _check_count(len(unique))
    return [[package.name, package.version, package.architecture] for package in unique]


def packages_from_metadata(value: object) -> tuple[Package, ...]:
    """The packages that `packages_to_metadata` encoded; raises `FormatError` for all else."""
    if not isinstance(value, list):
        raise FormatError("a package list is not a list")
    _check_count(len(value))
    packages = tuple(map(_package_from_row, value))
    if any(second <= first for first, second in pairwise(packages)):
        raise FormatError("a package list is not in strictly ascending order")
    return packages


def _package_from_row(row: object) -> Package:
    if not (isinstance(row, list) and len(row) == 3 and all(isinstance(s, str) for s in row)):
        raise FormatError("an entry of a package list is not [name, version, architecture]")
    return Package(*row)


def _check_count(count: int) -> None:
    if count > MAX_PACKAGES:
        raise FormatError(f"{count} packages in one tree, more than {MAX_PACKAGES}")


# The difference of two lists


class PackageDiff(msgspec.Struct, frozen=True):
    """How one package list became another; `changed` holds (old, new) pairs. All sorted."""

    added: tuple[Package, ...]
    removed: tuple[Package, ...]
    changed: tuple[tuple[Package, Package], ...]

    def as_document(self) -> dict[str, list[list[str]]]:
        """The difference as JSON, as every command prints it."""
        return {
            "changed": [
                [before.name, before.architecture, before.version, after.version]
                for before, after in self.changed
            ],
            "added": [[one.name, one.architecture, one.version] for one in self.added],
            "removed": [[one.name, one.architecture, one.version] for one in self.removed],
        }


def diff_packages(old: Iterable[Package], new: Iterable[Package]) -> PackageDiff:
    """What was added, removed and changed.

    A package changed when each side holds exactly one of its name and architecture, or one of its
    name, whose architecture then changed. Where a side holds several (kernels installed side by
    side), no old one became a certain new one: they are added and removed.
    """
    before, after = set(old), set(new)
    removed, added = before - after, after - before
    changed = []
    for key in (_name_and_architecture, _name):
        old_alone, new_alone = _alone(before, key), _alone(after, key)
        for shared in old_alone.keys() & new_alone.keys():
            pair = old_alone[shared], new_alone[shared]
            if pair[0] in removed and pair[1] in added:
                changed.append(pair)
                removed.remove(pair[0])
                added.remove(pair[1])
    return PackageDiff(tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(changed)))


def diff_package_metadata(
    old: Mapping[str, object], new: Mapping[str, object]
) -> PackageDiff | None:
    """The difference of what two commits' metadata lists; None unless both list their packages."""
    if METADATA_KEY not in old or METADATA_KEY not in new:
        return None
    return diff_packages(
        packages_from_metadata(old[METADATA_KEY]), packages_from_metadata(new[METADATA_KEY])
    )


def _name_and_architecture(package: Package) -> tuple[str, ...]:
    return package.name, package.architecture


def _name(package: Package) -> tuple[str, ...]:
    return (package.name,)


def _alone(
    packages: set[Package], key: Callable[[Package], tuple[str, ...]]
) -> dict[tuple[str, ...], Package]:
    """The packages that share their key with no other."""
    counts = Counter(map(key, packages))
    return {key(package): package for package in packages if counts[key(package)] == 1}


# dpkg: deb822 stanzas, deb822(5) and dpkg-query(1), "status"

_PACKAGE_FIELDS: Final = (b"package", b"version", b"architecture")
_DPKG_FIELDS: Final = frozenset({*_PACKAGE_FIELDS, b"status"})


def parse_dpkg_status(data: bytes) -> tuple[Package, ...]:
    """The installed packages in dpkg's `status` file, sorted.

    A package that dpkg only unpacked, half configured or removed but for its configuration is not
    installed. Only the fields named above are decoded: descriptions may hold any bytes. Raises
    `FormatError`, which names the stanza. Time is linear in `data`.
    """
    if len(data) > MAX_DPKG_STATUS_SIZE:
        raise FormatError(f"a dpkg status of {len(data)} bytes exceeds {MAX_DPKG_STATUS_SIZE}")
    packages: set[Package] = set()
    for number, stanza in _dpkg_stanzas(data):
        try:
            if _is_installed(stanza):
                packages.add(Package(*(_dpkg_value(stanza, name) for name in _PACKAGE_FIELDS)))
        except FormatError as error:
            raise _dpkg_error(number, stanza, error.message) from error
    _check_count(len(packages))
    return tuple(sorted(packages))


def _dpkg_stanzas(data: bytes) -> Iterator[tuple[int, dict[bytes, bytes]]]:
    """Yield each stanza's number, from 1, and those of its fields that we read."""
    number = 1
    stanza: dict[bytes, bytes] = {}
    inside = continues_ours = False
    for line in io.BytesIO(data):
        if line == b"\n":
            if inside:
                yield number, stanza
                number, stanza, inside = number + 1, {}, False
            continue
        if line[0] in b" \t" and inside:
            if continues_ours and not line.isspace():
                raise _dpkg_error(number, stanza, "a value goes on over a second line")
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name or line[0] in b" \t":
            raise _dpkg_error(number, stanza, f"not a field: {line[:80]!r}")
        inside, name = True, name.lower()
        continues_ours = name in _DPKG_FIELDS
        if continues_ours:
            if name in stanza:
                raise _dpkg_error(number, stanza, f"two {name.decode()} fields")
            stanza[name] = value.strip()
    if inside:
        yield number, stanza


def _is_installed(stanza: dict[bytes, bytes]) -> bool:
    """Whether the third word of `Status: want error-flag status` is `installed`."""
    words = stanza.get(b"status", b"").split()
    if len(words) != 3:
        raise FormatError("its status is not three words")
    return words[2] == b"installed"


def _dpkg_value(stanza: dict[bytes, bytes], name: bytes) -> str:
    if name not in stanza:
        raise FormatError(f"it has no {name.decode()}")
    # latin-1 takes any byte; `Package` then refuses all that is not ASCII.
    return stanza[name].decode("latin-1")


def _dpkg_error(number: int, stanza: dict[bytes, bytes], problem: str) -> FormatError:
    name = display_path(stanza.get(b"package", b"?")[:80])
    return FormatError(f"dpkg status, stanza {number} (package {name}): {problem}")


# rpm: the header structure of "RPM Package File Format", as a database stores it: no magic,
# then big-endian index count, data size, index entries (tag, type, offset, count), data.

_RPM_PREAMBLE: Final = struct.Struct(">II")
_RPM_ENTRY: Final = struct.Struct(">IIII")
_RPM_INT32: Final = struct.Struct(">I")
_RPM_MAX_ENTRIES: Final = 0xFFFF

_TYPE_INT32: Final = 4
_TYPE_STRING: Final = 6

_TAG_NAME: Final = 1000
_TAG_VERSION: Final = 1001
_TAG_RELEASE: Final = 1002
_TAG_EPOCH: Final = 1003
_TAG_ARCH: Final = 1022
_RPM_TAGS: Final = {
    _TAG_NAME: _TYPE_STRING,
    _TAG_VERSION: _TYPE_STRING,
    _TAG_RELEASE: _TYPE_STRING,
    _TAG_EPOCH: _TYPE_INT32,
    _TAG_ARCH: _TYPE_STRING,
}
_RPM_NEVER_ABSENT: Final = (_TAG_NAME, _TAG_VERSION, _TAG_RELEASE)

NO_ARCHITECTURE: Final = "(none)"
"""What rpm prints for a header without an architecture: the `gpg-pubkey` pseudo packages."""


def parse_rpm_header(blob: bytes) -> Package:
    """The package that a raw header of an rpm database describes; raises `FormatError`."""
    if not _RPM_PREAMBLE.size <= len(blob) <= MAX_RPM_HEADER_SIZE:
        raise FormatError(f"an rpm header of {len(blob)} bytes")
    count, data_size = _RPM_PREAMBLE.unpack_from(blob)
    start = _RPM_PREAMBLE.size + count * _RPM_ENTRY.size
    if count > _RPM_MAX_ENTRIES or start + data_size != len(blob):
        raise FormatError("an rpm header whose sizes don't add up")
    entries = {}
    for tag, kind, offset, values in _RPM_ENTRY.iter_unpack(blob[_RPM_PREAMBLE.size : start]):
        if tag in _RPM_TAGS:
            if kind != _RPM_TAGS[tag] or values != 1 or offset >= data_size:
                raise FormatError(f"an rpm header whose tag {tag} is malformed")
            # Of two entries the last counts: rpm appends what replaces an entry of the region.
            entries[tag] = start + offset
    return _rpm_package(blob, entries)


def _rpm_package(blob: bytes, entries: dict[int, int]) -> Package:
    name, version, release = (_rpm_string(blob, entries, tag) for tag in _RPM_NEVER_ABSENT)
    full_version = f"{version}-{release}"
    if _TAG_EPOCH in entries:
        if entries[_TAG_EPOCH] + _RPM_INT32.size > len(blob):
            raise FormatError("an rpm header whose epoch is cut short")
        full_version = f"{_RPM_INT32.unpack_from(blob, entries[_TAG_EPOCH])[0]}:{full_version}"
    has_architecture = _TAG_ARCH in entries
    architecture = _rpm_string(blob, entries, _TAG_ARCH) if has_architecture else NO_ARCHITECTURE
    return Package(name, full_version, architecture)


def _rpm_string(blob: bytes, entries: dict[int, int], tag: int) -> str:
    """The non-empty, NUL-terminated string of `tag`, of at most `MAX_FIELD_LENGTH` bytes."""
    if tag not in entries:
        raise FormatError(f"an rpm header without tag {tag}")
    start = entries[tag]
    end = blob.find(b"\0", start, start + MAX_FIELD_LENGTH + 1)
    if end <= start:
        raise FormatError(f"an rpm header whose tag {tag} is empty, too long or has no end")
    # latin-1 takes any byte; `Package` then refuses all that is not ASCII.
    return blob[start:end].decode("latin-1")
