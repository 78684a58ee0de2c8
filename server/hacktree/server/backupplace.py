"""Where a backup may be written, and how it is told from what must not be overwritten."""

import os
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.repository.checkout import LinkPolicy
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import Repository

MARKER: Final = Path("state/backup.json")
"""Says that a directory is a backup, and since when it is whole; without it none is overwritten."""


class BackupPlaceError(UserError):
    """The directory is no place for a backup of this repository."""


def check_place(repository: Repository, destination: Path, policy: LinkPolicy) -> None:
    """Raise `BackupPlaceError` unless `destination`, absolute, may become a backup or is one."""
    if not destination.parent.is_dir():
        raise BackupPlaceError(f"{destination.parent} is no directory", hint="Make it first.")
    if destination.resolve().is_relative_to(repository.path.resolve()):
        raise BackupPlaceError(f"{destination} is inside the repository", hint="Choose another.")
    if destination.exists():
        _check_existing(destination)
    nearest = destination if destination.exists() else destination.parent
    if policy is LinkPolicy.HARDLINK and nearest.stat().st_dev != repository.objects.stat().st_dev:
        raise BackupPlaceError(
            f"{destination} is on another file system than {repository.path}: nothing to link",
            hint="Leave out --link; a copy on another disk is the better backup.",
        )


def _check_existing(destination: Path) -> None:
    """It is a backup, or empty: anything else may be somebody's only copy."""
    if not destination.is_dir() or os.path.ismount(destination):
        raise BackupPlaceError(
            f"{destination} is a mount point or no directory",
            hint="Choose a directory below it: a backup gets its name when it is whole.",
        )
    if any(destination.iterdir()) and not (destination / MARKER).exists():
        raise BackupPlaceError(
            f"{destination} is not empty and no backup of `hacktree backup`: it has no {MARKER}",
            hint="Choose another directory.",
        )


def prepare_place(destination: Path) -> Path:
    """Where to copy to: the backup that is there, else an archive beside it, `.NAME.partial`."""
    if (destination / MARKER).exists():
        return destination
    partial = destination.with_name(f".{destination.name}.partial")
    init_repository(partial, Mode.ARCHIVE)
    return partial


def mark_finished(place: Path, now: int) -> None:
    """Write the marker: the copy in `place` is whole, as of `now` in seconds since 1970."""
    write_durably(place / MARKER, msgspec.json.encode({"finished": now}))
