"""`hacktree dashboard`: write the page that shows how the farm is."""

import argparse
import textwrap
import time
from pathlib import Path

import msgspec

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.server.dashboard.publishing import DIRECTORY, export_dashboard, publish_dashboard
from hacktree.server.database import open_database


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        Write a page, index.html, that shows branches, builds with their verdicts, what blocks each
        branch, holds, packs, signatures and jobs that failed; and the same as dashboard.json. It
        needs no server, no script and no other file. Written into the archive it is published: see
        what is public in docs/operations.md.""")
    parser.epilog = textwrap.dedent("""\
        `hacktree serve --api` and `hacktree jobs run` write it whenever something has changed.

        Examples:
          hacktree --repo /srv/hacktree dashboard
          hacktree --repo /srv/hacktree dashboard --output /var/www/farm
          hacktree --repo /srv/hacktree dashboard --json

        Exit statuses: 0 done, 2 wrong usage, or no archive, 5 local data is damaged, 6 the
        database or the repository is in use, 8 the system refused.""")
    parser.add_argument(
        "--output", metavar="DIR", help="write it there, not into the archive's dashboard/"
    )


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status. With --json the document that was written is printed."""
    repository = repository_from(args)
    database = open_database(repository)
    now = int(time.time())
    if args.output is None:
        place = repository.path / DIRECTORY
        state = publish_dashboard(repository, database, now)
    else:
        place = Path(args.output)
        state = export_dashboard(repository, database, place, now)
    if args.json:
        emit_json(msgspec.to_builtins(state))
    say(args, f"{place / 'index.html'}: {state.branch_count} branches")
    return 0
