"""`hacktree commit`."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.metadata import parse_metadata
from hacktree.common.cli.output import emit_json, say, show, terminal_progress, warn
from hacktree.common.errors import UserError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.tree import Entry
from hacktree.common.repository.committing import (
    CommitRequest,
    CommitResult,
    commit_existing,
    commit_source,
)
from hacktree.common.repository.config import format_size
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import (
    IngestOptions,
    IngestReport,
    read_skip_list,
)
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve
from hacktree.common.repository.tar import ingest_tar
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("branch", metavar="BRANCH")
    parser.add_argument("tree", metavar="DIR", nargs="?", help="the directory to commit")
    parser.add_argument("--tar", metavar="FILE", help="commit a tar archive; - is standard input")
    parser.add_argument("--from", metavar="REV", dest="revision", help="commit another's tree")
    parser.add_argument("--subject", "-s", default="", help="one line that describes the build")
    parser.add_argument("--body", "-b", default="", help="more about it")
    parser.add_argument("--version", default="", help="the version that people know it by")
    parser.add_argument("--metadata", "-m", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument("--timestamp", metavar="TIME", help="seconds since 1970, or ISO 8601")
    parser.add_argument("--architecture", help="default: read from the tree's programs")
    parser.add_argument("--owner-uid", type=int, metavar="N", help="owner of everything")
    parser.add_argument("--owner-gid", type=int, metavar="N", help="group of everything")
    parser.add_argument("--skip-list", metavar="FILE", help="globs of paths to leave out")
    parser.add_argument("--if-changed", action="store_true", help="no commit for an equal tree")
    parser.add_argument("--strict", action="store_true", help="refuse devices, sockets and FIFOs")
    parser.add_argument(
        "--allow-renumbering",
        action="store_true",
        help=("accept users and groups whose numbers changed"),
    )
    parser.add_argument("--jobs", "-j", type=int, metavar="N", help="threads (default: all cores)")
    parser.epilog = """\
The list of packages is read from dpkg's status or the rpm database in the tree.

Examples:
  hacktree --repo /srv/tree commit builds /var/tmp/root --version 47.1 -s 'nightly'
  tar -C root -c . | hacktree --repo /srv/tree commit builds --tar -
  hacktree --repo /srv/tree commit fastqa --from builds --if-changed

Exit statuses: 0 committed (or nothing to commit), 2 wrong input, 6 the branch moved meanwhile,
7 no space, 8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Commit, and say what was stored."""
    if sum(source is not None for source in (args.tree, args.tar, args.revision)) != 1:
        raise UserError("commit takes one of DIR, --tar FILE and --from REV")
    repository = repository_from(args)
    request = CommitRequest(
        branch=parse_branch_name(args.branch),
        time=_parse_time(args.timestamp),
        subject=args.subject,
        body=args.body,
        version=args.version,
        architecture=args.architecture,
        metadata=parse_metadata(args.metadata),
        allow_renumbering=args.allow_renumbering,
        only_if_changed=args.if_changed,
    )
    started = time.monotonic()
    if args.revision is not None:
        result = commit_existing(repository, resolve(repository, args.revision), request)
    else:
        result = commit_source(repository, _source(args, repository), request)
    _report(args, result, time.monotonic() - started)
    return 0


def _source(
    args: argparse.Namespace, repository: Repository
) -> Callable[
    [Transaction, Callable[[bytes], Entry | None] | None],
    tuple[BuildDirectory, IngestReport],
]:
    skip = read_skip_list(Path(args.skip_list)) if args.skip_list else ()
    progress = None if args.quiet else terminal_progress("committing")

    def ingest(
        transaction: Transaction, base: Callable[[bytes], Entry | None] | None
    ) -> tuple[BuildDirectory, IngestReport]:
        options = IngestOptions(
            owner_uid=args.owner_uid,
            owner_gid=args.owner_gid,
            skip=skip,
            strict=args.strict,
            jobs=args.jobs or os.cpu_count() or 1,
            base=base,
        )
        if args.tree is not None:
            return ingest_directory(transaction, Path(args.tree), options, progress)
        if args.tar == "-":
            return ingest_tar(transaction, sys.stdin.buffer, options, progress)
        with open(args.tar, "rb") as stream:
            return ingest_tar(transaction, stream, options, progress)

    return ingest


def _parse_time(text: str | None) -> int:
    if text is None:
        return int(time.time())
    if text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"not a time: {text!r}", hint="Example: 2026-11-23T09:34:00Z") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _report(args: argparse.Namespace, result: CommitResult, seconds: float) -> None:
    for line in result.report.warnings():
        warn(line)
    commit = result.commit
    if args.json:
        emit_json(
            {
                "commit": result.id.hex(),
                "branch": commit.branch,
                "sequence": commit.sequence,
                "changed": result.changed,
                "new-objects": result.new_objects,
                "new-bytes": result.new_bytes,
                "files": commit.totals.files,
                "packages": len(cast("list[object]", commit.metadata.get("packages", []))),
                "seconds": round(seconds, 3),
            }
        )
        return
    if args.quiet:
        show(result.id.hex())
        return
    if not result.changed:
        say(args, f"{commit.branch} has this tree already: {result.id.hex()}")
        return
    say(args, f"{commit.branch} is now {result.id.hex()} (build {commit.sequence})")
    say(
        args,
        f"  {commit.totals.files} files, {format_size(commit.totals.bytes)}; {result.new_objects} "
        f"new objects, {format_size(result.new_bytes)} stored; {seconds:.1f} s",
    )
