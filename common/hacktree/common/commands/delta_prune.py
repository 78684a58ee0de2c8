"""`hacktree delta prune`."""

import argparse
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.repository.packs import (
    RETIREMENT_SECONDS,
    STRANDED_SECONDS,
    delete_retired,
    require_archive,
    retire_packs,
    stale_packs,
)
from hacktree.common.repository.retention import parse_duration


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument(
        "--keep-stranded",
        metavar="AGE",
        help="keep packs this long that start from a build that was pruned (default: 90d)",
    )
    parser.add_argument(
        "--older-than",
        metavar="AGE",
        help="keep the files of retired packs this long (default: 7d)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be retired")
    parser.epilog = """\
A pack is retired, which is to say that the graph stops naming it, when the build that it leads to
was pruned, or the one that it starts from some time ago: until then testers may be on that. Its
file is deleted a week later, so that whoever has read the graph still finds it.

Examples:
  hacktree --repo /srv/tree delta prune --dry-run
  hacktree --repo /srv/tree prune --keep-younger-than 30d && hacktree --repo /srv/tree delta prune

Exit statuses: 0 done, 2 no archive, 5 the graph is damaged, 6 somebody holds the lock."""


def run(args: argparse.Namespace) -> int:
    """Retire, then delete."""
    repository = repository_from(args)
    require_archive(repository)
    now = time.time()
    stale = stale_packs(repository, now, _seconds(args.keep_stranded, STRANDED_SECONDS))
    deleted: list[str] = []
    if not args.dry_run:
        if stale:
            retire_packs(repository, stale)
        deleted = delete_retired(repository, now, _seconds(args.older_than, RETIREMENT_SECONDS))
    if args.json:
        emit_json({"retired": [name.hex() for name in stale], "deleted": deleted})
    else:
        say(args, f"{len(stale)} packs retired, {len(deleted)} files deleted")
    return 0


def _seconds(text: str | None, default: float) -> float:
    return default if text is None else parse_duration(text)
