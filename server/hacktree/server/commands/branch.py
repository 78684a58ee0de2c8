"""`hacktree branch status`: where a branch is, and why it does not move."""

import argparse
import textwrap
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time
from hacktree.common.objects.names import parse_branch_name
from hacktree.server.database import open_database
from hacktree.server.promotion.logs import log_path
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import BranchStatus, as_json, branch_status

_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = textwrap.dedent("""\
        `status` names the verdict or the hold that keeps the branch where it is, and every later
        build with what it waits for.

        Examples:
          hacktree --repo /srv/hacktree branch status fastqa
          hacktree --repo /srv/hacktree branch status fastqa --json

        Exit statuses: 0 done, 2 wrong usage or no such branch, 5 local data is damaged, 6 the
        database is in use, 8 the system refused.""")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="say where a branch is and what it waits for")
    status.add_argument("branch", metavar="BRANCH")
    status.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    repository = repository_from(args)
    suites = read_suites(repository)
    branch = parse_branch_name(args.branch)
    now = int(time.time())
    status = branch_status(repository, open_database(repository), suites, branch, now)
    if args.json:
        emit_json(as_json(status))
        return 0
    _print_head(status)
    for blocker in status.blockers[:_SHOWN]:
        print(f"  {blocker.cause:<12}  {blocker.explanation}")
        if blocker.verdict is not None and blocker.verdict.log:
            print(f"  {'':<12}  log: {log_path(repository, blocker.verdict.log)}")
    if len(status.blockers) > _SHOWN:
        print(f"  and {len(status.blockers) - _SHOWN} more builds: --json lists them all")
    return 0


def _print_head(status: BranchStatus) -> None:
    if status.head is None or status.commit is None:
        print(f"{status.branch}: nothing was promoted to it yet")
    else:
        signed = {None: "", True: ", signed", False: ", NOT signed"}[status.signed]
        print(
            f"{status.branch}: number {status.commit.sequence}, {status.head.hex()[:12]}, of "
            f"{format_time(status.commit.time)}{signed}"
        )
    if status.suite is not None and status.last is not None:
        print(
            f"  carries build {status.last.source_sequence} ({status.last.source.hex()[:12]}) of "
            f"{status.suite.source}"
        )
    if status.due is not None:
        print(f"  moves again from {format_time(status.due)} on")
    print(f"  {status.reason}")
