"""Committing from a directory: scan, then hash and store the files on several threads.

hashlib, zstd, read(2) and write(2) release the interpreter lock, so threads use all cores.
"""

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import FileEntry, SymlinkEntry
from hacktree.common.objects.walk import MAX_DEPTH
from hacktree.common.repository.content import (
    SMALL_FILE,
    FileAttributes,
    FileChangedError,
    file_entry,
    store_bytes,
    store_descriptor,
)
from hacktree.common.repository.ingest import (
    IngestOptions,
    IngestReport,
    Progress,
    compile_skip,
    decide_attributes,
    select_xattrs,
    special_file,
)
from hacktree.common.repository.objectnames import content_name
from hacktree.common.repository.pyc import (
    PycVerdict,
    judge_pyc,
    source_path,
    to_unchecked_hash,
)
from hacktree.common.repository.statcache import StatCache, load_stat_cache
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory

_BATCH: Final = 64


class _PendingFile(msgspec.Struct, frozen=True):
    parent: BuildDirectory
    name: bytes
    path: bytes
    status: os.stat_result


def ingest_directory(
    transaction: Transaction,
    source: Path,
    options: IngestOptions,
    progress: Progress | None = None,
) -> tuple[BuildDirectory, IngestReport]:
    """Stage the files below `source`; returns the tree to store and what happened.

    Raises `FileChangedError` if a file changes meanwhile, `SpecialFileError` under `strict`.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a directory")
    started_ns = time.time_ns()
    scan = _Scan(transaction, os.fsencode(source), options)
    root = scan.read_directory(b"", os.stat(source), 0)
    reader = _Reader(transaction, os.fsencode(source), options, scan.report, scan.cache, progress)
    reader.store(scan.pending)
    scan.cache.save(started_ns)
    return root, scan.report


class _Scan:
    """One pass over names and inodes; file contents are left to `_Reader`."""

    def __init__(self, transaction: Transaction, source: bytes, options: IngestOptions) -> None:
        self.report = IngestReport()
        self.pending: list[_PendingFile] = []
        self.cache = load_stat_cache(transaction.repository, Path(os.fsdecode(source)))
        self._mode = transaction.repository.mode
        self._source = source
        self._options = options
        self._skip: Callable[[bytes], bool] = compile_skip(options.skip)

    def read_directory(self, path: bytes, status: os.stat_result, depth: int) -> BuildDirectory:
        if depth > MAX_DEPTH:
            raise UserError(f"/{display_path(path)}: directories nest deeper than {MAX_DEPTH}")
        absolute = self._source + b"/" + path
        attributes = self._attributes(path, absolute, status)
        directory = BuildDirectory(
            attributes.mode, attributes.uid, attributes.gid, attributes.xattrs
        )
        with os.scandir(absolute) as entries:
            for entry in entries:
                child = path + b"/" + entry.name if path else entry.name
                if self._skip(child):
                    self.report.skipped += 1
                    continue
                self._add(
                    directory,
                    child,
                    entry.name,
                    entry.stat(follow_symlinks=False),
                    depth,
                )
        return directory

    def _add(
        self,
        directory: BuildDirectory,
        path: bytes,
        name: bytes,
        status: os.stat_result,
        depth: int,
    ) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self.pending.append(_PendingFile(directory, name, path, status))
        elif kind == stat.S_IFDIR:
            directory.children[name] = self.read_directory(path, status, depth + 1)
        elif kind == stat.S_IFLNK:
            target = os.readlink(self._source + b"/" + path)
            found = FileAttributes(0o777, status.st_uid, status.st_gid, ())
            owner = decide_attributes(self._options, self._mode, path, found)
            directory.children[name] = SymlinkEntry(name, owner.uid, owner.gid, target)
        else:
            special_file(self.report, self._options, path)

    def _attributes(self, path: bytes, absolute: bytes, status: os.stat_result) -> FileAttributes:
        found = FileAttributes(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            read_xattrs(absolute),
        )
        return decide_attributes(self._options, self._mode, path, found)


def read_xattrs(path: bytes | int) -> Xattrs:
    """The versioned extended attributes of a file or directory (a path is not followed)."""
    names = (
        os.listxattr(path) if isinstance(path, int) else os.listxattr(path, follow_symlinks=False)
    )
    if not names:
        return ()
    return select_xattrs((name, os.getxattr(path, name)) for name in names)


class _Reader:
    def __init__(
        self,
        transaction: Transaction,
        source: bytes,
        options: IngestOptions,
        report: IngestReport,
        cache: StatCache,
        progress: Progress | None,
    ) -> None:
        self._transaction = transaction
        self._source = source
        self._options = options
        self._report = report
        self._cache = cache
        self._progress = progress
        self._lock = threading.Lock()
        self._done = 0
        self._total = 0

    def store(self, pending: list[_PendingFile]) -> None:
        """Store every file; the largest first, so that no thread is left with one at the end."""
        # What is known needs no reading, so threads would only wait for one another.
        pending = [file for file in pending if not self._reuse(file)]
        pending.sort(key=lambda file: file.status.st_size, reverse=True)
        self._total = sum(file.status.st_size for file in pending)
        with ThreadPoolExecutor(self._options.jobs) as executor:
            try:
                for _ in executor.map(self._store_batch, _batches(pending)):
                    if self._progress is not None:
                        self._progress(self._done, self._total)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise

    def _store_batch(self, files: list[_PendingFile]) -> None:
        for file in files:
            entry = self._read_file(file)
            if entry is not None:
                file.parent.children[file.name] = entry
        with self._lock:
            self._done += sum(file.status.st_size for file in files)

    def _reuse(self, file: _PendingFile) -> bool:
        """Take the file's content from the stat cache if it can't have changed."""
        known = self._cache.lookup(file.status)
        if known is None:
            return False
        attributes = self._attributes(file, read_xattrs(self._source + b"/" + file.path))
        entry = file_entry(file.name, known, file.status.st_size, attributes)
        repository = self._transaction.repository
        if not repository.has(content_name(repository.mode, entry)):
            return False
        file.parent.children[file.name] = entry
        self._cache.remember(file.status, known)
        self._report.files_cached += 1
        return True

    def _read_file(self, file: _PendingFile) -> FileEntry | None:
        descriptor = os.open(
            self._source + b"/" + file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        )
        try:
            attributes = self._attributes(file, read_xattrs(descriptor))
            if file.name.endswith(b".pyc") and source_path(file.path) is not None:
                return self._read_pyc(file, descriptor, attributes)
            entry = store_descriptor(self._transaction, file.name, descriptor, attributes)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        before = file.status
        if (before.st_ino, before.st_size, before.st_mtime_ns) != (
            after.st_ino,
            after.st_size,
            after.st_mtime_ns,
        ) or entry.size != after.st_size:
            raise FileChangedError(
                f"/{display_path(file.path)} changed while it was committed",
                hint="Commit a tree that nobody is writing to.",
            )
        self._cache.remember(after, entry.id)
        self._count(entry.size)
        return entry

    def _read_pyc(
        self, file: _PendingFile, descriptor: int, attributes: FileAttributes
    ) -> FileEntry | None:
        # Never from the cache: whether a pyc is stale depends on another file, its source.
        if file.status.st_size > SMALL_FILE:
            return store_descriptor(self._transaction, file.name, descriptor, attributes)
        data = os.pread(descriptor, SMALL_FILE, 0)
        source = source_path(file.path)
        try:
            status = os.stat(self._source + b"/" + (source or b""))
            verdict = judge_pyc(data, int(status.st_mtime), status.st_size)
        except FileNotFoundError:
            verdict = judge_pyc(data, None, None)
        with self._lock:
            self._report.pyc_dropped += verdict is PycVerdict.DROP
            self._report.pyc_rewritten += verdict is PycVerdict.REWRITE
        if verdict is PycVerdict.DROP:
            return None
        self._count(len(data))
        content = to_unchecked_hash(data) if verdict is PycVerdict.REWRITE else data
        return store_bytes(self._transaction, file.name, content, attributes)

    def _count(self, size: int) -> None:
        with self._lock:
            self._report.files_read += 1
            self._report.bytes_read += size

    def _attributes(self, file: _PendingFile, xattrs: Xattrs) -> FileAttributes:
        status = file.status
        found = FileAttributes(stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs)
        return decide_attributes(self._options, self._transaction.repository.mode, file.path, found)


def _batches(files: list[_PendingFile]) -> Iterator[list[_PendingFile]]:
    """Large files one by one, small ones by the batch."""
    iterator = iter(files)
    for file in iterator:
        if file.status.st_size > SMALL_FILE:
            yield [file]
            continue
        yield [file, *islice(iterator, _BATCH - 1)]
