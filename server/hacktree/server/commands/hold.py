"""`hacktree hold`: stop a branch, or a build on its way."""

import argparse
import getpass
import textwrap
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.server.database import open_database
from hacktree.server.promotion.holding import find_subject, hold
from hacktree.server.promotion.settings import read_suites


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.description = textwrap.dedent("""\
        Nothing is promoted to a held branch. A held build is neither tested nor promoted, and
        neither is what it was promoted to before. `hacktree release` ends it.""")
    parser.epilog = textwrap.dedent("""\
        Examples:
          hacktree --repo /srv/hacktree hold fastqa --reason "release week"
          hacktree --repo /srv/hacktree hold builds~0 --reason "breaks suspend on Lenovo"

        Exit statuses: 0 done, 2 wrong usage, no such build, or a branch without a suite, 5 the
        database is damaged, 6 it is in use, 8 the system refused.""")
    parser.add_argument("subject", metavar="BRANCH|COMMIT", help="a suite's branch, or a build")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why")
    parser.add_argument("--by", metavar="NAME", help="who (default: the user's name)")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    subject = find_subject(repository, read_suites(repository), args.subject)
    who = args.by or getpass.getuser()
    made = hold(open_database(repository), subject, args.reason, who, int(time.time()))
    if args.json:
        emit_json(
            {
                "branch": made.branch,
                "build": None if made.build is None else made.build.hex(),
                "reason": made.reason,
                "by": made.who,
                "time": made.time,
            }
        )
    say(args, f"{subject} is held; `hacktree release {subject}` ends it")
    return 0
