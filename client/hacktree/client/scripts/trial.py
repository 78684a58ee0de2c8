"""Replaying config scripts on a root that is thrown away, to see what each of them does."""

import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.recovery import recover
from hacktree.client.removal import TEMPORARY_PREFIX, delete_leftover
from hacktree.client.replay.cache import LOG, UPPER, drop_unfinished
from hacktree.client.replay.namespaces import Send, run_isolated
from hacktree.client.replay.replay import Replay, Replayed, plan_replay
from hacktree.client.replay.sources import steps_before_scripts, steps_of
from hacktree.client.replay.step import AskAfterFailure, Build, Step
from hacktree.client.replay.view import LayerView
from hacktree.client.roots import new_root_name, read_live, require_root_space
from hacktree.client.scripts.answers import read_answers, render_answers
from hacktree.client.scripts.difference import StepChange, changes_of
from hacktree.client.scripts.step import ScriptStep
from hacktree.client.scripts.store import Script, ScriptError, enabled_scripts, find_script
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import check_out
from hacktree.common.repository.locks import LockKind

_MAX_LOG: Final = 1 << 20


class Tried(msgspec.Struct, frozen=True):
    """What a script did: its changes, what it printed (the first MiB), how long it took."""

    name: str
    seconds: float
    changes: Sequence[StepChange]
    log: str


class Trial(msgspec.Struct, frozen=True):
    """What each script did, and the names of the steps that failed and that a person skipped."""

    tried: Sequence[Tried]
    skipped: Sequence[str]


def try_scripts(
    sysroot: Sysroot,
    commit_id: ObjectId,
    name: str | None,
    report: Callable[[str], None],
    ask: AskAfterFailure | None = None,
) -> Trial:
    """Replay everything up to the script `name`, which may be disabled, or to the last script.

    Returns what that script, or each, did; nothing else is left of it. What `ask` decides to skip
    is left out, as in a deploy. Raises `ScriptError`,
    `StepFailedError`, `BusyError` while somebody deploys, and whatever `check_out` raises.
    """
    chosen = None if name is None else _runnable(sysroot, name)
    with hold_sysroot(sysroot, waiting=lambda who: report(f"waiting for {who}")):
        recover(sysroot)
        build = _build(sysroot, commit_id)
        temporary = sysroot.roots / f"{TEMPORARY_PREFIX}{new_root_name(sysroot, commit_id)}"
        require_root_space(sysroot, build.commit)
        salt = secrets.token_bytes(16)
        steps = _Steps(chosen, salt)
        try:
            with sysroot.repository.lock(LockKind.SHARED):
                check_out(sysroot.repository, build.commit, temporary)
            replay = Replay(steps, temporary, report, ask)
            done = replay.apply(plan_replay(build, steps))
            return Trial(_look(done, temporary), done.skipped)
        finally:
            if temporary.exists():
                delete_leftover(sysroot, temporary.name)
            drop_unfinished(sysroot)


def _runnable(sysroot: Sysroot, name: str) -> Script:
    found = find_script(sysroot.path, name)
    if found.script is None:
        raise ScriptError(f"{name} can't run: {found.problem}", hint="Mend it first.")
    return found.script


def _build(sysroot: Sysroot, commit_id: ObjectId) -> Build:
    live = read_live(sysroot)
    previous = None if live is None else sysroot.roots / live
    return Build(sysroot, commit_id, sysroot.repository.load_commit(commit_id), previous)


class _Steps(msgspec.Struct, frozen=True):
    """The steps of a trial; asked anew after a failure, when the script may be another."""

    chosen: Script | None
    salt: bytes

    def __call__(self, build: Build) -> list[Step]:
        if self.chosen is None:
            return [self._salted(step) for step in steps_of(build)]
        script = _runnable(build.sysroot, self.chosen.name)
        answers = render_answers(read_answers(build.sysroot.path))
        before = [
            ScriptStep(one, answers, build.id)
            for one in enabled_scripts(build.sysroot.path)
            if os.fsencode(one.name) < os.fsencode(script.name)
        ]
        tried = self._salted(ScriptStep(script, answers, build.id))
        return [*steps_before_scripts(build), *before, tried]

    def _salted(self, step: Step) -> Step:
        return replace(step, salt=self.salt) if isinstance(step, ScriptStep) else step


def _look(done: Replayed, root: Path) -> list[Tried]:
    seconds = dict(done.seconds)
    layers = [root]
    tried = []
    for planned in done.plan.steps:
        place, step = done.place(planned), planned.step
        if isinstance(step, ScriptStep) and step.salt:
            with open(place / LOG, "rb") as stream:
                log = stream.read(_MAX_LOG).decode("utf-8", "replace")
            changes = _changes(place / UPPER, layers)
            tried.append(Tried(step.script.name, seconds[step.name], changes, log))
        layers = [place / UPPER, *layers]
    return tried


def _changes(upper: Path, layers: Sequence[Path]) -> list[StepChange]:
    """What a layer changes in the root that `layers` make up."""
    changes: list[StepChange] = []

    def look(send: Send) -> None:
        for change in changes_of(upper, LayerView(layers)):
            send(msgspec.msgpack.encode(change))

    def receive(data: bytes) -> None:
        changes.append(msgspec.msgpack.decode(data, type=StepChange))

    if os.geteuid() == 0:
        look(receive)
    else:
        # Where a mode keeps its own owner out, only the root of a user namespace gets in.
        run_isolated(look, receive)
    return changes
