"""The roots of a bisection: made for a build under test, removed when they were tested.

With `deploy` a build becomes the live root, else it is only made. The root that was live at the
start is pinned meanwhile: no deploy removes it, and `reset` goes back to it.
"""

import os
from collections.abc import Callable, Sequence

import msgspec

from hacktree.client.bisect.candidate import with_message
from hacktree.client.bisect.core.model import Candidate, Options
from hacktree.client.bisect.farm.fetching import BuildGoneError
from hacktree.client.deploy import (
    ArchitectureError,
    DeployAction,
    DeployOptions,
    Report,
    RetentionPolicy,
    deploy_commit,
    plan_deploy,
    prepare_root,
)
from hacktree.client.keeping import (
    PreviousPolicy,
    RootInUseError,
    pin_root,
    undeploy_root,
    unpin_root,
)
from hacktree.client.layers.steps import LayerConflictError
from hacktree.client.replay.sources import steps_of
from hacktree.client.replay.step import StepFailedError
from hacktree.client.rollback import roll_back
from hacktree.client.roots import RootMissingError, read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import BusyError, HacktreeError
from hacktree.common.objects.ids import parse_object_id

UNTESTABLE = (BuildGoneError, StepFailedError, ArchitectureError, LayerConflictError)
"""Failures that are about this build: another one may well go."""


class Roots(msgspec.Struct, frozen=True):
    """How roots of one bisection are made; `report` is told what is done, a line at a time.

    `booted`: people may log in to them, and are told that they are under test. `unit`: the systemd
    unit that goes on with a run, if there is one: it comes into such roots, too.
    """

    sysroot: Sysroot
    options: Options
    report: Report
    booted: bool
    unit: str = ""


def make_root(roots: Roots, candidate: Candidate, announce: Callable[[str], None]) -> str:
    """Have the root of a build, live with `deploy`; returns its name.

    `announce` is told the name before a root is made that is not there yet. The build is here.
    Raises what `deploy_commit` raises.
    """
    sysroot, commit = roots.sysroot, parse_object_id(candidate.commit)
    options = DeployOptions(retention=RetentionPolicy.KEEP_ALL)
    if roots.booted and os.geteuid() == 0:
        # Others boot into nothing; and to lay the message they need namespaces.
        options = DeployOptions(
            retention=RetentionPolicy.KEEP_ALL,
            steps_of=with_message(steps_of, candidate, roots.options.terms, roots.unit),
        )
    plan = plan_deploy(sysroot, commit, options)
    if plan.action is DeployAction.CHECK_OUT:
        announce(plan.record.root)
    make = deploy_commit if roots.options.deploy else prepare_root
    result = make(sysroot, commit, options, roots.report)
    if result.changed and result.root != plan.record.root:
        # Somebody else took that name between the plan and the deploy.
        announce(result.root)
    for note in result.notes:
        roots.report(f"note: {note}")
    return result.root


def remove_roots(
    sysroot: Sysroot, names: Sequence[str], policy: PreviousPolicy, report: Report
) -> list[str]:
    """Remove those of the roots that nobody uses; returns those that stay.

    What was written in their /etc is kept, as with every root that is removed.
    """
    stay = []
    for name in names:
        try:
            undeploy_root(sysroot, name, policy)
        except RootMissingError:
            continue
        except RootInUseError:
            stay.append(name)
        except BusyError as error:
            report(f"note: {name} stays: {error.message}")
            stay.append(name)
    return stay


def keep_started(sysroot: Sysroot, root: str) -> None:
    """Pin the root that was live at the start, if it is still there."""
    record = read_roots(sysroot).records.get(root)
    if record is not None and not record.pinned:
        pin_root(sysroot, root)


def go_back(sysroot: Sysroot, started: str, made: Sequence[str], report: Report) -> bool:
    """Make the root live again that was so at the start; whether the live root changed.

    If somebody deployed another root meanwhile, that one stays live.
    """
    roots = read_roots(sysroot)
    if roots.current is None or roots.current not in made:
        return False
    if not started:
        report(f"no root was live when the bisection began: {roots.current} stays")
        return False
    if started not in roots.records:
        report(f"{started}, which was live at the start, is gone: {roots.current} stays")
        return False
    return roll_back(sysroot, started).changes


def release_started(sysroot: Sysroot, root: str) -> None:
    """Unpin it, if it is still there."""
    if root in read_roots(sysroot).records:
        unpin_root(sysroot, root)


def is_about_build(error: HacktreeError) -> bool:
    """Whether a failure says that this build can't be tested, and nothing of others."""
    return isinstance(error, UNTESTABLE)
