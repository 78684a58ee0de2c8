"""`hacktree cleanup`."""

import argparse
from pathlib import Path

from hacktree.client.keeping import clean_up, plan_cleanup
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import emit_json, say, warn


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = (
        "Remove what interrupted commands left, and the roots beyond `keep-roots`. The running, "
        "current, previous and pinned roots stay."
    )
    parser.add_argument("--dry-run", "-n", action="store_true", help="only say what would be done")
    parser.epilog = """\
`hacktree prune` then frees the space of objects that nothing uses.

Examples:
  hacktree cleanup --dry-run

Exit statuses: 0 done, 6 a deploy is under way, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Remove leftovers and old roots."""
    sysroot = open_sysroot(Path(args.sysroot))
    staging: int | None = None
    if args.dry_run:
        plan = plan_cleanup(sysroot)
        leftovers, roots = plan.leftovers, list(plan.roots)
    else:
        result = clean_up(sysroot)
        leftovers, roots, staging = result.leftovers, result.roots, result.staging
        for note in result.notes:
            warn(note)
    lines = leftovers.describe()
    if args.json:
        emit_json({"recovered": lines, "roots": roots, "staging": staging})
        return 0
    for line in lines:
        say(args, line)
    for name in roots:
        say(args, f"remove {name}")
    if staging:
        say(args, f"delete {staging} directories of interrupted commits and trials")
    if not lines and not roots and not staging:
        say(args, "nothing to clean up")
    return 0
