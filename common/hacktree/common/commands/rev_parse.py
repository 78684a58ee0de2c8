"""`hacktree rev-parse`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, show
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revisions", metavar="REV", nargs="+")
    parser.epilog = """\
Examples:
  hacktree rev-parse fastqa fastqa~1

Exit statuses: 0 done, 2 there is no such revision."""


def run(args: argparse.Namespace) -> int:
    """Print one id a line."""
    repository = repository_from(args)
    ids = [resolve(repository, revision).hex() for revision in args.revisions]
    if args.json:
        emit_json(ids)
    else:
        show("\n".join(ids))
    return 0
