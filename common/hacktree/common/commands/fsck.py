"""`hacktree fsck`."""

import argparse

import msgspec

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.cli.progress import terminal_count
from hacktree.common.errors import CorruptError
from hacktree.common.repository.config import format_size
from hacktree.common.repository.fsck import Finding, FsckReport, fsck, set_aside_broken

_SHOWN_BUILDS = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        "--repair",
        action="store_true",
        help="move damaged objects to state/damaged/, so that the next pull fetches them",
    )
    parser.add_argument("--jobs", "-j", type=int, metavar="N", help="threads (default: all cores)")
    parser.epilog = """\
Reads and hashes every object, compares inodes with what their names promise, and walks every
commit. Names what is broken or missing, which builds need it and which roots link to it.

Examples:
  hacktree fsck
  hacktree --repo /srv/tree fsck --json
  hacktree fsck --repair && hacktree-pull fastqa

Exit statuses: 0 everything is intact, 5 something is broken or missing (also after --repair: what
was moved away is missing until it is pulled again), 6 somebody holds the lock, 8 the system
refused."""


def run(args: argparse.Namespace) -> int:
    """Verify, report, and set aside what is broken if asked to."""
    repository = repository_from(args)
    progress = None if args.quiet or args.json else terminal_count("verifying")
    report = fsck(repository, jobs=args.jobs, progress=progress)
    if args.repair:
        set_aside_broken(repository, report)
    if args.json:
        emit_json({"intact": report.intact, **msgspec.to_builtins(report)})
    else:
        _print(args, report)
    return 0 if report.intact else CorruptError.exit_code


def _print(args: argparse.Namespace, report: FsckReport) -> None:
    for problem in report.refs:
        show(f"ref: {problem}")
    for finding in report.findings:
        show("\n".join(_lines(finding)))
    for name in report.foreign if args.verbose else ():
        show(f"not an object, left alone: objects/{name}")
    total = f"{report.objects} objects, {report.commits} commits, {format_size(report.bytes)}"
    if report.intact:
        say(args, f"{total}: intact")
        return
    moved = sum(1 for finding in report.findings if finding.set_aside)
    say(args, f"{total}: {len(report.findings) + len(report.refs)} problems, {moved} set aside")
    if not args.repair and any(finding.problem == "broken" for finding in report.findings):
        say(args, "Run `hacktree fsck --repair`, then pull again; or commit the same tree again.")
    elif report.findings:
        say(args, "Pull the builds named above again, or commit the same trees again.")


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.problem}: objects/{finding.object}: {finding.why}"]
    for build in finding.builds[:_SHOWN_BUILDS]:
        version = f" ({build.version})" if build.version else ""
        lines.append(f"  needed by {build.branch} #{build.sequence}{version} {build.commit[:12]}")
    if len(finding.builds) > _SHOWN_BUILDS:
        lines.append(f"  and {len(finding.builds) - _SHOWN_BUILDS} more builds")
    lines += [f"  head of {ref}" for ref in finding.refs]
    lines += [f"  linked by the root {root}: deploy it again" for root in finding.roots]
    if finding.set_aside:
        lines.append(f"  moved to {finding.set_aside}")
    return lines
