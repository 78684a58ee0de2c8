"""Leases of ranges of builds as rows. Each function works within the caller's transaction."""

import sqlite3
from typing import Any, Final

import msgspec

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName

_ID_BYTES: Final = 32
_COLUMNS: Final = "id, token, session, branch, builds, created, expires"


class RangeLease(msgspec.Struct, frozen=True):
    """`token` keeps these builds of `branch`, oldest first, until `expires` (s since 1970).

    `session` is the asker's name for what they are kept for.
    """

    id: str
    token: str
    session: str
    branch: BranchName
    builds: tuple[ObjectId, ...]
    created: int
    expires: int

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "RangeLease":
        """The lease of a row with `_COLUMNS`."""
        name, token, session, branch, builds, created, expires = row
        ids = (builds[start : start + _ID_BYTES] for start in range(0, len(builds), _ID_BYTES))
        kept = tuple(ObjectId(bytes(object_id)) for object_id in ids)
        return cls(name, token, session, BranchName(branch), kept, created, expires)


def load_leases(connection: sqlite3.Connection) -> list[RangeLease]:
    """All of them, oldest first, also those that are over."""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM range_leases ORDER BY created, id")  # noqa: S608
    return [RangeLease.of(row) for row in rows]


def find_lease(connection: sqlite3.Connection, lease: str) -> RangeLease | None:
    """The lease with this id."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM range_leases WHERE id = ?",  # noqa: S608 - a constant
        (lease,),
    ).fetchone()
    return None if row is None else RangeLease.of(row)


def count_leases(connection: sqlite3.Connection, token: str | None = None) -> int:
    """How many there are: of a token, or of all."""
    (count,) = connection.execute(
        "SELECT count(*) FROM range_leases WHERE token = coalesce(?, token)", (token,)
    ).fetchone()
    return int(count)


def save_lease(connection: sqlite3.Connection, lease: RangeLease) -> None:
    """Make it, or replace the one with its id."""
    connection.execute(
        f"INSERT OR REPLACE INTO range_leases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            lease.id, lease.token, lease.session, lease.branch, b"".join(lease.builds),
            lease.created, lease.expires,
        ),
    )  # fmt: skip


def delete_lease(connection: sqlite3.Connection, lease: str) -> None:
    """Delete it; nothing happens if it is gone."""
    connection.execute("DELETE FROM range_leases WHERE id = ?", (lease,))


def delete_ended(connection: sqlite3.Connection, now: int) -> None:
    """Delete what is over, and what was leased to a token that has been revoked since."""
    connection.execute(
        "DELETE FROM range_leases WHERE expires <= ?"
        " OR token IN (SELECT id FROM tokens WHERE revoked IS NOT NULL)",
        (now,),
    )
