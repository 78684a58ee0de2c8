"""`hacktree delta verify`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, terminal_progress
from hacktree.common.errors import CorruptError
from hacktree.common.repository.config import format_size
from hacktree.common.repository.packreading import verify_pack
from hacktree.common.repository.packs import find_pack, list_edges


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("pack", metavar="PACK", nargs="*", help="default: every pack")
    parser.epilog = """\
Every frame is hashed, every entry decoded and compared with the id that the trees promise. Where a
build was pruned, frames are only hashed.

Examples:
  hacktree --repo /srv/tree delta verify
  hacktree --repo /srv/tree delta verify 3f9c21ab

Exit statuses: 0 all good, 2 no such pack, 5 a pack is damaged."""


def run(args: argparse.Namespace) -> int:
    """Verify and say how many entries were good."""
    repository = repository_from(args)
    edges = [find_pack(repository, name) for name in args.pack] or list_edges(repository)
    documents, bad = [], 0
    for edge in edges:
        result = verify_pack(repository, edge, terminal_progress(edge.pack.hex()[:16]))
        bad += len(result.problems)
        documents.append(
            {
                "pack": edge.pack.hex(),
                "entries": result.entries,
                "bytes": result.bytes,
                "stranded": result.stranded,
                "problems": result.problems,
            }
        )
        what = f"{result.entries} entries, {format_size(result.bytes)}"
        if result.stranded:
            what = "a build was pruned: only hashed"
        say(args, f"{edge.pack.hex()[:16]}: {what}, {len(result.problems)} bad")
        for problem in result.problems:
            say(args, f"  {problem}")
    if args.json:
        emit_json(documents)
    if bad:
        raise CorruptError(
            f"{bad} entries are bad", hint="`hacktree delta generate --force` makes packs anew."
        )
    return 0
