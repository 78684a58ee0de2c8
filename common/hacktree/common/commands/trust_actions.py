"""The actions of `hacktree trust` that sign."""

import argparse
import getpass
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, SSlibKey

from hacktree.common.cli.context import repository_from
from hacktree.common.cli.output import emit_json, say, show, warn
from hacktree.common.cli.signing import load_key, passphrase_in
from hacktree.common.errors import UserError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.durable import write_durably
from hacktree.common.repository.packs import require_archive
from hacktree.common.repository.revision import resolve
from hacktree.common.trust import changes, editing
from hacktree.common.trust.changes import Change
from hacktree.common.trust.editing import Signers
from hacktree.common.trust.keys import (
    KeyFileError,
    generate_key,
    load_public,
    public_path,
)
from hacktree.common.trust.pending import Pending, encode_pending
from hacktree.common.trust.report import fingerprint
from hacktree.common.trust.roles import ONLINE_ROLES, ROOT, TARGETS, role_of_branch
from hacktree.common.trust.store import TrustStore

_TOP: dict[str, tuple[str, ...]] = {ROOT: (ROOT,), TARGETS: (TARGETS,), "online": ONLINE_ROLES}


def run(args: argparse.Namespace, now: datetime) -> int:
    """Do it; returns the exit status."""
    if args.action == "new-key":
        signer = generate_key(Path(args.file), _new_passphrase(args, args.file))
        say(
            args, f"Key {signer.public_key.keyid[:16]}: {args.file}, {public_path(Path(args.file))}"
        )
        return 0
    repository = repository_from(args)
    require_archive(repository)
    store = TrustStore(repository)
    with store.hold():
        _ACTIONS[args.action](store, args, now)
    return 0


def _init(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    if store.exists:
        raise editing.TrustExistsError(f"{store.repository.path} is signed already")
    root = [_key_or_new(args, name) for name in args.root_key]
    targets = [_key_or_new(args, name) for name in args.targets_key]
    founders = editing.Founders(root, targets, args.threshold)
    editing.initialise(store, founders, CryptoSigner.generate_ed25519(), now)
    show(f"Root fingerprint  {fingerprint(store.first_root())}")
    say(args, "Testers begin with it: hacktree remote add NAME URL --root-fingerprint FINGERPRINT")
    say(args, "Next: hacktree trust delegate BRANCH --key FILE.pub --sign-with TARGETS-KEY")


def _delegate(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    branch = parse_branch_name(args.branch)
    keys = [load_public(Path(name)) for name in args.key]
    change = changes.propose_delegation(store.load(), branch, keys, now)
    if _finish(store, args, change, (), now):
        say(args, f"{branch} may be signed by {' '.join(key.keyid[:16] for key in keys)}")


def _add_key(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    key, state = load_public(Path(args.key)), store.load()
    resign: list[CryptoSigner] = []
    if args.role in _TOP:
        edit = changes.RootEdit(_TOP[args.role], add=(key,), threshold=args.threshold)
        change = changes.propose_root(state, edit, now)
        if change.targets is not None and args.pending is None:
            resign = [load_key(args, args.key)]
    else:
        branch = parse_branch_name(args.role)
        change = changes.propose_branch(state, branch, [key], [], now)
    if _finish(store, args, change, resign, now):
        say(args, f"{args.role} may be signed by {key.keyid[:16]} as well")


def _rotate(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    if args.role == "online":
        _rotate_online(store, args, now)
        return
    if not args.revoke and args.key is None:
        raise UserError("nothing to do", hint="--revoke KEYID, --key FILE, or both.")
    resign: list[CryptoSigner] = []
    add: list[SSlibKey] = []
    if args.key is not None and args.pending is not None:
        add = [load_public(Path(args.key))]
    elif args.key is not None:
        resign = [load_key(args, args.key)]
        add = [resign[0].public_key]
    state = store.load()
    if args.role in _TOP:
        revoke = [_full(state.root.signed.roles[args.role].keyids, k) for k in args.revoke]
        edit = changes.RootEdit(_TOP[args.role], tuple(add), tuple(revoke))
        change = changes.propose_root(state, edit, now)
    else:
        branch = parse_branch_name(args.role)
        keyids = editing.keys_of_branch(state, branch)
        revoke = [_full(keyids, keyid) for keyid in args.revoke]
        change = changes.propose_branch(state, branch, add, revoke, now)
    if _finish(store, args, change, resign, now):
        say(args, f"{args.role} is signed by other keys from now on")


def _rotate_online(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    if args.key is not None or args.revoke:
        raise UserError("the online key is made here", hint="hacktree trust rotate online")
    new, state = CryptoSigner.generate_ed25519(), store.load()
    store.keep_online_key(new)
    old = state.root.signed.roles[ONLINE_ROLES[0]].keyids
    edit = changes.RootEdit(ONLINE_ROLES, (new.public_key,), tuple(old))
    if _finish(store, args, changes.propose_root(state, edit, now), (), now):
        store.forget_online_keys(store.load().root.signed)
        say(args, f"The online key is {new.public_key.keyid[:16]} from now on")


def _finish(
    store: TrustStore, args: argparse.Namespace, change: Change, resign: Signers, now: datetime
) -> bool:
    """Sign and publish a change; or write it to --pending, with the signatures that there are."""
    if args.pending is None:
        changes.sign_and_publish(store, change, _signers(args), resign, now)
        return True
    state = store.load()
    for signer in _given(args):
        if not changes.sign_change(change, state.root.signed, signer):
            raise UserError(f"the key {signer.public_key.keyid[:16]} doesn't count for this")
    pending = Pending.of(state, change)
    write_durably(Path(args.pending), encode_pending(pending), mode=0o644)
    for line in changes.missing_signatures(change, state.root.signed):
        say(args, f"Missing: {line}")
    say(args, f"Next, where a key is: hacktree trust cosign {args.pending} --key KEY")
    return False


def _sign(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    branch = parse_branch_name(args.branch)
    head = resolve(store.repository, args.revision or args.branch)
    commit = store.repository.load_commit(head)
    if commit.branch != branch:
        raise UserError(f"{head.hex()[:16]} is a build of {commit.branch}, not of {branch}")
    state = store.load()
    signer = load_key(args, args.key)
    length = editing.commit_length(store, head)
    role = editing.sign_head(state, branch, head, length, signer, now)
    editing.publish_branch(store, branch, role, now)
    say(args, f"{branch} is signed at {head.hex()[:16]}")


def _renew(store: TrustStore, args: argparse.Namespace, now: datetime) -> None:
    if args.role is not None:
        state = store.load()
        edit = changes.RootEdit((ROOT,))
        change = (
            changes.propose_root(state, edit, now)
            if args.role == ROOT
            else changes.propose_targets(state, now)
        )
        if _finish(store, args, change, (), now):
            say(args, f"Renewed: {args.role}")
        return
    if args.pending is not None or args.sign_with:
        raise UserError("--pending and --sign-with go with --role")
    if (args.branch is None) != (args.key is None):
        raise UserError("--branch and --key go together")
    signers = {}
    if args.branch is not None:
        name = role_of_branch(parse_branch_name(args.branch))
        signers[name] = [load_key(args, args.key)]
    renewed = editing.renew(store, now, signers)
    if args.json:
        emit_json({"renewed": renewed})
        return
    say(args, f"Renewed: {', '.join(renewed)}" if renewed else "Nothing expires soon")


_ACTIONS = {
    "init": _init,
    "delegate": _delegate,
    "add-key": _add_key,
    "rotate": _rotate,
    "sign": _sign,
    "renew": _renew,
}


def _signers(args: argparse.Namespace) -> list[CryptoSigner]:
    if not args.sign_with:
        raise UserError("no key to sign with", hint="--sign-with FILE: of targets or root.")
    return _given(args)


def _given(args: argparse.Namespace) -> list[CryptoSigner]:
    return [load_key(args, name) for name in args.sign_with]


def _key_or_new(args: argparse.Namespace, name: str) -> CryptoSigner:
    path = Path(name)
    if path.exists():
        return load_key(args, name)
    signer = generate_key(path, _new_passphrase(args, name))
    say(args, f"Key {signer.public_key.keyid[:16]} made: {name}")
    return signer


def _new_passphrase(args: argparse.Namespace, name: str) -> bytes | None:
    if args.no_passphrase:
        warn(f"{name} is not encrypted: whoever reads it can sign")
        return None
    if args.passphrase_file is not None:
        return passphrase_in(args.passphrase_file)
    if not sys.stdin.isatty():
        raise KeyFileError(
            f"no passphrase for {name}", hint="--passphrase-file FILE, or --no-passphrase."
        )
    first = getpass.getpass(f"New passphrase for {name}: ")
    if not first or getpass.getpass("Again: ") != first:
        raise KeyFileError("the passphrases are empty or differ")
    return first.encode()


def _full(keyids: Sequence[str], prefix: str) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(prefix)]
    if len(found) != 1:
        raise UserError(f"{len(found)} keys of the role begin with {prefix!r}")
    return found[0]
