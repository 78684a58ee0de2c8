"""`hacktree delta show`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, show
from hacktree.common.commands.delta_list import edge_as_json
from hacktree.common.repository.config import format_size
from hacktree.common.repository.packreading import summarise_pack
from hacktree.common.repository.packs import find_pack


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("pack", metavar="PACK", help="its name, or how it begins")
    parser.epilog = """\
Examples:
  hacktree --repo /srv/tree delta show 3f9c21ab

Exit statuses: 0 done, 2 no such pack, 5 the pack or a tree is damaged or missing."""


def run(args: argparse.Namespace) -> int:
    """Print what a pack holds, by kind of entry."""
    repository = repository_from(args)
    edge = find_pack(repository, args.pack)
    summary = summarise_pack(repository, edge)
    if args.json:
        emit_json({**edge_as_json(edge), **summary})
        return 0
    show(f"pack {edge.pack.hex()}")
    show(f"from {edge.old.hex() if edge.old else 'nothing'}\nto   {edge.new.hex()}")
    show(f"{format_size(edge.length)}, of which the head {format_size(edge.head_length)}")
    for name, value in summary.items():
        show(f"{name:<18} {value}")
    return 0
