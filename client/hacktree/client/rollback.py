"""Going back to a root that exists: the swap of a deploy, without making anything."""

import msgspec

from hacktree.client.recovery import recover
from hacktree.client.roots import RootMissingError, RootRecord, read_roots
from hacktree.client.swap import swap_root
from hacktree.client.sysroot import Sysroot, hold_sysroot

PREVIOUS = "previous"


class RollbackPlan(msgspec.Struct, frozen=True):
    """From the live root, if any, to another; `record` may be the live one: nothing to do."""

    old: str | None
    record: RootRecord

    @property
    def changes(self) -> bool:
        """Whether the live link will move."""
        return self.record.root != self.old


def plan_rollback(sysroot: Sysroot, target: str) -> RollbackPlan:
    """Find the root to go to: a name, a beginning of one, or `previous`. Changes nothing."""
    roots = read_roots(sysroot)
    if target == PREVIOUS and roots.previous is None:
        raise RootMissingError(
            "no root was live before the current one", hint="`hacktree status` lists the roots."
        )
    return RollbackPlan(roots.current, roots.find(target))


def roll_back(sysroot: Sysroot, target: str = PREVIOUS) -> RollbackPlan:
    """Make an existing root live, on a full disk, too; returns what was done."""
    with hold_sysroot(sysroot):
        recover(sysroot)
        plan = plan_rollback(sysroot, target)
        if plan.changes:
            swap_root(sysroot, plan.record.root)
        return plan
