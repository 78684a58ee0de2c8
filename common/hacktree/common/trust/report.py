"""What `hacktree trust status` says."""

import hashlib
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import asdict
from tuf.api.metadata import Root, Targets

from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.refs import read_ref
from hacktree.common.trust.editing import head_signed
from hacktree.common.trust.roles import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, is_due
from hacktree.common.trust.store import TrustState, TrustStore


class RoleReport(msgspec.Struct, frozen=True):
    """One role. `name` is the branch for a branch's role; `expires` in seconds since 1970.

    `due`: less than half of its life is left. `behind`: the branch's ref is not at `head`.
    """

    name: str
    version: int
    expires: int
    expired: bool
    due: bool
    threshold: int
    keys: tuple[str, ...]
    head: str = ""
    behind: bool = False


class TrustReport(msgspec.Struct, frozen=True):
    """`fingerprint`: what clients are told to expect of the first root; `current_root`: of the
    newest, which a pending change begins with."""

    fingerprint: str
    current_root: str
    roles: tuple[RoleReport, ...]

    def as_json(self) -> dict[str, Any]:
        """For --json."""
        return {
            "root-fingerprint": self.fingerprint,
            "current-root": self.current_root,
            "roles": [asdict(r) for r in self.roles],
        }


def fingerprint(root: bytes) -> str:
    """The fingerprint of a root file: its sha256 in hexadecimal digits."""
    return hashlib.sha256(root).hexdigest()


def describe(store: TrustStore, now: datetime) -> TrustReport:
    """The state of a repository's trust; raises as `TrustStore.load` does."""
    state = store.load()
    top = [
        _role(ROOT, ROOT, state.root.signed, state.root.signed, now),
        _role(TARGETS, TARGETS, state.targets.signed, state.root.signed, now),
        _role(SNAPSHOT, SNAPSHOT, state.snapshot.signed, state.root.signed, now),
        _role(TIMESTAMP, TIMESTAMP, state.timestamp.signed, state.root.signed, now),
    ]
    delegations = state.targets.signed.delegations
    roles = {} if delegations is None else delegations.roles or {}
    branches = []
    for name, role in roles.items():
        branch = parse_branch_name((role.paths or [""])[0])
        branches.append(_branch(store, state, name, branch, now))
    return TrustReport(
        fingerprint(store.first_root()), fingerprint(state.root_bytes), (*top, *branches)
    )


def _branch(
    store: TrustStore, state: TrustState, name: str, branch: BranchName, now: datetime
) -> RoleReport:
    delegated = state.targets.signed.get_delegated_role(name)
    if name not in state.roles:
        keys = tuple(delegated.keyids)
        return RoleReport(str(branch), 0, 0, True, True, delegated.threshold, keys, behind=True)
    signed = state.roles[name].signed
    report = _role(str(branch), name, signed, state.targets.signed, now)
    head = head_signed(state, branch)
    return RoleReport(
        report.name, report.version, report.expires, report.expired, report.due, report.threshold,
        report.keys, "" if head is None else head.hex(), read_ref(store.repository, branch) != head,
    )  # fmt: skip


def _role(
    shown: str, name: str, signed: Any, delegator: Root | Targets, now: datetime
) -> RoleReport:
    role = delegator.get_delegated_role(name)
    return RoleReport(
        shown,
        signed.version,
        int(signed.expires.timestamp()),
        signed.expires <= now,
        is_due(name, signed.expires, now),
        role.threshold,
        tuple(role.keyids),
    )
