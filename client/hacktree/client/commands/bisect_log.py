"""`hacktree bisect log` and `replay`: a search on paper, and done again."""

import argparse
import secrets
import sys
import time
from pathlib import Path

import msgspec

from hacktree.client.bisect.core.sessionlog import MAX_LOG_SIZE, Log, format_log, parse_log
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.driver import begin
from hacktree.client.bisect.holding import read_held
from hacktree.client.bisect.replaying import read_replayed
from hacktree.client.bisect.store import Saved, hold_bisection, read_bisection
from hacktree.client.commands.bisect_documents import status_document
from hacktree.client.commands.bisect_output import (
    narrowed,
    say_imported,
    show_outcome,
)
from hacktree.client.commands.bisect_steps import ahead_of, machine_in
from hacktree.client.remote import Remote, choose_remote, list_remotes
from hacktree.client.sysroot import Sysroot, open_sysroot, prepare_sysroot
from hacktree.common.cli.output import emit_json, say, show
from hacktree.common.errors import UserError


def log(args: argparse.Namespace) -> int:
    """Print the session as commands."""
    session = read_bisection(open_sysroot(Path(args.sysroot))).session
    text = format_log(session)
    if args.json:
        emit_json({"session": session.id, "log": text.splitlines()})
    else:
        show(text, end="")
    return 0


def replay(args: argparse.Namespace) -> int:
    """Begin with what a log says."""
    found = parse_log(_read(args.file))
    sysroot = prepare_sysroot(args.sysroot)
    session = read_replayed(
        sysroot.repository,
        _remote(sysroot, found, args.remote),
        found,
        session_id=secrets.token_hex(16),
        created=int(time.time()),
        constant=read_held(sysroot),
    )
    if args.no_deploy:
        options = msgspec.structs.replace(session.options, deploy=False)
        session = msgspec.structs.replace(session, options=options)
    saved = Saved(session)
    if not args.dry_run:
        with hold_bisection(sysroot):
            saved = begin(machine_in(args, sysroot), session, ahead_of(args))
    state = current_state(session)
    if args.json:
        emit_json(status_document(sysroot, saved, verbose=args.verbose))
        return 0
    say(args, f"Replayed {len(session.events)} events over {len(session.line)} builds.")
    say_imported(args, session.options)
    if state.outcome is not None:
        show_outcome(args, saved, state.outcome)
        return 0
    say(args, narrowed(state))
    if not args.dry_run:
        say(args, "`hacktree bisect next` goes on with it.")
    return 0


def _read(name: str) -> str:
    if name == "-":
        data = sys.stdin.buffer.read(MAX_LOG_SIZE + 1)
    else:
        with open(name, "rb") as stream:
            data = stream.read(MAX_LOG_SIZE + 1)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not a log: {error}", hint="`hacktree bisect log` writes one."
        ) from error


def _remote(sysroot: Sysroot, found: Log, wanted: str | None) -> Remote:
    """The one that was asked for, the one of the log's name, or else the only one."""
    names = [remote.name for remote in list_remotes(sysroot.repository)]
    return choose_remote(
        sysroot.repository, wanted or (found.remote if found.remote in names else None)
    )
