"""`hacktree config test`: what config scripts would change, before they do."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hacktree.client.replay.step import StepFailedError
from hacktree.client.roots import read_roots
from hacktree.client.scripts.difference import StepChange
from hacktree.client.scripts.failure import ask_on_terminal, shown_log
from hacktree.client.scripts.trial import Tried, try_scripts
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, say, show, tell
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.revision import resolve

_NAMES: Final = {"A": "added", "D": "deleted", "M": "changed", "m": "attributes"}


class NothingLiveError(UserError):
    """No build is live that a script could be tried on."""


def run_test(args: argparse.Namespace) -> int:
    """Replay and show; returns the exit status."""
    sysroot = open_sysroot(Path(args.sysroot))
    commit = _commit(sysroot, args.revision)
    ask = None if args.json or args.quiet else ask_on_terminal(sys.stdin, sys.stderr)
    try:
        trial = try_scripts(sysroot, commit, args.name, lambda line: say(args, line), ask)
    except StepFailedError as error:
        if ask is None:
            for line in shown_log(error.log):
                tell(line)
        raise
    if args.json:
        emit_json([_document(one) for one in trial.tried])
        return 0
    if not trial.tried and not trial.skipped:
        say(args, "there are no config scripts; `hacktree config add FILE` adds one")
    for one in trial.tried:
        _show(one)
    for name in trial.skipped:
        show(f"{name} failed and was skipped")
    return 1 if trial.skipped else 0


def _commit(sysroot: Sysroot, revision: str | None) -> ObjectId:
    if revision is not None:
        return resolve(sysroot.repository, revision)
    live = read_roots(sysroot).live
    if live is None:
        raise NothingLiveError("no build is live", hint="Name one with --revision.")
    return live.commit_id


def _show(one: Tried) -> None:
    show(f"script {one.name}: {one.seconds:.2f} s, {_count(one.changes)}")
    for line in one.log.splitlines():
        show(f"| {line}")
    for change in one.changes:
        show(f"{change.letter} /{change.path}")
        for line in change.text:
            show(f"    {line}")


def _count(changes: Sequence[StepChange]) -> str:
    letters = [change.letter for change in changes]
    return (
        f"{letters.count('A')} added, {letters.count('D')} deleted, {letters.count('M')} changed, "
        f"{letters.count('m')} with other attributes"
    )


def _document(one: Tried) -> dict[str, object]:
    return {
        "name": one.name,
        "seconds": round(one.seconds, 4),
        "log": one.log,
        "changes": [
            {
                "path": f"/{change.path}",
                "change": _NAMES[change.letter],
                "text": list(change.text),
            }
            for change in one.changes
        ],
    }
