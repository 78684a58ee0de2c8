"""`hacktree delta generate`."""

import argparse
import os
import sys
import time

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, warn
from hacktree.common.delta.pairs import Build, wanted_pairs
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.config import format_size
from hacktree.common.repository.packing import PackReport, Progress, make_pack
from hacktree.common.repository.packs import list_edges, require_archive
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("branch", metavar="BRANCH", nargs="*", help="default: every branch")
    parser.add_argument("--from", dest="old", metavar="REV", help="one pack: from this build…")
    parser.add_argument("--to", dest="new", metavar="REV", help="…to this one")
    parser.add_argument(
        "--depth", metavar="N", type=int, default=1, help="builds to look back (default: 1)"
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, default=os.cpu_count() or 1, help="processes at a time"
    )
    parser.add_argument("--force", action="store_true", help="also packs that are there")
    parser.add_argument("--dry-run", action="store_true", help="only say which packs are missing")
    parser.epilog = """\
Without --from and --to, packs are made for the newest build of each branch from the one before it;
with --depth N for the last N steps, with longer steps and steps back in between. What could not be
encoded in time or memory becomes a whole object and is reported.

Examples:
  hacktree --repo /srv/tree delta generate
  hacktree --repo /srv/tree delta generate builds --depth 64 --jobs 2
  hacktree --repo /srv/tree delta generate --from builds~2 --to builds

Exit statuses: 0 done, 2 no such build, or no archive, 5 an object is damaged, 7 no space."""


def run(args: argparse.Namespace) -> int:
    """Make what is missing."""
    repository = repository_from(args)
    require_archive(repository)
    pairs = _pairs(repository, args)
    if not args.force:
        there = {(edge.old, edge.new) for edge in list_edges(repository)}
        pairs = [pair for pair in pairs if pair not in there]
    if args.dry_run:
        return _print_plan(pairs, args)
    documents = []
    for old, new in pairs:
        started = time.monotonic()
        report = make_pack(repository, old, new, jobs=args.jobs, progress=_progress(args))
        documents.append(_summarise(report, time.monotonic() - started, args))
    if args.json:
        emit_json(documents)
    elif not pairs:
        say(args, "nothing to do: every pack is there")
    return 0


def _pairs(repository: Repository, args: argparse.Namespace) -> list[tuple[ObjectId, ObjectId]]:
    if (args.old is None) != (args.new is None):
        raise UserError("--from and --to go together")
    if args.old is not None:
        trees = [
            repository.load_commit(resolve(repository, text)).root.id
            for text in (args.old, args.new)
        ]
        if trees[0] == trees[1]:
            raise UserError("both builds have the same tree: there is nothing to send")
        return [(trees[0], trees[1])]
    pairs: dict[tuple[ObjectId, ObjectId], None] = {}
    for branch in args.branch or [n for n in list_refs(repository) if not n.startswith("remotes/")]:
        pairs.update(dict.fromkeys(wanted_pairs(_history(repository, branch, args.depth))))
    return list(pairs)


def _history(repository: Repository, branch: str, depth: int) -> list[Build]:
    builds: list[Build] = []
    wanted: ObjectId | None = resolve(repository, branch)
    while wanted is not None and len(builds) <= depth and repository.has_meta(wanted):
        commit = repository.load_commit(wanted)
        builds.append(Build(commit.sequence, commit.root.id))
        wanted = commit.parents[0] if commit.parents else None
    return builds


def _progress(args: argparse.Namespace) -> Progress | None:
    if args.quiet or not sys.stderr.isatty():
        return None

    def show(step: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        text = f"\r{step}: {format_size(done)} of {format_size(total)}   "
        print(text, end=end, file=sys.stderr, flush=True)

    return show


def _print_plan(pairs: list[tuple[ObjectId, ObjectId]], args: argparse.Namespace) -> int:
    if args.json:
        emit_json([{"from": old.hex(), "to": new.hex()} for old, new in pairs])
    else:
        for old, new in pairs:
            print(f"{old.hex()[:16]} → {new.hex()[:16]}")
    return 0


def _summarise(report: PackReport, seconds: float, args: argparse.Namespace) -> dict[str, object]:
    edge = report.edge
    for line in report.degraded:
        warn(f"whole instead of a delta: {line}")
    say(
        args,
        f"pack {edge.pack.hex()[:16]}: {edge.entries} objects of {format_size(edge.decoded)} in "
        f"{format_size(edge.length)}, {report.frames} frames, {seconds:.1f} s",
    )
    return {
        "pack": edge.pack.hex(),
        "from": edge.old.hex() if edge.old else None,
        "to": edge.new.hex(),
        "bytes": edge.length,
        "head-bytes": edge.head_length,
        "objects": edge.entries,
        "decoded-bytes": edge.decoded,
        "frames": report.frames,
        "kinds": report.kinds,
        "degraded": report.degraded,
        "seconds": round(seconds, 1),
    }
