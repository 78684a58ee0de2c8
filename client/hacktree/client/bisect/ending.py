"""Ending a bisection: back to the root of the start, and nothing of the search is left."""

from hacktree.client.bisect.deploying import go_back, release_started, remove_roots
from hacktree.client.bisect.driver import Machine
from hacktree.client.bisect.farm.fetching import release_builds
from hacktree.client.bisect.farm.known import forget_known
from hacktree.client.bisect.farm.lease import end_lease
from hacktree.client.bisect.farm.prefetch import forget_prefetch, stop_prefetch
from hacktree.client.bisect.farm.transfers import forget_trees
from hacktree.client.bisect.store import read_bisection, remove_bisection
from hacktree.client.bisect.unattended import remove_unit
from hacktree.client.deploy import Report
from hacktree.client.keeping import PreviousPolicy
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import NO_SPACE


def end(machine: Machine) -> bool:
    """Go back to the root that was live at the start, remove what was made; whether it swapped.

    Killed half way, it may be called again: the session goes last.
    """
    sysroot, report = machine.sysroot, machine.listener.say
    saved = read_bisection(sysroot)
    local = saved.local
    stop_prefetch(sysroot.repository)
    swapped = go_back(sysroot, local.started, local.roots, report)
    for name in remove_roots(sysroot, local.roots, PreviousPolicy.REMOVE, report):
        report(f"{name} stays: it is in use, or pinned")
    end_lease(sysroot.repository, saved.session, report)
    _forget(sysroot)
    if local.keeps_started:
        _release(sysroot, local.started, report)
    remove_bisection(sysroot)
    return swapped


def _release(sysroot: Sysroot, started: str, report: Report) -> None:
    """Unpin the root of the start; the end doesn't wait for a disk too full to note that."""
    try:
        release_started(sysroot, started)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        report(
            f"note: the disk is full, so {started} stays pinned; once there is room: "
            f"hacktree unpin {started}"
        )


def drop(machine: Machine) -> None:
    """Delete a session that can't be read, and what keeps its builds; roots stay as they are."""
    stop_prefetch(machine.sysroot.repository)
    _forget(machine.sysroot)
    remove_bisection(machine.sysroot)


def _forget(sysroot: Sysroot) -> None:
    release_builds(sysroot.repository)
    remove_unit(sysroot)
    forget_trees(sysroot.repository)
    forget_known(sysroot.repository)
    forget_prefetch(sysroot.repository)
