"""Trying what is in a directory: the live root with it on top, for one session, then thrown away.

Nothing is checked out, committed or swapped. The files are laid by the steps that lay a layer, over
the live root; what these wrote are layers of an overlay that `hacktree.client.entering` mounts over
that root. They lie in the repository's staging, whose lock tells a session that was killed.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.layers.branch import commit_layer
from hacktree.client.layers.definition import LayerDefinition, MisfitPolicy, SourceKind
from hacktree.client.layers.laying import Layer, plan_layer
from hacktree.client.layers.steps import LayerConflictError, LayerStep, fit_step, list_conflicts
from hacktree.client.layers.view import DiskView
from hacktree.client.recovery import recover
from hacktree.client.removal import delete_below
from hacktree.client.replay.cache import UPPER, drop_unfinished
from hacktree.client.replay.replay import Replay, plan_replay
from hacktree.client.replay.step import Build, Step
from hacktree.client.roots import RootMissingError, read_roots
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.client.triggers.step import TriggerSource
from hacktree.common.repository.layout import init_repository
from hacktree.common.repository.locks import LockKind, try_lock
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.transaction import locked_staging

_STAGING: Final = "try-"
_NAME: Final = "try"


class Trial(msgspec.Struct, frozen=True):
    """A root and the layers over it, topmost first."""

    root: str
    uppers: Sequence[Path]


@contextmanager
def trial_of(
    sysroot: Sysroot, directory: Path, time: int, report: Callable[[str], None]
) -> Iterator[Trial]:
    """The live root with the files of a directory, for as long as the block lasts.

    What the root has at their places is replaced. Misfits are reported. Raises `RootMissingError`,
    `LayerConflictError`, `StepFailedError`, `NamespaceRefusedError`.
    """
    repository = sysroot.repository
    with hold_sysroot(sysroot, waiting=lambda who: report(f"waiting for {who}")):
        recover(sysroot)
        remove_dead_trials(repository)
    with locked_staging(repository, f"{_STAGING}{secrets.token_hex(8)}") as place:
        try:
            layer, files = _read(repository, directory, place, time)
            with hold_sysroot(sysroot, waiting=lambda who: report(f"waiting for {who}")):
                trial = _lay(sysroot, layer, files, place, report)
            yield trial
        finally:
            delete_below(place.parent, place.name)


def remove_dead_trials(repository: Repository) -> int:
    """Delete what sessions left that were killed; returns of how many."""
    removed = 0
    for name in os.listdir(repository.staging):
        if name.startswith(_STAGING):
            # A session that ends deletes its own, and waits for nobody.
            with suppress(FileNotFoundError):
                removed += _remove_if_dead(repository, name)
    return removed


def _remove_if_dead(repository: Repository, name: str) -> bool:
    descriptor = os.open(repository.staging / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        dead = try_lock(descriptor, LockKind.EXCLUSIVE)
        if dead:
            delete_below(repository.staging, name)
        return dead
    finally:
        os.close(descriptor)


def _read(
    repository: Repository, directory: Path, place: Path, time: int
) -> tuple[Layer, Repository]:
    """The directory as a layer, in a repository of its own that goes with the session."""
    init_repository(place / "repository", repository.mode)
    files = open_repository(place / "repository")
    definition = LayerDefinition(
        source=SourceKind.DIRECTORY,
        path=str(directory.resolve()),
        replace=("*",),
        misfit=MisfitPolicy.WARN,
    )
    result = commit_layer(files, _NAME, definition, time, lambda invocation: 0)
    return Layer(_NAME, result.commit, definition), files


def _lay(
    sysroot: Sysroot,
    layer: Layer,
    files: Repository,
    place: Path,
    report: Callable[[str], None],
) -> Trial:
    record = read_roots(sysroot).live
    if record is None:
        raise RootMissingError("no root is live", hint="`hacktree deploy REV` makes one.")
    root = sysroot.roots / record.root
    commit = sysroot.repository.load_commit(record.commit_id)
    build = Build(sysroot, record.commit_id, commit, None)
    before = DiskView(root, files)
    plan = plan_layer(before, files, layer, lambda path: record.root, lambda path: None)
    if plan.placement.conflicts:
        raise LayerConflictError(
            f"{layer.definition.path} can't be laid over {record.root}:\n"
            f"{list_conflicts(plan.placement.conflicts)}",
            hint="Install it where the root has directories, and files where it has files.",
        )
    # Never taken from a cache: the root is not the commit's tree alone.
    salt = secrets.token_bytes(32)
    fit = fit_step(sysroot.repository, commit.root.id, before, [layer], {layer.name: plan}, salt)
    steps: list[Step] = [LayerStep(layer, files, salt), fit, *TriggerSource().steps(build)]
    replay = Replay(lambda build: steps, root, report)
    try:
        done = replay.apply(plan_replay(build, lambda build: steps))
        uppers = []
        for number, planned in enumerate(done.plan.steps):
            uppers.append(place / f"{UPPER}-{number}")
            os.rename(done.place(planned) / UPPER, uppers[-1])
    finally:
        drop_unfinished(sysroot)
    return Trial(record.root, tuple(reversed(uppers)))
