"""Showing an edit to a person: what is different in its attributes and its text."""

import difflib
import os
import stat
from pathlib import Path
from typing import Final

from hacktree.client.edits.edits import Edit, Node, open_parent
from hacktree.client.edits.treecopy import read_whole
from hacktree.common.objects.names import display_path, display_text

MAX_TEXT: Final = 256 * 1024
"""Bytes of a file that is compared line by line; comparing takes time by the square."""


def read_file(etc: Path, path: bytes, limit: int) -> bytes | None:
    """The bytes of the regular file `path` (b"etc/hosts"), following no link.

    `etc` is the directory that stands for etc. None if the file is gone, is none, or is larger than
    `limit`.
    """
    inside = path.partition(b"/")[2]
    parent = open_parent(etc, inside)
    if parent is None:
        return None
    try:
        return read_whole(parent, inside.rpartition(b"/")[2], limit)
    finally:
        os.close(parent)


def describe_attributes(edit: Edit) -> list[str]:
    """Lines such as 'mode 0644 -> 0600'; nothing of what was added or removed as a whole."""
    old, new = edit.old, edit.new
    if old is None or new is None:
        return []
    lines = []
    if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        lines.append(f"{kind_of(old)} -> {kind_of(new)}")
    elif not new.is_link and stat.S_IMODE(old.mode) != stat.S_IMODE(new.mode):
        lines.append(f"mode {stat.S_IMODE(old.mode):04o} -> {stat.S_IMODE(new.mode):04o}")
    if (old.uid, old.gid) != (new.uid, new.gid):
        lines.append(f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}")
    if old.xattrs != new.xattrs:
        lines.append("extended attributes differ")
    if old.is_link and new.is_link and old.content != new.content:
        lines.append(f"link to {display_path(old.content)} -> {display_path(new.content)}")
    return lines


def kind_of(node: Node) -> str:
    """What is there, in a word."""
    if node.is_directory:
        return "directory"
    if node.is_link:
        return "symlink"
    return "file" if node.is_file else "special file"


def text_diff(edit: Edit, lower: Path, upper: Path) -> str | None:
    """A unified diff of a file's text, of nothing where it was added or removed.

    `lower` and `upper` are the directories that stood and stand for etc. None if the contents are
    equal, or are no text, or too large.
    """
    sides = []
    for node, tree in ((edit.old, lower), (edit.new, upper)):
        text = ""
        if node is not None and node.is_file:
            data = read_file(tree, edit.path, MAX_TEXT)
            decoded = _decode(data) if data is not None else None
            if decoded is None:
                return None
            text = decoded
        sides.append(text)
    if sides[0] == sides[1]:
        return None
    shown = display_path(edit.path)
    lines = difflib.unified_diff(
        _lines(sides[0]),
        _lines(sides[1]),
        f"a/{shown}" if edit.old is not None else "/dev/null",
        f"b/{shown}" if edit.new is not None else "/dev/null",
        lineterm="",
    )
    return "\n".join(display_text(line, keep="\t\n") for line in lines) + "\n"


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if lines[-1] == "":
        return lines[:-1]
    return [*lines[:-1], f"{lines[-1]}\n\\ No newline at end of file"]


def _decode(data: bytes) -> str | None:
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
