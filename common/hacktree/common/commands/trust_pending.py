"""`hacktree trust cosign` and `apply`: changes that are signed in several places."""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say
from hacktree.common.cli.signing import load_key
from hacktree.common.errors import UserError
from hacktree.common.repository.durable import write_durably
from hacktree.common.trust import changes
from hacktree.common.trust.difference import Difference, describe_pending, lines_of
from hacktree.common.trust.pending import (
    MAX_PENDING,
    Pending,
    PendingInvalidError,
    decode_pending,
    encode_pending,
    merge_pending,
)
from hacktree.common.trust.store import TrustStore


def run(args: argparse.Namespace, now: datetime) -> int:
    """Do it; returns the exit status."""
    if args.action == "cosign":
        _cosign(args)
        return 0
    pending = merge_pending([_read(name) for name in args.file])
    resign = [load_key(args, name) for name in args.resign_with]
    store = TrustStore(repository_from(args))
    with store.hold():
        pending.require_current(store.load())
        changes.publish_change(store, pending.change, resign, now)
        if pending.change.root is not None:
            store.forget_online_keys(pending.change.root.signed)
    if args.json:
        emit_json(describe_pending(pending).as_json())
    say(args, "Published; clients follow by themselves")
    return 0


def _cosign(args: argparse.Namespace) -> None:
    pending = _read(args.file)
    difference = describe_pending(pending)
    wanted = (args.current_root or difference.root).removeprefix("sha256:").lower()
    if wanted != difference.root:
        raise PendingInvalidError(
            f"the change begins with the root {difference.root}, which is another one",
            hint="`hacktree trust status` shows the current root; is the change an old one?",
        )
    if args.key is None:
        _show(args, difference)
        return
    # Seen before the key is unlocked.
    if not args.json:
        _show(args, difference)
    signer = load_key(args, args.key)
    if not args.yes:
        _ask(args)
    if not changes.sign_change(pending.change, pending.root.signed, signer):
        raise UserError(
            f"the key {signer.public_key.keyid[:16]} doesn't count for this change",
            hint="Keys of root sign a root; keys of targets sign targets.",
        )
    write_durably(Path(args.file), encode_pending(pending), mode=0o644)
    difference = describe_pending(pending)
    if args.json:
        _show(args, difference)
    for line in difference.missing:
        say(args, f"Signed. Still missing: {line}")
    if not difference.missing:
        say(args, f"Signed, and complete: hacktree --repo FARM trust apply {args.file}")


def _show(args: argparse.Namespace, difference: Difference) -> None:
    if args.json:
        emit_json(difference.as_json())
        return
    for line in lines_of(difference):
        say(args, line)


def _ask(args: argparse.Namespace) -> None:
    if args.json or not sys.stdin.isatty():
        raise UserError("nobody is there to be asked", hint="Read what it changes, then say --yes.")
    if input("Sign this? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("not signed")


def _read(name: str) -> Pending:
    try:
        with open(name, "rb") as stream:
            return decode_pending(stream.read(MAX_PENDING + 1))
    except OSError as error:
        raise PendingInvalidError(f"{name}: {error.strerror}") from error
