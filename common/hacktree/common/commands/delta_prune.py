"""`hacktree delta prune`."""

import argparse
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.repository.packs import (
    RETIREMENT_SECONDS,
    delete_retired,
    list_edges,
    pack_path,
    require_archive,
    retire_packs,
)
from hacktree.common.repository.retention import parse_duration


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument(
        "--older-than", metavar="AGE", help="keep retired packs this long (default: 7d)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be retired")
    parser.epilog = """\
A pack is retired when a tree it joins, or its file, is gone: the graph stops naming it. Its file
is deleted a week later, so that whoever has read the graph still finds it.

Examples:
  hacktree --repo /srv/tree delta prune --dry-run
  hacktree --repo /srv/tree delta prune

Exit statuses: 0 done, 2 no archive, 5 the graph is damaged, 6 somebody holds the lock."""


def run(args: argparse.Namespace) -> int:
    """Retire, then delete."""
    repository = repository_from(args)
    require_archive(repository)
    stale = [
        edge.pack
        for edge in list_edges(repository)
        if not repository.has_meta(edge.new)
        or (edge.old is not None and not repository.has_meta(edge.old))
        or not pack_path(repository, edge.pack).exists()
    ]
    deleted: list[str] = []
    if not args.dry_run:
        if stale:
            retire_packs(repository, stale)
        grace = RETIREMENT_SECONDS if args.older_than is None else parse_duration(args.older_than)
        deleted = delete_retired(repository, time.time(), grace)
    if args.json:
        emit_json({"retired": [name.hex() for name in stale], "deleted": deleted})
    else:
        say(args, f"{len(stale)} packs retired, {len(deleted)} files deleted")
    return 0
