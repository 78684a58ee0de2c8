"""Confining a suite's command, by bubblewrap or in a virtual machine.

In a container it sees the host's programs, read-only, its build and its working directory, and
nothing else of worth: no network, no other process, no repository, no token, no home directories.
In a virtual machine (`machine/`) it sees its build alone, booted.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.command import SEARCH_PATH, CommandMissingError, Job
from hacktree.server.promotion.machine.initramfs import BusyboxMissingError, read_busybox
from hacktree.server.promotion.machine.qemu import DEFAULT_SIZE, QEMU, Size, booted_build

_EMPTIED: Final = ("/tmp", "/var/tmp", "/run", "/home", "/root")  # noqa: S108 - in the container


class SandboxMissingError(UserError):
    """This machine can't confine a command as it was asked to."""


class Sandbox(StrEnum):
    """How a command is confined."""

    NONE = "none"
    CONTAINER = "container"
    VM = "vm"


class Confinement(msgspec.Struct, frozen=True):
    """`hidden`: files and directories that a confined command must not see.

    `size`: of a virtual machine.
    """

    sandbox: Sandbox = Sandbox.NONE
    hidden: tuple[Path, ...] = ()
    size: Size = DEFAULT_SIZE

    def require(self) -> None:
        """Raise `SandboxMissingError` unless this machine can do it: no build is at fault then."""
        match self.sandbox:
            case Sandbox.CONTAINER:
                self._require_container()
            case Sandbox.VM:
                _require_machine()

    @contextmanager
    def confined(
        self, job: Job, repository: Repository, build: ObjectId, root: Path
    ) -> Iterator[Job]:
        """The job to be run for `job`, whose directory, and the build's `root`, are for it alone.

        Raises `CommandMissingError`, which a container could not tell from a failure,
        `UnfitBuildError` for a build that can't be booted, and what `booted_build` does.
        """
        match self.sandbox:
            case Sandbox.NONE:
                yield job
            case Sandbox.CONTAINER:
                yield self.contained(job, root.parent)
            case Sandbox.VM:
                with booted_build(job, self.size, repository, build, root, self.hidden) as booted:
                    yield booted

    def contained(self, job: Job, place: Path) -> Job:
        """`job` in a container, which may write below `place`."""
        if shutil.which(job.command[0], path=SEARCH_PATH) is None:
            raise CommandMissingError(
                f"can't run {job.command[0]}: there is no such program",
                hint="Install the suite's command on this machine; server.toml names it.",
            )
        writable = ("--bind", str(place), str(place), "--chdir", str(job.directory))
        return replace(job, command=[*self._container(), *writable, "--", *job.command])

    def _require_container(self) -> None:
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


def _require_machine() -> None:
    packages = {QEMU: "qemu-system-x86", "mkfs.ext4": "e2fsprogs", "debugfs": "e2fsprogs"}
    for program, package in packages.items():
        if shutil.which(program, path=SEARCH_PATH) is None:
            raise SandboxMissingError(
                f"{program} is not here, which --sandbox vm needs",
                hint=f"Install the package {package}.",
            )
    try:
        read_busybox()
    except BusyboxMissingError as error:
        raise SandboxMissingError(error.message, hint=error.hint) from error


UNCONFINED: Final = Confinement()
"""It acts as the runner's user."""
