"""`hacktree config kept` and `restore`: copies of what was changed by hand, and putting it back."""

import argparse
import time
from pathlib import Path

from hacktree.client.edits.edits import EditKind
from hacktree.client.edits.kept import KeptCopy, kept_copies, read_kept
from hacktree.client.edits.places import kept_directory
from hacktree.client.edits.restoring import (
    Restored,
    find_copy,
    list_missing,
    plan_restore,
    restore,
)
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import complain, emit_json, say, show, warn
from hacktree.common.objects.names import display_path


def configure_kept(parser: argparse.ArgumentParser) -> None:
    """Arguments of `kept`."""
    parser.description = (
        "List copies that were made of what was changed by hand in /etc of a root, before a "
        "deploy left it behind or the root was removed, the oldest first; or what is in one."
    )
    parser.add_argument(
        "copy", metavar="COPY", nargs="?", help="a copy's name, the beginning of it, or latest"
    )


def run_kept(path: Path, args: argparse.Namespace) -> None:
    """List."""
    sysroot = open_sysroot(path)
    if args.copy is not None:
        name, kept = find_copy(sysroot, args.copy)
        if args.json:
            emit_json(_document(kept_directory(sysroot) / name, kept, paths=True))
            return
        marked = [(p, "A") for p in kept.added]
        marked += [(p, "M") for p in kept.changed] + [(p, "D") for p in kept.removed]
        for one, letter in sorted(marked):
            show(f"{letter} {one}")
        return
    copies = [kept_directory(sysroot) / name for name in kept_copies(sysroot)]
    if args.json:
        emit_json([_document(copy, read_kept(copy), paths=False) for copy in copies])
        return
    if not copies:
        say(args, "no copies are kept")
    for copy in copies:
        found = read_kept(copy)
        show(f"{copy.name}\t{'damaged' if found is None else _count(found)}")


def _count(kept: KeptCopy) -> str:
    return f"{len(kept.added)} added, {len(kept.changed)} changed, {len(kept.removed)} removed"


def _document(copy: Path, kept: KeptCopy | None, *, paths: bool) -> dict[str, object]:
    document: dict[str, object] = {"name": copy.name, "path": str(copy), "damaged": kept is None}
    if kept is None:
        return document
    document["root"] = kept.root
    for kind in EditKind:
        found: list[str] = getattr(kept, kind.value)
        document[kind.value] = found if paths else len(found)
    return document


def configure_restore(parser: argparse.ArgumentParser) -> None:
    """Arguments of `restore`."""
    parser.description = (
        "Put what a kept copy holds back into /etc of a root: files that were added or changed, "
        "and deletions. What was changed by hand there since is not replaced unless --overwrite "
        "says so, and is kept in another copy first. Nobody may be in the root meanwhile."
    )
    parser.add_argument(
        "copy", metavar="COPY", help="a copy's name, the beginning of it, or latest"
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="*",
        help="with everything below it, as /etc/ssh (default: all that `config kept COPY` shows)",
    )  # fmt: skip
    parser.add_argument("--root", metavar="ROOT", default="current", help="default: current")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="also replace what was changed by hand in the root, and directories by files",
    )
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would be done")


def run_restore(path: Path, args: argparse.Namespace) -> None:
    """Plan, and unless --dry-run, restore."""
    sysroot = open_sysroot(path)
    root = read_roots(sysroot).find(args.root).root
    copy = find_copy(sysroot, args.copy)[0]
    for missing in list_missing(sysroot, copy, args.paths):
        warn(f"{missing} was no file, directory or link: no copy was made of it")
    kept = None
    if args.dry_run:
        plan = plan_restore(sysroot, copy, root, args.paths)
    else:
        plan, kept = restore(
            sysroot,
            copy,
            root,
            args.paths,
            time.time(),
            complain,
            overwrite=args.overwrite,
        )
    if args.json:
        emit_json(
            {
                "copy": copy,
                "root": root,
                "kept": None if kept is None else str(kept),
                "changes": [_change(one) for one in plan],
            }
        )
        return
    for one in plan:
        conflict = f"  ({one.conflict})" if one.conflict else ""
        show(f"{one.kind.letter} /{display_path(one.path)}{conflict}")
    if kept is not None:
        say(args, f"what was changed by hand in {root} before is kept in {kept}")
    if not plan:
        say(args, f"/etc of {root} has all that already")


def _change(one: Restored) -> dict[str, object]:
    return {
        "path": f"/{display_path(one.path)}",
        "change": one.kind.value,
        "conflict": one.conflict or None,
    }
