"""`hacktree init`."""

import argparse
import os
from pathlib import Path

from hacktree.common.cli.context import repository_path
from hacktree.common.cli.output import emit_json, say
from hacktree.common.repository.layout import Mode, init_repository


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help=(
            "archive: compressed, to publish; bare: the files that roots link to, as root; "
            "bare-user: the same without root (default: archive; in a sysroot bare or bare-user)"
        ),
    )
    parser.epilog = """\
Doing it again with the same mode changes nothing.

Examples:
  hacktree --repo /srv/tree init                  a repository to publish
  hacktree --sysroot /tmp/machine init            the repository of a sysroot

Exit statuses: 0 done, 2 it is a repository of another mode, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Create the repository."""
    path = repository_path(args)
    mode = Mode(args.mode) if args.mode else _default_mode(args, path)
    init_repository(path, mode)
    if args.json:
        emit_json({"path": str(path), "mode": mode.value})
    say(args, f"{path}: a repository in {mode.value} mode")
    return 0


def _default_mode(args: argparse.Namespace, path: Path) -> Mode:
    if path != Path(args.sysroot) / ".ht":
        return Mode.ARCHIVE
    return Mode.BARE if os.geteuid() == 0 else Mode.BARE_USER
