"""`hacktree undeploy`."""

import argparse
from pathlib import Path

from hacktree.client.keeping import PreviousPolicy, undeploy_root
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import emit_json, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Remove a root. The live, the running and pinned roots are refused, and anything in which "
        "something is mounted or somebody works."
    )
    parser.add_argument("root", metavar="ROOT", help="a root's name or the beginning of it")
    parser.add_argument(
        "--force", action="store_true", help="also remove the root that rollback goes back to"
    )
    parser.epilog = """\
`hacktree prune` then frees the space of what only this root used.

Examples:
  hacktree undeploy gnomeos-3f9c21ab7.1
  hacktree undeploy previous --force

Exit statuses: 0 removed, 2 there is no such root or it is needed, 6 it is in use or a deploy is
under way, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Remove a root."""
    policy = PreviousPolicy.REMOVE if args.force else PreviousPolicy.REFUSE
    record = undeploy_root(open_sysroot(Path(args.sysroot)), args.root, policy)
    if args.json:
        emit_json({"removed": record.root, "commit": record.commit})
    else:
        say(args, f"removed {record.root}")
    return 0
