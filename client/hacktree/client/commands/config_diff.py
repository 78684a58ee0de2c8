"""`hacktree config diff`: what was changed by hand in /etc of a root."""

import argparse
from pathlib import Path

from hacktree.client.edits.edits import Edit, Node, root_edits
from hacktree.client.edits.places import etc_place
from hacktree.client.edits.textdiff import describe_attributes, kind_of, text_diff
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.objects.names import display_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.description = (
        "Show what was written in /etc of a root, while it was booted or entered, against what its "
        "build and its scripts made."
    )
    parser.add_argument(
        "root", metavar="ROOT", nargs="?", default="current",
        help="a root's name, the beginning of it, current or previous (default: current)",
    )  # fmt: skip
    parser.add_argument("--names", action="store_true", help="only the paths, no text")


def run(path: Path, args: argparse.Namespace) -> None:
    """Show the edits."""
    sysroot = open_sysroot(path)
    root = read_roots(sysroot).find(args.root).root
    edits = root_edits(sysroot, root)
    if args.json:
        changes = [_document(sysroot, root, edit) for edit in edits]
        emit_json({"root": root, "changes": changes})
        return
    if not edits:
        say(args, f"nothing was changed in /etc of {root}")
    for edit in edits:
        show(f"{edit.kind.letter} /{display_path(edit.path)}")
        for line in describe_attributes(edit):
            show(f"    {line}")
        difference = None if args.names else _difference(sysroot, root, edit)
        if difference is not None:
            show(difference, end="")


def _difference(sysroot: Sysroot, root: str, edit: Edit) -> str | None:
    return text_diff(edit, sysroot.roots / root / "etc", etc_place(sysroot, root).upper)


def _document(sysroot: Sysroot, root: str, edit: Edit) -> dict[str, object]:
    return {
        "path": f"/{display_path(edit.path)}",
        "change": edit.kind.value,
        "old": _node(edit.old),
        "new": _node(edit.new),
        "diff": _difference(sysroot, root, edit),
    }


def _node(node: Node | None) -> dict[str, object] | None:
    if node is None:
        return None
    return {
        "type": kind_of(node),
        "mode": f"{node.mode & 0o7777:04o}",
        "uid": node.uid,
        "gid": node.gid,
        "size": node.size,
    }
