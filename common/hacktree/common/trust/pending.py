"""A change that travels from key to key as a file. docs/format.md, "Pending changes".

The file may have been pasted into a mail, or made by somebody who wants a signature: what it shows
is all that it does, so what a key's id, a role's name or an unknown field could hide is refused.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, SSlibKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from hacktree.common.errors import UserError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.names import display_text, parse_branch_name
from hacktree.common.trust.changes import Change, ChangeStaleError
from hacktree.common.trust.roles import ROOT, TARGETS, role_of_branch
from hacktree.common.trust.store import TrustState

FORMAT: Final = "hacktree pending change 1"
MAX_PENDING: Final = 2 << 20
"""Bytes of a file."""

_MAX_ROLES: Final = 10_000


class PendingInvalidError(UserError):
    """The file is no pending change, or one that nobody should sign."""


class Pending(msgspec.Struct, frozen=True):
    """A change, and what it changes: the root and targets that were published when it was made."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    change: Change

    @classmethod
    def of(cls, state: TrustState, change: Change) -> "Pending":
        """A change of what is published."""
        return cls(state.root, state.targets, change)

    def require_current(self, state: TrustState) -> None:
        """Raise `ChangeStaleError` if something else was published since it was made."""
        pairs = (
            ("root", self.root, self.change.root, state.root),
            ("targets", self.targets, self.change.targets, state.targets),
        )
        for what, before, after, now in pairs:
            known = {before.signed_bytes} | ({after.signed_bytes} if after is not None else set())
            if after is not None and now.signed_bytes not in known:
                raise ChangeStaleError(
                    f"{what} was changed since this was proposed: version {now.signed.version} is "
                    f"published, and this was made from version {before.signed.version}",
                    hint="Propose it again, from what is published now.",
                )


def encode_pending(pending: Pending) -> bytes:
    """The file: JSON, indented, since people read it."""
    change = pending.change
    document = {
        "format": FORMAT,
        "before": {ROOT: pending.root.to_dict(), TARGETS: pending.targets.to_dict()},
        "after": {
            name: metadata.to_dict()
            for name, metadata in ((ROOT, change.root), (TARGETS, change.targets))
            if metadata is not None
        },
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode_pending(data: bytes) -> Pending:
    """The change in a file; raises `PendingInvalidError`."""
    if len(data) > MAX_PENDING:
        raise PendingInvalidError(f"a pending change has at most {MAX_PENDING} bytes")
    try:
        document = json.loads(data)
        if document["format"] != FORMAT or set(document) != {"format", "before", "after"}:
            raise ValueError("its format is another")
        before, after = document["before"], document["after"]
        if set(before) != {ROOT, TARGETS} or not after or not set(after) <= {ROOT, TARGETS}:
            raise ValueError("it changes nothing that can be changed")
        pending = Pending(
            _metadata(before[ROOT], Root),
            _metadata(before[TARGETS], Targets),
            Change(
                _metadata(after[ROOT], Root) if ROOT in after else None,
                _metadata(after[TARGETS], Targets) if TARGETS in after else None,
            ),
        )
        _check_sense(pending)
    except (
        ValueError, KeyError, TypeError, AttributeError, RecursionError, RepositoryError,
        NameInvalidError,
    ) as error:  # fmt: skip
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise PendingInvalidError(
            f"the file is no change that could be signed: {display_text(reason)[:300]}",
            hint="It is made by `hacktree trust rotate|add-key|delegate … --pending FILE`.",
        ) from error
    return pending


def merge_pending(files: Sequence[Pending]) -> Pending:
    """One change with the signatures of all its copies; raises `PendingInvalidError`."""
    first = files[0]
    for other in files[1:]:
        for mine, theirs in (
            (first.change.root, other.change.root),
            (first.change.targets, other.change.targets),
        ):
            if (mine is None) != (theirs is None):
                raise PendingInvalidError("the files hold different changes")
            if mine is None or theirs is None:
                continue
            if mine.signed_bytes != theirs.signed_bytes:
                raise PendingInvalidError("the files hold different changes")
            mine.signatures.update(
                {
                    keyid: one
                    for keyid, one in theirs.signatures.items()
                    if _valid(other, keyid, theirs)
                }
            )
    return first


def _valid(pending: Pending, keyid: str, metadata: Metadata[Any]) -> bool:
    """Whether a signature is one: a broken copy must not displace a good one."""
    key = _keys(pending).get(keyid)
    if key is None:
        return False
    try:
        key.verify_signature(metadata.signatures[keyid], metadata.signed_bytes)
    except UnverifiedSignatureError:
        return False
    return True


def _keys(pending: Pending) -> Mapping[str, Key]:
    after = pending.change.root
    return {**pending.root.signed.keys, **({} if after is None else after.signed.keys)}


def _metadata(document: Any, kind: type[Any]) -> Metadata[Any]:
    metadata: Metadata[Any] = Metadata.from_dict(document)
    if not isinstance(metadata.signed, kind):
        raise ValueError(f"{kind.type} is something else")
    if metadata.unrecognized_fields or metadata.signed.unrecognized_fields:
        raise ValueError(f"{kind.type} has fields that nobody knows")
    if isinstance(metadata.signed, Root):
        _check_root(metadata.signed)
    else:
        _check_targets(metadata.signed)
    return metadata


def _check_sense(pending: Pending) -> None:
    """What was published is signed by its own keys, and the change is the next version of it."""
    root, targets = pending.root, pending.targets
    root.verify_delegate(ROOT, root)
    root.verify_delegate(TARGETS, targets)
    for before, after in ((root, pending.change.root), (targets, pending.change.targets)):
        if after is not None and after.signed.version != before.signed.version + 1:
            raise ValueError("the change is not the next version of what is published")


def _check_root(root: Root) -> None:
    if not root.consistent_snapshot:
        raise ValueError("root turns consistent snapshots off")
    for name, role in root.roles.items():
        _check_role(name, role, root.keys)
    _check_keys(root.keys)


def _check_targets(targets: Targets) -> None:
    """The targets role delegates branches, each by its own name, and signs nothing itself."""
    delegations = targets.delegations
    if targets.targets:
        raise ValueError("targets signs heads itself, past the keys of their branches")
    if delegations is None or delegations.roles is None or delegations.succinct_roles is not None:
        raise ValueError("targets delegates no branches")
    if delegations.unrecognized_fields or len(delegations.roles) > _MAX_ROLES:
        raise ValueError("targets delegates what nobody knows")
    for name, role in delegations.roles.items():
        if (
            role.path_hash_prefixes is not None
            or len(role.paths or []) != 1
            or not role.terminating
        ):
            raise ValueError("a role of targets is not that of one branch")
        branch = parse_branch_name((role.paths or [""])[0])
        if name != role_of_branch(branch):
            raise ValueError(f"the role of {branch} has the name of another")
        _check_role(str(branch), role, delegations.keys)
    _check_keys(delegations.keys)


def _check_role(name: str, role: Any, keys: Mapping[str, Key]) -> None:
    if role.unrecognized_fields or not set(role.keyids) <= set(keys):
        raise ValueError(f"the role {name} names keys that are not there")
    if not 1 <= role.threshold <= len(role.keyids):
        raise ValueError(f"the role {name} can't be signed: {role.threshold} of its keys")


def _check_keys(keys: Mapping[str, Key]) -> None:
    """A key's id is a hash of the key: else one key could go by the name of another."""
    for keyid, key in keys.items():
        public = bytes.fromhex(key.keyval["public"]) if key.keytype == "ed25519" else b""
        if len(public) != 32 or key.unrecognized_fields:
            raise ValueError("a key is not an Ed25519 key")
        expected = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(public))
        if keyid != expected.keyid or key.to_dict() != expected.to_dict():
            raise ValueError("a key is not the one that its id says")
