"""Find and read the package database inside an operating system tree.

An rpm database is a file of the tree, so it is as untrusted as the tree. SQLite gets it in memory,
runs two plain queries within a budget of steps, and reads a table only after its definition was
seen to be nothing but column names: no view, virtual table, generated column or trigger runs.
"""

import itertools
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Final

from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import (
    MAX_DPKG_STATUS_SIZE,
    MAX_PACKAGES,
    MAX_RPM_HEADER_SIZE,
    Package,
    parse_dpkg_status,
    parse_rpm_header,
)
from hacktree.common.objects.rpmndb import ndb_headers

ReadFile = Callable[[bytes, int], bytes | None]
"""`read(path, max_size)`: the content of a regular file inside the tree, such as
`b"var/lib/dpkg/status"`. None when no regular file is there, reached without symbolic links;
raises a `HacktreeError` when it is larger than `max_size` bytes."""

MAX_RPM_DATABASE_SIZE: Final = 512 << 20
"""Bytes of an rpm database; a large desktop's takes about 150 MB."""

DPKG_DATABASES: Final = (
    b"var/lib/dpkg",
    # Where image builders that empty /var keep it: bootc style, then Endless OS style.
    b"usr/lib/sysimage/dpkg",
    b"usr/share/dpkg/database",
)
"""Directories of which the first that holds `status` counts."""

RPM_DATABASES: Final = (b"usr/lib/sysimage/rpm", b"var/lib/rpm", b"usr/share/rpm")
"""Directories of which the first that holds a database counts."""

RPM_KEY: Final = "gpg-pubkey"
"""Headers of this name are keys that somebody imported, not packages."""

_RPM_SQLITE: Final = b"rpmdb.sqlite"
_RPM_NDB: Final = b"Packages.db"
_RPM_BERKELEY: Final = b"Packages"


class UnreadablePackagesError(FormatError):
    """The tree has a package database, in a form that hacktree doesn't read."""


def detect_packages(read: ReadFile) -> tuple[Package, ...] | None:
    """The packages installed in the tree, sorted; None when it has no package database.

    A tree can hold both kinds, one of them empty because only its tool is installed, so dpkg's and
    rpm's packages are united. An rpm database in Berkeley DB format counts only if dpkg knows of no
    package; then it raises `UnreadablePackagesError`. A damaged database raises `FormatError`.
    """
    dpkg = _detect_dpkg(read)
    rpm = _detect_rpm(read)
    if rpm is None and not dpkg:
        _refuse_unreadable_rpm(read)
    if dpkg is None and rpm is None:
        return None
    return tuple(sorted({*(dpkg or ()), *(rpm or ())}))


def _detect_dpkg(read: ReadFile) -> tuple[Package, ...] | None:
    for directory in DPKG_DATABASES:
        status = read(directory + b"/status", MAX_DPKG_STATUS_SIZE)
        if status is not None:
            return parse_dpkg_status(status)
    return None


def _detect_rpm(read: ReadFile) -> tuple[Package, ...] | None:
    headers = find_rpm_headers(read)
    return None if headers is None else packages_of_headers(headers)


def find_rpm_headers(read: ReadFile) -> Iterator[bytes] | None:
    """The headers in the tree's rpm database; None without one in SQLite or ndb.

    Raises `UnreadablePackagesError`; the iterator raises `FormatError` for a damaged database.
    """
    database = find_rpm_database(read)
    if database is not None:
        return rpm_headers(database)
    for directory in RPM_DATABASES:
        database = read(directory + b"/" + _RPM_NDB, MAX_RPM_DATABASE_SIZE)
        if database is not None:
            return ndb_headers(database)
    return None


def find_rpm_database(read: ReadFile) -> bytes | None:
    """The tree's `rpmdb.sqlite`; None without one. Raises `UnreadablePackagesError`."""
    for directory in RPM_DATABASES:
        path = directory + b"/" + _RPM_SQLITE
        database = read(path, MAX_RPM_DATABASE_SIZE)
        if database is None:
            continue
        # rpm leaves an empty log. One with content holds changes that the database lacks.
        if read(path + b"-wal", MAX_RPM_DATABASE_SIZE):
            raise UnreadablePackagesError(
                f"the rpm database {display_path(path)} has changes in its write-ahead log",
                hint="Rebuild the database, which merges them: `rpm --root TREE --rebuilddb`.",
            )
        return database
    return None


def _refuse_unreadable_rpm(read: ReadFile) -> None:
    for directory in RPM_DATABASES:
        path = directory + b"/" + _RPM_BERKELEY
        if read(path, MAX_RPM_DATABASE_SIZE) is not None:
            raise UnreadablePackagesError(
                f"an rpm database in Berkeley DB format was found ({display_path(path)}) that "
                "hacktree can't read",
                hint="rpm 4.16 or newer converts it to SQLite: `rpm --root TREE --rebuilddb`.",
            )


_SQLITE_MAGIC: Final = b"SQLite format 3\0"
_SQLITE_HEADER_SIZE: Final = 100
_SQLITE_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: MAX_RPM_HEADER_SIZE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 << 10,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 16,
}
_STEPS_PER_CHECK: Final = 10_000
_MAX_CHECKS: Final = 30
"""300,000 steps of SQLite's machine: a package takes three, an entry of the schema about seven."""

_PLAIN_TABLE: Final = re.compile(r"""CREATE TABLE ['"]?Packages['"]? ?\([\w\s,]*\)""", re.ASCII)
"""The definition that rpm stores, with any columns. Whatever would run code needs parentheses."""


def packages_of_headers(headers: Iterable[bytes]) -> tuple[Package, ...]:
    """The packages that headers describe, sorted, without `RPM_KEY`; raises `FormatError`."""
    packages = map(parse_rpm_header, headers)
    return tuple(sorted({package for package in packages if package.name != RPM_KEY}))


def rpm_headers(database: bytes) -> Iterator[bytes]:
    """Yield the header of each package of an `rpmdb.sqlite`; raises `FormatError`."""
    if len(database) < _SQLITE_HEADER_SIZE or not database.startswith(_SQLITE_MAGIC):
        raise FormatError("an rpm database that is not an SQLite database")
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            _bound(connection)
            connection.deserialize(_without_log(database))
            _check_schema(connection)
            yield from _read_blobs(connection, len(database))
    except (sqlite3.Error, UnicodeError) as error:
        # SQLite's message quotes the schema: any length, control characters, not even UTF-8.
        problem = display_path(str(error)[:200].encode())
        raise FormatError(f"an rpm database that SQLite can't read: {problem}") from error


def _bound(connection: sqlite3.Connection) -> None:
    """Limit what one statement, one row and the whole connection may cost."""
    for limit, value in _SQLITE_LIMITS.items():
        connection.setlimit(limit, value)
    checks = itertools.count(1)
    connection.set_progress_handler(lambda: next(checks) > _MAX_CHECKS, _STEPS_PER_CHECK)


def _without_log(database: bytes) -> bytes:
    """The database as one that has no write-ahead log, which it can't have in memory.

    Bytes 18 and 19, the "file format write version" and "read version", are 2 where a log is in
    use; 1 is the same format without (SQLite, "Database File Format", 1.3.3).
    """
    if database[18:20] != b"\2\2":
        return database
    return b"\1\1".join((database[:18], database[20:]))


def _check_schema(connection: sqlite3.Connection) -> None:
    query = "SELECT sql FROM sqlite_master WHERE name = 'Packages'"
    definitions = connection.execute(query).fetchmany(2)
    match definitions:
        case [(str(definition),)] if _PLAIN_TABLE.fullmatch(definition):
            return
    raise FormatError("an rpm database without a plain table Packages")


def _read_blobs(connection: sqlite3.Connection, database_size: int) -> Iterator[bytes]:
    """Yield every blob. Blobs are disjoint parts of a sound database: together they fit in it."""
    left = database_size
    rows = connection.execute("SELECT blob FROM Packages NOT INDEXED")
    for number, (blob,) in enumerate(rows, 1):
        if not isinstance(blob, bytes):
            raise FormatError("an rpm database with a header that is not a blob")
        left -= len(blob)
        if left < 0 or number > MAX_PACKAGES:
            raise FormatError("an rpm database that holds more than it can")
        yield blob
