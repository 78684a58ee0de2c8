"""`hacktree cat`."""

import argparse
import os
import sys

from hacktree.common.cli.context import repository_from
from hacktree.common.errors import UserError
from hacktree.common.objects.names import display_path
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("paths", metavar="PATH", nargs="+")
    parser.epilog = """\
Examples:
  hacktree cat fastqa /etc/os-release

Exit statuses: 0 done, 2 no such revision or file, 5 the content is damaged."""


def run(args: argparse.Namespace) -> int:
    """Write the files' content to standard output."""
    repository = repository_from(args)
    root = repository.load_commit(resolve(repository, args.revision)).root.id
    for text in args.paths:
        path = os.fsencode(text).strip(b"/")
        entry = find_entry(repository.load_tree, root, path)
        if not isinstance(entry, FileEntry):
            raise UserError(f"/{display_path(path)} is not a regular file in that commit")
        for chunk in repository.read_content(entry):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return 0
