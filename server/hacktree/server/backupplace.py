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
"""Makes a directory a backup; without it none is overwritten."""


class BackupPlaceError(UserError):
    """The directory is no place for a backup of this repository."""


class _Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The repository that is copied, and when that was last finished (seconds since 1970)."""

    source: str
    finished: int | None


def prepare_place(repository: Repository, destination: Path, policy: LinkPolicy) -> Path:
    """Where to copy to: the backup that is there, else an archive beside it, `.NAME.partial`.

    Raises `BackupPlaceError` unless `destination`, absolute, may become a backup or is one.
    """
    _check_location(repository, destination, policy)
    if destination.exists():
        _check_existing(destination)
    if (destination / MARKER).exists():
        _check_source(repository, destination)
        return destination
    partial = destination.with_name(f".{destination.name}.partial")
    init_repository(partial, Mode.ARCHIVE)
    if (partial / MARKER).exists():
        _check_source(repository, partial)
    else:
        _write_marker(repository, partial, None)
    return partial


def mark_finished(repository: Repository, place: Path, now: int) -> None:
    """The copy in `place` is whole, as of `now` in seconds since 1970."""
    _write_marker(repository, place, now)


def _check_location(repository: Repository, destination: Path, policy: LinkPolicy) -> None:
    if not destination.parent.is_dir():
        raise BackupPlaceError(f"{destination.parent} is no directory", hint="Make it first.")
    if destination.resolve().is_relative_to(repository.path.resolve()):
        raise BackupPlaceError(f"{destination} is inside the repository", hint="Choose another.")
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


def _check_source(repository: Repository, place: Path) -> None:
    """A backup of another farm would lose its branches."""
    path = place / MARKER
    try:
        marker = msgspec.json.decode(path.read_bytes(), type=_Marker)
    except msgspec.MsgspecError as error:
        raise BackupPlaceError(f"{path} is damaged: {error}", hint="Mend it.") from error
    if marker.source != _source(repository):
        raise BackupPlaceError(
            f"{place} is a backup of {marker.source}, not of {_source(repository)}",
            hint=f"Choose another directory; if the farm was moved, write its path into {path}.",
        )


def _write_marker(repository: Repository, place: Path, finished: int | None) -> None:
    marker = _Marker(_source(repository), finished)
    write_durably(place / MARKER, msgspec.json.encode(marker))


def _source(repository: Repository) -> str:
    return os.fsencode(repository.path.resolve()).decode("utf-8", "backslashreplace")
