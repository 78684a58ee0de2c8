"""Committing from a tar stream, read once from front to back; standard input will do."""

import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BufferedReader
from threading import BoundedSemaphore
from typing import IO, Final, cast

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.names import MAX_PATH_LENGTH, display_path
from hacktree.common.objects.tree import FileEntry, SymlinkEntry
from hacktree.common.objects.walk import MAX_DEPTH
from hacktree.common.objects.zstandard import ZSTD_MAGIC, ZstdReader
from hacktree.common.repository.content import (
    SMALL_FILE,
    FileAttributes,
    store_bytes,
    store_descriptor,
)
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.ingest import (
    IngestOptions,
    IngestReport,
    Progress,
    compile_skip,
    decide_attributes,
    select_xattrs,
    special_file,
)
from hacktree.common.repository.pyc import (
    PycVerdict,
    judge_pyc,
    source_path,
    to_unchecked_hash,
)
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory, BuildNode

_QUEUE: Final = 64
"""Small files in flight: at most this many times `SMALL_FILE` bytes in memory."""

_XATTR_PREFIX: Final = "SCHILY.xattr."


class TarInvalidError(UserError):
    """The stream is not a tar archive, or holds what no tree can."""


def ingest_tar(
    transaction: Transaction,
    stream: IO[bytes],
    options: IngestOptions,
    progress: Progress | None = None,
) -> tuple[BuildDirectory, IngestReport]:
    """Stage what a tar stream (plain, gzip, bzip2, xz or zstd) holds; raises `TarInvalidError`."""
    with ThreadPoolExecutor(options.jobs) as executor:
        reader = _TarReader(transaction, executor, options, progress)
        try:
            with tarfile.open(fileobj=_decompressed(stream), mode="r|*") as archive:
                for member in archive:
                    reader.add(archive, member)
            reader.finish_pyc()
            reader.wait()
        except (tarfile.TarError, EOFError, OSError) as error:
            executor.shutdown(cancel_futures=True)
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise TarInvalidError(f"not a readable tar archive: {error}") from error
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return reader.root, reader.report


def _decompressed(stream: IO[bytes]) -> IO[bytes]:
    """tarfile knows gzip, bzip2 and xz; zstd is ours."""
    buffered = stream if isinstance(stream, BufferedReader) else BufferedReader(stream)  # type: ignore[type-var]
    if buffered.peek(4)[:4] == ZSTD_MAGIC:
        return cast("IO[bytes]", BufferedReader(ZstdReader(cast("IO[bytes]", buffered))))
    return cast("IO[bytes]", buffered)


class _PendingPyc(msgspec.Struct):
    parent: BuildDirectory
    name: bytes
    path: bytes
    data: bytes
    attributes: FileAttributes


@dataclass(slots=True)
class _TarReader:
    transaction: Transaction
    executor: ThreadPoolExecutor
    options: IngestOptions
    progress: Progress | None
    root: BuildDirectory = field(default_factory=BuildDirectory)
    report: IngestReport = field(default_factory=IngestReport)
    _slots: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(_QUEUE))
    _futures: list[Future[FileEntry]] = field(default_factory=list)
    _pycs: list[_PendingPyc] = field(default_factory=list)
    _sources: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _skip: Callable[[bytes], bool] = field(init=False)

    def __post_init__(self) -> None:
        self._skip = compile_skip(self.options.skip)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _clean_path(member.name)
        if self._skip(path):
            self.report.skipped += 1
            return
        if member.isdir():
            self._add_directory(path, member)
        elif not path:
            raise TarInvalidError("the archive's root is not a directory")
        elif member.isreg():
            self._add_file(archive, member, path)
        elif member.issym():
            parent, name = self._parent(path)
            owner = self._attributes(path, member)
            target = os.fsencode(member.linkname)
            parent.children[name] = SymlinkEntry(name, owner.uid, owner.gid, target)
        elif member.islnk():
            parent, name = self._parent(path)
            parent.children[name] = self._link_target(_clean_path(member.linkname), path)
        else:
            special_file(self.report, self.options, path)

    def finish_pyc(self) -> None:
        """Judge the `.pyc` files once every source's mtime is known."""
        for pyc in self._pycs:
            mtime, size = self._sources.get(source_path(pyc.path) or b"", (None, None))
            verdict = judge_pyc(pyc.data, mtime, size)
            self.report.pyc_dropped += verdict is PycVerdict.DROP
            self.report.pyc_rewritten += verdict is PycVerdict.REWRITE
            if verdict is PycVerdict.DROP:
                del pyc.parent.children[pyc.name]
                continue
            data = to_unchecked_hash(pyc.data) if verdict is PycVerdict.REWRITE else pyc.data
            entry = store_bytes(self.transaction, pyc.name, data, pyc.attributes)
            pyc.parent.children[pyc.name] = entry

    def wait(self) -> None:
        """Wait for every file to be stored; raises what storing one raised."""
        for future in self._futures:
            future.result()

    def _add_directory(self, path: bytes, member: tarfile.TarInfo) -> None:
        found = self._attributes(path, member)
        directory = self._directory(path)
        directory.mode, directory.uid, directory.gid = found.mode, found.uid, found.gid
        directory.xattrs = found.xattrs

    def _add_file(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: bytes) -> None:
        parent, name = self._parent(path)
        attributes = self._attributes(path, member)
        stream = archive.extractfile(member)
        if stream is None:
            raise TarInvalidError(f"/{display_path(path)} has no content")
        self.report.files_read += 1
        self.report.bytes_read += member.size
        if name.endswith(b".py"):
            self._sources[path] = (int(member.mtime), member.size)
        if member.size > SMALL_FILE:
            parent.children[name] = self._store_large(stream, name, attributes, member.size)
        else:
            data = stream.read()
            if len(data) != member.size:
                raise TarInvalidError(f"the archive ends within /{display_path(path)}")
            if name.endswith(b".pyc") and source_path(path) is not None:
                self._pycs.append(_PendingPyc(parent, name, path, data, attributes))
                parent.children[name] = SymlinkEntry(name, 0, 0, b"pending")
                return
            parent.children[name] = self._submit(name, data, attributes)
        if self.progress is not None:
            self.progress(self.report.bytes_read, 0)

    def _submit(self, name: bytes, data: bytes, attributes: FileAttributes) -> Future[FileEntry]:
        self._slots.acquire()
        future = self.executor.submit(store_bytes, self.transaction, name, data, attributes)
        future.add_done_callback(lambda _: self._slots.release())
        self._futures.append(future)
        return future

    def _store_large(
        self, stream: IO[bytes], name: bytes, attributes: FileAttributes, size: int
    ) -> FileEntry:
        path = self.transaction.temporary_path()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while chunk := stream.read(1 << 20):
                write_all(descriptor, chunk)
            if os.fstat(descriptor).st_size != size:
                raise TarInvalidError("the archive ends within a file")
            return store_descriptor(self.transaction, name, descriptor, attributes)
        finally:
            os.close(descriptor)
            os.unlink(path)

    def _attributes(self, path: bytes, member: tarfile.TarInfo) -> FileAttributes:
        found = FileAttributes(member.mode & 0o7777, member.uid, member.gid, _xattrs(member))
        return decide_attributes(self.options, self.transaction.repository.mode, path, found)

    def _parent(self, path: bytes) -> tuple[BuildDirectory, bytes]:
        parent, _, name = path.rpartition(b"/")
        return self._directory(parent), name

    def _directory(self, path: bytes) -> BuildDirectory:
        """The directory at `path`, made with its parents where the archive did not list them."""
        directory = self.root
        names = path.split(b"/") if path else []
        if len(names) > MAX_DEPTH:
            raise TarInvalidError(f"/{display_path(path)}: nests deeper than {MAX_DEPTH}")
        for name in names:
            child: BuildNode | None = directory.children.get(name)
            if child is None:
                child = directory.children[name] = BuildDirectory()
            if not isinstance(child, BuildDirectory):
                raise TarInvalidError(
                    f"/{display_path(path)} lies below something that is not a directory",
                    hint="Extract the archive and commit the directory instead.",
                )
            directory = child
        return directory

    def _link_target(self, target: bytes, path: bytes) -> BuildNode:
        parent, _, name = target.rpartition(b"/")
        found = self._directory(parent).children.get(name)
        if found is None or isinstance(found, BuildDirectory):
            raise TarInvalidError(
                f"/{display_path(path)} is a hard link to /{display_path(target)}, "
                "which does not come before it"
            )
        return found


def _clean_path(text: str) -> bytes:
    path = os.fsencode(text)
    names = [name for name in path.split(b"/") if name not in (b"", b".")]
    if b".." in names or b"\0" in path or len(path) > MAX_PATH_LENGTH:
        raise TarInvalidError(f"the archive holds the path {display_path(path[:200])!r}")
    return b"/".join(names)


def _xattrs(member: tarfile.TarInfo) -> Xattrs:
    headers: Iterator[tuple[str, str]] = iter(member.pax_headers.items())
    return select_xattrs(
        (key[len(_XATTR_PREFIX) :], value.encode("utf-8", "surrogateescape"))
        for key, value in headers
        if key.startswith(_XATTR_PREFIX)
    )
