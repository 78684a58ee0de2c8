"""`hacktree branch status`: where a branch is, and why it does not move."""

import argparse
import textwrap
import time

import msgspec

from hacktree.common.cli.connection import read_secret
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, show
from hacktree.common.objects.names import display_text, parse_branch_name
from hacktree.server.database import open_database
from hacktree.server.promotion.connecting import add_farm_options, connect, require_local
from hacktree.server.promotion.farm_client import sensible
from hacktree.server.promotion.logs import log_path
from hacktree.server.promotion.messages import StatusAnswer, decode
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.signing_messages import MAX_FACTS
from hacktree.server.promotion.status import as_json, branch_status

_SHOWN = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add arguments, description and epilog."""
    parser.epilog = textwrap.dedent("""\
        `status` names the verdict or the hold that keeps the branch where it is, and every later
        build with what it waits for.

        Examples:
          hacktree --repo /srv/hacktree branch status fastqa
          hacktree --repo /srv/hacktree branch status fastqa --json
          hacktree branch status fastqa --server https://farm.example --token-file any-token

        Exit statuses: 0 done, 2 wrong usage or no such branch, 4 the farm is unreachable or
        refuses, 5 local data is damaged, 6 the database is in use, 8 the system refused.""")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="say where a branch is and what it waits for")
    status.add_argument("branch", metavar="BRANCH")
    status.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    add_farm_options(status, "anything")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    status = _elsewhere(args) if args.server is not None else _here(args)
    if args.json:
        emit_json(msgspec.to_builtins(status))
        return 0
    _print_head(status)
    for blocker in status.blockers[:_SHOWN]:
        show(f"  {blocker.cause:<12}  {display_text(blocker.explanation)}")
        if blocker.verdict is not None and blocker.verdict.log:
            show(f"  {'':<12}  log: {_log(args, blocker.verdict.log)}")
    if len(status.blockers) > _SHOWN:
        show(f"  and {len(status.blockers) - _SHOWN} more builds: --json lists them all")
    return 0


def _here(args: argparse.Namespace) -> StatusAnswer:
    require_local(args, "token_file", "tls_ca")
    repository = repository_from(args)
    suites = read_suites(repository)
    branch, now = parse_branch_name(args.branch), int(time.time())
    status = branch_status(repository, open_database(repository), suites, branch, now)
    return msgspec.convert(as_json(status), StatusAnswer)


def _elsewhere(args: argparse.Namespace) -> StatusAnswer:
    farm = connect(args.server, read_secret(args.token_file, args.server), args.tls_ca)
    branch = parse_branch_name(args.branch)
    answer = farm.ask("GET", f"qa/status/{branch}", limit=MAX_FACTS)
    return sensible(lambda: decode(StatusAnswer, answer))


def _log(args: argparse.Namespace, name: str) -> str:
    """Where the log is: a file here; its name on a farm elsewhere."""
    if args.server is not None:
        return name
    path = log_path(repository_from(args), name)
    return str(path) if path.exists() else f"{name[:12]}, deleted by age or size"


def _print_head(status: StatusAnswer) -> None:
    if status.head is None:
        show(f"{status.branch}: nothing was promoted to it yet")
    else:
        signed = {None: "", True: ", signed", False: ", NOT signed"}[status.signed]
        show(
            f"{status.branch}: number {status.sequence}, {status.head[:12]}, of "
            f"{format_time(status.time or 0)}{signed}"
        )
    if status.suite is not None and status.promoted_from is not None:
        show(
            f"  carries build {status.promoted_sequence} ({status.promoted_from[:12]}) of "
            f"{status.suite.source}"
        )
    if status.due is not None:
        show(f"  moves again from {format_time(status.due)} on")
    show(f"  {display_text(status.reason)}")
