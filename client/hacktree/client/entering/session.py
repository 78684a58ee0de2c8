"""Running one command in namespaces of its own, as if it were this process.

Three processes: this one waits, passes signals on and keeps the terminal's job control right; the
first process of the new process namespace builds the file system, then reaps; the command is the
second. The kernel kills the first with this process, and everything in the namespace with the
first: nothing outlives a SIGKILL, and mounts go with the last process that sees them.
"""

import errno
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

from hacktree.client.entering.syscalls import die_with_parent, join_namespace, unshare
from hacktree.client.entering.terminal import Terminal
from hacktree.client.replay.namespaces import CLONE_NEWNS, CLONE_NEWPID
from hacktree.common.errors import HacktreeError, SystemFault, UserError

FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
"""What is sent to hacktree and meant for the command. The terminal sends it to the command alone,
whose process group is in the foreground."""


_BUILT: Final = b"built"
_NOT_FOUND: Final = (errno.ENOENT, errno.ENOTDIR)
_Mask = set[signal.Signals | int]


class CommandMissingError(UserError):
    """There is no such program in the root."""

    exit_code = 127


class CommandRefusedError(UserError):
    """The program in the root can't be run."""

    exit_code = 126


class SessionError(SystemFault):
    """The kernel refused what a session is made of."""


class Session:
    """Namespaces with their file system built, for one command."""

    def __init__(self, first: int, outside: int) -> None:
        self._first = first
        self._outside = outside

    def run(self, start: Callable[[], NoReturn]) -> int:
        """Run `start`, which executes the command; returns its exit status, 128 + n for signal n.

        Ends everything that the command left in the namespaces. Raises `CommandMissingError`,
        `CommandRefusedError`.
        """
        try:
            inside = (
                os.open(f"/proc/{self._first}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC),
                os.open(f"/proc/{self._first}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC),
            )
            terminal = Terminal()
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
            reading, writing = os.pipe()
            command = os.fork()
            if command == 0:
                _become_command(inside, terminal, blocked, writing, start)
            for descriptor in (*inside, writing):
                os.close(descriptor)
            return _supervise(command, terminal, blocked, reading)
        finally:
            os.kill(self._first, signal.SIGKILL)
            os.waitpid(self._first, 0)
            self._leave()

    def _leave(self) -> None:
        """Let this process have children again: those of an ended namespace can't be born."""
        with suppress(PermissionError):
            # Without root there is no way back: such a process can only end.
            join_namespace(self._outside, CLONE_NEWPID)
        os.close(self._outside)


def begin_session(build: Callable[[], None]) -> Session:
    """Run `build` in new mount and process namespaces; raises `SessionError` when it fails."""
    outside = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWPID)
    except OSError as error:
        raise SessionError(
            f"can't enter: the kernel refuses namespaces: {error.strerror}",
            hint="In a container, give it the capability SYS_ADMIN.",
        ) from error
    return Session(_fork_first(build), outside)


def _fork_first(build: Callable[[], None]) -> int:
    """The first process of the namespace, once it has built the file system."""
    reading, writing = os.pipe()
    alive, parent = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(parent)
        _be_first(build, writing, alive)
    os.close(writing)
    os.close(alive)
    with open(reading, "rb") as answer:
        failure = answer.read()
    os.close(parent)
    if failure != _BUILT:
        os.waitpid(pid, 0)
        problem = json.loads(failure) if failure else {"message": "it was killed", "hint": ""}
        raise SessionError(f"can't enter: {problem['message']}", hint=problem["hint"])
    return pid


def _be_first(build: Callable[[], None], writing: int, alive: int) -> NoReturn:
    built = False
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        die_with_parent()
        if _is_orphan(alive):
            os._exit(1)
        unshare(CLONE_NEWNS)
        build()
        built = True
    except (OSError, HacktreeError) as error:
        os.write(writing, json.dumps(_describe(error)).encode())
    finally:
        # Nothing else of this process's program may go on in the copy.
        if not built:
            os._exit(1)
    os.write(writing, _BUILT)
    os.close(writing)
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait({signal.SIGCHLD})


def _is_orphan(alive: int) -> bool:
    """Whether the parent died before this process asked to die with it: nobody has the end."""
    os.set_blocking(alive, False)
    try:
        return os.read(alive, 1) == b""
    except BlockingIOError:
        return False


def _describe(error: OSError | HacktreeError) -> dict[str, str]:
    if isinstance(error, HacktreeError):
        return {"message": error.message, "hint": error.hint}
    return {"message": f"{error.filename}: {error.strerror}", "hint": ""}


def _become_command(
    inside: tuple[int, int],
    terminal: Terminal,
    blocked: _Mask,
    writing: int,
    start: Callable[[], NoReturn],
) -> NoReturn:
    try:
        namespace, root = inside
        join_namespace(namespace, CLONE_NEWNS)
        # The root of a namespace is not that of a process in it whose caller was chrooted.
        os.fchdir(root)
        os.chroot(".")
        os.setpgid(0, 0)
        terminal.give_to(os.getpid())
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            # Python's own dispositions; what the caller ignores stays ignored.
            if number is not signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        start()
    except OSError as error:
        failure = {"errno": error.errno, "message": error.strerror, "name": str(error.filename)}
        os.write(writing, json.dumps(failure).encode())
    finally:
        os._exit(127)


def _supervise(command: int, terminal: Terminal, blocked: _Mask, reading: int) -> int:
    with suppress(PermissionError, ProcessLookupError):
        # Whoever of the two comes first; it may have executed already.
        os.setpgid(command, command)

    def forward(number: int, _frame: object) -> None:
        with suppress(ProcessLookupError):
            os.kill(command, number)
            if number in (signal.SIGTERM, signal.SIGHUP):
                os.kill(command, signal.SIGCONT)

    before = {
        number: signal.signal(number, forward)
        for number in FORWARDED
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        # Before what it says is read: it may be stopped before it executes anything.
        status = _wait(command, terminal)
        with open(reading, "rb") as answer:
            failure = answer.read()
    finally:
        terminal.take_back()
        for number, handler in before.items():
            signal.signal(number, handler)
    if failure:
        _raise_start_failure(json.loads(failure))
    return status


def _wait(command: int, terminal: Terminal) -> int:
    while True:
        _, status = os.waitpid(command, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        terminal.stop_with(command, os.WSTOPSIG(status))


def _raise_start_failure(failure: dict[str, object]) -> NoReturn:
    missing = failure["errno"] in _NOT_FOUND
    kind = CommandMissingError if missing else CommandRefusedError
    raise kind(
        f"{failure['name']}: {failure['message']}",
        hint="It is looked for in the root, not on the host." if missing else "",
    )
