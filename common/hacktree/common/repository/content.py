"""Writing file content into a transaction: compressed (archive) or as an inode (bare)."""

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Final

import msgspec

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import MAX_FILE_SIZE, FileEntry
from hacktree.common.objects.zstandard import compress, new_compressor
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import content_name, user_mode
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import Transaction, write_file

SMALL_FILE: Final = 4 << 20
"""Files up to this many bytes are read, hashed and compressed in one piece."""

CHUNK: Final = 1 << 20
FILE_MTIME: Final = 1
"""Seconds since 1970 that every file of a repository and checkout carries."""


class FileChangedError(HacktreeError):
    """A file changed while it was being committed."""


class FileAttributes(msgspec.Struct, frozen=True):
    """What a tree says of a file besides name and content."""

    mode: int
    uid: int
    gid: int
    xattrs: Xattrs


def store_bytes(
    transaction: Transaction, name: bytes, data: bytes, attributes: FileAttributes
) -> FileEntry:
    """Stage a file's content from memory."""
    entry = file_entry(name, hash_bytes(data), len(data), attributes)
    _stage_whole(transaction, entry, data)
    return entry


def store_descriptor(
    transaction: Transaction, name: bytes, descriptor: int, attributes: FileAttributes
) -> FileEntry:
    """Stage the content of an open file, read from its start with bounded memory."""
    data = os.pread(descriptor, SMALL_FILE + 1, 0)
    if len(data) <= SMALL_FILE:
        entry = file_entry(name, hash_bytes(data), len(data), attributes)
        _stage_whole(transaction, entry, data)
        return entry
    digest = hashlib.sha256()
    size = 0
    for chunk in _read_chunks(descriptor):
        digest.update(chunk)
        size += len(chunk)
    if size > MAX_FILE_SIZE:
        raise HacktreeError(f"a file of {size} bytes exceeds the limit of {MAX_FILE_SIZE}")
    entry = file_entry(name, ObjectId(digest.digest()), size, attributes)
    _stage_large(transaction, entry, descriptor)
    return entry


def file_entry(
    name: bytes, object_id: ObjectId, size: int, attributes: FileAttributes
) -> FileEntry:
    """The tree entry of a file."""
    return FileEntry(
        name,
        attributes.mode,
        attributes.uid,
        attributes.gid,
        attributes.xattrs,
        object_id,
        size,
    )


def _stage_whole(transaction: Transaction, entry: FileEntry, data: bytes) -> None:
    repository = transaction.repository
    name = content_name(repository.mode, entry)
    if not transaction.claim(name):
        return
    path = transaction.staged_path(name)
    if repository.mode is Mode.ARCHIVE:
        data = compress(data, repository.config.zstd_level)
        write_file(path, data, 0o644)
    else:
        write_file(path, data, 0o600)
        apply_variant_attributes(path, repository.mode, entry)
    transaction.staged(name, len(data))


def _stage_large(transaction: Transaction, entry: FileEntry, descriptor: int) -> None:
    repository = transaction.repository
    name = content_name(repository.mode, entry)
    if not transaction.claim(name):
        return
    path = transaction.staged_path(name)
    archive = repository.mode is Mode.ARCHIVE
    digest = hashlib.sha256()
    compressor = new_compressor(repository.config.zstd_level) if archive else None
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        for chunk in _read_chunks(descriptor):
            digest.update(chunk)
            piece = chunk if compressor is None else compressor.compress(chunk)
            written += len(piece)
            write_all(output, piece)
        if compressor is not None:
            piece = compressor.flush()
            written += len(piece)
            write_all(output, piece)
            os.fchmod(output, 0o644)
    finally:
        os.close(output)
    if digest.digest() != entry.id:
        raise FileChangedError(
            "a file changed while it was read",
            hint="Commit a tree that nobody is writing to.",
        )
    if not archive:
        apply_variant_attributes(path, repository.mode, entry)
    transaction.staged(name, written)


def _read_chunks(descriptor: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(descriptor, CHUNK, offset):
        offset += len(chunk)
        yield chunk


def apply_variant_attributes(path: str | int, mode: Mode, entry: FileEntry) -> None:
    """Give a staged bare object (a path or a descriptor) the attributes that its name promises.

    Order matters: chown clears setuid and capabilities, so owner, then xattrs, then mode. What is
    right is left: each change is one of the file system's journal, and a pull makes thousands.
    """
    status = os.stat(path)
    changed = False
    if mode is Mode.BARE_USER:
        wanted = user_mode(entry.mode)
    else:
        wanted = entry.mode
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            os.chown(path, entry.uid, entry.gid)
            changed = True
        for name, value in entry.xattrs:
            os.setxattr(path, name, value)
            changed = True  # An access control list is also a mode.
    if changed or stat.S_IMODE(status.st_mode) != wanted:
        os.chmod(path, wanted)
    os.utime(path, (FILE_MTIME, FILE_MTIME))


def copy_variant(repository: Repository, source: str, destination: str, entry: FileEntry) -> None:
    """Write a new variant of content that is already here: a copy, shared where the disk can."""
    with (
        open(source, "rb", buffering=0) as reader,
        open(destination, "wb", buffering=0) as writer,
    ):
        remaining = entry.size
        while remaining > 0:
            copied = os.copy_file_range(reader.fileno(), writer.fileno(), remaining)
            if copied == 0:
                break
            remaining -= copied
    apply_variant_attributes(destination, repository.mode, entry)
