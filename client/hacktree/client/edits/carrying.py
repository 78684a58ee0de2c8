"""What a deploy leaves behind: it says so, and a copy is kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hacktree.client.edits.edits import Edit, node_at, root_edits
from hacktree.client.edits.kept import keep_copy
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.names import display_path

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


def _names(edits: Sequence[Edit]) -> str:
    shown = [f"/{display_path(edit.path)}" for edit in edits[:_MOST_NAMED]]
    more = len(edits) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
