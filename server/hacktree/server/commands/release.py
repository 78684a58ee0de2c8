"""`hacktree release`: end a hold."""

import argparse
import getpass
import textwrap
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.server.database import open_database
from hacktree.server.promotion.holding import find_subject, release
from hacktree.server.promotion.settings import read_suites


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = "Let a branch or a build that `hacktree hold` stopped move again."
    parser.epilog = textwrap.dedent("""\
        Examples:
          hacktree --repo /srv/hacktree release fastqa --reason "released"
          hacktree --repo /srv/hacktree release 3f9c21ab --reason "fixed in firmware"

        Exit statuses: 0 done, 2 wrong usage or not held, 5 the database is damaged, 6 it is in
        use, 8 the system refused.""")
    parser.add_argument("subject", metavar="BRANCH|COMMIT", help="what is held")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why")
    parser.add_argument("--by", metavar="NAME", help="who (default: the user's name)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    subject = find_subject(repository, read_suites(repository), args.subject)
    who = args.by or getpass.getuser()
    count = release(open_database(repository), subject, args.reason, who, int(time.time()))
    if args.json:
        emit_json({"released": count})
    say(args, f"{subject} is free again")
    return 0
