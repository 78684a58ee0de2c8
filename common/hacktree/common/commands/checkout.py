"""`hacktree checkout`."""

import argparse
import os
import secrets
import shutil
from pathlib import Path

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.errors import UserError
from hacktree.common.repository.checkout import LinkPolicy, check_out
from hacktree.common.repository.config import format_size
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("destination", metavar="DIR", help="must not exist")
    parser.add_argument("--subpath", metavar="PATH", default="", help="only this directory")
    parser.add_argument("--copy", action="store_true", help="copy instead of hard-linking")
    parser.epilog = """\
From a bare repository files are hard links: do not write to them, or use --copy. The directory is
not synced to disk: deploy is what makes a root that survives a power cut.

Examples:
  hacktree checkout fastqa /tmp/tree
  hacktree --repo /srv/tree checkout builds~3 /tmp/etc --subpath /etc

Exit statuses: 0 done, 2 no such revision or the directory exists, 5 an object is missing or
damaged, 7 no space, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Check out beside the destination, then rename: a directory by that name is complete."""
    repository = repository_from(args)
    destination = Path(args.destination)
    if os.path.lexists(destination):
        raise UserError(f"{destination} exists", hint="Choose another name, or remove it first.")
    with repository.lock(LockKind.SHARED):
        commit = repository.load_commit(resolve(repository, args.revision))
        temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
        policy = LinkPolicy.COPY if args.copy else LinkPolicy.HARDLINK
        try:
            report = check_out(
                repository, commit, temporary, subpath=os.fsencode(args.subpath), policy=policy
            )
            os.rename(temporary, destination)
        except BaseException:
            if temporary.exists():
                shutil.rmtree(temporary)
            raise
    if args.json:
        emit_json(
            {"linked": report.linked, "copied": report.copied, "bytes-copied": report.copied_bytes}
        )
    say(
        args,
        f"{destination}: {report.linked} files linked, {report.copied} copied "
        f"({format_size(report.copied_bytes)})",
    )
    return 0
