"""What a step of a replay is: the seam between the replay and what the machine adds to a root.

A step changes a root that it sees as an overlay over the checkout, in namespaces of its own. What
it wrote is kept as one upper layer, by a key that chains the digests of everything before it. Then
the layers are materialised: files of the root are replaced, never written to, since their inodes
are the repository's. docs/architecture-deploy.md, "Replay".
"""

import enum
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import HacktreeError
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId


class StepFailedError(HacktreeError):
    """A step failed: nothing was swapped. `log`: what it printed, the last part of it."""

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message, hint=hint)
        self.log = log


class Build(msgspec.Struct, frozen=True):
    """What is being deployed; `previous` is the root that is live, or None."""

    sysroot: Sysroot
    id: ObjectId
    commit: Commit
    previous: Path | None


class Root(Protocol):
    """The root that a step changes; only within `Step.apply`, which runs in the namespaces.

    `path` is the merged overlay: reading and writing below it is safe, the repository's inodes are
    behind it. Paths inside come from the tree and from other steps: follow no symbolic link out of
    it (`common/repository/directory.py` has the means). `path/run` and `path/tmp` are empty file
    systems of their own: a step may leave files there for a program, they never get into the root.
    """

    path: Path
    build: Build

    def touched(self, patterns: Iterable[str]) -> bool:
        """Whether an earlier step wrote a path (relative, no leading '/') that one of these
        `fnmatch` patterns matches; deletions count.
        """

    def written(self) -> Sequence[Collection[str]]:
        """The paths (relative, no leading '/') that each earlier step wrote or deleted, in order.

        Of directories only those that replace what was there.
        """

    def having_written(self, paths: Collection[str]) -> "Root":
        """The same root, of which `touched` and `written` tell that one earlier step wrote just
        these paths.
        """

    def run(
        self,
        command: Sequence[str],
        *,
        inside: bool = True,
        environment: Mapping[str, str] | None = None,
        seconds: float = 300.0,
        network: bool = False,
    ) -> str:
        """Run a program, by default chrooted into `path`, else with the host's programs; returns
        what it printed, the last part of it: some programs end with 0 though something failed.

        It gets a clean environment (PATH, HOME=/root, LANG=C.UTF-8, TERM, `HACKTREE_*`) and
        `environment`, /dev with harmless devices, /proc, the step's own /run and /tmp; standard
        input is empty and its output goes to the step's log. With its process group it is killed at
        the limit. Raises `StepFailedError` unless it ends with 0.

        `HACKTREE_ROOT` is "/" inside, else `path`; `HACKTREE_BUILD` the commit id and
        `HACKTREE_BRANCH` its branch. If there is a previous root, it is bound read-only to
        /run/hacktree/previous, which `HACKTREE_PREVIOUS_ROOT` names.
        """

    def shell(self, command: Sequence[str]) -> int:
        """Run a program in the root as `run` does, but on this process's terminal and without a
        limit; returns its exit status. For a person, after a failure. Raises `StepFailedError` if
        it can't be started.
        """

    def say(self, line: str) -> None:
        """A line for the log of the step, and for the person who deploys."""


class Step(Protocol):
    """One change to every new root, in its place: users, extensions, layers, triggers, scripts.

    `digest` covers everything but the root that decides what the step does, the version of its code
    included: equal digests over equal roots give equal results, or are meant to. Trees of several
    commits may be equal: a step whose result depends on the build's id, time or branch, as programs
    see them in `HACKTREE_*`, has them in its digest.
    """

    @property
    def name(self) -> str:
        """For people, as "layer mesa"; unique in a replay."""

    @property
    def digest(self) -> bytes:
        """See above."""

    def apply(self, root: Root) -> None:
        """Change the root. Raises `StepFailedError`, `OSError`; it may be killed at any time."""


class StepSource(Protocol):
    """Where steps come from: one for each kind, asked in the order of the replay."""

    def steps(self, build: Build) -> Sequence[Step]:
        """What this machine wants done to a root of that build, in order.

        Outside any namespace, before anything is made. Raises `UserError` where what the machine
        asks for can't be, as a layer whose directory is gone.
        """


class AfterFailure(enum.Enum):
    """What becomes of a replay in which a step failed. What the step wrote is dropped.

    RETRY: the sources are asked for their steps anew, since a person may have mended one; what
    went well before comes from the cache. SKIP: the same, without that step, and the root is not
    taken for one with all its inputs. ABORT: the deploy ends with the step's error.
    """

    RETRY = "retry"
    SKIP = "skip"
    ABORT = "abort"


AskAfterFailure = Callable[[Step, StepFailedError, Root], AfterFailure]
"""Asked within the namespaces, while the root in which the step failed is as the step left it.

`hacktree.client.scripts.failure.ask_on_terminal` asks a person; a replay without one aborts.
"""
