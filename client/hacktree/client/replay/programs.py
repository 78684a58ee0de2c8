"""Running a program for a step: bounded in time and output, in a small environment.

It gives up the network unless it may have it, and what would change the machine rather than the
root: loading modules, setting the clock, rebooting, raw input and output.
"""

import ctypes
import errno
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.replay.namespaces import CLONE_NEWNET, unshare
from hacktree.client.replay.step import StepFailedError
from hacktree.common.repository.durable import write_all

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_LOG: Final = 16 << 20
"""Bytes that one program may add to the log; it goes on, what it says beyond is dropped."""

MAX_TAIL: Final = 256 << 10
"""Bytes of output that a step gets back, the last ones."""

_PIECE: Final = 64 << 10
_PIPE_PIECES: Final = 16
"""A pipe holds 64 KiB, at most 1 MiB."""

_PR_CAPBSET_DROP: Final = 24
_DROPPED: Final = (16, 17, 22, 25, 34)
"""CAP_SYS_MODULE, SYS_RAWIO, SYS_BOOT, SYS_TIME, SYSLOG."""

_libc = ctypes.CDLL(None, use_errno=True)


class Program(msgspec.Struct, frozen=True):
    """What to run; `root` is what to chroot into, or None; `seconds` is its limit."""

    command: Sequence[str]
    environment: Mapping[str, str]
    root: Path | None
    directory: Path
    seconds: float
    network: bool


def clean_environment() -> dict[str, str]:
    """What every program gets."""
    return {
        "PATH": SEARCH_PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }


def run_program(program: Program, log: int) -> str:
    """Run it to its end; its output goes to the descriptor `log`, the last of it is returned.

    Raises `StepFailedError` unless it ends with 0 within its time.
    """
    output = _Output(log)
    name = program.command[0]
    with _started(program) as process:
        assert process.stdout is not None  # noqa: S101
        descriptor = process.stdout.fileno()
        os.set_blocking(descriptor, False)
        try:
            in_time = _watch(process, descriptor, output, time.monotonic() + program.seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        output.drain(descriptor)
    text = output.tail.decode("utf-8", "replace")
    if not in_time:
        raise StepFailedError(
            f"{name} was killed after its {program.seconds:g} seconds",
            hint="Let it do less, or give it more time.",
            log=text,
        )
    if process.returncode != 0:
        raise StepFailedError(f"{name}: {_describe(process.returncode)}", log=text)
    return text


def run_on_terminal(program: Program) -> int:
    """Run it on this process's terminal, without a limit; returns its exit status.

    Raises `StepFailedError` if it can't be started.
    """
    with _explaining(program):
        process = subprocess.Popen(
            list(program.command),
            env=dict(program.environment),
            cwd=program.directory if program.root is None else None,
            preexec_fn=_preparation(program),
        )
    return process.wait()


def _describe(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _started(program: Program) -> "subprocess.Popen[bytes]":
    with _explaining(program):
        return subprocess.Popen(
            list(program.command),
            env=dict(program.environment),
            cwd=program.directory if program.root is None else None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_preparation(program),  # Inside there are no threads.
        )


@contextmanager
def _explaining(program: Program) -> Iterator[None]:
    name = program.command[0]
    try:
        yield
    except OSError as error:
        hint = ""
        if error.errno in (errno.ENOENT, errno.ENOEXEC):
            hint = (
                "Is it there and executable, and is its interpreter (the first line, or the ELF "
                "loader) in the root too?"
            )
        raise StepFailedError(
            f"can't run {name}: {os.strerror(error.errno or 0)}", hint=hint
        ) from error
    except subprocess.SubprocessError as error:
        raise StepFailedError(
            f"can't run {name}: the kernel refused to isolate it ({error})"
        ) from error


def _preparation(program: Program) -> Callable[[], None]:
    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o022)
        if not program.network:
            unshare(CLONE_NEWNET)
        for capability in _DROPPED:
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if program.root is not None:
            os.chroot(program.root)
            os.chdir("/")

    return prepare


class _Output:
    def __init__(self, log: int) -> None:
        self.tail = b""
        self._log = log
        self._left = MAX_LOG

    def add(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-MAX_TAIL:]
        kept = data[: self._left]
        write_all(self._log, kept)
        self._left -= len(kept)
        if kept and self._left == 0:
            write_all(self._log, b"\n[output beyond this is dropped]\n")

    def drain(self, descriptor: int) -> None:
        """What is in the pipe; a process that escaped its group may go on writing to it."""
        with suppress(BlockingIOError):
            for _ in range(_PIPE_PIECES):
                self.add(os.read(descriptor, _PIECE))


def _watch(
    process: "subprocess.Popen[bytes]", descriptor: int, output: _Output, deadline: float
) -> bool:
    """Copy its output until it ends; false if the deadline came first."""
    with selectors.DefaultSelector() as selector:
        ended = os.pidfd_open(process.pid)
        try:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(descriptor, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left)}
                if descriptor in ready:
                    data = os.read(descriptor, _PIECE)
                    if data:
                        output.add(data)
                    else:
                        selector.unregister(descriptor)
                elif ended in ready:
                    return True
        finally:
            os.close(ended)
    return False
