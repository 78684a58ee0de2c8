"""The proof, after a replay, that the objects which a root links to are what they were.

An object's mode, owner, size and mtime never change, so one stat(2) tells most damage. Only links
being made and removed may have changed an object after the checkout; where its ctime says that
something did, it is read whole, which tells the rest: other attributes, or an mtime put back.
"""

import os
import stat
import tempfile
from typing import Final

import msgspec

from hacktree.common.errors import CorruptError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.repository.content import FILE_MTIME
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import content_name, user_mode
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.verification import DamageError, verify_object

_MTIME: Final = FILE_MTIME * 1_000_000_000
_OPEN: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class RepositoryDamagedError(CorruptError):
    """An object that the new root links to isn't what it was stored as."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(
            f"object {name} was changed: {why}; nothing was swapped",
            hint="A step, or somebody, wrote to a root in place. `hacktree fsck --repair` sets "
            "damaged objects aside; then pull again. The next deploy starts from the repository.",
        )


class Proved(msgspec.Struct, frozen=True):
    """How many objects were looked at, and how many of them read whole."""

    objects: int
    read: int


def change_time(repository: Repository) -> int:
    """What a file that changes now gets as its ctime, in nanoseconds: the kernel's clock ticks."""
    with tempfile.TemporaryFile(dir=repository.staging) as probe:
        return os.fstat(probe.fileno()).st_ctime_ns


def prove_untouched(repository: Repository, commit: Commit, since_ns: int) -> Proved:
    """Check every object of a commit that is checked out; `since_ns`: `change_time` afterwards.

    Raises `RepositoryDamagedError`. The caller holds the repository's lock, or a pin.
    """
    suspects: list[str] = []
    seen: set[str] = set()
    objects = os.open(repository.objects, _OPEN)
    try:
        for entry in _unique_files(repository, commit):
            name = content_name(repository.mode, entry)
            if name in seen:
                continue
            seen.add(name)
            try:
                status = os.stat(name, dir_fd=objects, follow_symlinks=False)
            except FileNotFoundError:
                raise RepositoryDamagedError(name, "it is gone") from None
            why = _judge(status, entry, repository.mode)
            if why:
                raise RepositoryDamagedError(name, why)
            # Within one tick it can't be told what came first.
            if status.st_ctime_ns >= since_ns:
                suspects.append(name)
    finally:
        os.close(objects)
    for name in suspects:
        _read_whole(repository, name)
    return Proved(len(seen), len(suspects))


def _unique_files(repository: Repository, commit: Commit) -> list[FileEntry]:
    """The files with content, each tree read once."""
    found: list[FileEntry] = []
    seen: set[ObjectId] = {commit.root.id}
    stack = [commit.root.id]
    while stack:
        for entry in repository.load_tree(stack.pop()).entries:
            if isinstance(entry, FileEntry):
                if entry.size:
                    found.append(entry)
            elif isinstance(entry, DirectoryEntry) and entry.id not in seen:
                seen.add(entry.id)
                stack.append(entry.id)
    return found


def _judge(status: os.stat_result, entry: FileEntry, mode: Mode) -> str:
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_mtime_ns != _MTIME:
        return "it was written to (mtime)"
    if status.st_size != entry.size:
        return f"it has {status.st_size} bytes instead of {entry.size}"
    bits = entry.mode if mode is Mode.BARE else user_mode(entry.mode)
    if stat.S_IMODE(status.st_mode) != bits:
        return f"its mode is {stat.S_IMODE(status.st_mode):04o} instead of {bits:04o}"
    if mode is Mode.BARE and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        return f"it belongs to {status.st_uid}:{status.st_gid}, not {entry.uid}:{entry.gid}"
    return ""


def _read_whole(repository: Repository, name: str) -> None:
    try:
        found = verify_object(repository, name)
    except DamageError as error:
        raise RepositoryDamagedError(name, str(error)) from error
    if found is None:
        raise RepositoryDamagedError(name, "it is gone")
