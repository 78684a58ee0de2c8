"""A sysroot: the directory that holds the live link, and `.ht` with the repository and the roots.

    <sysroot>/gnomeos -> .ht/roots/gnomeos-3f9c21ab7.1     the live link
    <sysroot>/.ht/                         the repository; 0700
    <sysroot>/.ht/sysroot.lock             held by whoever changes roots or the live link
    <sysroot>/.ht/roots/                   complete roots, and .tmp-*, .removing-*
    <sysroot>/.ht/replay/                  what the steps of replays wrote, by key
    <sysroot>/.ht/state/roots/<root>.json  the record of each root
    <sysroot>/.ht/state/roots/<root>.link  what the live link of that root is made from
    <sysroot>/.ht/state/pins/root-<root>   the commit that prune keeps for it
    <sysroot>/.ht/state/deployments.json   roots in the order in which they went live
    <sysroot>/.ht/state/bisect/            the bisection that is under way

Nothing else of the sysroot is ever written to.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.clientconfig import ClientConfig, read_client_config
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import sync_directory
from hacktree.common.repository.layout import Mode, NotARepositoryError, init_repository
from hacktree.common.repository.locks import LockKind, hold_lock, try_lock
from hacktree.common.repository.locks import describe_holders as holders_of
from hacktree.common.repository.repository import Repository, open_repository

DIRECTORY: Final = ".ht"
ROOTS: Final = f"{DIRECTORY}/roots"
"""Where roots are, relative to the sysroot: what the target of a live link begins with."""

_LOCK_PATIENCE: Final = 1.0
"""Seconds; `hacktree status` holds the lock for an instant and must fail no deploy."""


class SysrootOwnerError(UserError):
    """The sysroot belongs to somebody else."""


class Sysroot(msgspec.Struct, frozen=True):
    """Where a machine's roots are; made by `open_sysroot` or `prepare_sysroot`."""

    path: Path
    repository: Repository
    config: ClientConfig

    @property
    def link(self) -> Path:
        """The live link."""
        return self.path / self.config.name

    @property
    def roots(self) -> Path:
        """The directory of roots."""
        return self.repository.path / "roots"

    @property
    def replay(self) -> Path:
        """The directory of layers that replays wrote; absent until the first."""
        return self.repository.path / "replay"

    @property
    def records(self) -> Path:
        """The directory of the roots' records."""
        return self.repository.state / "roots"

    @property
    def pins(self) -> Path:
        """The directory of files that each name a commit prune keeps."""
        return self.repository.state / "pins"

    @property
    def lock_path(self) -> Path:
        """The file that `hold_sysroot` locks."""
        return self.repository.path / "sysroot.lock"


def open_sysroot(path: Path) -> Sysroot:
    """The sysroot in the directory `path`; raises `NotARepositoryError` if nothing was pulled."""
    top = path.resolve()
    directory = top / DIRECTORY
    if not (directory / "format").exists() or not (directory / "sysroot.lock").exists():
        raise NotARepositoryError(
            f"{path} holds no roots: there is no complete {directory}",
            hint="`hacktree remote add` and `hacktree pull` set it up; --sysroot names another.",
        )
    return Sysroot(top, open_repository(directory), read_client_config(top))


def prepare_sysroot(path: Path | str) -> Sysroot:
    """Like `open_sysroot`, after creating whatever is absent: bare for root, else bare-user."""
    top = Path(path).resolve()
    if not top.is_dir():
        raise UserError(f"{path} is not a directory", hint="Create it, or name another --sysroot.")
    directory = top / DIRECTORY
    if (directory / "format").exists():
        refuse_other_owner(directory)
    else:
        init_repository(directory, Mode.BARE if os.geteuid() == 0 else Mode.BARE_USER)
    for private in (directory / "roots", directory / "state/roots", directory / "state/pins"):
        private.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(directory / "sysroot.lock", flags, 0o600))
    sync_directory(directory / "state")
    sync_directory(directory)
    return open_sysroot(top)


def refuse_other_owner(directory: Path) -> None:
    """Raise `SysrootOwnerError` unless `.ht`, which is `directory`, is this user's."""
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise SysrootOwnerError(
            f"{directory} belongs to user {owner}, not to user {os.geteuid()}",
            hint="Run this as that user: files of two owners can't be mixed.",
        )


@contextmanager
def hold_sysroot(
    sysroot: Sysroot, *, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """One change at a time; raises `BusyError` that names who is at it."""
    refuse_other_owner(sysroot.repository.path)
    with hold_lock(sysroot.lock_path, LockKind.EXCLUSIVE, timeout=_LOCK_PATIENCE, waiting=waiting):
        yield


def describe_activity(sysroot: Sysroot) -> str:
    """Who is changing the sysroot now; empty when nobody is."""
    descriptor = os.open(sysroot.lock_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return "" if try_lock(descriptor, LockKind.SHARED) else holders_of(descriptor)
    finally:
        os.close(descriptor)
