"""`hacktree deploy`."""

import argparse
import json
from pathlib import Path

from hacktree.client.deploy import (
    ArchitecturePolicy,
    DeployAction,
    DeployOptions,
    DeployPlan,
    DeployResult,
    RetentionPolicy,
    deploy_commit,
    plan_deploy,
)
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, say, warn
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Make a commit that was pulled the live root: check it out beside the others, then swap "
        "the live link in one step. A failure leaves what is live as it was."
    )
    parser.add_argument("revision", metavar="REV", help="a branch, BRANCH~N, or a commit's id")
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would be done")
    parser.add_argument("--no-prune", action="store_true", help="remove no old roots afterwards")
    parser.add_argument(
        "--allow-architecture",
        action="store_true",
        help="also deploy what this machine can't run",
    )
    parser.epilog = """\
Examples:
  hacktree deploy fastqa
  hacktree deploy fastqa~3 --dry-run
  hacktree --sysroot ~/trees deploy 3f9c21ab7

Exit statuses: 0 the commit is live, 2 there is no such commit or it is for another architecture,
5 local data is damaged, 6 another deploy is under way, 7 no space, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Plan, and unless --dry-run, deploy."""
    sysroot = open_sysroot(Path(args.sysroot))
    commit = resolve(sysroot.repository, args.revision)
    options = DeployOptions(
        architecture=ArchitecturePolicy.ALLOW_OTHER
        if args.allow_architecture
        else ArchitecturePolicy.REFUSE_OTHER,
        retention=RetentionPolicy.KEEP_ALL if args.no_prune else RetentionPolicy.PRUNE,
    )
    if args.dry_run:
        _show_plan(args, plan_deploy(sysroot, commit, options))
        return 0
    result = deploy_commit(sysroot, commit, options, lambda line: say(args, line))
    for note in result.notes:
        warn(note)
    _show_result(args, result)
    return 0


def deploy_pulled(sysroot: Sysroot, commit: ObjectId, remote: str, args: argparse.Namespace) -> int:
    """The second half of `hacktree pull`: deploy what came from `remote`, and say so."""
    json_progress = bool(args.json_progress)

    def report(line: str) -> None:
        if not json_progress:
            say(args, line)

    result = deploy_commit(sysroot, commit, DeployOptions(), report)
    for note in result.notes:
        warn(note)
    if json_progress:
        print(json.dumps({"event": "deployed", "remote": remote, **_document(result)}), flush=True)
    else:
        _show_result(args, result)
    return 0


def _show_plan(args: argparse.Namespace, plan: DeployPlan) -> None:
    root = plan.record.root
    if args.json:
        emit_json(
            {
                "action": plan.action.value,
                "root": root,
                "commit": plan.record.commit,
                "from": plan.old,
                "remove": list(plan.removed),
                "files": plan.commit.totals.files,
            }
        )
        return
    first = {
        DeployAction.NOTHING: f"nothing to do: {root} is live already",
        DeployAction.REUSE: f"swap to the existing root {root}",
        DeployAction.CHECK_OUT: f"check out {plan.commit.totals.files} files, swap to {root}",
    }[plan.action]
    print(first)
    for name in plan.removed:
        print(f"remove {name}")


def _document(result: DeployResult) -> dict[str, object]:
    return {
        "root": result.root,
        "changed": result.changed,
        "action": result.action.value,
        "from": result.previous,
        "linked": result.linked,
        "copied": result.copied,
        "removed": result.removed,
        "notes": result.notes,
        "seconds": {name: round(seconds, 4) for name, seconds in result.steps},
    }


def _show_result(args: argparse.Namespace, result: DeployResult) -> None:
    if args.json:
        emit_json(_document(result))
        return
    if not result.changed:
        say(args, f"nothing to do: {result.root} is live already")
    else:
        came = f" (was {result.previous})" if result.previous else ""
        say(args, f"{result.root} is live{came}")
    for name in result.removed:
        say(args, f"removed {name}")
    if args.verbose:
        for name, seconds in result.steps:
            say(args, f"  {name}: {seconds:.3f} s")
