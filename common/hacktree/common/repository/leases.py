"""Commits that a farm keeps for somebody until a moment. docs/format.md, "The repository on disk".

A file of `state/leases/` names them, so that whoever prunes needs to know of no server. The
server's database says whose it is; the file is written before the database commits, so that what
somebody was promised is kept. Times are whole seconds since 1970.
"""

import os
import re
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import CorruptError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.repository.durable import (
    TEMPORARY_SUFFIX,
    make_directories,
    remove_durably,
    write_durably,
)
from hacktree.common.repository.repository import Repository

MAX_LEASED: Final = 1024
"""Commits of one lease."""

_FOLDER: Final = "leases"
_FIRST_LINE: Final = re.compile(r"until ([0-9]{1,12})")


class LeaseUnreadableError(CorruptError):
    """A lease does not say which commits it keeps, so nothing may be deleted."""


class LeasedCommits(msgspec.Struct, frozen=True):
    """What a lease keeps, oldest first, up to the second `until`."""

    until: int
    commits: tuple[ObjectId, ...]


def write_lease(repository: Repository, name: str, leased: LeasedCommits) -> None:
    """Keep these commits from now on, durably; replaces the lease of this name."""
    make_directories(repository.path, Path("state", _FOLDER), mode=0o700)
    lines = [f"until {leased.until}", *(commit.hex() for commit in leased.commits)]
    write_durably(_path(repository, name), "".join(f"{line}\n" for line in lines).encode())


def remove_lease(repository: Repository, name: str) -> None:
    """Keep them no longer; nothing happens if there is no such lease."""
    if _path(repository, name).exists():
        remove_durably(_path(repository, name))


def lease_names(repository: Repository) -> list[str]:
    """The leases that have a file."""
    try:
        names = sorted(os.listdir(repository.state / _FOLDER))
    except FileNotFoundError:
        return []
    return [name for name in names if not name.endswith(TEMPORARY_SUFFIX)]


def read_lease(repository: Repository, name: str) -> LeasedCommits | None:
    """What a lease keeps, also one that is over; None if there is none.

    Raises `LeaseUnreadableError`.
    """
    path = _path(repository, name)
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, NameInvalidError) as error:
        raise LeaseUnreadableError(
            f"{path} does not say which commits it keeps: {error}",
            hint="Nothing was deleted. `hacktree lease list` writes it again if it is needed.",
        ) from error


def _parse(data: bytes) -> LeasedCommits:
    first, *rest = data.decode("ascii").splitlines()[: MAX_LEASED + 2] or [""]
    match = _FIRST_LINE.fullmatch(first)
    if match is None or not data.endswith(b"\n") or len(rest) > MAX_LEASED:
        raise ValueError("not a lease")
    return LeasedCommits(int(match[1]), tuple(map(parse_object_id, rest)))


def _path(repository: Repository, name: str) -> Path:
    return repository.state / _FOLDER / name
