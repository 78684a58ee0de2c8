"""Running Python code in namespaces of its own: forked, not started anew, and gone with its parent.

    this process ── helper ── init (pid 1 of the new process namespace): runs the code
        both die at once when their parent does, and with init everything in its namespace

Mounts, host name and System V objects are private; the network is the caller's, since single
programs give it up (`Root.run`). Without root there is a user namespace too, in which the caller is
root over what belongs to it. This keeps accidents from the machine, not malicious code.
"""

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from hacktree.common.errors import HacktreeError, SystemFault
from hacktree.common.repository.durable import write_all

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MAX_MESSAGE: Final = 1 << 20
"""Bytes of one message from inside."""

_PR_SET_PDEATHSIG: Final = 1
_LENGTH: Final = struct.Struct(">I")
_REFUSED: Final = 97
"""Exit status of a helper that was refused its namespaces; the reason is its only message."""

_libc = ctypes.CDLL(None, use_errno=True)

Send = Callable[[bytes], None]
"""Sends one message to the process outside."""


class NamespaceRefusedError(SystemFault):
    """The kernel doesn't give this process namespaces of its own."""


class InsideDiedError(HacktreeError):
    """The code inside was killed."""


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _libc.unshare(flags) != 0:
        raise _last_error("unshare")


def run_isolated(
    body: Callable[[Send], None], receive: Callable[[bytes], None], keep: Collection[int] = ()
) -> None:
    """Run `body` in new namespaces, to its end; `receive` gets each message that it sends.

    It has standard input, output and error, and the descriptors in `keep`, no others. What
    `receive` raises ends the code inside, and so does an interrupt. However this ends, nothing runs
    inside any more. The calling thread has to live on meanwhile. Raises `NamespaceRefusedError`;
    `InsideDiedError` if the code inside did not return.
    """
    reading, writing = os.pipe()
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    with warnings.catch_warnings():
        # Of other threads: the code inside takes no locks but Python's own, which fork(2) resets.
        warnings.simplefilter("ignore", DeprecationWarning)
        helper = os.fork()
    if helper == 0:
        _be_helper(body, parent, writing, theirs, keep)
    os.close(writing)
    theirs.close()
    returned = False
    try:
        with open(reading, "rb") as stream:
            while (message := _read_message(stream.read)) is not None:
                if message.startswith(b"\0refused"):
                    raise NamespaceRefusedError(
                        message[8:].decode(),
                        hint="Steps run in namespaces of their own: run this as root, or allow "
                        "them (containers: SYS_ADMIN; else kernel.unprivileged_userns_clone).",
                    )
                receive(message)
        returned = True
    finally:
        with ours:
            status = _await_end(helper, ours, kill=not returned)
    if status != 0:
        why = f"by signal {-status}" if status < 0 else f"with status {status}"
        raise InsideDiedError(f"the process that changes the root ended {why}")


def _await_end(helper: int, ours: socket.socket, *, kill: bool) -> int:
    """Wait until init is gone, and with it all that runs inside; returns the helper's status.

    Not for the helper alone: if somebody killed that, init takes a moment to follow.
    """
    for init in socket.recv_fds(ours, 1, 1)[1]:
        if kill:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(init, signal.SIGKILL)
        ended = select.poll()
        ended.register(init, select.POLLIN)
        ended.poll()
        os.close(init)
    return os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1])


def _read_message(read: Callable[[int], bytes]) -> bytes | None:
    head = read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_MESSAGE:
        raise InsideDiedError(f"a message of {length} bytes from inside exceeds the limit")
    data = read(length)
    return data if len(data) == length else None


def _send(descriptor: int, message: bytes) -> None:
    write_all(descriptor, _LENGTH.pack(len(message)) + message)


def _be_helper(
    body: Callable[[Send], None],
    parent: int,
    writing: int,
    theirs: socket.socket,
    keep: Collection[int],
) -> None:
    """Never returns: a fork of the caller must not go on with the caller's work."""
    status = 1
    try:
        _reset_signals()
        _close_descriptors({writing, theirs.fileno(), *keep})
        try:
            _enter_namespaces()
        except OSError as error:
            _send(writing, b"\0refused" + f"{error.filename}: {error.strerror}".encode())
            status = _REFUSED
            return
        # Last, since a change of credentials clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            status = _run_init(body, writing, theirs)
    finally:
        os._exit(status)


def _run_init(body: Callable[[Send], None], writing: int, theirs: socket.socket) -> int:
    # Init begins once its descriptor is with whoever waits for its end, unless the helper has died.
    beginning, begin = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(begin)
        theirs.close()
        _be_init(body, writing, beginning)
    os.close(beginning)
    os.close(writing)
    descriptor = os.pidfd_open(init)
    socket.send_fds(theirs, [b"\0"], [descriptor])
    os.close(descriptor)
    theirs.close()
    os.write(begin, b"\0")
    code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    return code if code >= 0 else 128 - code


def _be_init(body: Callable[[Send], None], writing: int, beginning: int) -> None:
    status = 1
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        begins = os.read(beginning, 1)
        os.close(beginning)
        if begins:
            body(lambda message: _send(writing, message))
            status = 0
    except BaseException:
        # The last thing that can be said of a bug inside; there is no frame above to say it.
        import traceback

        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _reset_signals() -> None:
    """An init ignores what would end it; a helper ends, and init with it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _close_descriptors(kept: Collection[int]) -> None:
    """Close what the caller has open, its locks above all: they would outlive it for a moment."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        if number > 2 and number not in kept:
            with suppress(OSError):  # The one that listed the directory is closed already.
                os.close(number)


def _enter_namespaces() -> None:
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(flags)
        return
    unshare(CLONE_NEWUSER | flags)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {user} 1"),
        ("gid_map", f"0 {group} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(text)


def kill_all_others() -> None:
    """As init: kill every other process of the namespace and wait until they are gone."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _last_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), call)


def is_refusal(error: OSError) -> bool:
    """Whether the kernel refused by policy, not for want of resources."""
    return error.errno in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENODEV)
