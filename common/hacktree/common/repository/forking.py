"""Forked processes: what ends them, and what they give up of the one that they are copies of."""

import os
import resource
import select
import signal
import subprocess
from typing import Final

_STANDARD_ERROR: Final = 2


def keep_only(descriptor: int, errors: int = _STANDARD_ERROR) -> None:
    """Close every file but `descriptor` and `errors`, which becomes standard error.

    /dev/null takes the place of standard input and output.
    """
    null = os.open(os.devnull, os.O_RDWR)
    for standard, source in enumerate((null, null, errors)):
        os.dup2(source, standard)
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


class Fork:
    """A copy of this process, which only this one waits for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its status, negative for a signal; `timeout` is in seconds.

        Raises `subprocess.TimeoutExpired`.
        """
        if self._status is None:
            # Not select(2), which takes no descriptor beyond 1,023.
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._descriptor)
        return self._status

    def kill(self) -> None:
        """End it."""
        if self._status is None:
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)
