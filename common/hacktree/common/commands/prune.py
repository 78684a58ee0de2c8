"""`hacktree prune`."""

import argparse
import time

from msgspec.structs import asdict

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.cli.progress import terminal_count
from hacktree.common.errors import UserError
from hacktree.common.repository.config import format_size
from hacktree.common.repository.prune import PruneReport, grace_seconds, plan_prune, prune
from hacktree.common.repository.repository import LOCK_TIMEOUT
from hacktree.common.repository.retention import (
    Policy,
    Rule,
    parse_branch_rule,
    parse_depth,
    parse_duration,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--keep-depth", metavar="N", help="keep N commits of each branch besides its head"
    )
    parser.add_argument(
        "--keep-younger-than", metavar="AGE", help="keep commits younger than this (12h, 30d, 2w)"
    )
    parser.add_argument(
        "--branch",
        metavar="GLOB=RULE",
        action="append",
        default=[],
        help="another rule for some branches: depth:20,younger:30d or all; the first match wins",
    )
    parser.add_argument(
        "--refs-only",
        action="store_true",
        help="keep whole histories, delete only what no branch reaches (the default)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted")
    parser.add_argument(
        "--no-grace",
        action="store_true",
        help="delete unreachable objects of an archive at once; WARNING: a client in the middle "
        "of a pull then fails",
    )
    parser.add_argument(
        "--lock-timeout",
        metavar="SECONDS",
        type=float,
        default=LOCK_TIMEOUT,
        help="how long to wait for commits and pulls in progress (default: %(default).0f)",
    )
    parser.epilog = """\
A commit is kept when either rule keeps it. Pinned commits, those of deployed roots and those that a
farm leases to a bisection (`hacktree lease list`) always stay.
An archive keeps what became unreachable for keep-unreachable-hours of config.toml (24). Of a layer
(local/layers/NAME) the last 4 versions stay, unless a rule for branches matches it.

Examples:
  hacktree prune --dry-run --keep-depth 10
  hacktree --repo /srv/tree prune --keep-younger-than 30d --branch 'releases/*=all'

Exit statuses: 0 done, 2 a rule is malformed, 5 what is to be kept is damaged (nothing was deleted),
6 a commit or pull is still running, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Plan, then delete."""
    repository = repository_from(args)
    policy = _policy(args)
    now = time.time()
    grace = 0.0 if args.no_grace else grace_seconds(repository)
    if args.dry_run:
        report = plan_prune(repository, policy, now=now, grace=grace)
    else:
        progress = None if args.quiet or args.json else terminal_count("deleting")
        report = prune(
            repository, policy, now=now, grace=grace, timeout=args.lock_timeout, progress=progress
        )
    if args.json:
        emit_json({"dry-run": args.dry_run, **asdict(report)})
        return 0
    for commit in report.commits if args.verbose else ():
        show(f"commit {commit}")
    say(args, _summary(report, "would be deleted" if args.dry_run else "deleted"))
    return 0


def _policy(args: argparse.Namespace) -> Policy:
    default = Rule(
        None if args.keep_depth is None else parse_depth(args.keep_depth),
        None if args.keep_younger_than is None else parse_duration(args.keep_younger_than),
    )
    branches = tuple(parse_branch_rule(text) for text in args.branch)
    if args.refs_only and (default != Rule() or branches):
        raise UserError("--refs-only keeps whole histories: leave out the rules, or leave it out")
    return Policy(default, branches)


def _summary(report: PruneReport, verb: str) -> str:
    text = (
        f"{len(report.commits)} commits and {report.objects} other objects {verb}, "
        f"{format_size(report.freed)}; {report.kept_commits} commits kept"
    )
    if report.kept_by_grace:
        text += f"; {report.kept_by_grace} unreachable objects stay for their period of grace"
    return text
