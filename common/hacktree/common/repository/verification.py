"""Checking one object file against its name."""

import hashlib
import os
import stat
from typing import IO, Final, cast

import msgspec

from hacktree.common.errors import SystemFault
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.tree import MAX_FILE_SIZE, MAX_TREE_SIZE, Tree, decode_tree
from hacktree.common.repository.content import FILE_MTIME
from hacktree.common.repository.directory import read_xattrs
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import (
    META_SUFFIX,
    ObjectName,
    parse_object_name,
    parse_owned_variant,
    xattrs_digest,
)
from hacktree.common.repository.reachability import TREE_MAGIC
from hacktree.common.repository.repository import Repository, content_chunks

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMED_META: Final = max(MAX_TREE_SIZE, MAX_COMMIT_SIZE)


class DamageError(Exception):
    """What is wrong with an object; never leaves fsck."""


class Verified(msgspec.Struct, frozen=True):
    """A sound object: the size of what it holds, and a meta's decoded bytes."""

    size: int
    meta: Tree | Commit | None = None


def verify_object(repository: Repository, name: str) -> Verified | None:
    """Read the object file `name` whole; None if it is gone. Raises `DamageError`.

    Memory is bounded by the largest meta. Raises `SystemFault` when it may not be read.
    """
    try:
        descriptor = os.open(f"{repository.objects}/{name}", _FLAGS)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise SystemFault(f"can't read {repository.objects / name}: {error.strerror}") from error
    except OSError as error:
        raise DamageError(f"cannot be opened: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamageError("not a regular file")
        if name.endswith(META_SUFFIX):
            return _verify_meta(descriptor, name, status.st_size)
        size = _verify_content(repository.mode, descriptor, name)
        if repository.mode is not Mode.ARCHIVE:
            _verify_attributes(repository.mode, descriptor, name, status)
        return Verified(size)
    except OSError as error:
        raise DamageError(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _verify_meta(descriptor: int, name: str, size: int) -> Verified:
    if size > _NAMED_META:
        raise DamageError(f"{size} bytes exceed the limit of a meta object")
    with open(descriptor, "rb", buffering=0, closefd=False) as stream:
        data = stream.read(size + 1)
    if hashlib.sha256(data).hexdigest() != name[:2] + name[3:65]:
        raise DamageError("its sha256 differs from its name")
    try:
        meta = decode_tree(data) if data.startswith(TREE_MAGIC) else decode_commit(data)
    except FormatError as error:
        raise DamageError(str(error)) from error
    return Verified(len(data), meta)


def _verify_content(mode: Mode, descriptor: int, name: str) -> int:
    digest = hashlib.sha256()
    size = 0
    with open(descriptor, "rb", buffering=0, closefd=False) as stream:
        try:
            for chunk in content_chunks(cast("IO[bytes]", stream), mode):
                size += len(chunk)
                if size > MAX_FILE_SIZE:
                    raise DamageError(f"its content exceeds {MAX_FILE_SIZE} bytes")
                digest.update(chunk)
        except FormatError as error:
            raise DamageError(str(error)) from error
    if digest.hexdigest() != name[:2] + name[3:65]:
        raise DamageError("its content's sha256 differs from its name")
    return size


def _verify_attributes(mode: Mode, descriptor: int, name: str, status: os.stat_result) -> None:
    parsed = parse_object_name(name[:2], name[3:])
    if parsed is None:
        raise DamageError("its name is malformed")
    found = stat.S_IMODE(status.st_mode)
    wrong = []
    if mode is Mode.BARE:
        wrong += _compare_owned(parsed, descriptor, status, found)
    elif found != int(parsed.variant, 8):
        wrong.append(f"mode {found:04o} instead of {parsed.variant}")
    if status.st_mtime_ns != FILE_MTIME * 1_000_000_000:
        wrong.append("it was modified after it was stored (mtime)")
    if wrong:
        raise DamageError("; ".join(wrong))


def _compare_owned(
    parsed: ObjectName, descriptor: int, status: os.stat_result, found: int
) -> list[str]:
    promised = parse_owned_variant(parsed.variant)
    if promised is None:
        return ["its name has no owner"]
    wrong = []
    if found != promised.mode:
        wrong.append(f"mode {found:04o} instead of {promised.mode:04o}")
    if (status.st_uid, status.st_gid) != (promised.uid, promised.gid):
        wrong.append(
            f"owner {status.st_uid}:{status.st_gid} instead of {promised.uid}:{promised.gid}"
        )
    xattrs = read_xattrs(descriptor)
    if (xattrs_digest(xattrs) if xattrs else "") != promised.xattrs_digest:
        wrong.append("its extended attributes differ from its name")
    return wrong
