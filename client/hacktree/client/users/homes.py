"""Directories of the machine that are in a root when somebody enters or boots it, and only then.

A root has an empty directory for each. Nothing of the machine is ever linked or copied there.
"""

import hashlib
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.beneath import make_directory, resolve_in
from hacktree.client.removal import delete_entry
from hacktree.client.replay.step import Root
from hacktree.client.sysroot import DIRECTORY, Sysroot
from hacktree.client.users.host import find_host
from hacktree.common.errors import UserError

_NEVER_BELOW: Final = tuple(
    f"/{name}"
    for name in (
        *("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32"),
        *("proc", "run", "sbin", "sys", "sysroot", "tmp", "usr"),
    )
)
_ROOTS_HOME: Final = "/root"
_NEVER: Final = frozenset({"/", "/home", "/root", "/var", "/var/lib", "/var/log"})


class Bind(msgspec.Struct, frozen=True):
    """A directory of the machine, and where it is to be mounted in a root, relative to that.

    The root may have links on the way: `resolve_in` finds the directory.
    """

    source: Path
    target: str
    read_only: bool = False


def list_binds(sysroot: Sysroot) -> list[Bind]:
    """What to mount in a root of this sysroot, in that order; only what the machine has.

    Raises `UserError` for a configured directory that can't be, or that the machine lacks.
    """
    host = find_host(sysroot) or Path("/")
    always = ("/home", _ROOTS_HOME) if sysroot.config.share_root else ("/home",)
    found = [(path, _directory(host, path), False) for path in always]
    for path, read_only in _configured(sysroot):
        _check(path, sysroot)
        source = _directory(host, path)
        if source is None:
            raise UserError(
                f"bind in client.toml: this machine has no directory {path}",
                hint="Make it, or take it out of client.toml.",
            )
        # A link must not get past the check of names.
        _check(f"/{source.relative_to(host)}", sysroot)
        found.append((path, source, read_only))
    return [
        Bind(source, path.lstrip("/"), read_only)
        for path, source, read_only in found
        if source is not None
    ]


def _directory(host: Path, path: str) -> Path | None:
    found = resolve_in(host, path)
    return found if found is not None and found.is_dir() else None


def bind_targets(sysroot: Sysroot) -> list[str]:
    """Where the configured directories go, checked, whether the machine has them or not."""
    paths = [path for path, _ in _configured(sysroot)]
    for path in paths:
        _check(path, sysroot)
    return [_ROOTS_HOME, *paths] if sysroot.config.share_root else paths


def _configured(sysroot: Sysroot) -> Iterator[tuple[str, bool]]:
    yield from ((path, False) for path in sysroot.config.bind)
    yield from ((path, True) for path in sysroot.config.bind_read_only)


def _check(path: str, sysroot: Sysroot) -> None:
    repository = sysroot.path / DIRECTORY
    if (
        not path.startswith("/")
        or path.startswith("//")
        or posixpath.normpath(path) != path
        or not path.isprintable()
    ):
        problem = "not an absolute path without `.`, `..` and doubled or final slashes"
    elif _is_below(str(repository), path) or _is_below(path, str(repository)):
        problem = f"the roots themselves are there ({repository})"
    elif path in _NEVER or any(_is_below(path, top) for top in _NEVER_BELOW):
        problem = "that place is the build's"
    else:
        return
    raise UserError(
        f"bind in client.toml: {path!r} can't be bound: {problem}",
        hint="Name directories such as /srv/data. /home is there anyway, /root by `share-root`.",
    )


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top.rstrip('/')}/")


class HomesStep(msgspec.Struct, frozen=True):
    """Makes the directories, and empties /home: what is there could never be seen."""

    targets: tuple[str, ...]
    name: str = "homes"

    @property
    def digest(self) -> bytes:
        """Of the places."""
        return hashlib.sha256("\0".join(("homes 1", *self.targets)).encode()).digest()

    def apply(self, root: Root) -> None:
        """See `Step.apply`."""
        # A link, as to var/home, leads to a place that is filled elsewhere.
        if not (root.path / "home").is_symlink():
            with make_directory(root.path, "home") as home:
                _empty(home, root)
        for target in self.targets:
            with make_directory(root.path, _place(root.path, target)) as directory:
                if target != _ROOTS_HOME and os.listdir(directory):
                    root.say(f"{target} of this build is hidden by this machine's (client.toml)")


def _place(root: Path, target: str) -> str:
    """Where a mount on `target` ends up: what is there of the path may lead through links."""
    parts = target.strip("/").split("/")
    for count in range(len(parts), 0, -1):
        found = resolve_in(root, "/".join(parts[:count]))
        if found is not None:
            return "/".join([str(found.relative_to(root)), *parts[count:]])
    return target


def _empty(home: int, root: Root) -> None:
    names = sorted(os.listdir(home))
    if not names:
        return
    for name in names:
        delete_entry(home, name)
    listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    root.say(
        f"left out of this root's /home: {listed}. /home is this machine's, whatever the build or "
        "a step puts there; what every user needs belongs in /etc/skel."
    )
