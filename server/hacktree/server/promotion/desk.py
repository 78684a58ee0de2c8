"""Who tests what: builds are claimed by lease, so that none is tested twice at once.

A lease that is not renewed expires, and whoever asks next takes the build over. A verdict is
recorded for whoever holds the lease, once, however often it is reported.
"""

import logging
import secrets
import sqlite3
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import BusyError, HacktreeError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database
from hacktree.server.jobs import FARM, Kind, ask
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Standing, Stay, next_to_test
from hacktree.server.promotion.history import History, read_history
from hacktree.server.promotion.logs import keep_log, prune_logs
from hacktree.server.promotion.records import Lease
from hacktree.server.promotion.settings import read_log_limits
from hacktree.server.promotion.suites import Suite, Suites, find_suite
from hacktree.server.promotion.verdicts import (
    MAX_MACHINE,
    Finding,
    Verdict,
    VerdictInvalidError,
    check_line,
)

LEASE_SECONDS: Final = 90
"""How long a runner may be silent before its build is given to another."""

_LOG: Final = logging.getLogger("hacktree.server.qa")
_FORGOTTEN_SECONDS: Final = 7 * 86_400


class LeaseLostError(BusyError):
    """The lease expired and the build was given to another, or it never existed."""


class Assignment(msgspec.Struct, frozen=True):
    """A build to test: what to run on it, and the lease, good for `seconds` from now."""

    lease: str
    build: ObjectId
    sequence: int
    suite: Suite
    seconds: int = LEASE_SECONDS


class Idle(msgspec.Struct, frozen=True):
    """There is nothing to test, and why."""

    reason: str


class Report(msgspec.Struct, frozen=True):
    """What a runner found out: `duration` in seconds, `log` of at most `MAX_LOG` bytes."""

    finding: Finding
    duration: float
    machine: str
    log: bytes = b""


class Desk(Protocol):
    """Hands out builds and takes verdicts."""

    def claim(self, suite: str, holder: str) -> Assignment | Idle:
        """Lease the newest build that is untested and free."""

    def renew(self, lease: str) -> None:
        """Say that the runner is alive; raises `LeaseLostError`."""

    def report(self, lease: str, report: Report) -> Verdict:
        """Record the verdict and end the lease; raises `LeaseLostError`."""

    def give_up(self, lease: str) -> None:
        """End the lease without a verdict; nothing happens if it is gone."""


class LocalDesk(msgspec.Struct, frozen=True):
    """The desk at the farm's own repository. `token`: the id of whoever asks, over HTTP."""

    repository: Repository
    database: Database
    suites: Suites
    clock: Callable[[], float]
    token: str = ""

    def claim(self, suite: str, holder: str) -> Assignment | Idle:
        """Lease the newest build that is untested and free, in one transaction."""
        check_line(holder, MAX_MACHINE, "holder")
        if not holder:
            raise VerdictInvalidError("a lease needs a holder")
        found = find_suite(self.suites, suite)
        history = read_history(self.repository, found)
        with self.database.writing() as connection:
            now = int(self.clock())
            records.drop_forgotten(connection, now - _FORGOTTEN_SECONDS)
            standing = standing_of(connection, found, history, now)
            build = next_to_test(found, standing, now)
            if isinstance(build, Stay):
                return Idle(build.reason)
            lease = Lease(
                secrets.token_hex(16), build.id, found.target, holder, self.token,
                now + LEASE_SECONDS,
            )  # fmt: skip
            records.put_lease(connection, lease)
            ask(connection, Kind.DASHBOARD, FARM, now)
        return Assignment(lease.id, build.id, build.sequence, found)

    def renew(self, lease: str) -> None:
        """Move the expiry; also of an expired lease that nobody has taken over."""
        with self.database.writing() as connection:
            held = self._held(connection, lease)
            expires = int(self.clock()) + LEASE_SECONDS
            records.put_lease(connection, replace(held, expires=expires))

    def report(self, lease: str, report: Report) -> Verdict:
        """Record the verdict; a report that is repeated changes nothing."""
        log = keep_log(self.repository, report.log)
        with self.database.writing() as connection:
            known = records.verdict_of_lease(connection, lease)
            if known is not None and known.token == self.token:
                return known
            held = self._held(connection, lease)
            verdict = Verdict(
                0, held.build, held.suite, report.finding, report.duration, report.machine, log,
                self.token, int(self.clock()),
            )  # fmt: skip
            recorded = records.add_verdict(connection, verdict, lease)
            records.drop_lease(connection, lease)
            ask(connection, Kind.DASHBOARD, FARM, verdict.time)
        self._prune_logs()
        return recorded

    def _prune_logs(self) -> None:
        try:
            prune_logs(self.repository, read_log_limits(self.repository), self.clock())
        except (HacktreeError, OSError) as error:
            # The verdict is recorded; logs are pruned after the next one.
            _LOG.warning("logs of verdicts can't be pruned: %s", error)

    def give_up(self, lease: str) -> None:
        """Let another take the build."""
        with self.database.writing() as connection:
            held = records.find_lease(connection, lease)
            if held is not None and held.token == self.token:
                records.drop_lease(connection, lease)

    def suite_of(self, lease: str) -> BranchName:
        """Which suite a lease is for, or was; raises `LeaseLostError`."""
        with self.database.reading() as connection:
            known = records.verdict_of_lease(connection, lease)
            return self._held(connection, lease).suite if known is None else known.suite

    def _held(self, connection: sqlite3.Connection, lease: str) -> Lease:
        held = records.find_lease(connection, lease)
        if held is None or held.token != self.token:
            raise LeaseLostError(
                "the lease has expired, and another runner may have the build",
                hint="Claim again. Is this machine, or its network, too slow to renew in time?",
            )
        return held


def standing_of(
    connection: sqlite3.Connection, suite: Suite, history: History, now: int
) -> Standing:
    """How things are for a suite."""
    last, ids = history.last, [build.id for build in history.builds]
    return Standing(
        builds=history.builds,
        verdicts=records.load_verdicts(connection, suite.target, ids),
        holds=records.load_holds(connection),
        running={
            lease.build: lease.holder
            for lease in records.load_leases(connection, suite.target)
            if now < lease.expires
        },
        retests=records.load_retests(connection, suite.target, ids),
        promoted=None if last is None else last.source_sequence,
        promoted_at=None if last is None else last.time,
    )
