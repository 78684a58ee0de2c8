"""A search among packages on disk: what was asked, and every answer, durably after each test.

    <sysroot>/.ht/state/bisect/packages.json     the question and its answers
    <sysroot>/.ht/state/bisect/packages.lock     held by whoever searches
    <sysroot>/.ht/state/pins/bisect-packages-*   commits that prune keeps meanwhile

The search itself is not saved: with the same answers it asks the same again (`minimising`). Answers
are known by the tree that was tested, so they hold whatever a newer version asks for first.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.client.bisect.components.minimising import Outcome
from hacktree.client.bisect.core.encoding import MAX_SESSION_SIZE, decode_struct, encode_struct
from hacktree.client.bisect.core.model import CommitId, Text
from hacktree.client.bisect.store import DIRECTORY, hold_directory
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import CorruptError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.durable import TEMPORARY_SUFFIX, remove_durably, write_durably

PIN_PREFIX: Final = "bisect-packages-"
MAX_TESTS: Final = 10_000

_FILE: Final = "packages.json"
_LOCK: Final = "packages.lock"


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is searched: answers to another question say nothing. `limit` in seconds, 0 for none;
    `person` is whoever the command runs as in the root, empty on this machine.
    """

    good: CommitId
    bad: CommitId
    command: Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=1000)]
    limit: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    person: Text = ""
    held: Annotated[dict[Text, Text], Meta(max_length=10_000)] = {}
    """The machine's own changes to roots, by their digests."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the test said of a tree. `new`: how many components it had from the bad build."""

    tree: CommitId
    outcome: Outcome
    new: Annotated[int, Meta(ge=0)]
    seconds: Annotated[float, Meta(ge=0)]
    note: Text = ""


class Saved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `packages.json` holds. `testing`: the commit whose root may be there, or empty.

    `spared`: those of its roots that were there before.
    """

    question: Question
    answers: Annotated[tuple[Answer, ...], Meta(max_length=MAX_TESTS)] = ()
    testing: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$(?!\\n)")] = ""
    spared: Annotated[tuple[Text, ...], Meta(max_length=1000)] = ()
    finished: bool = False
    format: Literal[1] = 1


@contextmanager
def hold_search(
    sysroot: Sysroot, *, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """One search at a time; raises `BusyError` that names who is at it.

    Comes before the sysroot's lock. Not that of the bisection over builds: this takes hours.
    """
    with hold_directory(sysroot, _LOCK, waiting=waiting) as directory:
        for place, name in ((directory, f"{_FILE}."), (sysroot.pins, PIN_PREFIX)):
            for leftover in place.glob(f".{name}*{TEMPORARY_SUFFIX}"):
                leftover.unlink()
        yield


def find_search(sysroot: Sysroot) -> Saved | None:
    """The search that was made last; None if there is none. Raises `CorruptError`."""
    path = sysroot.repository.state / DIRECTORY / _FILE
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SESSION_SIZE + 1)
    except FileNotFoundError:
        return None
    try:
        return decode_struct(data, Saved)
    except FormatError as error:
        raise CorruptError(
            f"{path}: {error.message}",
            hint="`hacktree bisect packages --forget` drops it.",
        ) from error


def write_search(sysroot: Sysroot, saved: Saved) -> None:
    """Replace the file, durably; the lock is held."""
    write_durably(sysroot.repository.state / DIRECTORY / _FILE, encode_struct(saved))


def remove_search(sysroot: Sysroot) -> None:
    """Delete the file, durably; the lock is held."""
    remove_durably(sysroot.repository.state / DIRECTORY / _FILE)


def pin(sysroot: Sysroot, name: str, commit: ObjectId) -> None:
    """Make prune keep a commit: `name` is good, bad or mixture."""
    write_durably(sysroot.pins / f"{PIN_PREFIX}{name}", f"{commit.hex()}\n".encode())


def unpin(sysroot: Sysroot, *names: str) -> None:
    """Let prune take them."""
    for name in names:
        remove_durably(sysroot.pins / f"{PIN_PREFIX}{name}")
