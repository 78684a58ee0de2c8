"""Running the host's rpm and dpkg outside any root: checking packages, asking what they hold."""

import os
import subprocess
from collections.abc import Sequence
from shutil import which
from typing import Final

from hacktree.common.errors import SystemFault

SEARCHED: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT: Final = {"PATH": SEARCHED, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8"}

_SECONDS: Final = 600.0
_PACKAGES: Final = {"rpm": "rpm", "dpkg": "dpkg", "dpkg-deb": "dpkg"}


class ProgramMissingError(SystemFault):
    """The host lacks a program that its extensions need."""


def require_program(name: str) -> None:
    """Raises `ProgramMissingError` unless the host has it."""
    if which(name, path=SEARCHED) is None:
        raise ProgramMissingError(
            f"this machine has no {name}, which installs its extensions",
            hint=f"Install the package {_PACKAGES[name]}, or `hacktree extension remove` them.",
        )


def ask(command: Sequence[str | os.PathLike[str]]) -> tuple[int, str]:
    """Run a program of the host; returns its exit status and what it printed.

    Raises `ProgramMissingError`; `SystemFault` if it does not end.
    """
    require_program(str(command[0]))
    try:
        done = subprocess.run(
            command,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SystemFault(f"{command[0]} did not end within {_SECONDS:.0f} seconds") from error
    return done.returncode, done.stdout.decode("utf-8", "replace")
