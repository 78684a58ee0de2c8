"""Verdicts, leases and holds as rows. Each function works within the caller's transaction."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.server.promotion.decision import Hold, Retest
from hacktree.server.promotion.verdicts import Finding, Outcome, Verdict, standing_verdict

_VERDICT: Final = (
    "SELECT number, build, suite, outcome, reason, duration, machine, log, token, time "
    "FROM verdicts"
)


class Lease(msgspec.Struct, frozen=True):
    """The right of `holder`, who shows `id`, to test a build until `expires` (exclusive).

    `token`: the id of the token that claimed it, empty on the server itself.
    """

    id: str
    build: ObjectId
    suite: BranchName
    holder: str
    token: str
    expires: int


def load_verdicts(
    connection: sqlite3.Connection, suite: BranchName, builds: Iterable[ObjectId]
) -> dict[ObjectId, Verdict]:
    """Of each of these builds that the suite has judged, the verdict that counts.

    None that came before the last request for a further test.
    """
    counting = {}
    for build in builds:
        (after,) = connection.execute(
            "SELECT COALESCE(MAX(after), 0) FROM retests WHERE suite = ? AND build = ?",
            (suite, build),
        ).fetchone()
        rows = connection.execute(
            f"{_VERDICT} WHERE suite = ? AND build = ? AND number > ?", (suite, build, after)
        )
        standing = standing_verdict(map(_verdict, rows))
        if standing is not None:
            counting[build] = standing
    return counting


def verdict_of_lease(connection: sqlite3.Connection, lease: str) -> Verdict | None:
    """What was reported under a lease."""
    row = connection.execute(f"{_VERDICT} WHERE lease = ?", (lease,)).fetchone()
    return None if row is None else _verdict(row)


def add_verdict(connection: sqlite3.Connection, verdict: Verdict, lease: str) -> Verdict:
    """Insert a verdict; returns it with its number."""
    cursor = connection.execute(
        "INSERT INTO verdicts (build, suite, outcome, reason, duration, machine, log, token, time, "
        "lease) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            verdict.build, verdict.suite, verdict.outcome.value, verdict.finding.reason,
            verdict.duration, verdict.machine, verdict.log, verdict.token, verdict.time, lease,
        ),
    )  # fmt: skip
    row = connection.execute(f"{_VERDICT} WHERE number = ?", (cursor.lastrowid,))
    return _verdict(row.fetchone())


def last_verdict(connection: sqlite3.Connection) -> int:
    """The number of the newest verdict; 0 before the first."""
    row = connection.execute("SELECT COALESCE(MAX(number), 0) FROM verdicts").fetchone()
    return int(row[0])


def last_judged(connection: sqlite3.Connection, most: int) -> list[tuple[BranchName, ObjectId]]:
    """Suite and build of the newest verdicts, once each."""
    rows = connection.execute(
        "SELECT suite, build FROM verdicts GROUP BY suite, build ORDER BY max(number) DESC LIMIT ?",
        (most,),
    )
    return [(BranchName(suite), ObjectId(build)) for suite, build in rows]


def add_retest(connection: sqlite3.Connection, suite: BranchName, retest: Retest) -> None:
    """Ask for a further test."""
    connection.execute(
        "INSERT INTO retests (build, suite, after, reason, who, time) VALUES (?, ?, ?, ?, ?, ?)",
        (retest.build, suite, retest.after, retest.reason, retest.who, retest.time),
    )


def load_retests(
    connection: sqlite3.Connection, suite: BranchName, builds: Iterable[ObjectId]
) -> dict[ObjectId, Retest]:
    """The last request for each of these builds."""
    found = {}
    for build in builds:
        row = connection.execute(
            "SELECT build, after, reason, who, time FROM retests WHERE suite = ? AND build = ? "
            "ORDER BY number DESC LIMIT 1",
            (suite, build),
        ).fetchone()
        if row is not None:
            found[build] = Retest(ObjectId(row[0]), *row[1:])
    return found


def load_leases(connection: sqlite3.Connection, suite: BranchName) -> list[Lease]:
    """The leases of a suite, also those that have expired."""
    rows = connection.execute(
        "SELECT lease, build, suite, holder, token, expires FROM leases WHERE suite = ?", (suite,)
    )
    return [Lease(*row) for row in rows]


def find_lease(connection: sqlite3.Connection, lease: str) -> Lease | None:
    """The lease with this id, unless it is given up or taken over."""
    row = connection.execute(
        "SELECT lease, build, suite, holder, token, expires FROM leases WHERE lease = ?", (lease,)
    ).fetchone()
    return None if row is None else Lease(*row)


def put_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Add a lease, in the place of one on the same build, or with another expiry."""
    connection.execute(
        "INSERT OR REPLACE INTO leases (build, suite, lease, holder, token, expires) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (lease.build, lease.suite, lease.id, lease.holder, lease.token, lease.expires),
    )


def drop_lease(connection: sqlite3.Connection, lease: str) -> None:
    """Give a lease up; nothing happens if it is gone."""
    connection.execute("DELETE FROM leases WHERE lease = ?", (lease,))


def drop_forgotten(connection: sqlite3.Connection, before: int) -> None:
    """Delete leases that expired before then: builds that nobody wanted to test any more."""
    connection.execute("DELETE FROM leases WHERE expires < ?", (before,))


def load_holds(connection: sqlite3.Connection) -> list[Hold]:
    """The holds in force, oldest first."""
    rows = connection.execute(
        "SELECT branch, build, reason, who, time FROM holds WHERE released IS NULL ORDER BY number"
    )
    return [Hold(*row) for row in rows]


def add_hold(connection: sqlite3.Connection, hold: Hold) -> None:
    """Put a hold in force."""
    connection.execute(
        "INSERT INTO holds (branch, build, reason, who, time) VALUES (?, ?, ?, ?, ?)",
        (hold.branch, hold.build, hold.reason, hold.who, hold.time),
    )


def release_holds(
    connection: sqlite3.Connection,
    subject: BranchName | None,
    build: ObjectId | None,
    note: Sequence[object],
) -> int:
    """End the holds on a branch or build; `note`: time, who and reason. Returns how many."""
    cursor = connection.execute(
        "UPDATE holds SET released = ?, released_by = ?, release_reason = ? "
        "WHERE released IS NULL AND (branch = ? OR build = ?)",
        (*note, subject, build),
    )
    return cursor.rowcount


def _verdict(row: Sequence[Any]) -> Verdict:
    number, build, suite, outcome, reason, *rest = row
    name = parse_branch_name(suite)
    return Verdict(number, ObjectId(build), name, Finding(Outcome(outcome), reason), *rest)
