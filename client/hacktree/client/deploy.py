"""Deploying a commit: plan, make the root under a temporary name, replay, swap, prune.

At every instant the live link resolves to a complete root. docs/architecture.md, "Deploy".
"""

import enum
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hacktree.client.edits.carrying import (
    keep_live_edits,
    what_stays_behind,
    what_was_dropped,
)
from hacktree.client.edits.kept import kept_copies
from hacktree.client.edits.removing import remove_root
from hacktree.client.recovery import recover
from hacktree.client.removal import TEMPORARY_PREFIX, delete_leftover
from hacktree.client.replay.cache import drop_unfinished, prune_cache, publish_staged
from hacktree.client.replay.integrity import Proved, change_time, prove_untouched
from hacktree.client.replay.replay import Replay, Replayed, ReplayPlan, StepsOf, plan_replay
from hacktree.client.replay.sources import steps_of
from hacktree.client.replay.step import AskAfterFailure, Build
from hacktree.client.retention import roots_beyond
from hacktree.client.roots import (
    RootRecord,
    Roots,
    StepRecord,
    forget_root,
    new_root_name,
    prepare_link,
    read_roots,
    require_root_space,
    write_pin,
    write_record,
)
from hacktree.client.swap import publish_root, swap_root
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.client.users.identities import learn
from hacktree.common.errors import BusyError, UserError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import check_out
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.transaction import sync_staging

Report = Callable[[str], None]
"""Told what is being done, a line at a time."""


class ArchitectureError(UserError):
    """The commit is for another kind of machine."""


class ArchitecturePolicy(enum.Enum):
    """Whether a root that this machine can't run may be deployed."""

    REFUSE_OTHER = "refuse"
    ALLOW_OTHER = "allow"


class RetentionPolicy(enum.Enum):
    """Whether a deploy ends with removing the roots that are no longer kept."""

    PRUNE = "prune"
    KEEP_ALL = "keep"


class ReusePolicy(enum.Enum):
    """Whether what is there already may serve: an equal root, and the layers of equal steps."""

    REUSE = "reuse"
    REPLAY = "replay"


class DeployAction(enum.Enum):
    """What has to be done to have a commit live."""

    NOTHING = "nothing"
    REUSE = "reuse"
    CHECK_OUT = "check-out"


class DeployOptions(msgspec.Struct, frozen=True):
    """How to deploy; `machine` is what uname(2) calls this machine; `ask` a person, or nobody."""

    architecture: ArchitecturePolicy = ArchitecturePolicy.REFUSE_OTHER
    retention: RetentionPolicy = RetentionPolicy.PRUNE
    reuse: ReusePolicy = ReusePolicy.REUSE
    steps_of: StepsOf = steps_of
    ask: AskAfterFailure | None = None
    clock: Callable[[], float] = time.time
    machine: str = msgspec.field(default_factory=lambda: os.uname().machine)


class DeployPlan(msgspec.Struct, frozen=True):
    """What a deploy will do: make or reuse `record.root`, swap from `old`, remove `removed`."""

    action: DeployAction
    record: RootRecord
    old: str | None
    removed: tuple[str, ...]
    commit: Commit
    replay: ReplayPlan


class DeployResult(msgspec.Struct):
    """What a deploy did; `steps` are (name, seconds) in order."""

    root: str
    changed: bool
    previous: str | None
    action: DeployAction
    steps: list[tuple[str, float]] = []
    linked: int = 0
    copied: int = 0
    replayed: Replayed | None = None
    proved: Proved | None = None
    removed: list[str] = []
    notes: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        started = time.perf_counter()
        yield
        self.steps.append((name, time.perf_counter() - started))


def plan_deploy(sysroot: Sysroot, commit_id: ObjectId, options: DeployOptions) -> DeployPlan:
    """Decide what to do; changes nothing. Raises as `plan_commit`."""
    return plan_commit(sysroot, commit_id, sysroot.repository.load_commit(commit_id), options)


def plan_commit(
    sysroot: Sysroot, commit_id: ObjectId, commit: Commit, options: DeployOptions
) -> DeployPlan:
    """Decide what to do with a commit that need not be here yet; changes nothing.

    Raises `ArchitectureError`, and what a source of steps raises.
    """
    if options.architecture is ArchitecturePolicy.REFUSE_OTHER:
        _refuse_other_architecture(commit, options.machine)
    roots = read_roots(sysroot)
    previous = None if roots.current is None else sysroot.roots / roots.current
    build = Build(sysroot, commit_id, commit, previous)
    replay = plan_replay(build, options.steps_of, fresh=options.reuse is ReusePolicy.REPLAY)
    existing = None
    if options.reuse is ReusePolicy.REUSE:
        existing = _find_equal(roots, commit_id, replay.inputs)
    if existing is None:
        action = DeployAction.CHECK_OUT
        record = RootRecord(
            root=new_root_name(sysroot, commit_id),
            commit=commit_id.hex(),
            tree=commit.root.id.hex(),
            branch=commit.branch,
            version=commit.version,
            created=int(options.clock()),
        )
        record = _with_steps(record, replay)
    else:
        live = existing.root == roots.current
        action, record = DeployAction.NOTHING if live else DeployAction.REUSE, existing
    removed: tuple[str, ...] = ()
    if options.retention is RetentionPolicy.PRUNE:
        removed = tuple(roots_beyond(_after(roots, record), sysroot.config.keep_roots))
    return DeployPlan(action, record, roots.current, removed, commit, replay)


def _refuse_other_architecture(commit: Commit, machine: str) -> None:
    if commit.architecture not in ("", machine):
        raise ArchitectureError(
            f"the commit is for {commit.architecture}, this machine is {machine}",
            hint="--allow-architecture deploys it nevertheless.",
        )


def _with_steps(
    record: RootRecord, replay: ReplayPlan, seconds: Mapping[str, float] | None = None
) -> RootRecord:
    """The record of a root on which these steps are replayed, of which some took `seconds`."""
    took = seconds or {}
    steps = tuple(
        StepRecord(name, planned.key, round(took[name], 4) if name in took else None)
        for planned in replay.steps
        for name in [planned.step.name]
    )
    return msgspec.structs.replace(record, inputs=replay.inputs, steps=steps)


def _find_equal(roots: Roots, commit_id: ObjectId, inputs: str) -> RootRecord | None:
    """A complete root with the same commit and local changes: the live one, else the newest."""
    names = [name for name in (roots.current,) if name in roots.records] + roots.newest_first()
    for name in names:
        record = roots.records[name]
        if record.commit == commit_id.hex() and record.inputs == inputs:
            return record
    return None


def _after(roots: Roots, record: RootRecord) -> Roots:
    """The roots as they will be once `record.root` is live."""
    current = {roots.current} if roots.current is not None else set()
    return Roots(
        {**roots.records, record.root: record},
        roots.with_live(record.root),
        record.root,
        (roots.linked - current) | {record.root},
        roots.running,
    )


def deploy_commit(
    sysroot: Sysroot, commit_id: ObjectId, options: DeployOptions, report: Report
) -> DeployResult:
    """Make the commit, which is in the sysroot's repository, live.

    The caller holds no lock of the repository (the sysroot's comes first). A failure leaves what is
    live untouched. Raises `BusyError` if somebody else is deploying, `SpaceError`, and whatever
    `plan_deploy` and `check_out` raise.
    """
    with hold_sysroot(sysroot, waiting=lambda who: report(f"waiting for {who}")):
        copies = kept_copies(sysroot)
        notes = recover(sysroot)
        plan = plan_deploy(sysroot, commit_id, options)
        result = DeployResult(
            plan.record.root, plan.action is not DeployAction.NOTHING, plan.old, plan.action
        )
        result.notes += notes
        if plan.action is not DeployAction.NOTHING:
            kept = keep_live_edits(sysroot, plan.old, options.clock())
            if plan.action is DeployAction.CHECK_OUT:
                _make_root(sysroot, plan, result, options, report)
            _go_live(sysroot, plan, result)
            result.notes += what_stays_behind(sysroot, plan.old, plan.record.root, kept)
        if options.retention is RetentionPolicy.PRUNE:
            with result.step("remove old roots"):
                prune_roots(sysroot, result.removed, result.notes)
        result.notes += what_was_dropped(sysroot, copies)
        return result


def prepare_root(
    sysroot: Sysroot, commit_id: ObjectId, options: DeployOptions, report: Report
) -> DeployResult:
    """Have a complete root of the commit, as `deploy_commit` would make it; what is live stays.

    The next deploy may remove it again, as a root that never went live. Raises as `deploy_commit`.
    """
    with hold_sysroot(sysroot, waiting=lambda who: report(f"waiting for {who}")):
        notes = recover(sysroot)
        plan = plan_deploy(sysroot, commit_id, options)
        made = plan.action is DeployAction.CHECK_OUT
        result = DeployResult(plan.record.root, made, plan.old, plan.action, notes=notes)
        if made:
            _make_root(sysroot, plan, result, options, report)
            publish_root(sysroot, plan.record.root)
        return result


def _make_root(
    sysroot: Sysroot,
    plan: DeployPlan,
    result: DeployResult,
    options: DeployOptions,
    report: Report,
) -> None:
    """Check out under a temporary name, replay, record, sync; what a failure leaves is removed."""
    repository, record = sysroot.repository, plan.record
    temporary = sysroot.roots / f"{TEMPORARY_PREFIX}{record.root}"
    require_root_space(sysroot, plan.commit)
    report(f"checking out {plan.commit.totals.files} files to {record.root}")
    try:
        with repository.lock(LockKind.SHARED):
            write_pin(sysroot, record)
            with result.step("check out"):
                made = check_out(repository, plan.commit, temporary)
        result.linked, result.copied = made.linked, made.copied
        staged: list[str] = []
        if plan.replay.steps:
            replayed = result.replayed = _replay(plan, result, temporary, options, report)
            record = _with_steps(record, replayed.plan, dict(replayed.seconds))
            staged = replayed.staged
        seconds = {name: round(took, 4) for name, took in result.steps}
        record = msgspec.structs.replace(record, seconds=seconds)
        with result.step("sync"):
            write_record(sysroot, record)
            prepare_link(sysroot, record.root)
            sync_staging(sysroot.roots)
            publish_staged(sysroot, staged)
    except BaseException:
        if temporary.exists():
            delete_leftover(sysroot, temporary.name)
        drop_unfinished(sysroot)
        forget_root(sysroot, record.root)
        raise


def _replay(
    plan: DeployPlan,
    result: DeployResult,
    root: Path,
    options: DeployOptions,
    report: Report,
) -> Replayed:
    """Replay the steps on a checkout, then prove that no object of it was touched."""
    repository = plan.replay.build.sysroot.repository
    checked_out = change_time(repository)
    fresh = options.reuse is ReusePolicy.REPLAY
    replay = Replay(options.steps_of, root, report, options.ask, fresh)
    with result.step("replay"):
        replayed = replay.run(plan.replay)
        learn(plan.replay.build, root)
    with result.step("prove the repository untouched"):
        result.proved = prove_untouched(repository, plan.commit, checked_out)
    return replayed


def _go_live(sysroot: Sysroot, plan: DeployPlan, result: DeployResult) -> None:
    with result.step("swap"):
        if plan.action is DeployAction.CHECK_OUT:
            publish_root(sysroot, plan.record.root)
        swap_root(sysroot, plan.record.root)


def prune_roots(sysroot: Sysroot, removed: list[str], notes: list[str]) -> None:
    """Remove the roots beyond retention; one that is in use stays and is noted.

    The caller holds the sysroot lock. Names go to `removed` as they are gone.
    """
    for name in roots_beyond(read_roots(sysroot), sysroot.config.keep_roots):
        try:
            remove_root(sysroot, name)
        except BusyError as error:
            notes.append(f"{name} stays: {error.message}")
        else:
            removed.append(name)
    kept = {step.key for record in read_roots(sysroot).records.values() for step in record.steps}
    prune_cache(sysroot, kept)
