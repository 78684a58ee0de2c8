"""What the headers of rpm's database say of packages: relations, versions, sources.

Pure. A header is an index of tags and their data (rpm's "RPM v4 package"); in `rpmdb --exportdb` a
magic comes before each. A relation that is not understood is as if it were not there: a mixture
that rpm would not have made is then tested, and found to be broken for a reason of its own.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Final

from hacktree.client.bisect.components.installed import Installed, Relation, holds
from hacktree.client.extensions.rpmheader import (
    ENTRY,
    HEADER_MAGIC,
    SIZES,
    Tags,
    numbers_of,
    parse_tags,
    texts_of,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_PACKAGES, MAX_RPM_HEADER_SIZE, parse_rpm_header

_SOURCE_RPM: Final = 1044
_PROVIDES: Final = (1047, 1112, 1113)
"""Names, flags and versions."""
_REQUIRES: Final = (1049, 1048, 1050)
_CONFLICTS: Final = (1054, 1053, 1055)
_OBSOLETES: Final = (1090, 1114, 1115)
_WANTED: Final = frozenset({_SOURCE_RPM, *_PROVIDES, *_REQUIRES, *_CONFLICTS, *_OBSOLETES})

_OPERATORS: Final = {2: "<<", 4: ">>", 8: "=", 10: "<=", 12: ">="}
_SENSE: Final = 2 | 4 | 8
_OF_RPM: Final = 1 << 24
"""A feature of rpm itself: RPMSENSE_RPMLIB."""

_PART: Final = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def split_export(stream: bytes) -> list[bytes]:
    """The headers, without their magic, in what `rpmdb --exportdb` wrote; raises `FormatError`."""
    headers: list[bytes] = []
    at = 0
    while at < len(stream):
        start = at + len(HEADER_MAGIC)
        if not stream.startswith(HEADER_MAGIC, at) or len(stream) < start + SIZES.size:
            raise FormatError("what rpmdb exported is not a row of headers")
        count, data = SIZES.unpack_from(stream, start)
        at = start + SIZES.size + count * ENTRY.size + data
        if at - start > MAX_RPM_HEADER_SIZE or at > len(stream) or len(headers) >= MAX_PACKAGES:
            raise FormatError("what rpmdb exported holds a header that is too large, or too many")
        headers.append(stream[start:at])
    return headers


def join_export(headers: Iterable[bytes]) -> bytes:
    """What `rpmdb --importdb` reads."""
    return b"".join(HEADER_MAGIC + header for header in headers)


def parse_installed(header: bytes) -> Installed:
    """The package that a header describes; raises `FormatError`."""
    package = parse_rpm_header(header)
    tags = parse_tags(header, _WANTED)
    source = b"".join(texts_of(tags, _SOURCE_RPM)).decode("utf-8", "replace")
    against = (*_relations(tags, _CONFLICTS), *_relations(tags, _OBSOLETES))
    return Installed(
        package.name,
        package.version,
        package.architecture,
        source.rsplit("-", 2)[0] or package.name,
        tuple((relation,) for relation in dict.fromkeys(_relations(tags, _REQUIRES))),
        tuple(dict.fromkeys(against)),
        tuple((one.name, one.version) for one in _relations(tags, _PROVIDES)),
    )


def _relations(tags: Tags, columns: tuple[int, int, int]) -> Iterator[Relation]:
    names, versions = texts_of(tags, columns[0]), texts_of(tags, columns[2])
    flags = numbers_of(tags, columns[1])
    if not len(names) == len(flags) == len(versions):
        raise FormatError("an rpm header whose lists of relations differ in length")
    for name, flag, version in zip(names, flags, versions, strict=True):
        if flag & _OF_RPM:
            continue
        operator = _OPERATORS.get(flag & _SENSE, "") if version else ""
        text = version.decode("utf-8", "replace") if operator else ""
        yield Relation(name.decode("utf-8", "replace"), operator, text)


def fits(version: str, relation: Relation) -> bool:
    """As `Fits`. To rpm, what has no version is of any."""
    if not relation.operator or not version:
        return True
    return holds(relation.operator, compare_versions(version, relation.version))


def compare_versions(first: str, second: str) -> int:
    """Of `[epoch:]version[-release]`, as `rpmdsCompare`: releases only count if both have one."""
    one, other = _split(first), _split(second)
    order = _compare_part(one[0], other[0]) or _compare_part(one[1], other[1])
    if order or not (one[2] and other[2]):
        return order
    return _compare_part(one[2], other[2])


def _split(text: str) -> tuple[str, str, str]:
    epoch, colon, rest = text.partition(":")
    if not (colon and epoch.isdecimal()):
        epoch, rest = "0", text
    version, dash, release = rest.rpartition("-")
    return (epoch, version, release) if dash else (epoch, rest, "")


def _compare_part(first: str, second: str) -> int:
    """As `rpmvercmp`: numbers, then letters; a tilde before the end, a caret right after it."""
    parts = zip_longest(_PART.findall(first), _PART.findall(second), fillvalue="")
    for left, right in parts:
        one, other = _order(left), _order(right)
        if one != other:
            return -1 if one < other else 1
    return 0


def _order(part: str) -> tuple[int, int, str]:
    if part in _RANKS:
        return _RANKS[part], 0, ""
    if part[0].isdigit():
        number = part.lstrip("0")
        return 4, len(number), number
    return 3, 0, part


_RANKS: Final = {"~": 0, "": 1, "^": 2}
