"""Putting back what a kept copy holds: into /etc of a root, beside what that has now.

Planned first. What a person changed there since, and whole directories, are replaced only when that
is asked for, and a copy of the root's changes is kept before. Each path is put in place whole, by
rename: killed midway, some are, and the same command goes on. No link is followed.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.edits import (
    Edit,
    EditKind,
    Node,
    find_edits,
    node_at,
    open_parent,
    root_edits,
)
from hacktree.client.edits.kept import KeptCopy, keep_copy, kept_copies, read_kept
from hacktree.client.edits.places import SILENCE, EtcPlace, kept_directory, prepare_etc
from hacktree.client.edits.writing import LayerWriter
from hacktree.client.entering.filesystem import etc_tag
from hacktree.client.entering.holders import find_holder
from hacktree.client.recovery import recover
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.common.errors import BusyError, UserError
from hacktree.common.objects.names import display_path
from hacktree.common.repository.locks import LockKind, hold_lock

_PATIENCE: Final = 30.0


class RestoreError(UserError):
    """What was asked for can't be restored; nothing was changed."""


class Restored(msgspec.Struct, frozen=True):
    """A path (relative to the root) and what becomes of it; `conflict`: what speaks against it.

    `overwritable`: whether a person may ask for it nevertheless.
    """

    path: bytes
    kind: EditKind
    conflict: str = ""
    overwritable: bool = True


def find_copy(sysroot: Sysroot, text: str) -> tuple[str, KeptCopy]:
    """The copy called `text`: its name, a beginning of it, or `latest`. Raises `RestoreError`."""
    names = kept_copies(sysroot)
    found = [name for name in names if text and name.startswith(text)]
    if text == "latest":
        found = names[-1:]
    if text in names:
        found = [text]
    if len(found) != 1:
        problem = f"several kept copies begin with {text}" if found else f"no kept copy {text!r}"
        raise RestoreError(problem, hint="`hacktree config kept` lists them.")
    kept = read_kept(kept_directory(sysroot) / found[0])
    if kept is None:
        raise RestoreError(
            f"{kept_directory(sysroot) / found[0]} does not say what it holds",
            hint="Its files are in etc/ there: copy what you need.",
        )
    return found[0], kept


def plan_restore(
    sysroot: Sysroot, copy: str, root: str, paths: Sequence[str] = ()
) -> list[Restored]:
    """What restoring a copy, or what it has at or below `paths`, would change in `root`; sorted.

    What is so already is left out. Raises `RestoreError` for a path that the copy knows nothing of.
    """
    kept = find_copy(sysroot, copy)[1]
    present = _Present(
        sysroot.roots / root, {edit.path: edit for edit in root_edits(sysroot, root)}
    )
    named = _choose([*kept.added, *kept.changed], paths)
    gone = _choose(kept.removed, paths)
    for text in paths:
        if not _choose([*kept.added, *kept.changed, *kept.removed], [text]):
            raise RestoreError(
                f"{copy} has nothing at {text}", hint=f"`hacktree config kept {copy}` shows it."
            )
    held = {path: node for path, node in _held(sysroot, copy).items() if _shown(path) in named}
    plan = [
        one for path, node in held.items() if (one := present.plan(path, node, held)) is not None
    ]
    removed = [path for path, node in held.items() if not node.is_directory]
    for shown in sorted(gone):
        path = present.find(shown)
        if path is not None and not _is_below(path, removed):
            removed.append(path)
            plan.append(present.plan_removal(path))
    return sorted(plan, key=lambda one: one.path)


def list_missing(sysroot: Sysroot, copy: str, paths: Sequence[str]) -> list[str]:
    """What was there and no copy was made of: sockets, FIFOs, devices."""
    kept = find_copy(sysroot, copy)[1]
    held = {_shown(path) for path in _held(sysroot, copy)}
    return sorted(_choose([*kept.added, *kept.changed], paths) - held)


def _held(sysroot: Sysroot, copy: str) -> dict[bytes, Node]:
    edits = find_edits(kept_directory(sysroot) / copy / "etc", None)
    return {edit.path: edit.new for edit in edits if edit.new is not None}


def _shown(path: bytes) -> str:
    return f"/{display_path(path)}"


def _choose(shown: Sequence[str], paths: Sequence[str]) -> set[str]:
    """Those at or below one of `paths`; all without any."""
    wanted = [os.path.normpath("/" + text.lstrip("/")) for text in paths]
    return {
        one
        for one in shown
        if not paths or any(one == path or one.startswith(f"{path}/") for path in wanted)
    }


def _is_below(path: bytes, others: Collection[bytes]) -> bool:
    return any(path.startswith(other + b"/") for other in others)


class _Present(msgspec.Struct, frozen=True):
    """/etc of a root as it is: what it was made with, and what was changed by hand since."""

    root: Path
    edits: Mapping[bytes, Edit]

    def node(self, path: bytes) -> Node | None:
        edit = self.edits.get(path)
        return edit.new if edit is not None else node_at(self.root, path)

    def find(self, shown: str) -> bytes | None:
        """The path that is shown so, if there is one: not all names can be read back."""
        here = b""
        for part in shown.strip("/").split("/"):
            names = self._names(here)
            found = [name for name in names if display_path(name) == part]
            if not found:
                return None
            here = (here + b"/" if here else b"") + found[0]
        return here

    def _names(self, directory: bytes) -> list[bytes]:
        if not directory:
            return [b"etc"]
        names = set()
        parent = open_parent(self.root, directory + b"/.")
        if parent is not None:
            names = {os.fsencode(name) for name in os.listdir(parent)}
            os.close(parent)
        for path, edit in self.edits.items():
            if path.rpartition(b"/")[0] == directory:
                name = path.rpartition(b"/")[2]
                (names.discard if edit.new is None else names.add)(name)
        return sorted(names)

    def plan(self, path: bytes, node: Node, held: Mapping[bytes, Node]) -> Restored | None:
        before = self.node(path)
        if before == node:
            return None
        kind = EditKind.ADDED if before is None else EditKind.CHANGED
        blocked = self._blocked(path, held)
        if blocked:
            return Restored(path, kind, blocked, overwritable=False)
        if path in self.edits:
            return Restored(path, kind, f"was changed by hand in {self.root.name}, too")
        if before is not None and before.is_directory and not node.is_directory:
            return Restored(path, kind, f"is a directory in {self.root.name}")
        return Restored(path, kind)

    def plan_removal(self, path: bytes) -> Restored:
        if path in self.edits or any(one.startswith(path + b"/") for one in self.edits):
            return Restored(path, EditKind.REMOVED, f"was changed by hand in {self.root.name}, too")
        return Restored(path, EditKind.REMOVED)

    def _blocked(self, path: bytes, held: Mapping[bytes, Node]) -> str:
        """Why there is no way to a path, as a link that a directory above it has become."""
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            node = held.get(above) or self.node(above)
            if node is None and above in self.edits:
                return f"can't be: {_shown(above)} was removed by hand in {self.root.name}"
            if node is not None and not node.is_directory:
                return f"can't be: {_shown(above)} is no directory in {self.root.name}"
        return ""


def restore(
    sysroot: Sysroot,
    copy: str,
    root: str,
    paths: Sequence[str],
    now: float,
    waiting: Callable[[str], None],
    *,
    overwrite: bool,
) -> tuple[list[Restored], Path | None]:
    """Do what `plan_restore` says; returns it, and the copy of what was changed in the root before.

    With `overwrite` conflicts that are `overwritable` are no obstacle. Raises `RestoreError`;
    `BusyError` while somebody is in the root: an /etc that is mounted must not be written to.
    """
    with hold_sysroot(sysroot, waiting=lambda who: waiting(f"waiting for {who}")):
        recover(sysroot)
        place = prepare_etc(sysroot, root)
        if place is None:
            raise RestoreError(f"{root} has no /etc")
        with hold_lock(
            place.directory,
            LockKind.EXCLUSIVE,
            timeout=_PATIENCE,
            waiting=lambda who: waiting(f"waiting for {who}, which mounts /etc of {root}"),
            silence=SILENCE,
        ):
            _refuse_mounted(place, root)
            plan = plan_restore(sysroot, copy, root, paths)
            _refuse_conflicts(
                [one for one in plan if one.conflict and not (overwrite and one.overwritable)]
            )
            if not plan:
                return plan, None
            kept = keep_copy(sysroot, root, root_edits(sysroot, root), now, spared=copy)
            with LayerWriter(sysroot, kept_directory(sysroot) / copy / "etc", root) as writer:
                for one in plan:
                    if one.kind is EditKind.REMOVED:
                        writer.take_away(one.path)
                    else:
                        writer.put(one.path)
            return plan, kept


def _refuse_mounted(place: EtcPlace, root: str) -> None:
    found = find_holder(etc_tag(place))
    if found is not None:
        raise BusyError(
            f"process {found[0]} is in {root}, so its /etc can't be changed from outside",
            hint="Leave the root, then run this again.",
        )


def _refuse_conflicts(conflicts: Sequence[Restored]) -> None:
    if conflicts:
        lines = [f"{_shown(one.path)} {one.conflict}" for one in conflicts]
        raise RestoreError(
            "not restored, nothing was changed:\n" + "\n".join(lines),
            hint="Name the paths that you want, or have them replaced by --overwrite; what was "
            "changed by hand is kept in another copy first.",
        )
