"""`hacktree bisect report` and `visualize`: what was found, what changed, how the line looks."""

import argparse
import os
import shutil
from pathlib import Path

from hacktree.client.bisect.core.model import Session
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.farm.known import kept_hints
from hacktree.client.bisect.report.drawing import draw
from hacktree.client.bisect.report.gathering import (
    MAX_PATTERNS,
    bring_ends,
    gather_report,
    read_hints,
)
from hacktree.client.bisect.report.html import render_html
from hacktree.client.bisect.report.result import Report, as_document
from hacktree.client.bisect.report.text import FEW, render_bug_report, render_text
from hacktree.client.bisect.store import hold_bisection, read_bisection
from hacktree.client.commands.bisect_output import ShownSteps
from hacktree.client.remote import load_remote
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.output import emit_json, say, show, warn
from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.repository.durable import replace_published


def report(args: argparse.Namespace) -> int:
    """Show or write the report."""
    if len(args.paths) > MAX_PATTERNS:
        raise UserError(f"more than {MAX_PATTERNS} patterns")
    sysroot = open_sysroot(Path(args.sysroot))
    session = read_bisection(sysroot).session
    if args.fetch:
        remote = load_remote(sysroot.repository, session.remote)
        with hold_bisection(sysroot):
            bring_ends(sysroot.repository, remote, session, ShownSteps(args).pulling)
    found, problem = gather_report(
        sysroot.repository, session, tuple(args.paths), _hints(args, sysroot, session)
    )
    if problem:
        warn(problem)
    most = None if args.verbose else FEW
    if args.html:
        _write_page(args, found)
    elif args.json:
        emit_json(as_document(found))
    elif args.bug_report:
        show(render_bug_report(found, most))
    else:
        show(render_text(found, most))
    return 0


def visualize(args: argparse.Namespace) -> int:
    """Draw the lines."""
    sysroot = open_sysroot(Path(args.sysroot))
    session = read_bisection(sysroot).session
    state = current_state(session)
    found = Report(session, state, hints=_hints(args, sysroot, session))
    if args.html:
        _write_page(args, found)
    elif args.json:
        emit_json(as_document(found)["lines"])
    else:
        show(draw(state, shutil.get_terminal_size().columns, found.hints))
    return 0


def _hints(args: argparse.Namespace, sysroot: Sysroot, session: Session) -> dict[str, str]:
    """What the farm's suites said: at the start, or now, if asked for.

    A farm that can't be asked costs only that.
    """
    kept = kept_hints(sysroot.repository, session)
    if not args.qa:
        return kept
    try:
        return read_hints(load_remote(sysroot.repository, session.remote), session)
    except (PeerError, FormatError) as error:
        warn(f"what the farm's suites said is not known: {error.message}")
        return kept


def _write_page(args: argparse.Namespace, found: Report) -> None:
    path = Path(args.html)
    replace_published(path, render_html(found))
    if args.json:
        emit_json({"html": os.path.abspath(path)})
    else:
        say(args, f"written: {path}")
