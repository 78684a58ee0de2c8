"""Confining a suite's command by bubblewrap.

In a container it sees the host's programs, read-only, its build and its working directory, and
nothing else of worth: no network, no other process, no repository, no token, no home directories.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from hacktree.common.errors import UserError
from hacktree.server.promotion.command import SEARCH_PATH, CommandMissingError

_EMPTIED: Final = ("/tmp", "/var/tmp", "/run", "/home", "/root")  # noqa: S108 - in the container


class SandboxMissingError(UserError):
    """This machine can't confine a command as it was asked to."""


class Sandbox(StrEnum):
    """How a command is confined."""

    NONE = "none"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class Confinement:
    """`hidden`: files and directories that a command in a container must not see."""

    sandbox: Sandbox = Sandbox.NONE
    hidden: tuple[Path, ...] = ()

    def require(self) -> None:
        """Raise `SandboxMissingError` unless this machine can do it: no build is at fault then."""
        if self.sandbox is Sandbox.NONE:
            return
        if shutil.which("bwrap", path=SEARCH_PATH) is None:
            raise SandboxMissingError(
                "bwrap is not here, which --sandbox container needs",
                hint="Install the package bubblewrap.",
            )
        probe = [*self._container(), "--", "/bin/true"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SandboxMissingError(
                f"no container can be made here: {done.stderr.strip()[:300]}",
                hint="Are user namespaces allowed (kernel.unprivileged_userns_clone)?",
            )

    def confine(self, command: Sequence[str], place: Path, directory: Path) -> Sequence[str]:
        """What to run for `command`, which may write below `place` and starts in `directory`.

        Raises `CommandMissingError`, which a container could not tell from a failure.
        """
        if self.sandbox is Sandbox.NONE:
            return command
        if shutil.which(command[0], path=SEARCH_PATH) is None:
            raise CommandMissingError(
                f"can't run {command[0]}: there is no such program",
                hint="Install the suite's command on this machine; server.toml names it.",
            )
        writable = ("--bind", str(place), str(place), "--chdir", str(directory))
        return [*self._container(), *writable, "--", *command]

    def _container(self) -> list[str]:
        arguments = [
            "bwrap", "--die-with-parent", "--unshare-user", "--unshare-ipc", "--unshare-pid",
            "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
            # So that it may chroot into the build; nothing else is left to root.
            "--cap-drop", "ALL", "--cap-add", "CAP_SYS_CHROOT",
            "--ro-bind", "/", "/", "--dev", "/dev", "--dev-bind-try", "/dev/kvm", "/dev/kvm",
            "--proc", "/proc",
        ]  # fmt: skip
        for name in _EMPTIED:
            if Path(name).is_dir() and not Path(name).is_symlink():
                arguments += ["--tmpfs", name]
        for path in self.hidden:
            real = path.resolve()
            if real.is_dir():
                arguments += ["--tmpfs", str(real)]
            elif not any(real.is_relative_to(name) for name in _EMPTIED):
                arguments += ["--ro-bind", "/dev/null", str(real)]
        return arguments


UNCONFINED: Final = Confinement()
"""It acts as the runner's user."""
