"""Testing a mixture: a root of its own, made as a deploy makes one, in which the command runs."""

import os
from collections.abc import Callable, Collection, Sequence

import msgspec
from msgspec.structs import replace

from hacktree.client.bisect.components.minimising import Outcome
from hacktree.client.bisect.components.regenerating import RegenerateStep
from hacktree.client.bisect.running import (
    CommandMissingError,
    Finding,
    command_environment,
    on_host,
    run_command,
)
from hacktree.client.deploy import DeployOptions, prepare_root
from hacktree.client.edits.removing import remove_root
from hacktree.client.entering.enter import Request, enter_apart
from hacktree.client.entering.filesystem import Writes
from hacktree.client.entering.person import Person
from hacktree.client.recovery import recover
from hacktree.client.replay.cache import prune_cache
from hacktree.client.replay.sources import steps_of
from hacktree.client.replay.step import Build, Step, StepFailedError
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, hold_sysroot
from hacktree.common.objects.ids import ObjectId

_OUTCOMES = {
    Finding.PASSED: Outcome.PASSES,
    Finding.FAILED: Outcome.FAILS,
    Finding.SKIPPED: Outcome.UNRESOLVED,
}


class Tried(msgspec.Struct, frozen=True):
    """What became of one root: `note` for a log. `missing`: the command could not be run in it."""

    outcome: Outcome
    seconds: float
    note: str
    missing: CommandMissingError | None = None


class RootTester(msgspec.Struct, frozen=True):
    """Runs `command` in roots, as `person`, at most `limit` seconds; None: as long as it takes.

    What it writes to the root is thrown away. /etc and /var are the root's own: of a mixture they
    are part. `person` None: on this machine. `output`: a descriptor for what the command prints.
    `options`: how the roots are made.
    """

    sysroot: Sysroot
    command: tuple[str, ...]
    person: Person | None
    limit: float | None
    options: DeployOptions
    report: Callable[[str], None]
    output: int | None = None

    def test(
        self,
        commit: ObjectId,
        branch: str,
        paths: Sequence[str],
        previous: str,
        spared: Collection[str],
    ) -> Tried:
        """Make a root of the commit, run the command, remove the root unless it is `spared`.

        `paths`: what caches must be brought up to date with. A root that can't be made because
        a trigger fails is unresolved. Raises `RunAbortedError`, and what a deploy raises.
        """
        try:
            root = self._prepare(commit, paths)
        except StepFailedError as error:
            return Tried(Outcome.UNRESOLVED, 0.0, error.message)
        try:
            return self._run(root, commit, branch, previous)
        finally:
            self.remove_roots(commit, spared)

    def _prepare(self, commit: ObjectId, paths: Sequence[str]) -> str:
        def steps(build: Build) -> Sequence[Step]:
            own = [RegenerateStep(tuple(paths), build.commit.time)] if paths else []
            return [*own, *steps_of(build)]

        options = replace(self.options, steps_of=steps)
        return prepare_root(self.sysroot, commit, options, self.report).root

    def _run(self, root: str, commit: ObjectId, branch: str, previous: str) -> Tried:
        start = self._start(root, commit, branch, previous)
        try:
            ran = run_command(start, self.limit, output=self.output)
        except CommandMissingError as error:
            if not (self.sysroot.roots / root).exists():
                raise
            return Tried(Outcome.UNRESOLVED, 0.0, error.message, error)
        return Tried(_OUTCOMES[ran.finding], ran.seconds, ran.describe())

    def _start(self, root: str, commit: ObjectId, branch: str, previous: str) -> Callable[[], int]:
        place = "/" if self.person is not None else str(self.sysroot.roots / root)
        variables = command_environment(place, commit.hex(), branch, previous)
        if self.person is None:
            return on_host(self.command, variables)
        request = Request(
            self.command, self.person, dict(os.environ), Writes.THROWN_AWAY, variables=variables
        )
        return lambda: enter_apart(self.sysroot, root, request)

    def list_roots(self, commit: ObjectId) -> tuple[str, ...]:
        """The roots of the commit that are there."""
        records = read_roots(self.sysroot).records.items()
        return tuple(name for name, record in records if record.commit == commit.hex())

    def remove_roots(self, commit: ObjectId, spared: Collection[str]) -> None:
        """Remove the roots of the commit but for `spared` ones, those in use or pinned, and the
        layers that no root has.

        Raises `BusyError` if somebody is in one of the roots.
        """
        with hold_sysroot(self.sysroot, waiting=lambda who: self.report(f"waiting for {who}")):
            recover(self.sysroot)
            kept = read_roots(self.sysroot).protected | set(spared)
            for name in self.list_roots(commit):
                if name not in kept:
                    remove_root(self.sysroot, name)
            left = read_roots(self.sysroot).records.values()
            prune_cache(self.sysroot, {step.key for record in left for step in record.steps})
