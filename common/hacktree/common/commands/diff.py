"""`hacktree diff`."""

import argparse
import os

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, show
from hacktree.common.objects.diff import CHANGE_NAMES, Change, diff_trees
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import (
    PackageDiff,
    diff_package_metadata,
)
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.config import format_size
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("old", metavar="OLD")
    parser.add_argument("new", metavar="NEW")
    parser.add_argument("--path", metavar="PREFIX", default="", help="only below this path")
    parser.add_argument("--packages", action="store_true", help="only the packages")
    parser.add_argument("--stat", action="store_true", help="only the counts")
    parser.epilog = """\
A: added, D: deleted, M: content changed, m: only owner, mode or attributes changed.

Examples:
  hacktree diff fastqa~1 fastqa
  hacktree diff fastqa~1 fastqa --packages

Exit statuses: 0 done (whether or not they differ), 2 there is no such revision."""


def run(args: argparse.Namespace) -> int:
    """Compare two commits."""
    repository = repository_from(args)
    old = repository.load_commit(resolve(repository, args.old))
    new = repository.load_commit(resolve(repository, args.new))
    prefix = os.fsencode(args.path).strip(b"/")
    changes = [
        change
        for change in diff_trees(repository.load_tree, old.root.id, new.root.id)
        if not prefix or change.path == prefix or change.path.startswith(prefix + b"/")
    ]
    packages = diff_package_metadata(old.metadata, new.metadata)
    if args.json:
        emit_json(_document(changes, packages))
        return 0
    if not args.packages and not args.stat:
        for change in changes:
            show(f"{change.letter} /{display_path(change.path)}")
    if packages is not None and not args.stat:
        _print_packages(packages)
    if not args.quiet and not args.packages:
        show(_summary(changes))
    return 0


def _print_packages(packages: PackageDiff) -> None:
    for before, after in packages.changed:
        show(f"package {before.name} ({before.architecture}): {before.version} → {after.version}")
    for package in packages.added:
        show(f"package {package.name} ({package.architecture}): added {package.version}")
    for package in packages.removed:
        show(f"package {package.name} ({package.architecture}): removed {package.version}")


def _summary(changes: list[Change]) -> str:
    letters = [change.letter for change in changes]
    new_bytes = sum(
        change.new.size
        for change in changes
        if isinstance(change.new, FileEntry) and change.is_content
    )
    return (
        f"{letters.count('A')} added, {letters.count('D')} deleted, {letters.count('M')} changed, "
        f"{letters.count('m')} with other attributes; {format_size(new_bytes)} in new content"
    )


def _document(changes: list[Change], packages: PackageDiff | None) -> dict[str, object]:
    document: dict[str, object] = {
        "files": [
            {"path": "/" + display_path(c.path), "change": CHANGE_NAMES[c.letter]} for c in changes
        ]
    }
    if packages is not None:
        document["packages"] = packages.as_document()
    return document
