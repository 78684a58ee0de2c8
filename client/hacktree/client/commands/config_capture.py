"""`hacktree config capture`: a config script of what was changed by hand."""

import argparse
import sys
from pathlib import Path

from hacktree.client.edits.capture import render_script, select_edits
from hacktree.client.edits.edits import root_edits
from hacktree.client.edits.places import etc_place
from hacktree.client.roots import read_roots
from hacktree.client.scripts.store import add_script
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.output import emit_json, say, warn
from hacktree.common.errors import UserError
from hacktree.common.objects.names import display_path


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.description = (
        "Make a config script of what was changed by hand in /etc of a root, so that every new "
        "root has it: contents, modes, owners, links, deletions."
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="*",
        help="with everything below it, as /etc/ssh (default: all that `config diff` shows)",
    )  # fmt: skip
    parser.add_argument("--name", metavar="NAME", help="of the script, as 50-mine")
    parser.add_argument("--root", metavar="ROOT", default="current", help="default: current")
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="print the script instead of adding it"
    )


def run(path: Path, args: argparse.Namespace) -> None:
    """Render, then add or print."""
    sysroot = open_sysroot(path)
    root = read_roots(sysroot).find(args.root).root
    edits = select_edits(root_edits(sysroot, root), args.paths)
    captured = render_script(root, edits, etc_place(sysroot, root).upper)
    for note in captured.notes:
        warn(note)
    if args.dry_run:
        sys.stdout.flush()
        sys.stdout.buffer.write(captured.script)
        return
    if args.name is None:
        raise UserError("the script needs a name", hint="--name 50-mine, say; -n only prints it.")
    add_script(sysroot.path, args.name, captured.script, captured.mode)
    if args.json:
        paths = [f"/{display_path(one)}" for one in captured.paths]
        emit_json({"name": args.name, "root": root, "paths": paths, "notes": captured.notes})
    say(args, f"{args.name} makes {len(captured.paths)} changes on every new root")
