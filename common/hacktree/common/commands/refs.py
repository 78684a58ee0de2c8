"""`hacktree refs`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.repository.refs import check_ref_name, delete_ref, list_refs


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--delete", metavar="BRANCH", help="delete a branch; prune frees its space")
    parser.epilog = """\
Examples:
  hacktree refs
  hacktree --repo /srv/tree refs --delete experiments/wayland

Exit statuses: 0 done, 2 there is no such branch."""


def run(args: argparse.Namespace) -> int:
    """List branches and their heads."""
    repository = repository_from(args)
    if args.delete is not None:
        delete_ref(repository, check_ref_name(args.delete))
        say(args, f"{args.delete} is deleted; `hacktree prune` frees its space")
        return 0
    refs = list_refs(repository)
    if args.json:
        emit_json({name: head.hex() for name, head in refs.items()})
    else:
        for name, head in refs.items():
            show(f"{head.hex()}  {name}")
    return 0
