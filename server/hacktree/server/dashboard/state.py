"""What the dashboard shows: the document `dashboard/dashboard.json`. docs/format.md, "Dashboard".

All of it is public. So there are no tokens, logs or messages of errors in it, which name paths of
the server. Every list is bounded, and a number beside it says how many there are in all. Times are
in seconds since 1970.
"""

from typing import Final

import msgspec

MAX_BRANCHES: Final = 100
MAX_BUILDS: Final = 10
"""Builds shown of a branch, the newest."""
MAX_BLOCKERS: Final = 5
MAX_HOLDS: Final = 50
MAX_PACKS: Final = 20
MAX_JOBS: Final = 20


class VerdictState(msgspec.Struct, frozen=True, rename="kebab"):
    """What a suite found out about a build: `duration` in seconds, `machine`: where."""

    suite: str
    outcome: str
    reason: str
    duration: float
    machine: str
    time: int


class BuildState(msgspec.Struct, frozen=True, rename="kebab"):
    """A build that is here. `bytes`: what its files hold; `promoted_from`: a build
    that is here, or empty."""

    id: str
    sequence: int
    version: str
    architecture: str
    time: int
    files: int
    bytes: int
    promoted_from: str
    verdicts: list[VerdictState]


class BlockerState(msgspec.Struct, frozen=True, rename="kebab"):
    """A build that may not be promoted, and why."""

    id: str
    sequence: int
    cause: str
    explanation: str


class BranchState(msgspec.Struct, frozen=True, rename="kebab"):
    """A branch. `head` is None before its first build; `reason` is what `branch status` says.

    `source` and `every` (seconds) are of its suite, None without one or a schedule. `signed`: None
    where heads are not signed. `builds`: the newest ones; `blockers`: those of the source that may
    not be promoted, of `blocked` in all. `due`: when its schedule lets it move again.
    """

    name: str
    head: str | None
    signed: bool | None
    source: str | None
    every: float | None
    due: int | None
    cause: str
    reason: str
    builds: list[BuildState]
    blockers: list[BlockerState]
    blocked: int


class HoldState(msgspec.Struct, frozen=True, rename="kebab"):
    """What is held, a branch or a build; the other is empty."""

    branch: str
    build: str
    reason: str
    time: int


class PackState(msgspec.Struct, frozen=True, rename="kebab"):
    """A pack. `old` and `new` are trees, `old` empty for one from scratch. `bytes`: of its file.

    `old_build` and `new_build` name the builds that have them, as far as those are shown.
    """

    id: str
    old: str
    new: str
    old_build: str
    new_build: str
    bytes: int


class SignatureState(msgspec.Struct, frozen=True, rename="kebab"):
    """A role. `due`: past half of its life; `behind`: the branch's head is not the signed one."""

    role: str
    expires: int
    expired: bool
    due: bool
    behind: bool


class JobState(msgspec.Struct, frozen=True, rename="kebab"):
    """A job that failed, or waits for another attempt at `due`; why, `hacktree jobs list` says."""

    id: int
    kind: str
    subject: str
    state: str
    attempts: int
    ended: int
    due: int


class FarmState(msgspec.Struct, frozen=True, rename="kebab", tag_field="format", tag="dashboard-1"):
    """How a farm was at `time`; `pack_count` and `pack_bytes` are of all packs."""

    time: int
    branches: list[BranchState]
    branch_count: int
    holds: list[HoldState]
    hold_count: int
    packs: list[PackState]
    pack_count: int
    pack_bytes: int
    signatures: list[SignatureState]
    failed_jobs: list[JobState]
    failed_job_count: int
    waiting_jobs: int
    running_jobs: int
