"""The bisection of a sysroot on disk: one file, replaced whole and durably after each step.

    <sysroot>/.ht/state/bisect/session.json    the session, and what this machine does for it
    <sysroot>/.ht/state/bisect/lock            held by whoever changes it

What is about to be done is written before it is begun (`Intent`), so that whoever comes after a
crash knows what to finish. The lock comes before those of the sysroot and the repository.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.client.bisect.core.encoding import (
    MAX_SESSION_SIZE,
    check_events,
    decode_struct,
    encode_struct,
)
from hacktree.client.bisect.core.model import CommitId, Session, Text, Time
from hacktree.client.sysroot import Sysroot, refuse_other_owner
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.repository.durable import (
    TEMPORARY_SUFFIX,
    make_directories,
    remove_durably,
    sync_directory,
    write_durably,
)
from hacktree.common.repository.locks import LockKind, hold_lock

DIRECTORY: Final = Path("bisect")
"""Relative to the repository's `state`."""

MAX_ROOTS: Final = 1000
_FILE: Final = "session.json"
_LOCK: Final = "lock"
_UNFINISHED_PINS: Final = f".bisect-*{TEMPORARY_SUFFIX}"
_WRITING_SECONDS: Final = 3600.0
"""What is older is nobody's any more: a pin is one line."""

_PATIENCE: Final = 1.0
"""Seconds: another command may only be reading its way to a refusal."""


class NoBisectionError(UserError):
    """No bisection is under way."""


class Step(StrEnum):
    """What is being done with a build: its objects are brought, its root made, its test run."""

    BRINGING = "bringing"
    DEPLOYING = "deploying"
    TESTING = "testing"


class Intent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was begun with a build; `root`: its root, empty until it has one."""

    commit: CommitId
    step: Step
    root: Text = ""
    time: Time = 0


class Ahead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether builds are brought while others are tested: `rate` in bytes a second, 0 for any;
    `space`: bytes that those of one test may take on disk.
    """

    enabled: bool = True
    rate: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    space: Annotated[int, Meta(ge=0, le=1 << 50)] = 2 << 30


class Local(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What this machine does for a session; nothing of it is exported.

    `started`: the root that was live at the start, empty for none. `roots`: those that were made
    for the session and are still there. `keeps_started`: `started` was pinned for the session.
    `received`: bytes that bringing builds took, but for those that came `ahead` of their test.
    `old_end`: that of the line, if it is to be here before anything is tested, empty if not; None:
    that was not decided yet.
    """

    started: Text = ""
    intent: Intent | None = None
    roots: Annotated[tuple[Text, ...], Meta(max_length=MAX_ROOTS)] = ()
    keeps_started: bool = False
    received: Annotated[int, Meta(ge=0, le=1 << 62)] = 0
    ahead: Ahead = Ahead()
    old_end: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$(?!\\n)")] | None = None


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `session.json` holds."""

    session: Session
    local: Local = Local()
    format: Literal[1] = 1


@contextmanager
def hold_bisection(
    sysroot: Sysroot, *, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """One command at a time changes the bisection; raises `BusyError` that names who is at it."""
    with hold_directory(sysroot, _LOCK, waiting=waiting) as directory:
        for leftover in directory.glob(f".{_FILE}.*{TEMPORARY_SUFFIX}"):
            leftover.unlink()
        _remove_dead_pins(sysroot)
        yield


def _remove_dead_pins(sysroot: Sysroot) -> None:
    """Delete what killed writers of pins left: who brings builds ahead doesn't hold this lock."""
    latest = time.time() - _WRITING_SECONDS
    for leftover in sysroot.pins.glob(_UNFINISHED_PINS):
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < latest:
                leftover.unlink()


@contextmanager
def hold_directory(
    sysroot: Sysroot, lock: str, *, waiting: Callable[[str], None] | None = None
) -> Iterator[Path]:
    """Hold one of the locks in `DIRECTORY`, making both if they are absent; yields the directory.

    Raises `BusyError` that names the holder, `SysrootOwnerError`.
    """
    refuse_other_owner(sysroot.repository.path)
    directory = _directory(sysroot)
    make_directories(sysroot.repository.state, DIRECTORY, mode=0o700)
    flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    os.close(os.open(directory / lock, flags, 0o600))
    sync_directory(directory)
    with hold_lock(directory / lock, LockKind.EXCLUSIVE, timeout=_PATIENCE, waiting=waiting):
        yield directory


def read_bisection(sysroot: Sysroot) -> Saved:
    """The bisection that is under way; raises `NoBisectionError`, `CorruptError`.

    Needs no lock: a reader sees the file before a step or after it.
    """
    saved = find_bisection(sysroot)
    if saved is None:
        raise NoBisectionError(
            f"no bisection is under way in {sysroot.path}",
            hint="Begin one: hacktree bisect start --good BUILD --bad BUILD",
        )
    return saved


def find_bisection(sysroot: Sysroot) -> Saved | None:
    """Like `read_bisection`; None if none is under way."""
    path = bisection_path(sysroot)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SESSION_SIZE + 1)
    except FileNotFoundError:
        return None
    try:
        saved = decode_struct(data, Saved)
        check_events(saved.session)
    except FormatError as error:
        raise CorruptError(
            f"{path}: {error.message}",
            hint="`hacktree bisect reset --force` drops it; one that was exported can be imported.",
        ) from error
    return saved


def write_bisection(sysroot: Sysroot, saved: Saved) -> None:
    """Replace the bisection's file, durably; the lock is held. Raises `FormatError` if too big."""
    write_durably(bisection_path(sysroot), encode_struct(saved))


def remove_bisection(sysroot: Sysroot) -> None:
    """Delete the bisection's file, durably; the lock is held."""
    remove_durably(bisection_path(sysroot))


def bisection_path(sysroot: Sysroot) -> Path:
    """The bisection's file; it is there as long as one is under way."""
    return _directory(sysroot) / _FILE


def _directory(sysroot: Sysroot) -> Path:
    return sysroot.repository.state / DIRECTORY
