"""What is signed, by whom: each function makes new metadata and publishes it.

All of them take the private keys they need as signers and the time as an argument. The caller holds
`TrustStore.hold`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import Any, Final

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, Role, Root, Targets

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.trust.roles import (
    ONLINE_ROLES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    expiry,
    is_due,
    only_head,
    role_of_branch,
    target_of,
)
from hacktree.common.trust.store import TrustState, TrustStore

Signers = Sequence[CryptoSigner]


MAX_ROLE: Final = 64 << 10
"""Bytes of a branch's metadata: one target and a few signatures are 500."""


class RoleMissingError(UserError):
    """There is no such role, or the branch is not delegated to anybody."""


class TrustExistsError(UserError):
    """The repository is signed already."""


class Founders(msgspec.Struct, frozen=True):
    """The first keys: how many root keys must sign together, and who signs as root and targets."""

    root: Signers
    targets: Signers
    threshold: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len({s.public_key.keyid for s in self.root}):
            raise UserError(f"a threshold of {self.threshold} with {len(self.root)} root keys")
        if not self.targets:
            raise UserError("no key for the targets role", hint="--targets-key FILE")


def initialise(store: TrustStore, founders: Founders, online: CryptoSigner, now: datetime) -> None:
    """Sign for the first time; branches are delegated afterwards."""
    if store.exists:
        raise TrustExistsError(f"the heads of {store.repository.path} are signed already")
    store.keep_online_key(online)
    root_keys = [signer.public_key for signer in founders.root]
    targets_keys = [signer.public_key for signer in founders.targets]
    roles = {
        ROOT: Role([key.keyid for key in root_keys], founders.threshold),
        TARGETS: Role([key.keyid for key in targets_keys], 1),
        **{name: Role([online.public_key.keyid], 1) for name in ONLINE_ROLES},
    }
    keys = {key.keyid: key for key in (*root_keys, *targets_keys, online.public_key)}
    root = Metadata(Root(1, expires=expiry(ROOT, now), keys=dict(keys), roles=roles))
    _sign(root, founders.root)
    targets = Metadata(Targets(1, expires=expiry(TARGETS, now), delegations=Delegations({}, {})))
    _sign(targets, founders.targets)
    store.publish_root(root, None)
    store.publish(root.signed, {TARGETS: targets}, None, online, now)


def sign_head(
    state: TrustState,
    branch: BranchName,
    head: ObjectId,
    length: int,
    signer: CryptoSigner,
    now: datetime,
) -> Metadata[Targets]:
    """The branch's role with `head`, whose commit object is `length` bytes, signed; not published.

    Raises `RoleMissingError`, and `UserError` for a key that may not sign the branch.
    """
    _require_key(state, branch, signer)
    return sign_branch(branch, head, length, branch_version(state, branch), signer, now)


def sign_branch(
    branch: BranchName,
    head: ObjectId,
    length: int,
    version: int,
    signer: CryptoSigner,
    now: datetime,
) -> Metadata[Targets]:
    """As `sign_head`, on a machine that knows no more than the version that is published.

    Whether the key may sign the branch is found out by whoever publishes it.
    """
    targets = {str(branch): target_of(branch, head, length)}
    name = role_of_branch(branch)
    role = Metadata(Targets(version + 1, expires=expiry(name, now), targets=targets))
    role.sign(signer)
    return role


def branch_version(state: TrustState, branch: BranchName) -> int:
    """The version of a branch's role that is published; 0 before the first."""
    name = role_of_branch(branch)
    return int(state.roles[name].signed.version) if name in state.roles else 0


def decode_role(data: bytes) -> Metadata[Targets]:
    """A branch's role that a signer sent; nothing of it is believed yet. Raises `FormatError`."""
    if len(data) > MAX_ROLE:
        raise FormatError(f"a role of more than {MAX_ROLE} bytes")
    try:
        role: Metadata[Targets] = Metadata.from_bytes(data)
    except (RepositoryError, RecursionError) as error:
        raise FormatError(f"no signed metadata: {error}") from error
    if not isinstance(role.signed, Targets):
        raise FormatError("the metadata is not that of a branch")
    return role


def publish_branch(
    store: TrustStore, branch: BranchName, role: Metadata[Targets], now: datetime
) -> None:
    """Publish a branch's role that its signer made from what is published now.

    Raises `FormatError` if it signs anything else or is not the next version, and
    `SignatureMissingError`.
    """
    state = store.load()
    require_role(state, branch)
    due = branch_version(state, branch) + 1
    if role.signed.version != due:
        raise FormatError(
            f"version {role.signed.version} of the role of {branch}, where {due} is due"
        )
    only_head(role.signed, branch)
    if role.signed.delegations is not None:
        raise FormatError(f"the role of {branch} delegates")
    _publish(store, state, {role_of_branch(branch): role}, now)


def commit_length(store: TrustStore, head: ObjectId) -> int:
    """Bytes of a commit object."""
    return len(store.repository.read_meta(head, MAX_COMMIT_SIZE))


def head_signed(state: TrustState, branch: BranchName) -> ObjectId | None:
    """The head that is signed, or None."""
    role = state.roles.get(role_of_branch(branch))
    return None if role is None else only_head(role.signed, branch)


def signed_heads(state: TrustState) -> dict[BranchName, ObjectId]:
    """Every branch's signed head."""
    delegations = state.targets.signed.delegations
    roles = {} if delegations is None else delegations.roles or {}
    branches = [parse_branch_name((role.paths or [""])[0]) for role in roles.values()]
    heads = {branch: head_signed(state, branch) for branch in branches}
    return {branch: head for branch, head in heads.items() if head is not None}


def keys_of_branch(state: TrustState, branch: BranchName) -> list[str]:
    """The ids of the keys that may move a branch; raises `RoleMissingError`."""
    keyids: list[str] = state.targets.signed.get_delegated_role(require_role(state, branch)).keyids
    return keyids


def renew(store: TrustStore, now: datetime, signers: Mapping[str, Signers]) -> list[str]:
    """Sign again what is past half of its life; `signers` by role beside the online ones.

    Returns the roles that were renewed. Roles whose keys are not given are left as they are.
    """
    state = store.load()
    changes = {}
    for name, role in state.roles.items():
        if is_due(name, role.signed.expires, now) and signers.get(name):
            changes[name] = next_version(role.signed, name, signers[name], now)
    online = [
        name
        for name, signed in ((SNAPSHOT, state.snapshot.signed), (TIMESTAMP, state.timestamp.signed))
        if is_due(name, signed.expires, now)
    ]
    if changes or online:
        _publish(store, state, changes, now)
        return [*changes, *ONLINE_ROLES]
    return []


def _publish(
    store: TrustStore, state: TrustState, changes: Mapping[str, Metadata[Targets]], now: datetime
) -> None:
    signer = store.online_signer(state.root.signed)
    store.publish(state.root.signed, {**state.roles, **changes}, state, signer, now)


def next_version(signed: Any, name: str, signers: Signers, now: datetime) -> Metadata[Any]:
    """The next version of a role's metadata, signed by all of `signers`."""
    signed = deepcopy(signed)
    signed.version += 1
    signed.expires = expiry(name, now)
    metadata: Metadata[Any] = Metadata(signed)
    _sign(metadata, signers)
    return metadata


def _sign(metadata: Metadata[Any], signers: Signers) -> None:
    for signer in signers:
        metadata.sign(signer, append=True)


def delegations_of(targets: Targets) -> Delegations:
    """The delegations of the targets role, which has some from now on."""
    if targets.delegations is None:
        targets.delegations = Delegations({}, {})
    return targets.delegations


def require_role(state: TrustState, branch: BranchName) -> str:
    """The name of the role of a branch; raises `RoleMissingError` unless it is delegated."""
    name = role_of_branch(branch)
    if name not in (delegations_of(state.targets.signed).roles or {}):
        raise RoleMissingError(
            f"nobody may sign {branch} yet", hint=f"hacktree trust delegate {branch} --key FILE.pub"
        )
    return name


def _require_key(state: TrustState, branch: BranchName, signer: CryptoSigner) -> None:
    if signer.public_key.keyid not in keys_of_branch(state, branch):
        raise UserError(
            f"the key {signer.public_key.keyid[:16]} may not sign {branch}",
            hint="`hacktree trust status` names the keys that may.",
        )
