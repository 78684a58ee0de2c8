"""The server's state in SQLite: `state/server.sqlite` of its repository, private, never served.

A `Database` is only a place; every call makes a connection of its own. Opening one takes some
hundred microseconds, and for it no thread owns anything, nothing is left to close when a thread
ends, and a fork inherits no lock. Where a server needs more, it keeps its own connection open.

Nothing in this process may open and close the database file by other means: POSIX drops all of a
process's locks on a file when *any* of its descriptors is closed (sqlite.org/howtocorrupt.html).
"""

import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import (
    BusyError,
    CorruptError,
    HacktreeError,
    SpaceError,
    SystemFault,
    UserError,
)
from hacktree.common.repository.durable import TEMPORARY_SUFFIX, publish_file, sync_directory
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.repository import Repository
from hacktree.server.migrations import APPLICATION_ID, MIGRATIONS, Migration

BUSY_SECONDS: Final = 10.0
"""How long a connection waits for another's transaction."""

_PREPARING_SECONDS: Final = 60.0
_RESTORE: Final = 'Restore it from a backup: docs/operations.md, "Backup".'
_PRIMARY_CODE: Final = 0xFF


class NotAFarmError(UserError):
    """The repository is not of the kind that a server writes to."""


class DatabaseDamagedError(CorruptError):
    """The file is no database of this program's, or SQLite finds it damaged."""


class DatabaseTooNewError(UserError):
    """A newer program has migrated the database."""


class DatabaseBusyError(BusyError):
    """Another transaction went on for longer than `BUSY_SECONDS`."""


class Database(msgspec.Struct, frozen=True):
    """Where the database is; made by `open_database`. Any thread and any process may use it."""

    path: Path

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state throughout; writers are not held up.

        Raises the errors of this module for whatever SQLite refuses, also inside the block.
        """
        with _connected(self.path) as connection, _transaction(connection, "BEGIN"):
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection that is the only writer; durable when the block ends, undone if it raises.

        Raises the errors of this module for whatever SQLite refuses, also inside the block.
        """
        # IMMEDIATE: a transaction that begins by reading can't wait for its turn to write.
        with _connected(self.path) as connection, _transaction(connection, "BEGIN IMMEDIATE"):
            yield connection


def require_farm(repository: Repository) -> None:
    """A server's state belongs to an archive; raises `NotAFarmError` for other modes."""
    if repository.mode is not Mode.ARCHIVE:
        raise NotAFarmError(
            f"{repository.path} is a {repository.mode.value} repository: no server writes to it",
            hint="Name the farm's archive with --repo.",
        )


def database_path(repository: Repository) -> Path:
    """The file, whether or not it is there."""
    return repository.state / "server.sqlite"


def open_database(repository: Repository, migrations: Sequence[Migration] = MIGRATIONS) -> Database:
    """The repository's database, made or migrated if it has to be, and checked as a whole.

    The check reads the file once. Raises `NotAFarmError`, `DatabaseTooNewError`,
    `DatabaseDamagedError`, `DatabaseBusyError`, `SpaceError` or `SystemFault`.
    """
    require_farm(repository)
    path = database_path(repository)
    if not path.exists() or _version(path, len(migrations)) < len(migrations):
        # One at a time: of two that switch to WAL at once, one would fail instead of waiting.
        with _hold_preparation(repository):
            _create_file(path)
            _migrate(path, migrations)
    _check(path)
    return Database(path)


def backup(database: Database, destination: Path) -> None:
    """Copy the database to the file `destination`, durably, while others write.

    The copy is of one moment and replaces what was there, which nobody may have open. Raises
    `DatabaseDamagedError`, also when the copy turns out to be damaged, `SpaceError`, `SystemFault`.
    """
    temporary = destination.with_name(
        f".{destination.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
    )
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with _connected(database.path) as source, _connected(temporary) as target:
            # All pages in one step: in WAL mode a reader holds up nobody, and a copy in several
            # steps would begin again with each commit in between.
            source.backup(target, pages=-1)
        _check(temporary)
        install(temporary, destination)
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def install(staged: Path, destination: Path) -> None:
    """Put a copy that `backup` made into the place of a database that nobody has open."""
    # The log of the database before it would be replayed into this one.
    for suffix in ("-wal", "-shm"):
        destination.with_name(destination.name + suffix).unlink(missing_ok=True)
    publish_file(staged, destination, mode=0o600)


@contextmanager
def _hold_preparation(repository: Repository) -> Iterator[None]:
    path = repository.state / "server.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE, timeout=_PREPARING_SECONDS):
        yield


def _create_file(path: Path) -> None:
    """An empty file is an empty database; SQLite gives `-wal` and `-shm` the same mode."""
    try:
        # EXCL: an existing one is not opened, see the head of this module.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    os.close(descriptor)
    sync_directory(path.parent)


def _version(path: Path, newest: int) -> int:
    """The schema's version; raises unless it is a database of ours that this program knows."""
    with _connected(path) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application, version, tables) != (0, 0, 0):
        raise DatabaseDamagedError(f"{path} is not a database of hacktree's", hint=_RESTORE)
    if version > newest:
        raise DatabaseTooNewError(
            f"{path} was written by a newer hacktree (version {version}, known are {newest})",
            hint="Upgrade hacktree on this machine.",
        )
    return int(version)


def _migrate(path: Path, migrations: Sequence[Migration]) -> None:
    with _connected(path) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise SystemFault(
                f"{path}: this file system can't hold SQLite's write-ahead log",
                hint="Keep the repository on a local file system.",
            )
        # A step that rebuilds a table must be able to drop the old one; checked before it commits.
        connection.execute("PRAGMA foreign_keys = OFF")
        for number in range(_version(path, len(migrations)) + 1, len(migrations) + 1):
            with _transaction(connection, "BEGIN IMMEDIATE"):
                for statement in migrations[number - 1]:
                    connection.execute(statement)
                if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
                    raise DatabaseDamagedError(
                        f"{path}: a row refers to one that is missing", hint=_RESTORE
                    )
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {number}")


def _check(path: Path) -> None:
    with _connected(path) as connection:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DatabaseDamagedError(f"{path} is damaged: {found}", hint=_RESTORE)


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode to the existing file `path`."""
    try:
        with closing(
            sqlite3.connect(
                # rw, not rwc: a file that is gone must not come back empty, and readable to all.
                f"{path.absolute().as_uri()}?mode=rw",
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
            )
        ) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            # FULL: what was acknowledged survives a power cut.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection
    except sqlite3.Error as error:
        fault = _fault(path, error)
        if fault is None:
            raise
        raise fault from error


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has already rolled back where it could not go on: a full disk, for one.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _fault(path: Path, error: sqlite3.Error) -> HacktreeError | None:
    """What SQLite's error means to a person; None for a bug of ours."""
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK) & _PRIMARY_CODE:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return DatabaseDamagedError(f"{path} is damaged: {error}", hint=_RESTORE)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return DatabaseBusyError(
                f"{path} is in use by another transaction", hint="Run the command again."
            )
        case sqlite3.SQLITE_FULL:
            return SpaceError(f"{path}: no space left", hint="Free space and run this again.")
        case (
            sqlite3.SQLITE_CANTOPEN
            | sqlite3.SQLITE_IOERR
            | sqlite3.SQLITE_PERM
            | sqlite3.SQLITE_READONLY
        ):
            return SystemFault(
                f"{path}: {error}", hint="Is the file there, and may this user write it?"
            )
        case _:
            return None
