"""`hacktree status`."""

import argparse
from pathlib import Path

from hacktree.client.recovery import Leftovers, find_leftovers
from hacktree.client.roots import RootRecord, Roots, read_roots
from hacktree.client.sysroot import Sysroot, describe_activity, open_sysroot
from hacktree.common.cli.output import emit_json, format_time, say
from hacktree.common.repository.repository import ObjectMissingError


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "List the roots of this machine: which is live, what else is kept."
    parser.epilog = """\
`current` is what the live link points to, `previous` is where `hacktree rollback` goes, `running`
is the root that this system booted.

Examples:
  hacktree status
  hacktree --sysroot ~/trees status --json

Exit statuses: 0 done, 2 nothing was ever pulled here, 5 a record is damaged."""


def run(args: argparse.Namespace) -> int:
    """Show the roots, and what an interrupted command left."""
    sysroot = open_sysroot(Path(args.sysroot))
    activity = describe_activity(sysroot)
    # While somebody is at work, what is unfinished is theirs.
    pending = Leftovers() if activity else find_leftovers(sysroot)
    roots = read_roots(sysroot)
    if args.json:
        emit_json(
            {
                "current": roots.current,
                "previous": roots.previous,
                "running": roots.running,
                "roots": [_document(sysroot, roots, name) for name in roots.newest_first()],
                "busy": activity or None,
                "pending": pending.describe(),
            }
        )
        return 0
    _show(args, sysroot, roots)
    if activity:
        say(args, f"in progress: {activity}")
    if pending:
        say(args, "an interrupted command left things to do; the next command will:")
        for line in pending.describe():
            say(args, f"  {line}")
    return 0


def _marks(roots: Roots, record: RootRecord) -> list[str]:
    marks = {"current": roots.current, "previous": roots.previous, "running": roots.running}
    names = [mark for mark, root in marks.items() if root == record.root]
    return [*names, "pinned"] if record.pinned else names


def _commit_time(sysroot: Sysroot, record: RootRecord) -> int | None:
    try:
        return sysroot.repository.load_commit(record.commit_id).time
    except ObjectMissingError:
        return None


def _document(sysroot: Sysroot, roots: Roots, name: str) -> dict[str, object]:
    record = roots.records[name]
    return {
        "root": name,
        "marks": _marks(roots, record),
        "commit": record.commit,
        "branch": record.branch,
        "version": record.version,
        "commit-time": _commit_time(sysroot, record),
        "created": record.created,
        "pinned": record.pinned,
        "inputs": record.inputs,
        "steps": [
            {"name": step.name, "key": step.key, "seconds": step.seconds} for step in record.steps
        ],
        "seconds": record.seconds,
        "path": str(sysroot.roots / name),
    }


def _show(args: argparse.Namespace, sysroot: Sysroot, roots: Roots) -> None:
    if not roots.records:
        say(args, "no roots; `hacktree deploy REV` makes one")
    for name in roots.newest_first():
        record = roots.records[name]
        marks = ", ".join(_marks(roots, record))
        pointer = "*" if name == roots.current else " "
        say(args, f"{pointer} {name}{f'  ({marks})' if marks else ''}")
        build = f"{record.branch} {record.version}".rstrip()
        time = _commit_time(sysroot, record)
        built = f", built {format_time(time)}" if time is not None else ""
        say(args, f"    {build}{built}, commit {record.commit[:12]}")
        if record.steps:
            say(args, f"    with {', '.join(step.name for step in record.steps)}")
        if args.verbose:
            say(args, f"    made {format_time(record.created)}, {sysroot.roots / name}")
            for phase, seconds in record.seconds.items():
                say(args, f"      {phase}: {seconds:.1f} s")
            for step in record.steps:
                took = "cached" if step.seconds is None else f"{step.seconds:.1f} s"
                say(args, f"      step {step.name}: {took}")
