"""A config script that makes what was changed by hand again, on every new root.

Plain sh: contents stand in here-documents, as text where they are text, else in base64. Names and
texts are quoted so that no byte of them can be taken for anything else.
"""

import base64
import os
import shlex
import stat
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.edits.edits import Edit, Node
from hacktree.client.edits.textdiff import kind_of, read_file
from hacktree.common.errors import UserError
from hacktree.common.objects.names import display_path

MAX_CONTENT: Final = 8 * 1024 * 1024
"""Bytes of all files of one script; in base64 they stay below the limit of a config script."""

_LINE: Final = 76
_HEAD: Final = """\
#!/bin/sh
# Made by `hacktree config capture` from what was changed by hand in {root}.
set -eu
umask 077
"""


class CaptureError(UserError):
    """What was asked for can't be made into a script."""


class Captured(msgspec.Struct, frozen=True):
    """`mode`: private if a file of it is. `notes`: a line for each thing that is not captured."""

    script: bytes
    mode: int
    paths: tuple[bytes, ...]
    notes: tuple[str, ...]


def select_edits(edits: Sequence[Edit], paths: Sequence[str]) -> list[Edit]:
    """The edits at or below the given paths, all of them if none is given.

    Raises `CaptureError` for a path at which nothing was changed.
    """
    if not paths:
        return list(edits)
    chosen: set[bytes] = set()
    for text in paths:
        wanted = os.fsencode(os.path.normpath("/" + text.lstrip("/"))).lstrip(b"/")
        found = {
            edit.path
            for edit in edits
            if edit.path == wanted or edit.path.startswith(wanted + b"/")
        }
        if not found:
            raise CaptureError(
                f"nothing was changed at {text}", hint="`hacktree config diff` shows what was."
            )
        chosen |= found
    return [edit for edit in edits if edit.path in chosen]


def render_script(root: str, edits: Sequence[Edit], upper: Path) -> Captured:
    """The script that makes `edits`, sorted by path, whose new files are in the layer `upper`.

    Raises `CaptureError` if there are none, they are too large, or change meanwhile.
    """
    _refuse_size(edits)
    parts, notes, paths = [_HEAD.format(root=root).encode()], [], []
    ends = {edit.path for edit in edits if edit.new is None or not edit.new.is_directory}
    parents: set[bytes] = set()
    private = False
    for edit in edits:
        if _is_covered(edit.path, ends):
            continue
        if edit.new is None:
            parts.append(b"\nrm -rf " + _quote(edit.path) + b"\n")
        elif not (edit.new.is_file or edit.new.is_directory or edit.new.is_link):
            notes.append(f"/{display_path(edit.path)} is a {kind_of(edit.new)}: left out")
            continue
        else:
            parts.append(b"\n" + _make_parent(edit.path, parents) + _make(edit, edit.new, upper))
            private |= edit.new.is_file and not edit.new.mode & stat.S_IROTH
            if edit.new.xattrs and (edit.old is None or edit.old.xattrs != edit.new.xattrs):
                notes.append(f"/{display_path(edit.path)}: its extended attributes are left out")
        paths.append(edit.path)
    if not paths:
        raise CaptureError(
            f"nothing in {root} can be captured", hint="`hacktree config diff` shows what was."
        )
    mode = 0o700 if private else 0o755
    return Captured(b"".join(parts), mode, tuple(paths), tuple(notes))


def _refuse_size(edits: Sequence[Edit]) -> None:
    files = [(edit.new.size, edit.path) for edit in edits if edit.new is not None]
    if sum(size for size, _ in files) > MAX_CONTENT:
        size, path = max(files)
        raise CaptureError(
            f"the changes are larger than {MAX_CONTENT} bytes, /{display_path(path)} alone {size}",
            hint="Name fewer paths, or make a layer of them: hacktree layer add.",
        )


def _is_covered(path: bytes, ends: Set[bytes]) -> bool:
    """Whether something above it is no directory any more: that takes it along."""
    parts = path.split(b"/")
    return any(b"/".join(parts[:count]) in ends for count in range(1, len(parts)))


def _quote(path: bytes) -> bytes:
    """A path, absolute in the root, as a word of the shell: any byte but NUL may be in it."""
    return os.fsencode(shlex.quote(os.fsdecode(b"/" + path)))


def _make_parent(path: bytes, made: set[bytes]) -> bytes:
    parent = path.rpartition(b"/")[0]
    if parent == b"etc" or parent in made:
        return b""
    made.add(parent)
    return b"(umask 022; mkdir -p " + _quote(parent) + b")\n"


def _make(edit: Edit, new: Node, upper: Path) -> bytes:
    name = _quote(edit.path)
    if new.is_directory:
        # Not a link to one: it would lead elsewhere.
        lines = b"if [ -L %b ] || [ ! -d %b ]; then rm -rf %b; mkdir %b; fi\n" % ((name,) * 4)
    elif new.is_link:
        target = os.fsencode(shlex.quote(os.fsdecode(new.content)))
        lines = b"rm -rf %b\nln -s -- %b %b\n" % (name, target, name)
    else:
        data = read_file(upper, edit.path, MAX_CONTENT)
        if data is None:
            raise CaptureError(
                f"/{display_path(edit.path)} is being changed", hint="Run this again."
            )
        lines = b"rm -rf %b\n" % name + _write(name, data)
    if os.geteuid() == 0:
        # Without root every file is the user's, in the new root, too.
        lines += b"chown -h %d:%d %b\n" % (new.uid, new.gid, name)
    if not new.is_link:
        lines += b"chmod %04o %b\n" % (stat.S_IMODE(new.mode), name)
    return lines


def _write(name: bytes, data: bytes) -> bytes:
    if not data:
        return b": > %b\n" % name
    if _is_plain(data):
        mark = _mark(data.split(b"\n"))
        return b"cat > %b <<'%b'\n%b%b\n" % (name, mark, data, mark)
    text = base64.b64encode(data)
    rows = b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))
    return b"base64 -d > %b <<'END'\n%bEND\n" % (name, rows)


def _is_plain(data: bytes) -> bool:
    """Whether an editor, and every shell, leaves it as it is."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return text.endswith("\n") and all(c.isprintable() or c in "\t\n" for c in text)


def _mark(lines: Sequence[bytes]) -> bytes:
    """A word that ends the here-document, and is no line of it."""
    taken, number = set(lines), 0
    mark = b"END"
    while mark in taken:
        number += 1
        mark = b"END%d" % number
    return mark
