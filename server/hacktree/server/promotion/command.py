"""Running a suite's command: bounded in time and log, and gone with all that it started.

What it runs was pushed by others. It gets a session of its own, a small environment, no standard
input and no way to gain privileges through setuid programs; it dies with the runner. What it may do
beyond that is the machine's affair: without a sandbox it acts as the runner's user.
"""

import ctypes
import errno
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.server.promotion.logs import BoundedLog
from hacktree.server.promotion.verdicts import Finding, judge_exit, judge_timeout

GRACE_SECONDS: Final = 5.0
"""Between SIGTERM and SIGKILL."""

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PIECE: Final = 64 << 10
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_libc = ctypes.CDLL(None, use_errno=True)


class CommandMissingError(UserError):
    """The suite's command can't be started on this machine; that says nothing about the build."""


class Job(msgspec.Struct, frozen=True):
    """What to run: `directory` is where it starts; `limit` and `grace` in seconds.

    `judge` says what its exit status means, negative for the signal that ended it.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    limit: float
    grace: float = GRACE_SECONDS
    judge: Callable[[int], Finding] = judge_exit


class Heartbeat(msgspec.Struct, frozen=True):
    """`beat` is called every `seconds`, and by raising ends the command."""

    beat: Callable[[], None]
    seconds: float


class CommandRun(msgspec.Struct, frozen=True):
    """What a command came to; `duration` in seconds."""

    finding: Finding
    duration: float
    log: bytes


def suite_environment(root: Path, build: str, branch: str, scratch: Path) -> dict[str, str]:
    """The whole environment of a suite's command. docs/operations.md, "Suites"."""
    return {
        "HACKTREE_ROOT": str(root),
        "HACKTREE_BUILD": build,
        "HACKTREE_BRANCH": branch,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PATH": SEARCH_PATH,
        "LANG": "C.UTF-8",
    }


def run_command(job: Job, heartbeat: Heartbeat, monotonic: Callable[[], float]) -> CommandRun:
    """Run it to its end or its limit; whatever else it started is killed then.

    Raises `CommandMissingError`, and what `heartbeat` raises.
    """
    log = BoundedLog()
    began = monotonic()
    with _adopting(), _started(job) as process:
        assert process.stdout is not None  # noqa: S101
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        with _killing_all(process, job.grace, monotonic, log):
            ended = _watch(process, log, job.limit, heartbeat, monotonic)
        duration = monotonic() - began
        _drain(output, log)
        finding = job.judge(process.returncode) if ended else judge_timeout(job.limit)
    return CommandRun(finding, duration, log.value())


@contextmanager
def _started(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            list(job.command),
            env=dict(job.environment),
            cwd=job.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_restrict,  # A runner has no threads.
        )
    except OSError as error:
        raise CommandMissingError(
            f"can't run {job.command[0]}: {os.strerror(error.errno or 0)}",
            hint="Install the suite's command on this machine; server.toml names it.",
        ) from error
    with process:
        yield process


def _restrict() -> None:
    """In the child: die with the runner, and gain nothing from setuid programs."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


@contextmanager
def _adopting() -> Iterator[None]:
    """Orphans become children of this process, and are killed: a setsid(2) saves none of them."""
    before = _children()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _kill_orphans(before)
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _watch(
    process: subprocess.Popen[bytes],
    log: BoundedLog,
    limit: float,
    heartbeat: Heartbeat,
    monotonic: Callable[[], float],
) -> bool:
    """Wait for its end, keeping its output; false if the limit came first."""
    deadline = monotonic() + limit
    next_beat = monotonic() + heartbeat.seconds
    with _waiting_for(process) as selector:
        while True:
            now = monotonic()
            if now >= next_beat:
                heartbeat.beat()
                next_beat = monotonic() + heartbeat.seconds
            if now >= deadline:
                return False
            if _step(selector, log, max(0.0, min(deadline, next_beat) - now)):
                return True


@contextmanager
def _waiting_for(process: subprocess.Popen[bytes]) -> Iterator[selectors.BaseSelector]:
    assert process.stdout is not None  # noqa: S101
    ending = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ending, selectors.EVENT_READ, None)
            selector.register(process.stdout, selectors.EVENT_READ, process.stdout.fileno())
            yield selector
    finally:
        os.close(ending)


def _step(selector: selectors.BaseSelector, log: BoundedLog, timeout: float) -> bool:
    """Take what is there within `timeout`; true once the process has ended."""
    ended = False
    for key, _ in selector.select(timeout):
        if key.data is None:
            ended = True
        elif not _read(key.data, log):
            selector.unregister(key.fileobj)
    return ended


def _read(output: int, log: BoundedLog) -> bool:
    """Take one piece of output; false at its end."""
    try:
        piece = os.read(output, _PIECE)
    except BlockingIOError:
        return True
    log.add(piece)
    return bool(piece)


def _drain(output: int, log: BoundedLog) -> None:
    """What is still in the pipe: everybody who could write to it is gone."""
    with suppress(BlockingIOError):
        while piece := os.read(output, _PIECE):
            log.add(piece)


@contextmanager
def _killing_all(
    process: subprocess.Popen[bytes],
    grace: float,
    monotonic: Callable[[], float],
    log: BoundedLog,
) -> Iterator[None]:
    """At the end: SIGTERM to the group and, if its leader stays, `grace` seconds; then SIGKILL."""
    try:
        yield
    finally:
        # The leader is not reaped before, so that its number still means this group.
        _signal_group(process.pid, signal.SIGTERM)
        deadline = monotonic() + grace
        with _waiting_for(process) as selector:
            while monotonic() < deadline:
                if _step(selector, log, deadline - monotonic()):
                    break
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _kill_orphans(spared: frozenset[int]) -> None:
    """Kill and reap what was left to this process, and what that leaves in turn, until none is."""
    while orphans := _children() - spared:
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in orphans:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> frozenset[int]:
    own = os.getpid()
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_bytes()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH):
                continue
            raise
        # The name, in parentheses, may hold anything; what follows the last one can't.
        if int(stat.rpartition(b")")[2].split()[1]) == own:
            found.add(int(name))
    return frozenset(found)
