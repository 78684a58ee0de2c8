"""Scratch roots: a build checked out for a test, and removed whatever the test did.

Files are copied (cloned where the file system can), never linked: the command runs what others
pushed, and one write to an inode of the repository would change every later build under test.
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hacktree.common.errors import BusyError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy, check_out
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.locks import LockKind, try_lock
from hacktree.common.repository.repository import Repository

_RELATIVE: Final = Path("qa/scratch")
_MOUNTINFO: Final = Path("/proc/self/mountinfo")


class StillMountedError(BusyError):
    """A test left something mounted in its scratch directory, which is therefore not removed."""


@contextmanager
def scratch_root(repository: Repository, build: ObjectId) -> Iterator[tuple[Path, Path]]:
    """A build's root, and an empty directory beside it; both are removed at the end.

    What dead runners left is removed first. Raises `StillMountedError`, and as `check_out` does.
    """
    make_directories(repository.state, _RELATIVE, mode=0o700)
    base = repository.state / _RELATIVE
    remove_dead(base)
    place = base / f"{build.hex()[:12]}-{secrets.token_hex(4)}"
    place.mkdir(0o700)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try_lock(descriptor, LockKind.EXCLUSIVE)
        try:
            empty = place / "tmp"
            empty.mkdir(0o700)
            with repository.lock(LockKind.SHARED):
                commit = repository.load_commit(build)
                check_out(repository, commit, place / "root", policy=LinkPolicy.COPY)
            yield place / "root", empty
        finally:
            remove_tree(place)
    finally:
        os.close(descriptor)


def remove_dead(base: Path) -> None:
    """Remove the scratch directories below `base` whose runner is gone."""
    for entry in list(os.scandir(base)):
        if not entry.is_dir(follow_symlinks=False):
            continue
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if try_lock(descriptor, LockKind.EXCLUSIVE):
                remove_tree(Path(entry.path))
        finally:
            os.close(descriptor)


def remove_tree(place: Path) -> None:
    """Delete a directory with all that is in it; raises `StillMountedError` and deletes nothing."""
    real = place.resolve()
    below = [path for path in mount_points() if path == real or real in path.parents]
    if below:
        raise StillMountedError(
            f"{below[0]} is still mounted: {place} is left as it is",
            hint=f"umount {below[0]}; the next run removes the rest.",
        )
    _make_removable(place)
    shutil.rmtree(place)


def mount_points() -> list[Path]:
    """Where something is mounted, as this process sees it."""
    points = []
    for line in _MOUNTINFO.read_bytes().splitlines():
        field = line.split(b" ")[4]
        points.append(Path(os.fsdecode(field.decode("unicode_escape").encode("latin-1"))))
    return points


def _make_removable(place: Path) -> None:
    """Whoever is not root can't delete from directories that he may not write to."""
    if os.geteuid() == 0:
        return
    for directory, names, _ in os.walk(place):
        for path in (Path(directory, name) for name in names):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
                # Before os.walk enters it.
                path.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)
