"""`hacktree delta list`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.delta.graph import Edge
from hacktree.common.repository.config import format_size
from hacktree.common.repository.packs import list_edges


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.epilog = """\
Examples:
  hacktree --repo /srv/tree delta list
  hacktree --repo /srv/tree delta list --json

Exit statuses: 0 done, 5 the graph is damaged."""


def run(args: argparse.Namespace) -> int:
    """Print the graph's edges, newest first."""
    edges = list_edges(repository_from(args))
    if args.json:
        emit_json([edge_as_json(edge) for edge in edges])
        return 0
    for edge in edges:
        old = edge.old.hex()[:12] if edge.old else "nothing     "
        show(
            f"{edge.pack.hex()[:16]}  {old} → {edge.new.hex()[:12]}  {edge.entries:>6} objects  "
            f"{format_size(edge.decoded):>9} in {format_size(edge.length):>9}"
        )
    if not edges:
        say(args, "no packs: `hacktree delta generate` makes them")
    return 0


def edge_as_json(edge: Edge) -> dict[str, object]:
    """An edge for programs; trees, not commits."""
    return {
        "pack": edge.pack.hex(),
        "from": edge.old.hex() if edge.old else None,
        "to": edge.new.hex(),
        "head-bytes": edge.head_length,
        "bytes": edge.length,
        "objects": edge.entries,
        "decoded-bytes": edge.decoded,
        "decode-ms": edge.cost,
    }
