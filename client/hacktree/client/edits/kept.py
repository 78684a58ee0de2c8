"""Copies of what was written in /etc of a root, made before it is lost from view.

A copy is a directory `<root>-<UTC time>` with `etc/`, the files as they were written, and
`changes.json`, which names every path. The latest `MOST_KEPT` stay.
"""

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.edits import Edit, find_edits, is_whiteout
from hacktree.client.edits.places import etc_place, kept_directory
from hacktree.client.edits.treecopy import OPEN_DIRECTORY, copy_directory
from hacktree.client.removal import TEMPORARY_PREFIX, delete_below
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.names import display_path
from hacktree.common.repository.durable import (
    make_directories,
    sync_directory,
    sync_filesystem,
    write_durably,
)

MOST_KEPT: Final = 20
"""Copies that stay; making one more deletes the oldest."""

_CHANGES: Final = "changes.json"


class KeptCopy(msgspec.Struct, frozen=True):
    """`changes.json`: of which root, which paths, and a digest by which equal copies are known."""

    root: str
    digest: str
    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []


def keep_copy(
    sysroot: Sysroot, root: str, edits: Sequence[Edit], now: float, spared: str = ""
) -> Path | None:
    """Copy what was written in /etc of `root`, durably, unless that was done; returns the copy.

    None when there is nothing to keep. The copy `spared` stays, however old. The caller holds the
    sysroot lock.
    """
    if not edits:
        return None
    top = kept_directory(sysroot)
    make_directories(sysroot.repository.path, Path("kept"), mode=0o700)
    upper = etc_place(sysroot, root).upper
    digest = _digest(upper)
    for name in kept_copies(sysroot):
        kept = read_kept(top / name)
        if kept is not None and (kept.root, kept.digest) == (root, digest):
            return top / name
    name = _free_name(top, root, now)
    temporary = top / f"{TEMPORARY_PREFIX}{name}"
    if os.path.lexists(temporary):
        delete_below(top, temporary.name)
    temporary.mkdir(mode=0o700)
    _copy_upper(upper, temporary / "etc")
    write_durably(temporary / _CHANGES, _describe(root, digest, edits))
    descriptor = os.open(top, OPEN_DIRECTORY)
    try:
        sync_filesystem(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, top / name)
    sync_directory(top)
    for old in kept_copies(sysroot)[:-MOST_KEPT]:
        if old != spared:
            delete_below(top, old)
    return top / name


def kept_copies(sysroot: Sysroot) -> list[str]:
    """The names of the copies, the oldest first."""
    top = kept_directory(sysroot)
    names = [name for name in os.listdir(top) if not name.startswith(".")] if top.is_dir() else []
    return sorted(names, key=lambda name: (name.rpartition("-")[2], name))


def read_kept(copy: Path) -> KeptCopy | None:
    """What a copy says of itself; None if it is damaged."""
    try:
        return msgspec.json.decode((copy / _CHANGES).read_bytes(), type=KeptCopy)
    except (OSError, msgspec.MsgspecError, UnicodeError):
        return None


def _free_name(top: Path, root: str, now: float) -> str:
    while True:
        name = f"{root}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
        if not os.path.lexists(top / name):
            return name
        now += 1


def _copy_upper(upper: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    source, made = (os.open(place, OPEN_DIRECTORY) for place in (upper, target))
    try:
        copy_directory(source, made, skip=is_whiteout)
    finally:
        os.close(source)
        os.close(made)


def _digest(upper: Path) -> str:
    """Of the upper layer alone: known again when the root that it lay over is gone."""
    digest = hashlib.sha256()
    for edit in find_edits(upper, None):
        digest.update(repr((edit.path, edit.new)).encode())
    return digest.hexdigest()


def _describe(root: str, digest: str, edits: Sequence[Edit]) -> bytes:
    paths: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
    for edit in edits:
        paths[edit.kind.value].append(f"/{display_path(edit.path)}")
    document = KeptCopy(root, digest, **paths)
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"
