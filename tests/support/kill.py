"""Killing a real process at a chosen system call, with strace's fault injection."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence


def strace_path() -> str:
    """strace, which these tests can't do without."""
    path = shutil.which("strace")
    assert path is not None, "strace is missing: install the package strace (make system)"
    return path


def kill_at(command: Sequence[str], syscall: str, occurrence: int) -> bool:
    """Run `command`, killed as it enters the Nth such call; False if it made fewer and ended well.

    Threads are followed and counted each on their own.
    """
    done = subprocess.run(
        [
            strace_path(), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={syscall}",
            "-e", f"inject={syscall}:signal=KILL:when={occurrence}", *command,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return False
    assert done.returncode in (-9, 137), f"{syscall} #{occurrence}: {done.returncode} {done.stderr}"
    return True


def every_kill(command: Sequence[str], syscall: str, limit: int = 500) -> Iterator[int]:
    """Yield each N at which the command was killed; the caller checks and resets between."""
    for occurrence in range(1, limit):
        if not kill_at(command, syscall, occurrence):
            assert occurrence > 1, f"the command never calls {syscall}: nothing was tested"
            return
        yield occurrence
    raise AssertionError(f"{syscall} was called more than {limit} times")


def fail_at(
    command: Sequence[str], syscall: str, error: str, occurrence: int
) -> subprocess.CompletedProcess[str]:
    """Run `command` with the Nth such call failing with `error` (ENOSPC, EIO, …)."""
    return subprocess.run(
        [
            strace_path(), "-f", "-qq", "-o", "/dev/null", "-e", f"trace={syscall}",
            "-e", f"inject={syscall}:error={error}:when={occurrence}", *command,
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
