"""What one step changed in a root: paths, and the text of small files."""

import difflib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.replay.upper import Node, walk_upper
from hacktree.client.replay.view import LayerView
from hacktree.client.replay.xattrs import is_overlay, read_xattrs
from hacktree.common.objects.names import display_path

MAX_TEXT: Final = 64 * 1024
"""Bytes of a file whose text is compared."""

MAX_LINES: Final = 200
"""Lines shown of one file's comparison."""


class StepChange(msgspec.Struct, frozen=True):
    """A path (without a leading '/', printable; a directory's ends in '/') and what became of it.

    `letter` is `hacktree diff`'s: A added, D deleted, M content changed, m only owner, mode or
    attributes. `text`: lines of a unified diff, for small text files and links.
    """

    letter: str
    path: str
    text: tuple[str, ...] = ()


def changes_of(upper: Path, below: LayerView) -> Iterator[StepChange]:
    """What a layer changes in the root that `below` shows, in the order of paths.

    What a step wrote and is as before is no change. A deleted directory is one change.
    """
    for node in walk_upper(upper):
        old = below.find(node.path)
        if node.is_whiteout:
            if old is not None:
                yield _deleted(node.path, old)
        elif node.is_directory:
            yield from _directory(upper, node, old, below)
        else:
            yield from _file(upper / node.path, node.path, old)


def _shown(path: str, *, directory: bool) -> str:
    return display_path(os.fsencode(path)) + ("/" if directory else "")


def _deleted(path: str, old: Path) -> StepChange:
    directory = _is_directory(old)
    return StepChange(
        "D", _shown(path, directory=directory), () if directory else _compare(old, None)
    )


def _directory(upper: Path, node: Node, old: Path | None, below: LayerView) -> Iterator[StepChange]:
    shown = _shown(node.path, directory=True)
    new = upper / node.path
    if old is None or not _is_directory(old):
        if old is not None:
            yield _deleted(node.path, old)
        yield StepChange("A", shown)
        return
    if _attributes(old) != _attributes(new):
        yield StepChange("m", shown, _describe_attributes(old, new))
    if node.opaque:
        for name in sorted(below.names(node.path) - set(os.listdir(new))):
            path = f"{node.path}/{name}"
            gone = below.find(path)
            if gone is not None:
                yield _deleted(path, gone)


def _file(new: Path, path: str, old: Path | None) -> Iterator[StepChange]:
    shown = _shown(path, directory=False)
    if old is not None and _is_directory(old):
        yield _deleted(path, old)
        old = None
    if old is None:
        yield StepChange("A", shown, _compare(None, new))
    elif not _same_content(old, new):
        yield StepChange("M", shown, (*_describe_attributes(old, new), *_compare(old, new)))
    elif _attributes(old) != _attributes(new):
        yield StepChange("m", shown, _describe_attributes(old, new))


def _is_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _attributes(path: Path) -> tuple[int, int, int, dict[str, bytes]]:
    status = os.lstat(path)
    xattrs = {name: value for name, value in read_xattrs(path).items() if not is_overlay(name)}
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, xattrs


def _describe_attributes(old: Path, new: Path) -> tuple[str, ...]:
    before, after = _attributes(old), _attributes(new)
    lines = []
    if before[0] != after[0]:
        lines.append(f"mode {before[0]:04o} → {after[0]:04o}")
    if before[1:3] != after[1:3]:
        lines.append(f"owner {before[1]}:{before[2]} → {after[1]}:{after[2]}")
    for name in sorted({*before[3], *after[3]}):
        if before[3].get(name) != after[3].get(name):
            lines.append(f"attribute {display_path(os.fsencode(name))}")
    return tuple(lines)


def _same_content(old: Path, new: Path) -> bool:
    before, after = os.lstat(old), os.lstat(new)
    if stat.S_IFMT(before.st_mode) != stat.S_IFMT(after.st_mode):
        return False
    if stat.S_ISLNK(after.st_mode):
        return os.readlink(old) == os.readlink(new)
    if before.st_size != after.st_size or not stat.S_ISREG(after.st_mode):
        return False
    with open(old, "rb") as one, open(new, "rb") as other:
        while True:
            piece = one.read(1 << 20)
            if piece != other.read(1 << 20):
                return False
            if not piece:
                return True


def _compare(old: Path | None, new: Path | None) -> tuple[str, ...]:
    """A unified diff without its two first lines; nothing where there is no small text."""
    before = _text(old) if old is not None else []
    after = _text(new) if new is not None else []
    if before is None or after is None:
        return ()
    lines = list(difflib.unified_diff(before, after, n=2, lineterm=""))[2:]
    if len(lines) > MAX_LINES:
        lines[MAX_LINES:] = [f"… {len(lines) - MAX_LINES} lines more"]
    return tuple(lines)


def _text(path: Path) -> list[str] | None:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return [f"→ {display_path(os.readlink(os.fsencode(path)))}"]
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_TEXT:
        return None
    try:
        data = path.read_bytes()
    except PermissionError:
        # Without root, of a file that its mode keeps its owner from.
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text.splitlines()
