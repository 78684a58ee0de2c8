"""`hacktree unpin`."""

import argparse
from pathlib import Path

from hacktree.client.keeping import unpin_root
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import emit_json, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "Leave a root to retention again."
    parser.add_argument(
        "root",
        metavar="ROOT",
        nargs="?",
        default="current",
        help="a root's name or the beginning of it, `previous` or `current` (the default)",
    )
    parser.epilog = """\
Examples:
  hacktree unpin
  hacktree unpin gnomeos-3f9c21ab7.1

Exit statuses: 0 done, 2 there is no such root, 6 a deploy is under way."""


def run(args: argparse.Namespace) -> int:
    """Unpin a root."""
    record = unpin_root(open_sysroot(Path(args.sysroot)), args.root)
    if args.json:
        emit_json({"root": record.root, "pinned": record.pinned})
    else:
        say(args, f"{record.root} is no longer pinned")
    return 0
