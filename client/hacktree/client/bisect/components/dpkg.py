"""What dpkg's database says of packages: relations, versions, files. Debian Policy 5.6, 7.1.

Pure. A field that is not understood is as if it were not there: a mixture that dpkg would not have
made is then tested, and found to be broken for a reason of its own.
"""

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

from hacktree.client.bisect.components.installed import OPERATORS, Installed, Relation, holds
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.packages import MAX_DPKG_STATUS_SIZE, MAX_PACKAGES

_RELATION: Final = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::[a-z0-9-]+)?\s*(?:\((?P<operator>[<>=]+)\s*(?P<version>[^\s)]+)\))?"
)
_RUN: Final = re.compile(r"([^0-9]*)([0-9]*)")
_OLD_OPERATORS: Final = {"<": "<=", ">": ">="}
_FIELD: Final = re.compile(rb"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_Number = tuple[int, str]
_WANTED: Final = frozenset(
    {
        "package", "version", "architecture", "source", "status", "depends", "pre-depends",
        "breaks", "conflicts", "provides",
    }
)  # fmt: skip


def parse_status(data: bytes) -> Iterator[tuple[Installed, bytes]]:
    """Yield each installed package of a status file, with its stanza; raises `FormatError`."""
    if len(data) > MAX_DPKG_STATUS_SIZE:
        raise FormatError(f"a dpkg status of {len(data)} bytes exceeds {MAX_DPKG_STATUS_SIZE}")
    stanzas = [stanza for stanza in re.split(rb"\n{2,}", data.strip(b"\n")) if stanza]
    if len(stanzas) > MAX_PACKAGES:
        raise FormatError(f"{len(stanzas)} packages in one tree, more than {MAX_PACKAGES}")
    for stanza in stanzas:
        fields = _fields(stanza)
        if fields.get("status", "").split()[2:] == ["installed"]:
            yield _installed(fields), stanza


def _fields(stanza: bytes) -> dict[str, str]:
    found = {}
    for name, value in _FIELD.findall(stanza):
        key = name.decode("ascii").lower()
        if key in _WANTED:
            found[key] = " ".join(value.decode("utf-8", "replace").split())
    return found


def _installed(fields: dict[str, str]) -> Installed:
    try:
        name, version = fields["package"], fields["version"]
    except KeyError as error:
        raise FormatError(f"a stanza of dpkg's status has no field {error}") from None
    needs = ", ".join(fields[key] for key in ("pre-depends", "depends") if key in fields)
    against = ", ".join(fields[key] for key in ("breaks", "conflicts") if key in fields)
    return Installed(
        name,
        version,
        fields.get("architecture", ""),
        fields.get("source", name).split(" ")[0],
        tuple(group for group in map(_alternatives, needs.split(",")) if group),
        tuple(relation for one in against.split(",") for relation in _alternatives(one)),
        tuple(
            (relation.name, relation.version)
            for one in fields.get("provides", "").split(",")
            for relation in _alternatives(one)
        ),
    )


def _alternatives(text: str) -> tuple[Relation, ...]:
    found = []
    for part in text.split("|"):
        match = _RELATION.fullmatch(part.strip())
        if match is None:
            continue
        operator = _OLD_OPERATORS.get(match["operator"] or "", match["operator"] or "")
        if not operator or operator in OPERATORS:
            found.append(Relation(match["name"], operator, match["version"] or ""))
    return tuple(found)


def list_paths(listing: bytes) -> list[bytes]:
    """The paths of a file list of dpkg, relative; without the root directory itself."""
    paths = (line.strip(b"/") for line in listing.split(b"\n"))
    return [path for path in paths if path and path != b"."]


def fits(version: str, relation: Relation) -> bool:
    """As `installed.Fits`: what has no version meets no operator (Debian Policy 7.5)."""
    if not relation.operator:
        return True
    return bool(version) and holds(relation.operator, compare_versions(version, relation.version))


def compare_versions(first: str, second: str) -> int:
    """As `dpkg --compare-versions`: Debian Policy 5.6.12."""
    one, other = _split(first), _split(second)
    if one[0] != other[0]:
        return -1 if one[0] < other[0] else 1
    return _compare_part(one[1], other[1]) or _compare_part(one[2], other[2])


def _split(version: str) -> tuple[_Number, str, str]:
    epoch, colon, rest = version.rpartition(":")
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return _number(epoch if colon and epoch.isdecimal() else ""), upstream, revision


def _compare_part(first: str, second: str) -> int:
    """Texts and numbers take turns, a text first, which may be empty."""
    for one, other in zip_longest(_runs(first), _runs(second), fillvalue=("", _number(""))):
        texts = zip_longest(map(_order, one[0]), map(_order, other[0]), fillvalue=0)
        for left, right in texts:
            if left != right:
                return -1 if left < right else 1
        if one[1] != other[1]:
            return -1 if one[1] < other[1] else 1
    return 0


def _runs(part: str) -> list[tuple[str, _Number]]:
    return [(text, _number(number)) for text, number in _RUN.findall(part) if text or number]


def _number(digits: str) -> _Number:
    """Ordered as the numbers are, of any length: Python's own refuse hostile ones."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _order(character: str) -> int:
    """A tilde before the end (0), letters before all else."""
    if character == "~":
        return -1
    return ord(character) if character.isascii() and character.isalpha() else ord(character) + 256
