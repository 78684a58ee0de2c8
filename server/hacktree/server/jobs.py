"""Work that follows a publication, in the database: it survives restarts and is done once.

A job has a kind and a subject, such as packs of deltas for a branch. Asked for again while it waits
it is the same job; asked for while it runs, it runs once more afterwards. What fails is tried again
later, a limited number of times. Times are whole seconds since 1970.

Nothing that is published needs a job to be whole: a head comes with its history and its signature,
and what jobs add names only what is there (docs/architecture.md, "What follows a publication").
"""

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.server.database import Database

MAX_ATTEMPTS: Final = 5
FIRST_DELAY: Final = 60
"""Seconds before the second attempt; each further one waits four times as long."""

KEPT: Final = 1000
"""Jobs that are remembered of those that were done, and of those that failed."""

MAX_ERROR: Final = 4000
"""Characters of what went wrong that are kept: the last ones."""


class JobMissingError(UserError):
    """There is no such job, or it can't be tried again."""


FARM: Final = "-"
"""The subject of jobs that are of no single branch; no branch has this name."""


class Kind(StrEnum):
    """What is to be done, in the order in which it is done when all of it is due.

    What says how things are comes last; DELTAS and LEASES, which may take hours, are in its way
    only where jobs are done by hand.
    """

    HISTORY = "history"
    """A branch's published history differs from its builds: write it anew."""

    TRUST = "trust"
    """The snapshot and the timestamp are past half of their life: sign them again."""

    DELTAS = "deltas"
    """Packs to and from the newest build of a branch."""

    LEASES = "leases"
    """A pack that bisections of a leased range lack; the subject is the lease."""

    DASHBOARD = "dashboard"
    """The page that shows how the farm is."""


class State(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Job(msgspec.Struct, frozen=True):
    """One job. `due`: not before then; `attempts`: begun so far; `error`: of the last failure."""

    id: int
    kind: Kind
    subject: str
    state: State
    attempts: int
    due: int
    created: int
    started: int | None = None
    ended: int | None = None
    error: str = ""

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> "Job":
        """The job of a row with `_COLUMNS`."""
        number, kind, subject, state, *rest = row
        return cls(number, Kind(kind), subject, State(state), *rest)


_COLUMNS: Final = "id, kind, subject, state, attempts, due, created, started, ended, error"


def delay(attempts: int) -> int:
    """Seconds between an attempt that failed and the next one."""
    return FIRST_DELAY << 2 * (attempts - 1)


def enqueue(database: Database, kind: Kind, subject: str, now: int) -> None:
    """Have it done, once, after this moment."""
    with database.writing() as connection:
        ask(connection, kind, subject, now)


def enqueue_publication(database: Database, branch: str, now: int) -> None:
    """Have done what follows a new head of a branch."""
    with database.writing() as connection:
        ask(connection, Kind.DELTAS, branch, now)
        ask(connection, Kind.DASHBOARD, FARM, now)


def ask(connection: sqlite3.Connection, kind: Kind, subject: str, now: int) -> None:
    """Have it done, once, after this moment, if the caller's transaction succeeds."""
    again = connection.execute(
        "UPDATE jobs SET again = 1 WHERE kind = ? AND subject = ? AND state = 'running'",
        (kind, subject),
    )
    if again.rowcount == 0:
        connection.execute(
            "INSERT OR IGNORE INTO jobs (kind, subject, state, due, created)"
            " VALUES (?, ?, 'waiting', ?, ?)",
            (kind, subject, now, now),
        )
        # A clock that was set back must not keep what has not failed waiting.
        connection.execute(
            "UPDATE jobs SET due = ? WHERE kind = ? AND subject = ? AND state = 'waiting'"
            " AND attempts = 0 AND due > ?",
            (now, kind, subject, now),
        )


def drop_waiting(connection: sqlite3.Connection, kind: Kind, subject: str) -> None:
    """Nobody wants it any more, unless it is being done already."""
    connection.execute(
        "DELETE FROM jobs WHERE kind = ? AND subject = ? AND state = 'waiting'", (kind, subject)
    )


def take_next(database: Database, kinds: Sequence[Kind], now: int) -> Job | None:
    """The job of the first of these kinds that is due for longest, which runs from now on.

    None if none is due.
    """
    with database.writing() as connection:
        found = (_find_due(connection, kind, now) for kind in kinds)
        row = next((row for row in found if row is not None), None)
        if row is None:
            return None
        connection.execute(
            "UPDATE jobs SET state = 'running', attempts = attempts + 1, started = ?, ended = NULL"
            " WHERE id = ?",
            (now, row[0]),
        )
        return _read(connection, row[0])


def succeed(database: Database, job: Job, now: int) -> None:
    """It is done; once more if somebody asked meanwhile."""
    with database.writing() as connection:
        connection.execute(
            "UPDATE jobs SET state = 'done', ended = ?, error = '' WHERE id = ?", (now, job.id)
        )
        _run_again(connection, job, now)
        _tell(connection, job, now)
        _forget(connection)


def fail(database: Database, job: Job, error: str, now: int) -> None:
    """It failed: it waits for its next attempt, or that was its last."""
    with database.writing() as connection:
        last = job.attempts >= MAX_ATTEMPTS
        connection.execute(
            "UPDATE jobs SET state = ?, due = ?, ended = ?, error = ? WHERE id = ?",
            (
                State.FAILED if last else State.WAITING,
                now + delay(job.attempts),
                now,
                error[-MAX_ERROR:],
                job.id,
            ),
        )
        if last:
            _run_again(connection, job, now)
        _tell(connection, job, now)
        _forget(connection)


def give_back(database: Database, now: int, job: Job | None = None) -> int:
    """What was interrupted waits again, and the attempt does not count; returns how many.

    Without a job: all that run, when a runner starts and no other can be at work.
    """
    with database.writing() as connection:
        done = connection.execute(
            "UPDATE jobs SET state = 'waiting', due = ?, attempts = max(attempts - 1, 0), again = 0"
            " WHERE state = 'running' AND id = coalesce(?, id)",
            (now, None if job is None else job.id),
        )
        return int(done.rowcount)


def find_job(database: Database, number: int) -> Job:
    """One job; raises `JobMissingError`."""
    with database.reading() as connection:
        job = _read(connection, number)
    if job is None:
        raise JobMissingError(f"there is no job {number}", hint="hacktree jobs lists them.")
    return job


def retry(database: Database, number: int, now: int) -> None:
    """Give a failed job, or one that waits for its next attempt, all its attempts again, now."""
    with database.writing() as connection:
        job = _read(connection, number)
        if job is None or job.state not in (State.FAILED, State.WAITING):
            raise JobMissingError(
                f"there is no job {number} that failed or waits", hint="hacktree jobs lists them."
            )
        try:
            connection.execute(
                "UPDATE jobs SET state = 'waiting', attempts = 0, due = ? WHERE id = ?",
                (now, number),
            )
        except sqlite3.IntegrityError:
            raise JobMissingError(f"{job.kind} of {job.subject} waits or runs already") from None


def list_jobs(database: Database) -> list[Job]:
    """All jobs, the newest first."""
    with database.reading() as connection:
        rows = connection.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY id DESC")  # noqa: S608
        return [Job.of(row) for row in rows]


def _find_due(connection: sqlite3.Connection, kind: Kind, now: int) -> tuple[int] | None:
    row: tuple[int] | None = connection.execute(
        "SELECT id FROM jobs WHERE kind = ? AND state = 'waiting' AND due <= ?"
        " ORDER BY due, id LIMIT 1",
        (kind, now),
    ).fetchone()
    return row


def _read(connection: sqlite3.Connection, number: int) -> Job | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM jobs WHERE id = ?",  # noqa: S608 - a constant
        (number,),
    ).fetchone()
    return None if row is None else Job.of(row)


def _run_again(connection: sqlite3.Connection, job: Job, now: int) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO jobs (kind, subject, state, due, created)"
        " SELECT kind, subject, 'waiting', ?, ? FROM jobs WHERE id = ? AND again = 1",
        (now, now, job.id),
    )


def _tell(connection: sqlite3.Connection, job: Job, now: int) -> None:
    """The dashboard shows packs, signatures and jobs that failed."""
    if job.kind is not Kind.DASHBOARD:
        ask(connection, Kind.DASHBOARD, FARM, now)


def _forget(connection: sqlite3.Connection) -> None:
    # Made so often that they would push out what went wrong.
    connection.execute(
        "DELETE FROM jobs WHERE kind = ? AND state = 'done' AND id NOT IN"
        " (SELECT max(id) FROM jobs WHERE kind = ? AND state = 'done')",
        (Kind.DASHBOARD, Kind.DASHBOARD),
    )
    for state in (State.DONE, State.FAILED):
        connection.execute(
            "DELETE FROM jobs WHERE state = ? AND id NOT IN"
            " (SELECT id FROM jobs WHERE state = ? ORDER BY id DESC LIMIT ?)",
            (state, state, KEPT),
        )
