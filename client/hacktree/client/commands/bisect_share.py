"""`hacktree bisect export` and `import`: a colleague goes on."""

import argparse
import os
import secrets
import sys
from pathlib import Path

import msgspec

from hacktree.client.bisect.core.encoding import MAX_SESSION_SIZE
from hacktree.client.bisect.core.model import Session
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.driver import begin
from hacktree.client.bisect.farm.verifying import verify_lines
from hacktree.client.bisect.holding import describe_held, read_held
from hacktree.client.bisect.report.drawing import describe_build
from hacktree.client.bisect.sharing import (
    export_session,
    find_remote,
    import_session,
)
from hacktree.client.bisect.store import hold_bisection, read_bisection
from hacktree.client.commands.bisect_output import say_imported
from hacktree.client.commands.bisect_steps import ahead_of, machine_in
from hacktree.client.remote import list_remotes, load_remote
from hacktree.client.sysroot import Sysroot, open_sysroot, prepare_sysroot
from hacktree.common.cli.output import emit_json, printable_json, say
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import replace_published


def export(args: argparse.Namespace) -> int:
    """Write the session."""
    sysroot = open_sysroot(Path(args.sysroot))
    session = read_bisection(sysroot).session
    data = export_session(session, load_remote(sysroot.repository, session.remote))
    if args.file == "-":
        sys.stdout.write(printable_json(data.decode()))
        return 0
    path = Path(args.file)
    if path.exists() and not args.force:
        raise UserError(f"{path} is there already", hint="--force replaces it.")
    replace_published(path, data, mode=0o600)
    if args.json:
        emit_json({"file": os.path.abspath(path), "session": session.id, "bytes": len(data)})
    else:
        say(args, f"written: {path}. Elsewhere: hacktree bisect import {path.name}")
    return 0


def import_(args: argparse.Namespace) -> int:
    """Begin with the session of a file."""
    exported = import_session(_read(args.file))
    sysroot = prepare_sysroot(args.sysroot)
    remote = (
        load_remote(sysroot.repository, args.remote)
        if args.remote
        else find_remote(exported, list_remotes(sysroot.repository))
    )
    verify_lines(sysroot.repository, remote, exported.session)
    session = _adopt(sysroot, exported.session, remote.name, keep_live=args.no_deploy)
    if not args.dry_run:
        with hold_bisection(sysroot):
            begin(machine_in(args, sysroot), session, ahead_of(args))
    _show(args, session)
    return 0


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(MAX_SESSION_SIZE + 1)
    with open(name, "rb") as stream:
        return stream.read(MAX_SESSION_SIZE + 1)


def _adopt(sysroot: Sysroot, session: Session, remote: str, *, keep_live: bool) -> Session:
    """The session as this machine goes on with it; its answers may be another machine's.

    Its id is its own: whose bisection ends gives back what is leased under its id.
    """
    options = msgspec.structs.replace(
        session.options,
        constant=read_held(sysroot),
        deploy=session.options.deploy and not keep_live,
        imported=session.options.imported or current_state(session).tests > 0,
    )
    own = secrets.token_hex(16)
    return msgspec.structs.replace(session, id=own, remote=remote, options=options)


def _show(args: argparse.Namespace, session: Session) -> None:
    state = current_state(session)
    terms, options = session.options.terms, session.options
    if args.json:
        emit_json(
            {
                "session": session.id,
                "remote": session.remote,
                "branch": state.line[0].branch,
                "builds": len(state.line),
                "tests": state.tests,
                "suspects": len(state.suspects),
                "imported": not args.dry_run,
                "tested-elsewhere": options.imported,
            }
        )
        return
    say(args, f"{terms.word(options.old):<8} {describe_build(state.before)}")
    say(args, f"{terms.word(options.new):<8} {describe_build(state.last)}")
    say(
        args,
        f"From {session.remote}: {len(state.suspects)} suspects after {state.tests} tests, about "
        f"{state.answers_left} tests left",
    )
    say(args, f"Held constant: {describe_held(options.constant)}")
    say_imported(args, options)
    if not args.dry_run:
        say(args, "`hacktree bisect next` goes on with it.")
