"""Changing who is trusted: a change is proposed, signed, by several if need be, and published.

Who holds the keys may be in several places: `pending.py` takes a change from one to the next. The
caller of what publishes holds `TrustStore.hold`.
"""

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any

import msgspec
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import DelegatedRole, Metadata, Root, Targets

from hacktree.common.errors import BusyError, UserError
from hacktree.common.objects.names import BranchName
from hacktree.common.trust.editing import (
    Signers,
    TrustExistsError,
    delegations_of,
    next_version,
    require_role,
)
from hacktree.common.trust.roles import ROOT, TARGETS, role_of_branch
from hacktree.common.trust.store import SignatureMissingError, TrustState, TrustStore


class ChangeStaleError(BusyError):
    """Something else was published since the change was proposed."""


class RootEdit(msgspec.Struct, frozen=True):
    """Keys to add to and revoke from top-level roles; `threshold`: how many must sign together.

    Nothing of it: the root is signed again, to live longer.
    """

    roles: tuple[str, ...]
    add: tuple[SSlibKey, ...] = ()
    revoke: tuple[str, ...] = ()
    threshold: int | None = None


class Change(msgspec.Struct, frozen=True):
    """The next root and targets, each None where it stays as it is; with the signatures so far."""

    root: Metadata[Root] | None = None
    targets: Metadata[Targets] | None = None


def propose_root(state: TrustState, edit: RootEdit, now: datetime) -> Change:
    """Change whose keys count for top-level roles; the targets role signs anew where it must."""
    root = deepcopy(state.root.signed)
    for role in edit.roles:
        for key in edit.add:
            root.add_key(key, role)
        for keyid in edit.revoke:
            _revoke(root, keyid, role)
        if edit.threshold is not None:
            root.roles[role].threshold = edit.threshold
        if not 1 <= root.roles[role].threshold <= len(root.roles[role].keyids):
            raise UserError(f"the role {role} would have fewer keys than must sign together")
    targets = None
    if not _counts(root, TARGETS, state.targets):
        targets = next_version(state.targets.signed, TARGETS, (), now)
    return Change(next_version(root, ROOT, (), now), targets)


def propose_targets(state: TrustState, now: datetime) -> Change:
    """Sign the targets role again, to live longer."""
    return Change(targets=next_version(state.targets.signed, TARGETS, (), now))


def propose_delegation(
    state: TrustState, branch: BranchName, keys: Sequence[SSlibKey], now: datetime
) -> Change:
    """Let `keys`, any one of them, move `branch`."""
    targets = deepcopy(state.targets.signed)
    delegations, name = delegations_of(targets), role_of_branch(branch)
    if name in (delegations.roles or {}):
        raise TrustExistsError(
            f"{branch} is delegated already", hint=f"hacktree trust add-key {branch} --key FILE.pub"
        )
    role = DelegatedRole(name, [], 1, terminating=True, paths=[str(branch)])
    delegations.roles = {**(delegations.roles or {}), name: role}
    for key in keys:
        targets.add_key(key, name)
    return Change(targets=next_version(targets, TARGETS, (), now))


def propose_branch(
    state: TrustState,
    branch: BranchName,
    add: Sequence[SSlibKey],
    revoke: Sequence[str],
    now: datetime,
) -> Change:
    """Change whose keys may move a branch."""
    name = require_role(state, branch)
    targets = deepcopy(state.targets.signed)
    for key in add:
        targets.add_key(key, name)
    for keyid in revoke:
        _revoke(targets, keyid, name)
    return Change(targets=next_version(targets, TARGETS, (), now))


def sign_change(change: Change, before: Root, signer: CryptoSigner) -> list[str]:
    """Add a signature wherever the key counts; returns the roles, none if it counts nowhere."""
    keyid, signed = signer.public_key.keyid, []
    if change.root is not None:
        judges = (before, change.root.signed)
        if any(keyid in judge.roles[ROOT].keyids for judge in judges):
            change.root.sign(signer, append=True)
            signed.append(ROOT)
    if change.targets is not None and keyid in _root_after(change, before).roles[TARGETS].keyids:
        change.targets.sign(signer, append=True)
        signed.append(TARGETS)
    return signed


def missing_signatures(change: Change, before: Root) -> list[str]:
    """What still has to be signed, a sentence each."""
    wanted: list[tuple[str, Root, str, Metadata[Any]]] = []
    if change.root is not None:
        wanted += [
            ("root, by keys that count until now", before, ROOT, change.root),
            ("root, by keys that count from then on", change.root.signed, ROOT, change.root),
        ]
    if change.targets is not None:
        wanted.append(("targets", _root_after(change, before), TARGETS, change.targets))
    lines = []
    for what, judge, role, metadata in wanted:
        result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result.verified:
            lines.append(f"{what}: {len(result.signed)} of {result.threshold} signatures")
    return lines


def publish_change(store: TrustStore, change: Change, resign: Signers, now: datetime) -> None:
    """Publish a change that enough keys have signed.

    `resign`: keys of branches, which sign anew what was signed by keys that no longer count. Killed
    within, it completes when it is published again. Raises `ChangeStaleError`, and
    `SignatureMissingError` before anything is written.
    """
    state = store.load()
    _require_next("root", change.root, state.root)
    _require_next("targets", change.targets, state.targets)
    missing = missing_signatures(change, state.root.signed) if _is_new(change, state) else []
    if missing:
        raise SignatureMissingError(
            "signatures are missing: " + "; ".join(missing),
            hint="`hacktree trust cosign FILE --key KEY` adds one, on any machine.",
        )
    root = change.root or state.root
    roles = {**state.roles, TARGETS: change.targets or state.targets}
    for name, role in state.roles.items():
        if name != TARGETS and not _counts(roles[TARGETS].signed, name, role):
            roles[name] = _resigned(roles[TARGETS].signed, name, role, resign, now)
    store.require_signed(root.signed, roles)
    online = store.online_signer(root.signed)
    if root.signed_bytes != state.root.signed_bytes:
        store.publish_root(root, state.root)
    store.publish(root.signed, roles, state, online, now)


def sign_and_publish(
    store: TrustStore, change: Change, signers: Signers, resign: Signers, now: datetime
) -> None:
    """Publish a change at once, with the keys in one place; `resign` sign it as well as heads.

    Raises as `publish_change` does.
    """
    before = store.load().root.signed
    for signer in (*signers, *resign):
        sign_change(change, before, signer)
    publish_change(store, change, resign, now)


def _root_after(change: Change, before: Root) -> Root:
    return before if change.root is None else change.root.signed


def _is_new(change: Change, state: TrustState) -> bool:
    """Whether the root is not published yet: then nothing of the change is."""
    return change.root is None or change.root.signed_bytes != state.root.signed_bytes


def _require_next(what: str, after: Metadata[Any] | None, now: Metadata[Any]) -> None:
    """Refuse a change that does not follow what is published, or is published itself."""
    if after is None or after.signed_bytes == now.signed_bytes:
        return
    if after.signed.version != now.signed.version + 1:
        raise ChangeStaleError(
            f"{what} was changed meanwhile: version {now.signed.version} is published, and the "
            f"change is version {after.signed.version}",
            hint="Propose it again, from what is published now.",
        )


def _counts(judge: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    try:
        judge.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def _resigned(
    targets: Targets, name: str, role: Metadata[Targets], resign: Signers, now: datetime
) -> Metadata[Targets]:
    delegated = (delegations_of(targets).roles or {})[name]
    keys = [signer for signer in resign if signer.public_key.keyid in delegated.keyids]
    if not keys:
        branch = (delegated.paths or [name])[0]
        raise SignatureMissingError(
            f"{branch} is signed by keys that would no longer count",
            hint="Give one of its other keys, to sign its head again: --key or --resign-with FILE.",
        )
    return next_version(role.signed, name, keys, now)


def _revoke(delegator: Root | Targets, keyid: str, role: str) -> None:
    try:
        delegator.revoke_key(keyid, role)
    except ValueError as error:
        raise UserError(f"can't revoke the key {keyid[:16]}: {error}") from error
