"""`hacktree history`: the published history of a branch, compared with its builds and mended."""

import argparse

from msgspec.structs import asdict

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.history_rebuilding import history_fault, rebuild_history
from hacktree.common.repository.packs import require_archive


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Compare the history that an archive publishes for a branch with the builds that are here, "
        "and write it anew where a page is damaged or lost, or names builds that were pruned. "
        "`hacktree log` lists builds."
    )
    parser.add_argument("branch", metavar="BRANCH")
    parser.add_argument("--dry-run", action="store_true", help="compare, and say what differs")
    parser.epilog = """\
`hacktree serve --api` and `hacktree jobs run` do this where it is needed.

Examples:
  hacktree --repo /srv/tree history builds --dry-run
  hacktree --repo /srv/tree history builds

Exit statuses: 0 done, 2 no such branch, or no archive, 5 a commit is damaged, 6 somebody moves refs
or prunes, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Compare, then write."""
    repository = repository_from(args)
    branch = parse_branch_name(args.branch)
    if args.dry_run:
        require_archive(repository)
        fault = history_fault(repository, branch)
        if args.json:
            emit_json({"dry-run": True, "fault": fault})
        say(args, f"{branch}: {fault}; it would be written anew" if fault else f"{branch}: sound")
        return 0
    report = rebuild_history(repository, branch)
    if args.json:
        emit_json({"dry-run": False, **asdict(report)})
    why = f" (it was wrong: {report.fault})" if report.fault else ""
    say(args, f"{branch}: {report.builds} builds{why}")
    return 0
