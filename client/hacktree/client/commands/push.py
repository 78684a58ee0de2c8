"""`hacktree push`: send a build to a server and make it a branch's head."""

import argparse
import asyncio
import contextlib
import os
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from hacktree.client.push.batches import plan_push, require_archive
from hacktree.client.push.connection import connect_for_push
from hacktree.client.push.pushing import PushTotals, Report, Signer, load_build, push
from hacktree.client.push.treecommit import (
    cached_archive,
    follow_server,
    inherit_root,
    knows_root,
    learn_root,
)
from hacktree.client.remote import Remote
from hacktree.client.retry import real_patience
from hacktree.client.source import Traffic
from hacktree.client.sysroot import DIRECTORY
from hacktree.client.waiting import LOGGER
from hacktree.common.cli.connection import read_secret
from hacktree.common.cli.context import repository_from
from hacktree.common.cli.metadata import parse_metadata
from hacktree.common.cli.notices import show_notices
from hacktree.common.cli.output import emit_json, say, show, warn
from hacktree.common.cli.progress import terminal_count
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.objects.tree import Entry
from hacktree.common.repository.committing import CommitRequest, CommitResult, commit_source
from hacktree.common.repository.config import format_size
from hacktree.common.repository.directory import ingest_directory
from hacktree.common.repository.ingest import IngestOptions, IngestReport
from hacktree.common.repository.layout import NotARepositoryError
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.revision import resolve
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = textwrap.dedent("""\
        Send what a server lacks of a build, and make the build the head of its branch there. The
        server checks that the build is whole before anybody sees it. A build that follows others
        which the server lacks brings them too, oldest first.

        A directory is committed first: to the archive that --repo names, else to one in the
        cache directory, on top of the server's head: the signed one, where --root-fingerprint or a
        remote of this machine says whose signatures count.""")
    parser.add_argument("branch", metavar="BRANCH")
    parser.add_argument(
        "what",
        metavar="COMMIT|DIR",
        help="a revision of the archive --repo, or a directory (./NAME where both exist)",
    )
    parser.add_argument("--server", metavar="URL", required=True, help="where pulls come from, too")
    parser.add_argument(
        "--token-file", metavar="FILE", help="holds the token; default: $HACKTREE_TOKEN"
    )
    parser.add_argument(
        "--dry-run", "-n", action="store_true", help="only say what a commit's push sends at most"
    )
    parser.add_argument("--subject", "-s", default="", help="of a directory's commit")
    parser.add_argument("--version", default="", help="of a directory's commit")
    parser.add_argument("--metadata", "-m", metavar="KEY=VALUE", action="append", default=[])
    parser.add_argument(
        "--allow-renumbering",
        action="store_true",
        help="accept users and groups whose numbers changed",
    )
    parser.add_argument(
        "--sign-with", metavar="FILE", help="the branch's key, where the server's heads are signed"
    )
    parser.add_argument("--passphrase-file", metavar="FILE", help="of that key; else asked for")
    parser.add_argument(
        "--root-fingerprint",
        metavar="SHA256",
        help="for a directory: of the root whose signatures say where the branch is; remembered",
    )
    parser.add_argument("--tls-ca", metavar="FILE", help="authorities of the server's certificate")
    parser.add_argument("--tls-cert", metavar="FILE", help="client certificate")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.epilog = """\
Interrupted, killed or refused for want of space, a push continues when it is run again: what the
server has acknowledged is not sent twice.

Examples:
  hacktree --repo build.ht push builds builds --server https://builds.example
  hacktree push builds ./root --server https://builds.example --token-file /run/secrets/push
  hacktree --repo build.ht push builds builds --server https://builds.example \\
      --sign-with /etc/hacktree/keys/builds
  hacktree push builds ./root --server https://builds.example --sign-with /run/secrets/builds \\
      --root-fingerprint 9f86d081…
  HACKTREE_TOKEN=… hacktree push gnomeos/x86_64/builds ./root -s nightly --version 48.1 \\
      --server https://builds.example

Exit statuses: 0 pushed, or published already, 2 wrong input or token, 4 the server can't be reached
or refuses, 5 local data is damaged, 6 the branch has another head meanwhile, 7 no space here,
8 the system refused, 130 interrupted."""


def run(args: argparse.Namespace) -> int:
    """Commit if need be, push, and say what was sent."""
    show_notices(args, LOGGER)
    branch = parse_branch_name(args.branch)
    remote = Remote("server", args.server, "unsigned", args.tls_ca, args.tls_cert, args.tls_key)
    if remote.local_path is not None:
        raise UserError("--server takes an http:// or https:// URL")
    if args.dry_run:
        return _print_plan(args, branch)
    secret = read_secret(args.token_file, args.server)
    signer = None if args.sign_with is None else _signer(args)
    started = time.monotonic()
    repository, commit_id = _prepare(args, remote, branch)
    report = _report(args)
    pushing = _push(repository, branch, commit_id, remote, secret, report, signer)
    totals, traffic = asyncio.run(pushing)
    _summarise(args, commit_id, totals, traffic, time.monotonic() - started)
    return 0


def _print_plan(args: argparse.Namespace, branch: BranchName) -> int:
    if os.path.isdir(args.what):
        raise UserError("--dry-run is for a commit", hint="Commit the directory, then push that.")
    repository = repository_from(args)
    require_archive(repository)
    build = load_build(repository, branch, resolve(repository, args.what))
    plan = plan_push(repository, build.id, build.commit)
    if args.json:
        emit_json(
            {
                "commit": build.id.hex(),
                "objects": plan.objects,
                "bytes": plan.bytes,
                "batches": plan.batches,
            }
        )
        return 0
    show(
        f"{build.id.hex()}: at most {plan.objects} objects, {format_size(plan.bytes)} in "
        f"{plan.batches} batches, if the server has its parent"
    )
    return 0


def _signer(args: argparse.Namespace) -> Signer:
    """Signs with the key that the command line names; it is read before anything is sent."""
    from hacktree.common.cli.signing import load_key
    from hacktree.common.trust.editing import sign_branch

    key = load_key(args, args.sign_with)

    def sign(branch: BranchName, head: ObjectId, length: int, version: int) -> bytes:
        role = sign_branch(branch, head, length, version, key, datetime.now(UTC))
        data: bytes = role.to_bytes()
        return data

    return sign


def _prepare(
    args: argparse.Namespace, remote: Remote, branch: BranchName
) -> tuple[Repository, ObjectId]:
    """The repository to push from, and the commit."""
    named = args.repo or os.environ.get("HACKTREE_REPO")
    if not os.path.isdir(args.what):
        repository = repository_from(args)
        require_archive(repository)
        return repository, resolve(repository, args.what)
    if named:
        repository = repository_from(args)
        require_archive(repository)
    else:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        repository = cached_archive(Path(home), args.server, branch)
        _require_root(args, repository, remote)
        asyncio.run(follow_server(repository, remote, branch, real_patience()))
    result = _commit(repository, branch, args)
    for line in result.report.warnings():
        warn(line)
    return repository, result.id


def _require_root(args: argparse.Namespace, repository: Repository, remote: Remote) -> None:
    """Find whom to believe about the head that the commit follows, before it is read.

    A signature vouches for the builds before, too: nothing is signed on top of a server's word.
    """
    if args.root_fingerprint is not None:
        asyncio.run(learn_root(repository, remote, real_patience(), args.root_fingerprint))
    elif not knows_root(repository, remote):
        with contextlib.suppress(NotARepositoryError, PermissionError):
            inherit_root(repository, remote, open_repository(Path(args.sysroot) / DIRECTORY))
    if knows_root(repository, remote):
        return
    if args.sign_with is not None:
        raise UserError(
            "a signature vouches for the builds before, and nothing says whether the server's head "
            f"of {args.branch} is genuine",
            hint="--root-fingerprint SHA256, once: `hacktree trust status` shows it on the farm.",
        )
    if not remote.is_near:
        warn(
            f"the head of {args.branch} is what {remote.shown_url} says: nothing verifies it. "
            "--root-fingerprint does, where heads are signed"
        )


def _commit(repository: Repository, branch: BranchName, args: argparse.Namespace) -> CommitResult:
    """Nothing new is committed if the branch has this tree: a repeated push finds its commit."""

    def ingest(
        transaction: Transaction, base: Callable[[bytes], Entry | None] | None
    ) -> tuple[BuildDirectory, IngestReport]:
        return ingest_directory(transaction, Path(args.what), IngestOptions(base=base))

    request = CommitRequest(
        branch=branch,
        time=int(time.time()),
        subject=args.subject,
        version=args.version,
        metadata=parse_metadata(args.metadata),
        allow_renumbering=args.allow_renumbering,
        only_if_changed=True,
    )
    return commit_source(repository, ingest, request)


def _report(args: argparse.Namespace) -> Report:
    def silent(_done: int, _total: int) -> None:
        return

    return (None if args.quiet else terminal_count("pushing objects")) or silent


async def _push(
    repository: Repository,
    branch: BranchName,
    commit_id: ObjectId,
    remote: Remote,
    secret: str,
    report: Report,
    signer: Signer | None,
) -> tuple[PushTotals, Traffic]:
    async with connect_for_push(remote, secret, real_patience()) as server:
        totals = await push(repository, branch, commit_id, server, report, signer)
        return totals, server.traffic


def _summarise(
    args: argparse.Namespace,
    commit_id: ObjectId,
    totals: PushTotals,
    traffic: Traffic,
    seconds: float,
) -> None:
    if args.json:
        emit_json(
            {
                "commit": commit_id.hex(),
                "builds": totals.builds,
                "sent-objects": totals.objects,
                "sent-bytes": totals.bytes,
                "requests": traffic.requests,
                "seconds": round(seconds, 3),
            }
        )
    elif args.quiet:
        show(commit_id.hex())
    elif not totals.builds:
        say(args, f"{args.branch} has {commit_id.hex()} already")
    else:
        say(args, f"{args.branch} is now {commit_id.hex()} at {args.server}")
        say(
            args,
            f"  {totals.builds} builds; {totals.objects} objects, {format_size(totals.bytes)} "
            f"sent in {traffic.requests} requests, {seconds:.1f} s",
        )
