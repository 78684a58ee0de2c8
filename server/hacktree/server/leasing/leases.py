"""Leasing a range of builds: while a lease lasts, no prune takes them. docs/format.md, "Leases".

A bisection asks for the builds between its two ends, and again from time to time. Asking and
renewing hold the repository's shared lock from the look at what is there, and at the clock, to the
file that prune honours: of a prune at the same time either the lease knows what it took, or it
spares what is leased.
"""

import hashlib
import logging
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import HacktreeError, UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.leases import (
    MAX_LEASED,
    LeasedCommits,
    LeaseUnreadableError,
    lease_names,
    read_lease,
    remove_lease,
    write_lease,
)
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.reachability import find_commits
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database
from hacktree.server.jobs import Kind, ask, drop_waiting
from hacktree.server.leasing.records import (
    RangeLease,
    count_leases,
    delete_ended,
    delete_lease,
    find_lease,
    load_leases,
    save_lease,
)

LEASE_SECONDS: Final = 7 * 86_400
"""How long a lease lasts from when it was asked for or renewed last."""

MAX_LEASES_OF_TOKEN: Final = 16
MAX_LEASES: Final = 256

Clock = Callable[[], float]
"""Seconds since 1970; read when no prune can delete any more, not before waiting for it."""

_LOCK_SECONDS: Final = 10.0
_LOG: Final = logging.getLogger("hacktree.server.leases")


class LeaseMissingError(UserError):
    """There is no such lease of this token, or it is over."""


class RangeInvalidError(UserError):
    """There are no such builds here, or the older one is not behind the newer one."""


class RangeTooLongError(HacktreeError):
    """More builds than one lease keeps."""


class TooManyLeasesError(HacktreeError):
    """The token, or everybody together, keeps enough already."""


class Range(msgspec.Struct, frozen=True):
    """Builds of a branch from `low` to `high`, both included; `session` is of whoever asks."""

    session: str
    branch: BranchName
    low: ObjectId
    high: ObjectId

    def name_for(self, token: str) -> str:
        """The id of the lease: asked again, also when the answer was lost, it is the same one."""
        parts = (token, self.session, self.branch, self.low.hex(), self.high.hex())
        return hashlib.sha256("\0".join(("hacktree lease", *parts)).encode()).hexdigest()[:32]


def lease_range(
    repository: Repository, database: Database, token: str, wanted: Range, clock: Clock
) -> RangeLease:
    """Keep the builds of a range that are still here, for `LEASE_SECONDS` from now.

    A lease that lasts is renewed. Raises `RangeInvalidError`, `RangeTooLongError`,
    `TooManyLeasesError`, and `BusyError` while a prune deletes.
    """
    name = wanted.name_for(token)
    with repository.lock(LockKind.SHARED, timeout=_LOCK_SECONDS):
        now = int(clock())
        # What is leased already can't have changed, and reading a thousand commits takes a second.
        with database.reading() as connection:
            known = find_lease(connection, name)
        lasts = known is not None and known.expires > now
        builds = known.builds if known is not None and lasts else builds_between(repository, wanted)
        with database.writing() as connection:
            delete_ended(connection, now)
            known = find_lease(connection, name)
            if known is None:
                _require_room(count_leases(connection, token), MAX_LEASES_OF_TOKEN, "this token")
                _require_room(count_leases(connection), MAX_LEASES, "the farm")
                ask(connection, Kind.LEASES, name, now)
            lease = RangeLease(
                name,
                token,
                wanted.session,
                wanted.branch,
                builds,
                now if known is None else known.created,
                now + LEASE_SECONDS if known is None else _later_end(known, now),
            )
            _keep(repository, lease)
            save_lease(connection, lease)
    return lease


def renew_lease(
    repository: Repository, database: Database, token: str, name: str, clock: Clock
) -> RangeLease:
    """Let it last `LEASE_SECONDS` from now; raises `LeaseMissingError`, also when it is over.

    Raises `BusyError` while a prune deletes.
    """
    with repository.lock(LockKind.SHARED, timeout=_LOCK_SECONDS):
        now = int(clock())
        with database.writing() as connection:
            lease = find_lease(connection, name)
            if lease is None or lease.token != token or lease.expires <= now:
                raise missing(name)
            lease = replace(lease, expires=_later_end(lease, now))
            _keep(repository, lease)
            save_lease(connection, lease)
    return lease


def _later_end(lease: RangeLease, now: int) -> int:
    """Until when a lease lasts that is renewed.

    If it began later than now, the clock was set back: what was promised before still holds, as the
    clock may be set right before it is renewed again.
    """
    end = now + LEASE_SECONDS
    return max(end, lease.expires) if lease.created > now else end


def end_lease(repository: Repository, database: Database, name: str) -> None:
    """Keep its builds no longer; nothing happens if it is gone."""
    with database.writing() as connection:
        delete_lease(connection, name)
        drop_waiting(connection, Kind.LEASES, name)
        # Before the commit: after it, somebody who asks again may have written the file already.
        remove_lease(repository, name)


def list_leases(database: Database, now: int) -> list[RangeLease]:
    """Those that last, oldest first."""
    with database.reading() as connection:
        return [lease for lease in load_leases(connection) if lease.expires > now]


def settle_leases(repository: Repository, database: Database, now: int) -> None:
    """Forget what is over, and make the files be what the database says.

    They differ after a crash, and after a restore.
    """
    with database.writing() as connection:
        delete_ended(connection, now)
        wanted = {lease.id: _kept(lease) for lease in load_leases(connection)}
        # Nobody else writes or deletes one: whoever does is in a transaction like this one.
        for name in lease_names(repository):
            if name not in wanted:
                remove_lease(repository, name)
        for name, leased in wanted.items():
            if not _says(repository, name, leased):
                write_lease(repository, name, leased)


def missing(name: str) -> LeaseMissingError:
    """There is no such lease."""
    return LeaseMissingError(
        f"there is no lease {name}", hint="It is over, or was given back: ask for the range again."
    )


def builds_between(repository: Repository, wanted: Range) -> tuple[ObjectId, ...]:
    """The builds of a range that are here, oldest first; the caller holds the shared lock.

    The line of parents ends where builds were pruned; `low` is kept even then. Raises
    `RangeInvalidError`, `RangeTooLongError`.
    """
    found: list[ObjectId] = []
    here: ObjectId | None = _require_commit(repository, wanted.high)
    while here is not None and repository.has_meta(here):
        commit = repository.load_commit(here)
        if commit.branch != wanted.branch:
            raise RangeInvalidError(
                f"{here.hex()[:16]} is a build of {commit.branch}, not of {wanted.branch}"
            )
        found.append(here)
        if here == wanted.low:
            return tuple(reversed(found))
        if len(found) == MAX_LEASED:
            raise RangeTooLongError(f"a lease keeps {MAX_LEASED} builds at most")
        here = commit.parents[0] if commit.parents else None
    if here is None:
        raise RangeInvalidError(
            f"{wanted.low.hex()[:16]} is not behind {wanted.high.hex()[:16]} on {wanted.branch}"
        )
    if len(found) < MAX_LEASED and _is_build(repository, wanted.low, wanted.branch):
        found.append(wanted.low)  # Kept by a pin or another lease, behind a gap.
    return tuple(reversed(found))


def _require_commit(repository: Repository, build: ObjectId) -> ObjectId:
    if not _is_commit(repository, build):
        raise RangeInvalidError(f"there is no build {build.hex()[:16]} here")
    return build


def _is_commit(repository: Repository, build: ObjectId) -> bool:
    return any(find_commits(repository, [meta_name(build)]))


def _is_build(repository: Repository, build: ObjectId, branch: BranchName) -> bool:
    return _is_commit(repository, build) and repository.load_commit(build).branch == branch


def _require_room(count: int, limit: int, whose: str) -> None:
    if count >= limit:
        raise TooManyLeasesError(
            f"{whose} has {count} leases, and may have {limit}",
            hint="Give back what is not needed: `hacktree bisect reset`, or `hacktree lease end`.",
        )


def _keep(repository: Repository, lease: RangeLease) -> None:
    write_lease(repository, lease.id, _kept(lease))


def _says(repository: Repository, name: str, leased: LeasedCommits) -> bool:
    try:
        return read_lease(repository, name) == leased
    except LeaseUnreadableError as error:
        _LOG.warning("%s", error.message)
        return False


def _kept(lease: RangeLease) -> LeasedCommits:
    return LeasedCommits(lease.expires, lease.builds)
