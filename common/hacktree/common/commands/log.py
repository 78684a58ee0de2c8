"""`hacktree log`."""

import argparse
from collections.abc import Iterator
from itertools import islice

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, show
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revision", metavar="REV", help="a branch, or a build to start from")
    parser.add_argument("--max-count", "-n", type=int, metavar="N", help="at most N builds")
    parser.add_argument("--oneline", action="store_true", help="one line for each build")
    parser.epilog = """\
Examples:
  hacktree log fastqa -n 5
  hacktree log builds --oneline

Exit statuses: 0 done, 2 there is no such revision."""


def run(args: argparse.Namespace) -> int:
    """List commits, newest first."""
    repository = repository_from(args)
    chain = islice(ancestry(repository, resolve(repository, args.revision)), args.max_count)
    if args.json:
        emit_json([describe(object_id, commit) for object_id, commit in chain])
        return 0
    for object_id, commit in chain:
        show(_one_line(object_id, commit) if args.oneline else _paragraph(object_id, commit))
    return 0


def ancestry(repository: Repository, start: ObjectId) -> Iterator[tuple[ObjectId, Commit]]:
    """Yield a commit and its first parents, as far back as they are here."""
    wanted: ObjectId | None = start
    while wanted is not None and repository.has_meta(wanted):
        commit = repository.load_commit(wanted)
        yield wanted, commit
        wanted = commit.parents[0] if commit.parents else None


def describe(object_id: ObjectId, commit: Commit) -> dict[str, object]:
    """A commit as JSON, without its package list."""
    return {
        "commit": object_id.hex(),
        "branch": commit.branch,
        "sequence": commit.sequence,
        "parents": [parent.hex() for parent in commit.parents],
        "time": commit.time,
        "version": commit.version,
        "subject": commit.subject,
        "body": commit.body,
        "architecture": commit.architecture,
        "files": commit.totals.files,
        "bytes": commit.totals.bytes,
        "metadata": {key: value for key, value in commit.metadata.items() if key != "packages"},
    }


def _one_line(object_id: ObjectId, commit: Commit) -> str:
    words = [object_id.hex()[:9], f"{commit.sequence:>5}", format_time(commit.time)]
    return "  ".join([*words, *filter(None, (commit.version, commit.subject))])


def _paragraph(object_id: ObjectId, commit: Commit) -> str:
    lines = [
        f"commit {object_id.hex()}",
        f"Branch:  {commit.branch}, build {commit.sequence}",
        f"Date:    {format_time(commit.time)}",
    ]
    if commit.version:
        lines.append(f"Version: {commit.version}")
    lines += [f"\n    {line}" for line in filter(None, (commit.subject, commit.body))]
    return "\n".join([*lines, ""])
