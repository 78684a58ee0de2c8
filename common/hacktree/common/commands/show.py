"""`hacktree show`."""

import argparse

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, format_time, show
from hacktree.common.objects.names import display_text
from hacktree.common.repository.config import format_size
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--packages", action="store_true", help="list the packages too")
    parser.epilog = """\
Examples:
  hacktree show fastqa
  hacktree show fastqa~1 --packages

Exit statuses: 0 done, 2 there is no such revision."""


def run(args: argparse.Namespace) -> int:
    """Show everything a commit says."""
    repository = repository_from(args)
    object_id = resolve(repository, args.revision)
    commit = repository.load_commit(object_id)
    packages = commit.metadata.get("packages", [])
    if args.json:
        import msgspec

        document = msgspec.to_builtins(
            {
                "commit": object_id.hex(),
                "tree": commit.root.id.hex(),
                "branch": commit.branch,
                "sequence": commit.sequence,
                "parents": [parent.hex() for parent in commit.parents],
                "time": commit.time,
                "architecture": commit.architecture,
                "version": commit.version,
                "subject": commit.subject,
                "body": commit.body,
                "totals": {name: getattr(commit.totals, name) for name in _TOTALS},
                "metadata": commit.metadata,
            }
        )
        emit_json(document)
        return 0
    lines = [
        ("commit", object_id.hex()),
        ("tree", commit.root.id.hex()),
        ("branch", f"{commit.branch}, build {commit.sequence}"),
        *(("parent", parent.hex()) for parent in commit.parents),
        ("date", format_time(commit.time)),
        ("version", commit.version),
        ("architecture", commit.architecture),
        ("subject", commit.subject),
        ("body", commit.body),
        ("files", f"{commit.totals.files}, {format_size(commit.totals.bytes)}"),
        ("directories", str(commit.totals.directories)),
        ("links", str(commit.totals.symlinks)),
    ]
    lines += [
        (display_text(k), display_text(str(v)))
        for k, v in commit.metadata.items()
        if k != "packages"
    ]
    if isinstance(packages, list) and packages:
        lines.append(("packages", str(len(packages))))
    for name, value in lines:
        if value:
            # A body has lines; none of them may pass for one of ours.
            show(f"{name + ':':<14}" + value.replace("\n", "\n" + " " * 14))
    if args.packages and isinstance(packages, list):
        for package in packages:
            show("  " + (" ".join(package) if isinstance(package, list) else package))
    return 0


_TOTALS = ("files", "directories", "symlinks", "bytes")
