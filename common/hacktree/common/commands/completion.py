"""`hacktree completion`."""

import argparse

from hacktree.common.cli.main import build_complete_parser
from hacktree.common.cli.output import show


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    parser.epilog = """\
Examples:
  hacktree completion bash > /usr/share/bash-completion/completions/hacktree

Exit statuses: 0 done."""


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    show(shtab.complete(build_complete_parser(), args.shell))
    return 0
