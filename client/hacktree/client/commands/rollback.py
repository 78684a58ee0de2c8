"""`hacktree rollback`."""

import argparse
from pathlib import Path

from hacktree.client.rollback import PREVIOUS, RollbackPlan, plan_rollback, roll_back
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import emit_json, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Make the root live that was live before; doing it twice returns. Nothing is rebuilt."
    )
    parser.add_argument("--to", metavar="ROOT", default=PREVIOUS, help="go to this root instead")
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would be done")
    parser.epilog = """\
Examples:
  hacktree rollback
  hacktree rollback --to gnomeos-3f9c21ab7.1

Exit statuses: 0 done, 2 there is no such root, 6 a deploy is under way, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Swap the live link to an existing root."""
    sysroot = open_sysroot(Path(args.sysroot))
    if args.dry_run:
        _show(args, plan_rollback(sysroot, args.to), "would be")
    else:
        _show(args, roll_back(sysroot, args.to), "is")
    return 0


def _show(args: argparse.Namespace, plan: RollbackPlan, verb: str) -> None:
    root = plan.record.root
    if args.json:
        emit_json(
            {
                "root": root,
                "commit": plan.record.commit,
                "from": plan.old,
                "changed": plan.changes,
            }
        )
    elif not plan.changes:
        say(args, f"nothing to do: {root} is live already")
    else:
        say(args, f"{root} {verb} live (was {plan.old})")
