"""The account files: passwd(5), group(5), shadow(5), gshadow(5), subuid(5), subgid(5). Pure.

A file is kept as its lines. What nobody changes is written back byte for byte: comments, NIS "+"
lines, malformed ones, text in whatever encoding.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

FILES: Final = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
MAX_FILE: Final = 8 << 20
"""Bytes of one account file."""
MAX_ID: Final = (1 << 32) - 2
"""The greatest uid or gid; the one after it means "no change" to chown(2)."""

_NAME = re.compile(r"(?!\d+\$?\Z)[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")


class LineError(ValueError):
    """A line that its file's format has no meaning for."""


class User(msgspec.Struct, frozen=True):
    """A line of passwd."""

    name: str
    password: str
    uid: int
    gid: int
    gecos: str
    home: str
    shell: str

    @property
    def fields(self) -> list[str]:
        """As in the file."""
        ids = [str(self.uid), str(self.gid)]
        return [self.name, self.password, *ids, self.gecos, self.home, self.shell]


class Group(msgspec.Struct, frozen=True):
    """A line of group."""

    name: str
    gid: int
    members: tuple[str, ...]


class SubRange(msgspec.Struct, frozen=True):
    """A line of subuid or subgid: `count` ids from `start` that `owner` may use."""

    owner: str
    start: int
    count: int

    def overlaps(self, other: "SubRange") -> bool:
        """Whether an id is in both."""
        return self.start < other.start + other.count and other.start < self.start + self.count


class Table:
    """One account file: lines to look up by their first field, and to add."""

    def __init__(self, data: bytes) -> None:
        self._original = data
        self._lines = data.decode("utf-8", "surrogateescape").split("\n")
        if not self._lines[-1]:
            self._lines.pop()
        self._changed = False
        self._where: dict[str, int] = {}
        for number, line in enumerate(self._lines):
            if _is_entry(line):
                self._where.setdefault(line.split(":", 1)[0], number)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def entries(self) -> Iterator[tuple[int, list[str]]]:
        """Number, counted from 1, and fields of each line but comments, NIS and empty ones."""
        for number, line in enumerate(self._lines, 1):
            if _is_entry(line):
                yield number, line.split(":")

    def fields(self, name: str) -> list[str] | None:
        """Those of the first line of `name`."""
        return self._lines[self._where[name]].split(":") if name in self._where else None

    def replace(self, fields: Sequence[str]) -> None:
        """Change the line that has the same first field."""
        where, line = self._where[fields[0]], ":".join(fields)
        self._changed |= self._lines[where] != line
        self._lines[where] = line

    def add(self, fields: Sequence[str]) -> None:
        """Add a line behind the others, before NIS takes over."""
        end = next(
            (number for number, line in enumerate(self._lines) if line.startswith(("+", "-"))),
            len(self._lines),
        )
        self._lines.insert(end, ":".join(fields))
        self._where = {name: at + (at >= end) for name, at in self._where.items()}
        self._where.setdefault(fields[0], end)
        self._changed = True

    def data(self) -> bytes:
        """The file; as it was, if nothing changed."""
        if not self._changed:
            return self._original
        text = "".join(f"{line}\n" for line in self._lines)
        return text.encode("utf-8", "surrogateescape")


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", "+", "-"))


def parse_user(fields: Sequence[str]) -> User:
    """Raises `LineError`."""
    if len(fields) != 7:
        raise LineError(f"{len(fields)} fields instead of 7")
    name, password, uid, gid, gecos, home, shell = fields
    _check_text(fields)
    return User(parse_name(name), password, parse_id(uid), parse_id(gid), gecos, home, shell)


def parse_group(fields: Sequence[str]) -> Group:
    """Raises `LineError`."""
    if len(fields) != 4:
        raise LineError(f"{len(fields)} fields instead of 4")
    _check_text(fields)
    members = tuple(member for member in fields[3].split(",") if member)
    return Group(parse_name(fields[0]), parse_id(fields[2]), members)


def parse_range(fields: Sequence[str]) -> SubRange:
    """Raises `LineError`."""
    if len(fields) != 3:
        raise LineError(f"{len(fields)} fields instead of 3")
    _check_text(fields)
    found = SubRange(fields[0], parse_id(fields[1]), parse_id(fields[2]))
    if not found.count or found.start + found.count - 1 > MAX_ID:
        raise LineError("no range of ids")
    return found


def parse_name(text: str) -> str:
    """`text` if it can be a user's or group's name; raises `LineError`."""
    if not _NAME.fullmatch(text):
        raise LineError(f"not a name: {text!r}")
    return text


def names_and_ids(table: Table) -> dict[str, int]:
    """name → number of passwd or group; lines that have none are left out, the first one counts."""
    found: dict[str, int] = {}
    for _, fields in table.entries():
        if len(fields) >= 3 and fields[0]:
            with suppress(LineError):
                found.setdefault(fields[0], parse_id(fields[2]))
    return found


def parse_id(text: str) -> int:
    """A number from 0 to `MAX_ID`; raises `LineError`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID):
        raise LineError(f"not a number: {text!r}")
    return int(text)


def _check_text(fields: Sequence[str]) -> None:
    if not all(field.isprintable() for field in fields):
        raise LineError("a character that is not printable")
