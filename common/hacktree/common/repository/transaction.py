"""Adding objects: everything is staged, synced once, published, and only then named by a ref.

Order (docs/architecture.md, "Write order"): stage → one syncfs → link files and trees into
`objects/` → sync those directories → link commits → sync theirs. So a commit that is in `objects/`
has everything it reaches, durably, at every instant and after any crash.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository.config import require_space
from hacktree.common.repository.durable import (
    sync_directories,
    sync_directory,
    sync_filesystem_of,
    write_all,
)
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.locks import LockKind, try_lock
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.repository import Repository

_SPACE_CHECK_BYTES: Final = 64 << 20
"""Free space is looked at again each time this much has been staged."""

_MANY_NAMES: Final = 1000
"""Names from which on a second thread takes half of them: the file system does most of the work."""


class Transaction:
    """Objects on their way into a repository; made by `begin_transaction`. Thread-safe."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self.repository = repository
        self.directory = directory
        self.new_files = 0
        self.new_bytes = 0
        self._lock = threading.Lock()
        self._claimed: set[str] = set()
        self._objects: list[str] = []
        self._commits: list[str] = []
        self._unchecked_bytes = _SPACE_CHECK_BYTES

    def claim(self, name: str) -> bool:
        """Whether the caller is to stage `name`: it is neither here, nor claimed by another."""
        if name in self._claimed or self.repository.has(name):
            return False
        with self._lock:
            if name in self._claimed:
                return False
            self._claimed.add(name)
            return True

    def staged_path(self, name: str) -> str:
        """Where the object `name` is staged."""
        return f"{self.directory}/{name.replace('/', '', 1)}"

    def temporary_path(self) -> str:
        """A fresh name in the staging directory, for content whose id isn't known yet."""
        return f"{self.directory}/.{secrets.token_hex(8)}"

    def staged(self, name: str, size: int) -> None:
        """The claimed object `name` is written; `size` is what it takes on disk."""
        with self._lock:
            self._objects.append(name)
            self.new_files += 1
            self.new_bytes += size
            self._unchecked_bytes += size
            check = self._unchecked_bytes >= _SPACE_CHECK_BYTES
            if check:
                self._unchecked_bytes = 0
        if check:
            require_space(self.directory, 0, self.repository.reserve)

    def put_tree(self, data: bytes) -> ObjectId:
        """Stage an encoded tree."""
        return self._put_meta(data, self._objects)

    def put_commit(self, data: bytes) -> ObjectId:
        """Stage an encoded commit; it is published after everything else."""
        return self._put_meta(data, self._commits)

    def _put_meta(self, data: bytes, target: list[str]) -> ObjectId:
        object_id = hash_bytes(data)
        name = meta_name(object_id)
        if self.claim(name):
            write_file(self.staged_path(name), data, meta_mode(self.repository.mode))
            target.append(name)
        return object_id

    def publish(self) -> None:
        """Make everything staged durable and visible. Idempotent after a failure."""
        if not self._objects and not self._commits:
            return
        sync_staging(self.directory)
        publish_names(self.repository, self.directory, self._objects)
        publish_names(self.repository, self.directory, self._commits)
        self._objects.clear()
        self._commits.clear()


def meta_mode(mode: Mode) -> int:
    """Permission bits of a meta object's file."""
    return 0o644 if mode is Mode.ARCHIVE else 0o600


def write_file(path: str, data: bytes, mode: int) -> None:
    """Write a new file in a staging directory; it becomes durable with the transaction."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        write_all(descriptor, data)
    finally:
        os.close(descriptor)


def sync_staging(directory: Path) -> None:
    """One syncfs for everything staged.

    It also makes durable what a killed process has linked into objects/ without syncing the
    directories, and which this transaction therefore found present. Syncing only the staged files
    would be quicker for small commits, and would let a ref reach names that a power cut takes away.
    """
    sync_filesystem_of(directory)


def publish_names(repository: Repository, staging: Path, names: list[str]) -> None:
    """Link synced files of `staging` into objects/, then sync the directories.

    An existing object is kept: roots link to its inode. Staged names are those of `staged_path`.
    """
    objects = repository.objects
    touched = {name[:2] for name in names}
    new_directory = False
    public = 0o755 if repository.mode is Mode.ARCHIVE else 0o700
    for prefix in touched:
        directory = objects / prefix
        if not directory.exists():
            directory.mkdir(mode=public, exist_ok=True)
            directory.chmod(public)
            new_directory = True

    def publish(names: list[str]) -> None:
        for name in names:
            staged = f"{staging}/{name[:2]}{name[3:]}"
            with suppress(FileExistsError):
                os.link(staged, f"{objects}/{name}")
            os.unlink(staged)

    if len(names) < _MANY_NAMES:
        publish(names)
    else:
        half = len(names) // 2
        with ThreadPoolExecutor(2) as executor:
            list(executor.map(publish, (names[:half], names[half:])))
    sync_directories(objects / prefix for prefix in touched)
    if new_directory:
        sync_directory(objects)


@contextmanager
def begin_transaction(repository: Repository) -> Iterator[Transaction]:
    """Hold the repository lock, shared, and give a transaction in a staging directory of its own.

    What isn't published when the block ends is discarded. Staging of dead processes is removed.
    """
    with repository.lock(LockKind.SHARED):
        remove_dead_staging(repository, "txn-")
        with locked_staging(repository, f"txn-{secrets.token_hex(8)}") as directory:
            try:
                yield Transaction(repository, directory)
            finally:
                shutil.rmtree(directory)


@contextmanager
def locked_staging(repository: Repository, name: str) -> Iterator[Path]:
    """Make or reopen `tmp/<name>` and hold its lock, which says that its owner is alive."""
    directory = repository.staging / name
    while True:
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # Between mkdir and flock a cleaner may have taken the directory for a dead one's.
        if try_lock(descriptor, LockKind.EXCLUSIVE) and directory.exists():
            break
        os.close(descriptor)
    try:
        yield directory
    finally:
        os.close(descriptor)


def remove_dead_staging(repository: Repository, prefix: str) -> int:
    """Delete staging directories whose owner is gone; returns how many."""
    removed = 0
    for entry in list(os.scandir(repository.staging)):
        if not entry.name.startswith(prefix) or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if try_lock(descriptor, LockKind.EXCLUSIVE):
                shutil.rmtree(entry.path, ignore_errors=False)
                removed += 1
        finally:
            os.close(descriptor)
    return removed
