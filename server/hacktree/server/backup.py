"""A consistent copy of a farm's repository while it runs; a copy is refreshed by what it lacks.

Objects, packs and sealed pages never change, so only the moment at which the few files that do are
read matters. They are read before the lists of what they lead to are made, in this order:

1. the database: what it says of a build or a finished push must be in the copy;
2. pins, leases, signatures and refs, then history tails, the graph's tail and the configuration: a
   tail may be ahead of its ref, and a ref of its signature, never behind;
3. which commits there are: a commit in `objects/` has everything it reaches (W2), the shared lock
   keeps prune from taking it away;
4. which other objects there are: among them everything that those commits reach. A commit that
   appeared after step 3 is left to the next backup.

They are written in the opposite order, objects before commits before refs before the database, so
that the copy is whole at every instant, also when this is killed.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import CorruptError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.repository.checkout import LinkPolicy
from hacktree.common.repository.config import require_space
from hacktree.common.repository.durable import (
    make_directories,
    publish_file,
    remove_durably,
    sync_directory,
)
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.reachability import find_commits, list_objects
from hacktree.common.repository.refs import hold_refs, parse_ref
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.transaction import (
    locked_staging,
    publish_names,
    remove_dead_staging,
    sync_staging,
)
from hacktree.server.backupfiles import changing_files, is_ref, is_signature, sealed_files
from hacktree.server.backupplace import mark_finished, prepare_place
from hacktree.server.database import Database, backup, database_path, install, require_farm

_BATCH: Final = 16_384
"""Objects that become durable together."""

_UNTOUCHED: Final = "The backup was left as it is. Run `hacktree fsck` on the repository."

Progress = Callable[[int, int], None]
"""Told (objects copied, objects to copy)."""


class BackupReport(msgspec.Struct, frozen=True):
    """What was copied: objects (commits among them), packs and pages, and bytes of both."""

    objects: int
    sealed: int
    bytes: int
    refs: int


def back_up(
    repository: Repository,
    destination: Path,
    policy: LinkPolicy,
    now: int,
    progress: Progress | None = None,
) -> BackupReport:
    """Make `destination` a copy of the archive `repository`, or refresh the one that is there.

    A new copy gets its name when it is whole; what a killed run has copied is used by the next.
    `now` in seconds since 1970. With HARDLINK what never changes is linked, not copied. Raises
    `NotAFarmError`, `BackupPlaceError`, `BusyError`, `SpaceError`, `CorruptError`.
    """
    require_farm(repository)
    destination = destination.absolute()
    place = prepare_place(repository, destination, policy)
    with repository.lock(LockKind.SHARED), _sole_backup(place):
        with _staging(open_repository(place)) as (copy, staging):
            report = _Run(repository, copy, staging, policy, progress).copy_all()
        mark_finished(repository, place, now)
        if place != destination:
            os.rename(place, destination)
            sync_directory(destination.parent)
    return report


@contextmanager
def _sole_backup(place: Path) -> Iterator[None]:
    path = place / "state/backup.lock"
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600))
    with hold_lock(path, LockKind.EXCLUSIVE):
        yield


@contextmanager
def _staging(copy: Repository) -> Iterator[tuple[Repository, Path]]:
    """The copy, locked as whoever adds to a repository locks it, and a directory in its `tmp/`."""
    with copy.lock(LockKind.SHARED):
        remove_dead_staging(copy, "backup-")
        with locked_staging(copy, f"backup-{secrets.token_hex(8)}") as directory:
            try:
                yield copy, directory
            finally:
                shutil.rmtree(directory)


class _Listing(msgspec.Struct, frozen=True):
    """Objects that the copy lacks, in the order of copying."""

    others: list[str]
    commits: list[str]


class _Captured(msgspec.Struct, frozen=True):
    """A changing file as it was, staged; `relative` to the repository."""

    relative: Path
    staged: Path


class _Run(msgspec.Struct, frozen=True):
    source: Repository
    copy: Repository
    staging: Path
    policy: LinkPolicy
    progress: Progress | None

    def copy_all(self) -> BackupReport:
        """Capture, copy what never changes, then let the copy's changing files follow."""
        database = self._capture_database()
        captured = self._capture_changing()
        listing = self._list_missing()
        size = self._copy_objects(listing)
        sealed, sealed_size = self._copy_sealed()
        with hold_refs(self.copy):
            kept = {file.relative for file in captured}
            # Before, since a new branch may stand where a dropped one was a directory.
            self._remove_dropped(lambda path: path not in kept and not is_signature(path))
            # What leads to others is captured before them and so written after them.
            for file in reversed(captured):
                self._follow(file)
            # After the new timestamp: the old one led to these.
            self._remove_dropped(lambda path: path not in kept)
        self._replace_database(database)
        return BackupReport(
            len(listing.others) + len(listing.commits),
            sealed,
            size + sealed_size,
            sum(is_ref(file.relative) for file in captured),
        )

    def _capture_database(self) -> Path | None:
        path = database_path(self.source)
        if not path.exists():
            return None
        backup(Database(path), self.staging / path.name)
        return self.staging / path.name

    def _capture_changing(self) -> list[_Captured]:
        captured = []
        for number, relative in enumerate(changing_files(self.source)):
            staged = self.staging / f"changing-{number}"
            try:
                shutil.copy2(self.source.path / relative, staged, follow_symlinks=False)
            except FileNotFoundError:
                continue  # A branch that was deleted meanwhile.
            if is_ref(relative):
                self._check_ref(relative, staged)
            captured.append(_Captured(relative, staged))
        return captured

    def _check_ref(self, relative: Path, staged: Path) -> None:
        """A damaged ref must not replace the good one of an earlier backup."""
        try:
            head = parse_ref(staged.read_bytes())
        except NameInvalidError as error:
            raise CorruptError(
                f"{self.source.path / relative} is damaged: {error}", hint=_UNTOUCHED
            ) from error
        if not self.source.has_meta(head):
            raise CorruptError(
                f"{self.source.path / relative}: its head {head.hex()} is missing",
                hint=_UNTOUCHED,
            )

    def _list_missing(self) -> _Listing:
        held = set(list_objects(self.copy).names)
        first = {name for name in list_objects(self.source).names if name not in held}
        commits = set(find_commits(self.source, first))
        later = [name for name in list_objects(self.source).names if name not in held]
        late_commits = set(find_commits(self.source, (n for n in later if n not in first)))
        return _Listing(
            [name for name in later if name not in commits and name not in late_commits],
            sorted(commits),
        )

    def _copy_objects(self, listing: _Listing) -> int:
        """Everything else is durable before the first commit is there; returns bytes."""
        names = listing.others + listing.commits
        size = sum(os.lstat(f"{self.source.objects}/{name}").st_size for name in names)
        if self.policy is LinkPolicy.COPY:
            require_space(self.staging, size, self.copy.reserve)
        done = 0
        for group in (listing.others, listing.commits):
            for start in range(0, len(group), _BATCH):
                batch = group[start : start + _BATCH]
                self._copy_batch(batch, done, len(names))
                done += len(batch)
        return size

    def _copy_batch(self, names: Sequence[str], done: int, total: int) -> None:
        for number, name in enumerate(names, 1):
            self._take(f"{self.source.objects}/{name}", f"{self.staging}/{name[:2]}{name[3:]}")
            if self.progress is not None:
                self.progress(done + number, total)
        sync_staging(self.staging)
        publish_names(self.copy, self.staging, list(names))

    def _copy_sealed(self) -> tuple[int, int]:
        """Packs, pages and segments that the copy lacks; returns how many and their bytes."""
        count = size = 0
        for relative in sealed_files(self.source):
            target = self.copy.path / relative
            if target.exists():
                continue
            staged = self.staging / relative.name
            try:
                self._take(self.source.path / relative, staged)
            except FileNotFoundError:
                continue  # Retired a week ago, deleted just now: nothing names it.
            size += staged.stat().st_size
            count += 1
            private = relative.parts[0] == "state"
            make_directories(self.copy.path, relative.parent, mode=0o700 if private else 0o755)
            publish_file(staged, target, mode=0o600 if private else 0o644)
        return count, size

    def _take(self, source: Path | str, staged: Path | str) -> None:
        if self.policy is LinkPolicy.HARDLINK:
            os.link(source, staged, follow_symlinks=False)
        else:
            # With the mtime, of which web servers make entity tags.
            shutil.copy2(source, staged, follow_symlinks=False)

    def _remove_dropped(self, is_dropped: Callable[[Path], bool]) -> None:
        for relative in list(changing_files(self.copy)):
            if not is_dropped(relative):
                continue
            path = self.copy.path / relative
            remove_durably(path)
            if is_ref(relative):
                _remove_empty(path.parent, self.copy.path / "refs")

    def _follow(self, file: _Captured) -> None:
        target = self.copy.path / file.relative
        private = file.relative.parts[0] == "state"
        make_directories(self.copy.path, file.relative.parent, mode=0o700 if private else 0o755)
        if not _same(file.staged, target):
            publish_file(file.staged, target, mode=0o600 if private else 0o644)

    def _replace_database(self, staged: Path | None) -> None:
        target = database_path(self.copy)
        if staged is not None:
            install(staged, target)
        elif target.exists():
            remove_durably(target)


def _remove_empty(directory: Path, base: Path) -> None:
    """Remove `directory` and those above it, up to `base`, as far as they are empty."""
    while directory != base and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


def _same(one: Path, other: Path) -> bool:
    """Whether two small files have the same content and mtime."""
    try:
        return (
            one.stat().st_mtime_ns == other.stat().st_mtime_ns
            and one.read_bytes() == other.read_bytes()
        )
    except FileNotFoundError:
        return False
