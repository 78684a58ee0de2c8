"""Choosing which roots stay: pin, unpin, undeploy, cleanup."""

import enum
from collections.abc import Callable

import msgspec

from hacktree.client.deploy import prune_roots
from hacktree.client.edits.removing import remove_root
from hacktree.client.layers.trying import remove_dead_trials
from hacktree.client.recovery import Leftovers, find_leftovers, recover
from hacktree.client.retention import roots_beyond
from hacktree.client.roots import RootRecord, Roots, read_roots, write_record
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.common.errors import UserError
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.transaction import remove_dead_staging


class RootInUseError(UserError):
    """The root is running, current, previous or pinned."""


class PreviousPolicy(enum.Enum):
    """Whether the root that `rollback` would go to may be removed."""

    REFUSE = "refuse"
    REMOVE = "remove"


def pin_root(sysroot: Sysroot, name: str) -> RootRecord:
    """Keep the root whatever is deployed; returns its record."""
    return _change_record(sysroot, name, lambda old: msgspec.structs.replace(old, pinned=True))


def unpin_root(sysroot: Sysroot, name: str) -> RootRecord:
    """Leave the root to retention again; returns its record."""
    return _change_record(sysroot, name, lambda old: msgspec.structs.replace(old, pinned=False))


def _change_record(
    sysroot: Sysroot, name: str, change: Callable[[RootRecord], RootRecord]
) -> RootRecord:
    with hold_sysroot(sysroot):
        recover(sysroot)
        record = change(read_roots(sysroot).find(name))
        write_record(sysroot, record)
        return record


def undeploy_root(sysroot: Sysroot, name: str, policy: PreviousPolicy) -> RootRecord:
    """Remove a root; returns the record that it had. Raises `RootInUseError`, `BusyError`."""
    with hold_sysroot(sysroot):
        recover(sysroot)
        roots = read_roots(sysroot)
        record = roots.find(name)
        _refuse_use(roots, record, policy)
        remove_root(sysroot, record.root)
        return record


def _refuse_use(roots: Roots, record: RootRecord, policy: PreviousPolicy) -> None:
    root = record.root
    if root == roots.running:
        raise RootInUseError(f"{root} is running", hint="Boot another root first.")
    if root == roots.current or root in roots.linked:
        raise RootInUseError(f"{root} is live", hint="Deploy or roll back to another root first.")
    if record.pinned:
        raise RootInUseError(f"{root} is pinned", hint=f"First: hacktree unpin {root}")
    if root == roots.previous and policy is PreviousPolicy.REFUSE:
        raise RootInUseError(
            f"{root} is what `hacktree rollback` goes back to",
            hint="--force removes it nevertheless.",
        )


class CleanupPlan(msgspec.Struct, frozen=True):
    """What interrupted commands left, and the roots beyond retention."""

    leftovers: Leftovers
    roots: tuple[str, ...]


class CleanupResult(msgspec.Struct, frozen=True):
    """What was removed; `notes` name what had to stay."""

    leftovers: Leftovers
    roots: list[str]
    staging: int
    notes: list[str]


def plan_cleanup(sysroot: Sysroot) -> CleanupPlan:
    """What `clean_up` would remove; changes nothing."""
    beyond = roots_beyond(read_roots(sysroot), sysroot.config.keep_roots)
    return CleanupPlan(find_leftovers(sysroot), tuple(beyond))


def clean_up(sysroot: Sysroot) -> CleanupResult:
    """Remove leftovers, staging of dead commits, and roots beyond retention."""
    with hold_sysroot(sysroot):
        leftovers = find_leftovers(sysroot)
        notes = recover(sysroot)
        with sysroot.repository.lock(LockKind.SHARED):
            staging = remove_dead_staging(sysroot.repository, "txn-")
        staging += remove_dead_trials(sysroot.repository)
        removed: list[str] = []
        prune_roots(sysroot, removed, notes)
        return CleanupResult(leftovers, removed, staging, notes)
