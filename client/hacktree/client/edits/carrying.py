"""What a deploy leaves behind: it says so, and a copy is kept."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hacktree.client.edits.edits import Edit, Node, node_at, root_edits
from hacktree.client.edits.kept import MOST_KEPT, keep_copy, kept_copies
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import FileEntry, SymlinkEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import user_mode
from hacktree.common.repository.repository import Repository

_MOST_NAMED: Final = 5


def keep_live_edits(sysroot: Sysroot, live: str | None, now: float) -> Path | None:
    """Copy what was written in /etc of the live root, if anything was; returns the copy."""
    if live is None:
        return None
    return keep_copy(sysroot, live, root_edits(sysroot, live), now)


def stays_behind(sysroot: Sysroot, old: str, new: str) -> list[Edit]:
    """What was written in /etc of the root `old` and isn't so in the root `new`, as it was made."""
    root = sysroot.roots / new
    return [edit for edit in root_edits(sysroot, old) if node_at(root, edit.path) != edit.new]


def may_stay_behind(repository: Repository, edits: Sequence[Edit], commit: Commit) -> list[Edit]:
    """The edits that aren't so in a commit, whose trees are in the repository.

    Before a root of it is made: a step may make one of them so.
    """
    return [edit for edit in edits if _node_in_commit(repository, commit, edit.path) != edit.new]


def _node_in_commit(repository: Repository, commit: Commit, path: bytes) -> Node | None:
    """What a checkout has at `path`."""
    entry = find_entry(repository.load_tree, commit.root.id, path)
    if entry is None:
        return None
    bare = repository.mode is Mode.BARE
    owner = (entry.uid, entry.gid) if bare else (os.geteuid(), os.getegid())
    if isinstance(entry, SymlinkEntry):
        return Node(stat.S_IFLNK | 0o777, *owner, len(entry.target), entry.target, ())
    bits = entry.mode if bare else user_mode(entry.mode)
    xattrs = entry.xattrs if bare else ()
    if isinstance(entry, FileEntry):
        return Node(stat.S_IFREG | bits, *owner, entry.size, entry.id, xattrs)
    return Node(stat.S_IFDIR | bits | (0 if bare else 0o100), *owner, 0, b"", xattrs)


def what_stays_behind(sysroot: Sysroot, old: str | None, new: str, copy: Path | None) -> list[str]:
    """Lines for the person who deployed `new`, of which `copy` holds what it goes without."""
    if old is None or copy is None:
        return []
    edits = stays_behind(sysroot, old, new)
    if not edits:
        return []
    return [
        f"{new} goes without what was changed by hand in {old}: {_names(edits)}; {copy} keeps it, "
        f"and `hacktree config capture --root {old}` makes a script of it for every new root"
    ]


def what_was_dropped(sysroot: Sysroot, before: Sequence[str]) -> list[str]:
    """A line if copies of those that were kept are gone since."""
    gone = sorted(set(before) - set(kept_copies(sysroot)))
    if not gone:
        return []
    return [
        f"only the last {MOST_KEPT} copies of changes by hand are kept; gone: {', '.join(gone)}"
    ]


def _names(edits: Sequence[Edit]) -> str:
    shown = [f"/{display_path(edit.path)}" for edit in edits[:_MOST_NAMED]]
    more = len(edits) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
