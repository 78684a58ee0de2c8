"""Bringing builds ahead: a process of its own, of lowest priority, while somebody tests.

It is a copy of the process that begins it, so it need not import, nor read again, what that one
knows. It holds `.ht/state/bisect/prefetch.lock` from before it exists until it has ended, so
whoever sees that lock free knows that nothing is brought any more. It is stopped by killing it:
what it has published is whole and kept by a pin, and the rest is staged, where the next pull finds
it. Whatever fails in it is a line in `prefetch.log` and nothing else. docs/bisect.md, "Bringing
ahead".
"""

import asyncio
import gc
import os
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace  # noqa: TID251 - of PullRequest
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from hacktree.client.bisect.farm.fetching import BuildRequest, bring_from
from hacktree.client.bisect.running import fork
from hacktree.client.connect import open_source
from hacktree.client.pace import Pace
from hacktree.client.pull import PullPlan, PullReport, decoders
from hacktree.client.remote import Remote, load_remote
from hacktree.client.retry import real_patience
from hacktree.client.source import NotServedError
from hacktree.common.errors import BusyError, HacktreeError, SpaceError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.repository.config import format_size
from hacktree.common.repository.decoding import DecoderPool
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.forking import keep_only
from hacktree.common.repository.locks import LockKind, try_lock
from hacktree.common.repository.repository import Repository, open_repository

_LOCK: Final = "prefetch.lock"
_LOG: Final = "prefetch.log"
_NICENESS: Final = 19
_CONNECTIONS: Final = 4
_END_SECONDS: Final = 60
"""How long a killed process may be in the middle of a sync."""

_POLL_SECONDS: Final = 0.02

FINISH_SECONDS: Final = 2.0
"""How long a build that is wanted and under way may take to come before it is brought anew."""

_started: set[int] = set()
"""Processes that this one began and has not seen end."""


class PrefetchLimits(msgspec.Struct, frozen=True):
    """`rate`: bytes a second from the network, None for no limit. `space`: bytes on disk that the
    builds of one run may take beside what is here.
    """

    rate: int | None = None
    space: int = 2 << 30


class PrefetchSpaceError(SpaceError):
    """A build would take more than the space for builds that are brought ahead."""


def start_prefetch(
    repository: Repository, remote: str, wishes: Sequence[BuildRequest], limits: PrefetchLimits
) -> bool:
    """Begin to bring `wishes`, in this order, in the background; returns at once.

    It outlives this process, which must have one thread. False if there is nothing to bring or it
    is running already.
    """
    directory = _directory(repository)
    make_directories(repository.state, Path(directory.name), mode=0o700)
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    lock = os.open(directory / _LOCK, flags, 0o600)
    try:
        if not wishes or not try_lock(lock, LockKind.EXCLUSIVE):
            return False
        os.ftruncate(lock, 0)
        log = os.open(directory / _LOG, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        pid = fork()
        if not pid:
            begun = partial(_say_build, lock)
            bring = partial(_bring_wishes, repository.path, remote, wishes, limits, begun)
            _be_prefetch(lock, log, bring)
        os.close(log)
        _started.add(pid)
        os.pwrite(lock, _line(pid), 0)
        return True
    finally:
        os.close(lock)


def stop_prefetch(repository: Repository) -> bool:
    """End what brings builds ahead; returns whether anything did. Nothing is left half published.

    Raises `BusyError` in the odd case that it can't be ended: pulling beside it does no harm.
    """
    with suppress(FileNotFoundError):
        lock = os.open(_directory(repository) / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return _end_holder(lock)
        finally:
            os.close(lock)
    return False


def build_under_way(repository: Repository) -> ObjectId | None:
    """The build that is being brought ahead at this moment, if any."""
    with suppress(FileNotFoundError):
        lock = os.open(_directory(repository) / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            return None if try_lock(lock, LockKind.EXCLUSIVE) else _read_build(lock)
        finally:
            os.close(lock)
    return None


def let_finish(repository: Repository, build: ObjectId, seconds: float = FINISH_SECONDS) -> bool:
    """Wait for a build that is under way, for so long at most; returns whether it is here."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and build_under_way(repository) == build:
        time.sleep(_POLL_SECONDS)
    return repository.has_meta(build)


def forget_prefetch(repository: Repository) -> None:
    """Delete what the last process said, which has ended."""
    (_directory(repository) / _LOG).unlink(missing_ok=True)


def _end_holder(lock: int) -> bool:
    deadline = time.monotonic() + _END_SECONDS
    found = False
    while not try_lock(lock, LockKind.EXCLUSIVE):
        found = True
        pid = _read_pid(lock)
        if time.monotonic() > deadline:
            raise BusyError(
                f"process {pid}, which brings builds ahead, does not end",
                hint="The disk may be stuck. Try again.",
            )
        if pid is None or not _kill(lock, pid):
            # Its parent died right after starting it, and it will say who it is itself; or it has
            # ended, and a decoder that it forked last closes the lock in a moment.
            time.sleep(_POLL_SECONDS)
    for pid in list(_started):
        if os.waitpid(pid, os.WNOHANG)[0]:
            _started.remove(pid)
    return found


def _kill(lock: int, pid: int) -> bool:
    """Kill the holder of the lock, whose pid can't be another's while the lock is held.

    Returns whether the lock is taken now.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if try_lock(lock, LockKind.EXCLUSIVE):
            return True
        if _read_pid(lock) != pid:
            return False
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(_END_SECONDS * 1000)
        return try_lock(lock, LockKind.EXCLUSIVE)
    finally:
        os.close(descriptor)


def _line(pid: int) -> bytes:
    return b"%d\n" % pid


def _read_pid(lock: int) -> int | None:
    text, newline, _ = os.pread(lock, 32, 0).partition(b"\n")
    return int(text) if newline and text.isdigit() else None


def _read_build(lock: int) -> ObjectId | None:
    """What the holder says behind its pid."""
    lines = os.pread(lock, 128, 0).split(b"\n")
    try:
        return parse_object_id(lines[1].decode()) if len(lines) == 3 else None
    except (UnicodeError, FormatError):
        return None


def _directory(repository: Repository) -> Path:
    return repository.state / "bisect"


class _Budget(PullReport):
    """Refuses a build that takes more space than is left, before its contents are fetched."""

    def __init__(self, space: int) -> None:
        self.left = space

    def planned(self, plan: PullPlan) -> None:
        """Take the build's share."""
        needed = plan.space_needed
        if needed > self.left:
            raise PrefetchSpaceError(
                f"{format_size(needed)} needed, {format_size(self.left)} left for bringing ahead"
            )
        self.left -= needed


def _be_prefetch(lock: int, log: int, bring: Callable[[], bool]) -> NoReturn:
    """In the copy: keep nothing of the other process but the lock, do it, and end."""
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        gc.freeze()
        keep_only(lock, log)
        os.pwrite(lock, _line(os.getpid()), 0)
        os.nice(_NICENESS)
        os.chdir("/")
        status = 0 if bring() else 1
    except (HacktreeError, OSError) as error:
        _say(str(error))
    except BaseException:  # noqa: BLE001 - reported in the log: os._exit would swallow it.
        _say(traceback.format_exc())
    finally:
        # Nothing else of this process's program may go on in the copy.
        os._exit(status)


def _say(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def _say_build(lock: int, build: ObjectId) -> None:
    """As one write, so that nobody reads half of it."""
    os.pwrite(lock, _line(os.getpid()) + f"{build.hex()}\n".encode(), 0)


def _bring_wishes(
    path: Path,
    remote: str,
    wishes: Sequence[BuildRequest],
    limits: PrefetchLimits,
    begun: Callable[[ObjectId], None],
) -> bool:
    repository = open_repository(path)
    with decoders(repository) as pool:
        pool.fork()  # Now, before there are threads.
        return asyncio.run(
            _bring_all(repository, load_remote(repository, remote), wishes, limits, begun, pool)
        )


async def _bring_all(
    repository: Repository,
    remote: Remote,
    wishes: Sequence[BuildRequest],
    limits: PrefetchLimits,
    begun: Callable[[ObjectId], None],
    pool: DecoderPool,
) -> bool:
    """Bring one after the other; returns whether all came.

    One that is gone or too large is left out. What would fail for others as well is raised.
    """
    patience = real_patience()
    pace = None if limits.rate is None else Pace(limits.rate, time.monotonic, asyncio.sleep)
    budget = _Budget(limits.space)
    good = True
    async with open_source(remote, patience, _CONNECTIONS, pace) as source:
        source.traffic.tells_speed = False
        for wish in wishes:
            build = f"{wish.branch}@{wish.commit.hex()[:16]}"
            request = replace(wish, connections=_CONNECTIONS)
            started, before = time.monotonic(), source.traffic.bytes
            begun(wish.commit)
            try:
                await bring_from(repository, remote.name, request, source, budget, pool)
            except (NotServedError, PrefetchSpaceError) as error:
                _say(f"{build}: {error}")
                good = False
                continue
            received = format_size(source.traffic.bytes - before)
            _say(f"{build}: here, {received} in {time.monotonic() - started:.1f} s")
    return good
