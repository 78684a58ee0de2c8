"""`hacktree backup`: a consistent copy of the repository while it runs."""

import argparse
import textwrap
import time
from pathlib import Path

from msgspec.structs import asdict

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.cli.progress import terminal_count
from hacktree.common.repository.checkout import LinkPolicy
from hacktree.common.repository.config import format_size
from hacktree.server.backup import back_up


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        Copy an archive, with its branches, packs, pins, configuration and the server's database,
        while builds go on. The copy is a repository itself. A directory that a backup made before
        is refreshed: only what it lacks is copied. Branches that were deleted are deleted there,
        builds that were pruned stay until the copy is pruned.""")
    parser.epilog = textwrap.dedent("""\
        Prune waits for a backup, and a backup for prune, for a minute. A killed backup is continued
        by the next one; a copy that was there is whole at every instant.

        Examples:
          hacktree --repo /srv/hacktree backup /backup/hacktree
          hacktree --repo /srv/hacktree backup --link /srv/snapshot
          hacktree --repo /backup/hacktree fsck

        Exit statuses: 0 done, 2 no archive, or no place for a backup, 5 a ref or the database is
        damaged, 6 a prune or another backup is running, 7 no space, 8 the system refused.""")
    parser.add_argument(
        "destination", metavar="DIR", help="new, empty, or a backup that was made before"
    )
    parser.add_argument(
        "--link",
        action="store_true",
        help="link what never changes instead of copying it: at once and without space, but no "
        "help against a disk that fails",
    )


def run(args: argparse.Namespace) -> int:
    """Copy, and say how much."""
    repository = repository_from(args)
    policy = LinkPolicy.HARDLINK if args.link else LinkPolicy.COPY
    progress = None if args.quiet or args.json else terminal_count("objects")
    report = back_up(repository, Path(args.destination), policy, int(time.time()), progress)
    if args.json:
        emit_json(asdict(report))
    verb = "linked" if args.link else "copied"
    say(
        args,
        f"{args.destination}: {report.refs} branches; {report.objects} objects and "
        f"{report.sealed} packs and pages {verb}, {format_size(report.bytes)}",
    )
    return 0
