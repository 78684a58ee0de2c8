"""`hacktree delta generate`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, rewrite, say, show, warn
from hacktree.common.delta.pairs import Pair, pairs_of_newest, wanted_pairs
from hacktree.common.errors import UserError
from hacktree.common.repository.config import format_size
from hacktree.common.repository.packing import (
    Encoders,
    PackReport,
    Progress,
    make_pack,
    sweep_staging,
)
from hacktree.common.repository.packneeds import read_history
from hacktree.common.repository.packs import list_edges, require_archive
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve

_SHOWN: Final = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("branch", metavar="BRANCH", nargs="*", help="default: every branch")
    parser.add_argument("--from", dest="old", metavar="REV", help="one pack: from this build…")
    parser.add_argument("--to", dest="new", metavar="REV", help="…to this one")
    parser.add_argument(
        "--all", action="store_true", help="every pack that the last 64 builds should have"
    )
    parser.add_argument(
        "--jobs", "-j", metavar="N", type=int, help="processes at a time (default: all cores)"
    )
    parser.add_argument("--force", action="store_true", help="also packs that are there")
    parser.add_argument("--dry-run", action="store_true", help="only say which packs are missing")
    parser.epilog = """\
Without --from and --to, packs are made that lead to and from the newest build of each branch: from
the build before it, from some further back, and the ways back. Run after every build, that joins
any two of the last 64 by at most 8 packs. Packs that are there are not made again.

What can't be encoded in time or memory becomes a whole object and is reported. An interrupted run
continues where it stopped: what was encoded is in state/deltas of the repository.

Examples:
  hacktree --repo /srv/tree delta generate builds
  hacktree --repo /srv/tree delta generate --all --jobs 16
  hacktree --repo /srv/tree delta generate --from builds~2 --to builds

Exit statuses: 0 done, 1 no encoder works, 2 no such build, or no archive, 5 an object is damaged,
6 another process makes packs here, 7 no space."""


def run(args: argparse.Namespace) -> int:
    """Make what is missing."""
    repository = repository_from(args)
    require_archive(repository)
    sweep_staging(repository)
    pairs = _pairs(repository, args)
    if not args.force:
        there = {(edge.old, edge.new) for edge in list_edges(repository)}
        pairs = [pair for pair in pairs if pair not in there]
    if args.dry_run:
        return _print_plan(pairs, args)
    documents = []
    encoders = Encoders(args.jobs or os.cpu_count() or 1)
    for old, new in pairs:
        started = time.monotonic()
        report = make_pack(repository, old, new, encoders, _progress(args))
        documents.append(_summarise(report, time.monotonic() - started, args))
    if args.json:
        emit_json(documents)
    elif not pairs:
        say(args, "nothing to do: every pack is there")
    return 0


def _pairs(repository: Repository, args: argparse.Namespace) -> list[Pair]:
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
    choose = wanted_pairs if args.all else pairs_of_newest
    histories = [read_history(repository, branch) for branch in _branches(repository, args)]
    # Testers wait for promoted builds.
    histories.sort(key=lambda history: not history.promoted)
    pairs = [pair for history in histories for pair in choose(history.builds)]
    return list(dict.fromkeys(pairs))


def _branches(repository: Repository, args: argparse.Namespace) -> list[str]:
    refs = [name for name in list_refs(repository) if not name.startswith("remotes/")]
    for branch in args.branch:
        if branch not in refs:
            raise UserError(f"there is no branch {branch}", hint="`hacktree refs` lists them.")
    return args.branch or refs


def _progress(args: argparse.Namespace) -> Progress | None:
    if args.quiet or not sys.stderr.isatty():
        return None

    def show(step: str, done: int, total: int) -> None:
        rewrite(f"{step}: {format_size(done)} of {format_size(total)}   ", ends=done >= total)

    return show


def _print_plan(pairs: Sequence[Pair], args: argparse.Namespace) -> int:
    if args.json:
        emit_json([{"from": old.hex(), "to": new.hex()} for old, new in pairs])
    else:
        for old, new in pairs:
            show(f"{old.hex()[:16]} → {new.hex()[:16]}")
    return 0


def _report_failures(report: PackReport) -> None:
    for line in report.degraded[:_SHOWN]:
        warn(f"whole instead of a delta: {line}")
    if len(report.degraded) > _SHOWN:
        warn(f"and {len(report.degraded) - _SHOWN} more are whole (--json lists all)")


def _summarise(report: PackReport, seconds: float, args: argparse.Namespace) -> dict[str, object]:
    edge = report.edge
    _report_failures(report)
    beside = (
        f" and {format_size(report.alternatives)} of alternatives" if report.alternatives else ""
    )
    say(
        args,
        f"pack {edge.pack.hex()[:16]}: {edge.entries} objects of {format_size(edge.decoded)} in "
        f"{format_size(edge.length)}{beside}, {report.frames} frames, {seconds:.1f} s",
    )
    return {
        "pack": edge.pack.hex(),
        "from": edge.old.hex() if edge.old else None,
        "to": edge.new.hex(),
        "bytes": edge.length,
        "head-bytes": edge.head_length,
        "alternatives-bytes": report.alternatives,
        "objects": edge.entries,
        "decoded-bytes": edge.decoded,
        "frames": report.frames,
        "kinds": report.kinds,
        "degraded": report.degraded,
        "left-out": report.left_out,
        "seconds": round(seconds, 1),
    }
