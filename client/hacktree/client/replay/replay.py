"""Replaying steps on a checkout: plan, apply what is not cached, materialise, prove.

docs/architecture-deploy.md, "Replay".
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from hacktree.client.removal import delete_below
from hacktree.client.replay.cache import (
    LOG,
    UPPER,
    begin_staging,
    chain_keys,
    drop_unfinished,
    find_complete,
    place_of,
    publish_staged,
    staged_place,
    write_entry,
)
from hacktree.client.replay.inside import (
    Applied,
    Failed,
    Said,
    Task,
    apply_inside,
    decode_message,
    set_foreground_group,
)
from hacktree.client.replay.materialise import materialise
from hacktree.client.replay.namespaces import (
    InsideDiedError,
    NamespaceRefusedError,
    Send,
    run_isolated,
)
from hacktree.client.replay.overlay import Layers
from hacktree.client.replay.step import (
    AfterFailure,
    AskAfterFailure,
    Build,
    Step,
    StepFailedError,
)
from hacktree.common.errors import HacktreeError
from hacktree.common.repository.transaction import sync_staging

FAILURE_LOG: Final = "failed.log"
"""In `.ht/replay`: the whole log of the step that failed last."""

_LOG_TAIL: Final = 64 << 10
_MAX_DIGEST: Final = 1 << 10
_NEW_LOG: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW

Report = Callable[[str], None]
StepsOf = Callable[[Build], Sequence[Step]]
"""Says what is wanted done to a root of a build: `sources.steps_of`."""


class StepNamesError(HacktreeError):
    """Two steps have one name, or a step has no digest: a bug of their source."""


class PlannedStep(msgspec.Struct, frozen=True):
    """A step with its key; `cached` if its layer is here and will do."""

    step: Step
    key: str
    cached: bool


class ReplayPlan(msgspec.Struct, frozen=True):
    """The steps of a replay in order."""

    build: Build
    steps: tuple[PlannedStep, ...] = ()

    @property
    def inputs(self) -> str:
        """The digest of all local changes; empty when there are none."""
        return self.steps[-1].key if self.steps else ""


def plan_replay(
    build: Build,
    steps_of: StepsOf,
    *,
    skipped: frozenset[str] = frozenset(),
    fresh: bool = False,
) -> ReplayPlan:
    """Ask for the steps, and unless all are to run, look which layers are here. Changes nothing."""
    steps = steps_of(build)
    names = [step.name for step in steps]
    if len(set(names)) != len(names) or not all(
        0 < len(step.digest) <= _MAX_DIGEST for step in steps
    ):
        raise StepNamesError(f"two steps with one name, or one without a digest: {names}")
    wanted = [step for step in steps if step.name not in skipped]
    keys = chain_keys(build.sysroot, build.commit, wanted)
    planned = [
        PlannedStep(step, key, not fresh and find_complete(build.sysroot, key))
        for step, key in zip(wanted, keys, strict=True)
    ]
    return ReplayPlan(build, tuple(planned))


class Replayed(msgspec.Struct):
    """What a replay did: `plan` is what was applied in the end, `seconds` by step."""

    plan: ReplayPlan
    seconds: list[tuple[str, float]] = []
    ran: list[str] = []
    staged: list[str] = []
    skipped: list[str] = []
    linked: int = 0
    deleted: int = 0

    def place(self, planned: PlannedStep) -> Path:
        """Where the layer and the log of one of the plan's steps are."""
        place = staged_place if planned.key in self.staged else place_of
        return place(self.plan.build.sysroot, planned.key)


class Replay(msgspec.Struct):
    """One replay on the directory `root`, a checkout that nobody else uses yet."""

    steps_of: StepsOf
    root: Path
    report: Report
    ask: AskAfterFailure | None = None
    fresh: bool = False

    def run(self, plan: ReplayPlan) -> Replayed:
        """Apply every step, then materialise. New layers are staged, not yet durable.

        Raises `StepFailedError` and what a step ran into; what went well before is then published.
        """
        done = Replayed(plan)
        try:
            self._run_until_decided(done)
            self._materialise(done)
        except BaseException:
            # Only a next try's time is at stake.
            with suppress(OSError):
                self._save(done)
            raise
        return done

    def apply(self, plan: ReplayPlan) -> Replayed:
        """Apply every step and leave it at that: the root stays a checkout, the layers are staged.

        For looking at what steps do; the caller ends it with `drop_unfinished`. Raises as `run`.
        """
        done = Replayed(plan)
        self._run_until_decided(done)
        return done

    def _run_until_decided(self, done: Replayed) -> None:
        skipped: set[str] = set()
        while (decision := self._run_all(done)) is not None:
            if decision.after is AfterFailure.SKIP:
                skipped.add(decision.step)
                done.skipped.append(decision.step)
            done.plan = plan_replay(
                done.plan.build, self.steps_of, skipped=frozenset(skipped), fresh=self.fresh
            )

    def _run_all(self, done: Replayed) -> "_Decision | None":
        plan = done.plan
        earlier: list[Path] = []
        for number, planned in enumerate(plan.steps, 1):
            name, key = planned.step.name, planned.key
            sysroot = plan.build.sysroot
            label = f"step {number} of {len(plan.steps)}: {name}"
            if key in done.staged:
                earlier.append(staged_place(sysroot, key) / UPPER)
                continue
            if planned.cached:
                self.report(f"{label} (cached)")
                earlier.append(place_of(sysroot, key) / UPPER)
                continue
            self.report(label)
            started = time.perf_counter()
            failed = self._apply(plan.build, planned, earlier)
            seconds = time.perf_counter() - started
            done.seconds.append((name, seconds))
            if failed is not None:
                return failed
            done.staged.append(key)
            done.ran.append(name)
            earlier.append(staged_place(sysroot, key) / UPPER)
        return None

    def _apply(
        self, build: Build, planned: PlannedStep, earlier: Sequence[Path]
    ) -> "_Decision | None":
        """Apply one step to its staged layer; a decision if it failed and somebody was asked."""
        place = begin_staging(build.sysroot, planned.key)
        scratch = place / "overlay"
        scratch.mkdir()
        layers = Layers(scratch, [*reversed(earlier), self.root])
        layers.make()
        started = time.perf_counter()
        outcome = self._apply_isolated(
            Task(planned.step, build, layers, earlier, _open_log(place), self.ask)
        )
        if isinstance(outcome, Failed):
            return self._fail(planned, place, outcome)
        seconds = time.perf_counter() - started
        if outcome.sockets:
            self.report(f"  left out {outcome.sockets} sockets")
        os.rename(layers.upper, place / UPPER)
        delete_below(place, scratch.name)
        write_entry(place, planned.step.name, seconds)
        return None

    def _apply_isolated(self, task: Task) -> Applied | Failed:
        outcome: list[Applied | Failed] = []

        def receive(data: bytes) -> None:
            try:
                message = decode_message(data)
            except msgspec.MsgspecError as error:
                raise InsideDiedError(f"a message from inside is malformed: {error}") from error
            if isinstance(message, Said):
                self.report(f"  {message.line}")
            else:
                outcome.append(message)

        foreground = _foreground_group() if task.ask is not None else None
        try:
            run_isolated(lambda send: apply_inside(task, send), receive, {task.log})
        finally:
            os.close(task.log)
            if foreground is not None and foreground != _foreground_group():
                # The code inside took it, to ask.
                set_foreground_group(foreground)
        if len(outcome) != 1:
            raise InsideDiedError(f"{task.step.name} ended without saying how")
        return outcome[0]

    def _fail(self, planned: PlannedStep, place: Path, failed: Failed) -> "_Decision":
        """Keep the log, drop the layer; raise what the step did unless somebody decided else."""
        kept = place.parent / FAILURE_LOG
        kept.unlink(missing_ok=True)
        os.rename(place / LOG, kept)
        if failed.bug:
            with open(kept, "a") as stream:
                stream.write(failed.bug)
        after = AfterFailure(failed.decision)
        if after is AfterFailure.ABORT:
            raise _error_of(planned.step.name, kept, failed)
        delete_below(place.parent, place.name)
        return _Decision(planned.step.name, after)

    def _materialise(self, done: Replayed) -> None:
        uppers = [done.place(planned) / UPPER for planned in done.plan.steps]

        def work(send: Send) -> None:
            for upper in uppers:
                made = materialise(upper, self.root)
                send(msgspec.msgpack.encode((made.linked, made.deleted)))

        def receive(data: bytes) -> None:
            linked, deleted = msgspec.msgpack.decode(data, type=tuple[int, int])
            done.linked += linked
            done.deleted += deleted

        if os.geteuid() == 0:
            work(receive)
        elif uppers:
            # Where a mode keeps its own owner out, only the root of a user namespace gets in.
            run_isolated(work, receive)

    def _save(self, done: Replayed) -> None:
        """Keep the layers of what went well before a failure, for the next try."""
        sysroot = done.plan.build.sysroot
        if done.staged:
            sync_staging(sysroot.replay)
            publish_staged(sysroot, done.staged)
        drop_unfinished(sysroot)


class _Decision(msgspec.Struct, frozen=True):
    """What was decided when a step failed: to go on, one way or the other."""

    step: str
    after: AfterFailure


def _open_log(place: Path) -> int:
    return os.open(place / LOG, _NEW_LOG, 0o600)


def _error_of(name: str, log: Path, failed: Failed) -> Exception:
    if failed.bug:
        return RuntimeError(f"{name}: a bug of this step:\n{failed.bug}")
    if failed.refused:
        return NamespaceRefusedError(failed.message, hint=failed.hint)
    if failed.error:
        return OSError(failed.error, f"{name}: {failed.message}", failed.filename or None)
    text = failed.log or _read_tail(log)
    where = f"The whole log: {log}"
    hint = f"{failed.hint}\n  {where}" if failed.hint else where
    return StepFailedError(f"{name} failed: {failed.message}", hint=hint, log=text)


def _read_tail(log: Path) -> str:
    with open(log, "rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_TAIL))
        return stream.read(_LOG_TAIL).decode("utf-8", "replace")


def _foreground_group() -> int | None:
    """The terminal's foreground job; None if standard input isn't this session's terminal."""
    try:
        return os.tcgetpgrp(0)
    except OSError:
        return None
