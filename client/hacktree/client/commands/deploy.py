"""`hacktree deploy`."""

import argparse
import sys
from pathlib import Path

from hacktree.client.commands.deploy_output import result_document, show_result
from hacktree.client.commands.plan_output import show_plan
from hacktree.client.deploy import (
    ArchitecturePolicy,
    DeployOptions,
    DeployResult,
    Report,
    RetentionPolicy,
    ReusePolicy,
    deploy_commit,
    plan_deploy,
)
from hacktree.client.replay.step import AskAfterFailure, StepFailedError
from hacktree.client.scripts.failure import ask_on_terminal, shown_log
from hacktree.client.scripts.store import describe_unused
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_event, say, tell, warn
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Make a commit that was pulled the live root: check it out beside the others, replay this "
        "machine's own steps on it, then swap the live link in one step. A failure leaves what is "
        "live as it was."
    )
    parser.add_argument("revision", metavar="REV", help="a branch, BRANCH~N, or a commit's id")
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would be done")
    parser.add_argument(
        "--replay",
        action="store_true",
        help="make a new root and run every step again, though an equal root is there",
    )
    parser.add_argument("--no-prune", action="store_true", help="remove no old roots afterwards")
    parser.add_argument(
        "--allow-architecture",
        action="store_true",
        help="also deploy what this machine can't run",
    )
    parser.epilog = """\
Steps are users, extensions, layers and config scripts of this machine. What one wrote is kept, and
taken again for as long as nothing changed that it depends on.

Examples:
  hacktree deploy fastqa
  hacktree deploy fastqa~3 --dry-run
  hacktree deploy fastqa --replay --verbose
  hacktree --sysroot ~/trees deploy 3f9c21ab7

Exit statuses: 0 the commit is live, 1 a step failed and nothing was swapped, 2 there is no such
commit or it is for another architecture, 5 local data is damaged, 6 another deploy is under way,
7 no space, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Plan, and unless --dry-run, deploy."""
    sysroot = open_sysroot(Path(args.sysroot))
    commit = resolve(sysroot.repository, args.revision)
    options = DeployOptions(
        architecture=ArchitecturePolicy.ALLOW_OTHER
        if args.allow_architecture
        else ArchitecturePolicy.REFUSE_OTHER,
        retention=RetentionPolicy.KEEP_ALL if args.no_prune else RetentionPolicy.PRUNE,
        reuse=ReusePolicy.REPLAY if args.replay else ReusePolicy.REUSE,
        ask=_asker(args),
    )
    if args.dry_run:
        show_plan(args, plan_deploy(sysroot, commit, options))
        return 0
    result = _deploy(sysroot, commit, options, lambda line: say(args, line))
    show_result(args, result)
    return 0


def _asker(args: argparse.Namespace) -> AskAfterFailure | None:
    """Whoever is at the terminal; nobody where a program reads the output."""
    return None if args.json or args.quiet else ask_on_terminal(sys.stdin, sys.stderr)


def _deploy(
    sysroot: Sysroot, commit: ObjectId, options: DeployOptions, report: Report
) -> DeployResult:
    """Deploy and warn; of a failed step show the last lines unless a person has seen them."""
    try:
        result = deploy_commit(sysroot, commit, options, report)
    except StepFailedError as error:
        if options.ask is None:
            for line in shown_log(error.log):
                tell(line)
        raise
    for note in (*result.notes, *describe_unused(sysroot.path)):
        warn(note)
    return result


def deploy_pulled(sysroot: Sysroot, commit: ObjectId, remote: str, args: argparse.Namespace) -> int:
    """The second half of `hacktree pull`: deploy what came from `remote`, and say so."""
    json_progress = bool(args.json_progress)

    def report(line: str) -> None:
        if not json_progress:
            say(args, line)

    ask = None if json_progress else _asker(args)
    result = _deploy(sysroot, commit, DeployOptions(ask=ask), report)
    if json_progress:
        emit_event({"event": "deployed", "remote": remote, **result_document(result)})
    else:
        show_result(args, result)
    return 0
