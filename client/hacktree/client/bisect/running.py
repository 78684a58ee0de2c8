"""Running a command on a build under test: what its exit status means, and its end.

It has a session of its own, no standard input, and ends with all of its process group: at its end,
at its limit, when whoever asked interrupts it, hangs up or ends hacktree, by SIGKILL too.
"""

import enum
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NoReturn

import msgspec

from hacktree.client.entering.syscalls import die_with_parent
from hacktree.common.errors import HacktreeError, UserError

_ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)

GRACE_SECONDS: Final = 5.0
"""Between SIGTERM and SIGKILL."""

SKIPPED: Final = 125
_FIRST_ABORT: Final = 128
_LAST_SIGNAL: Final = 64
_MAX_FAILURE: Final = 1 << 16


class RunAbortedError(HacktreeError):
    """The command says nothing about the build: the run stops, the bisection stays as it was."""


class CommandMissingError(UserError):
    """The command can't be run: that says nothing about the build."""


class Finding(enum.Enum):
    """What a command found of a build."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class CommandRun(msgspec.Struct, frozen=True):
    """What a command came to: `status` is its exit status, None if it was ended at its limit."""

    finding: Finding
    status: int | None
    seconds: float

    def describe(self) -> str:
        """For a log: 'exit status 1 after 2.3 s'."""
        ended = "ended at its limit" if self.status is None else f"exit status {self.status}"
        return f"{ended} after {self.seconds:.1f} s"


def judge(status: int) -> Finding:
    """What an exit status says of a build, as for `git bisect run`.

    0 passed, 125 skipped, 1 to 127 failed. Raises `RunAbortedError` for 128 and above.
    """
    if status >= _FIRST_ABORT:
        number = status - _FIRST_ABORT
        what = f"signal {number} ended it" if 0 < number <= _LAST_SIGNAL else f"status {status}"
        raise RunAbortedError(
            f"the command was aborted: {what}",
            hint="Nothing was answered for this build: run it again, or answer by hand.",
        )
    if status == SKIPPED:
        return Finding.SKIPPED
    return Finding.PASSED if status == 0 else Finding.FAILED


def command_environment(root: str, build: str, branch: str, previous: str) -> dict[str, str]:
    """What a command finds in its environment beside the caller's. docs/bisect.md, "Running".

    `previous`: the verdict on the build that was tested before this one, or "".
    """
    return {
        "HACKTREE_ROOT": root,
        "HACKTREE_BUILD": build,
        "HACKTREE_BRANCH": branch,
        "HACKTREE_PREVIOUS_VERDICT": previous,
    }


def on_host(command: Sequence[str], variables: Mapping[str, str]) -> Callable[[], int]:
    """The command on this machine, with these variables beside those that are set.

    It looks at the root through `HACKTREE_ROOT`.
    """
    environment = {**os.environ, **variables}

    def start() -> NoReturn:
        os.execvpe(command[0], list(command), environment)  # noqa: S606

    return start


def run_command(
    start: Callable[[], int],
    limit: float | None,
    *,
    output: int | None = None,
    grace: float = GRACE_SECONDS,
) -> CommandRun:
    """Run `start` in a process of its own, at most `limit` seconds: at the limit it failed.

    `start` executes a command, or runs it and returns its exit status. What it prints goes to the
    descriptor `output` if one is given. Raises `RunAbortedError`, and `CommandMissingError` if
    `start` raises `OSError` or `HacktreeError`.
    """
    began = time.monotonic()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    this = os.pidfd_open(os.getpid())
    sys.stdout.flush()
    sys.stderr.flush()
    with _ending_after():
        child = fork()
        if child == 0:
            os.close(reading)
            _be_command(start, writing, output, this)
        os.close(this)
        os.close(writing)
        process = os.pidfd_open(child)
        ended = False
        try:
            with open(reading, "rb") as answer:
                ended = bool(select.select([process], [], [], limit)[0])
                seconds = time.monotonic() - began
                failure = answer.read(_MAX_FAILURE) if ended else b""
        finally:
            status = _end(child, process, 0.0 if ended else grace)
            os.close(process)
    if failure:
        message, _, hint = failure.decode("utf-8", "replace").partition("\0")
        raise CommandMissingError(message, hint=hint)
    if not ended:
        return CommandRun(Finding.FAILED, None, seconds)
    return CommandRun(judge(status), status, seconds)


@contextmanager
def _ending_after() -> Iterator[None]:
    """What ends this process at once otherwise first ends what is done here."""
    caught: list[int] = []

    def interrupt(number: int, _frame: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    numbers = [number for number in _ENDINGS if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        if caught:
            signal.raise_signal(caught[0])


def fork() -> int:
    """fork(2), also where libraries have left threads: the child takes no locks of theirs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _be_command(start: Callable[[], int], writing: int, output: int | None, asker: int) -> NoReturn:
    status = SKIPPED
    try:
        os.setsid()
        die_with_parent()
        _leave_watcher(asker)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        for number in _ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
        if output is not None:
            os.dup2(output, 1)
        status = start()
    except HacktreeError as error:
        os.write(writing, f"{error.message}\0{error.hint}".encode())
    except OSError as error:
        name = os.fsdecode(error.filename) if error.filename else "the command"
        hint = "Give the program's path, then its words, behind `--`."
        os.write(writing, f"can't run {name}: {error.strerror}\0{hint}".encode())
    finally:
        # Nothing else of this process's program may go on in the copy.
        os._exit(status)


def _leave_watcher(asker: int) -> None:
    """Leave a process in this group that kills all of it when `asker`, a pidfd, is killed.

    The kernel only does so to the leader. A watcher outside of the group could kill another one,
    which has its number by then. It is no child of the command, which may wait for all of its own.
    """
    child = fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        if fork() == 0:
            # What ends the command must leave this one to end the rest.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.dup2(asker, 0)
            os.closerange(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            select.select([0], [], [])
            os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(0)


def _end(child: int, process: int, grace: float) -> int:
    """End what is left of the group; returns the leader's status, 128 + n for signal n.

    The leader is reaped last, so that its number still means this group.
    """
    _signal_group(child, signal.SIGTERM)
    select.select([process], [], [], grace)
    _signal_group(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else _FIRST_ABORT - code


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
