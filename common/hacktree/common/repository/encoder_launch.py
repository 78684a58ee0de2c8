"""Limits a process and then becomes the program of an encoder worker.

A stack limit shapes the address space when a program is executed, so it has to be set before; not
in a child between fork and exec, since the parent has threads. Imports as little as it can.

Arguments: bytes of memory, bytes of stack, the parent's process id, then the command.
"""

import ctypes
import os
import resource
import signal
import sys
from typing import Final

_SET_DEATH_SIGNAL: Final = 1
_NICENESS: Final = 5


def limit(memory: int, stack: int) -> None:
    """Set the limits and the priority of this process; they outlive exec."""
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = stack if hard == resource.RLIM_INFINITY else min(stack, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, hard))
    resource.setrlimit(resource.RLIMIT_AS, (memory + stack, memory + stack))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICENESS)


def die_with(parent: int) -> None:
    """Be killed when the thread that started us ends, even by SIGKILL; outlives exec."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the parent is gone")


def main() -> None:
    """Limit, then execute."""
    memory, stack, parent, *command = sys.argv[1:]
    limit(int(memory), int(stack))
    die_with(int(parent))
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
