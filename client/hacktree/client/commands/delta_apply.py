"""`hacktree delta apply`."""

import argparse
import asyncio
import os
from pathlib import Path

from hacktree.client.bundle_source import BundleSource
from hacktree.client.heads import UnsignedHeads
from hacktree.client.pull import PullReport, PullRequest, PullResult, decoders, pull
from hacktree.client.target import Steps, Wanted
from hacktree.common.cli.context import repository_path
from hacktree.common.cli.output import emit_json, say, warn
from hacktree.common.delta.prefer import Prefer
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.bundle import read_bundle
from hacktree.common.repository.decoding import DecoderPool
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository, open_repository

REMOTE = "bundle"
"""Whose refs name what bundles brought: `remotes/bundle/<branch>`."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("file", metavar="FILE", help="what `hacktree delta export` wrote")
    authority = parser.add_mutually_exclusive_group(required=True)
    authority.add_argument("--commit", metavar="ID", help="the commit that it must bring")
    authority.add_argument("--unsigned", action="store_true", help="believe what it says it brings")
    parser.epilog = """\
Brings the build in a bundle into the sysroot's repository, or --repo, from a build that is there.
Everything is verified against the commit's id. `hacktree deploy` then makes it live.

Examples:
  hacktree delta apply week.bundle --commit 3f9c21ab7…
  hacktree deploy bundle:builds

Exit statuses: 0 done, 2 wrong usage, or another commit, 4 the bundle is damaged, or leads here from
other builds, 5 local data is damaged, 6 somebody holds the lock, 7 no space."""


def run(args: argparse.Namespace) -> int:
    """Pull from the bundle."""
    wanted = None if args.commit is None else parse_object_id(args.commit)
    repository = _repository(args)
    if repository.mode is Mode.ARCHIVE:
        raise UserError(
            f"{repository.path} is an archive: bundles are for machines that deploy",
            hint="Name another --repo or --sysroot.",
        )
    with decoders(repository) as pool:
        pool.fork()
        result = asyncio.run(_apply(repository, Path(args.file), wanted, pool))
    for note in result.packs.notes:
        warn(note)
    if args.json:
        emit_json(
            {
                "commit": result.target.id.hex(),
                "changed": not result.was_complete,
                "delta-objects": result.packs.objects,
                "whole-objects": result.totals.fetched_objects,
            }
        )
        return 0
    say(
        args,
        f"{result.target.id.hex()[:16]} is here: {result.packs.objects} files by delta, "
        f"{result.totals.fetched_objects} whole, {result.reused_files} were here",
    )
    return 0


def _repository(args: argparse.Namespace) -> Repository:
    if args.repo or os.environ.get("HACKTREE_REPO"):
        return open_repository(repository_path(args))
    from hacktree.client.sysroot import prepare_sysroot

    return prepare_sysroot(args.sysroot).repository


async def _apply(
    repository: Repository, path: Path, wanted: ObjectId | None, pool: DecoderPool
) -> PullResult:
    with path.open("rb") as stream:
        bundle = read_bundle(stream)
        source = BundleSource(bundle, stream, str(path))
        heads = UnsignedHeads(source)
        branch = parse_branch_name(bundle.branch)
        head = await heads.read_head(branch)
        if wanted is not None and head != wanted:
            raise UserError(
                f"{path} brings {head.hex()}, not {wanted.hex()}", hint="Nothing of it was used."
            )
        request = PullRequest(REMOTE, Wanted(None, branch, Steps()), 1, Prefer.BYTES)
        return await pull(repository, request, heads, [source], PullReport(), pool)
