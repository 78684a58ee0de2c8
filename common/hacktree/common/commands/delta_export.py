"""`hacktree delta export`."""

import argparse
from pathlib import Path

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.repository.bundle import export_bundle
from hacktree.common.repository.config import format_size
from hacktree.common.repository.revision import resolve


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the action."""
    parser.add_argument("revision", metavar="REV", help="the build to bring")
    parser.add_argument(
        "--from",
        dest="sources",
        metavar="REV",
        action="append",
        required=True,
        help="a build that the machine may have (may be repeated)",
    )
    parser.add_argument("--output", "-o", metavar="FILE", required=True, help="the bundle")
    parser.epilog = """\
A bundle is one file that brings a machine without a network from builds it has to another one:
`hacktree delta apply FILE` there. It is made of the packs that are published here.

Examples:
  hacktree --repo /srv/tree delta export builds --from builds~1 --from builds~7 -o week.bundle

Exit statuses: 0 done, 2 no such build, no archive, or no packs lead there, 5 an object is damaged,
8 the system refused."""


def run(args: argparse.Namespace) -> int:
    """Write the bundle."""
    repository = repository_from(args)
    target = resolve(repository, args.revision)
    sources = [resolve(repository, source) for source in args.sources]
    output = Path(args.output)
    done = export_bundle(repository, target, sources, output)
    if args.json:
        emit_json(
            {
                "commit": target.hex(),
                "packs": done.packs,
                "contents": done.contents,
                "bytes": done.bytes,
            }
        )
        return 0
    say(
        args,
        f"{output}: {target.hex()[:16]} by {done.packs} packs and {done.contents} whole files, "
        f"{format_size(done.bytes)}",
    )
    return 0
