"""`hacktree hold` and `hacktree release`: stop a branch, or a build on its way, and end that."""

import argparse
import getpass
import textwrap
import time

from hacktree.common.cli.connection import read_secret
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import (
    add_farm_options,
    connect,
    refuse_name,
    require_local,
)
from hacktree.server.promotion.farm_client import sensible
from hacktree.server.promotion.holding import find_subject, hold, release
from hacktree.server.promotion.messages import HoldRequest, decode, encode
from hacktree.server.promotion.settings import read_suites

_DESCRIPTIONS = {
    "hold": textwrap.dedent("""\
        Nothing is promoted to a held branch. A held build is neither tested nor promoted, and
        neither is what it was promoted to before. `hacktree release` ends it."""),
    "release": "Let a branch or a build that `hacktree hold` stopped move again.",
}

_EPILOG = """\
Examples:
  hacktree --repo /srv/hacktree {verb} fastqa --reason "release week"
  hacktree --repo /srv/hacktree {verb} builds~0 --reason "suspend on Lenovo"
  hacktree {verb} fastqa --reason "release week" --server https://farm.example \\
      --token-file promote-token

Over HTTP the token needs `promote` on the branch; for a build, on the branch of every suite.

Exit statuses: 0 done, 2 wrong usage, no such build, a branch without a suite, or not held, 4 the
farm is unreachable or refuses, 5 the database is damaged, 6 it is in use, 8 the system refused."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    verb = parser.prog.rpartition(" ")[2]
    parser.description = _DESCRIPTIONS[verb]
    parser.epilog = _EPILOG.format(verb=verb)
    parser.set_defaults(verb=verb)
    parser.add_argument("subject", metavar="BRANCH|COMMIT", help="a suite's branch, or a build")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why")
    parser.add_argument("--by", metavar="NAME", help="who (default: the user's name)")
    add_farm_options(parser, "promote:BRANCH")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    answer = _here(args) if args.server is None else _elsewhere(args)
    if args.json:
        emit_json(answer)
    if args.verb == "hold":
        say(args, f"{args.subject} is held; `hacktree release {args.subject}` ends it")
    else:
        say(args, f"{args.subject} is free again")
    return 0


def _here(args: argparse.Namespace) -> dict[str, object]:
    """At the farm's own repository."""
    require_local(args, "token_file", "tls_ca")
    repository = repository_from(args)
    database = open_database(repository)
    subject = find_subject(repository, read_suites(repository), args.subject)
    who, now = args.by or getpass.getuser(), int(time.time())
    if args.verb == "release":
        return {"released": release(database, subject, args.reason, who, now)}
    made = hold(database, subject, args.reason, who, now)
    return {
        "branch": made.branch,
        "build": None if made.build is None else made.build.hex(),
        "reason": made.reason,
        "by": made.who,
        "time": made.time,
    }


def _elsewhere(args: argparse.Namespace) -> dict[str, object]:
    """Over HTTP."""
    refuse_name(args)
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    request = HoldRequest(args.subject, args.reason)
    answer = farm.ask("POST", f"qa/{args.verb}", encode(request))
    return sensible(lambda: decode(dict[str, object], answer))
