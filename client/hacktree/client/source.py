"""Where objects come from: one protocol for a web server and for a repository on this machine.

A source is never trusted: whoever reads from it checks every byte against an id before use, and
says beforehand how many bytes it is ready to take.
"""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from hacktree.common.delta.work import Work
from hacktree.common.errors import PeerError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.refs import REF_SIZE

TAIL: Final = "tail"
"""The name of the newest history page."""

MAX_REF_RESPONSE: Final = REF_SIZE


class SourceError(PeerError):
    """The source can't be reached or answers wrongly; `location` is the URL or path."""

    def __init__(self, location: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{location}: {problem}", hint=hint)
        self.location = location
        self.problem = problem


class NotServedError(SourceError):
    """The source has no such file."""


class OversizeError(SourceError):
    """The source sends more than what was asked for can hold."""

    def __init__(self, location: str, max_size: int) -> None:
        super().__init__(
            location,
            f"more than the {max_size} bytes that it can have",
            hint="Nothing of it was used. Tell whoever runs the server.",
        )


class WrongBytesError(SourceError):
    """What the source sent is not what its name says."""

    def __init__(self, location: str, problem: str) -> None:
        super().__init__(
            location,
            f"served wrong bytes: {problem}",
            hint="Nothing of it was used. A proxy may have changed it; else whoever runs the "
            "server can find the damage with `hacktree fsck`.",
        )


class ContentForm(enum.Enum):
    """How a source hands out file content."""

    ZSTD = "zstd"
    RAW = "raw"


class Traffic(msgspec.Struct):
    """What was asked of a source so far: requests made and body bytes received.

    `tells_speed`: whether how long that took says something of the link to it; not where it is read
    slowly on purpose.
    """

    requests: int = 0
    bytes: int = 0
    tells_speed: bool = True


Take = Callable[[bytes], None]
"""Receives the next piece of a body."""


class Source(Protocol):
    """Reads refs, history pages and objects; raises `NotServedError` for what isn't there.

    Nothing is verified here but sizes; other failures are `SourceError` too.
    """

    @property
    def form(self) -> ContentForm:
        """How content arrives."""

    @property
    def traffic(self) -> Traffic:
        """Counters of this source."""

    def content_location(self, entry: FileEntry) -> str:
        """The URL or path of a content, for messages."""

    def meta_location(self, object_id: ObjectId) -> str:
        """The URL or path of a tree or commit, for messages."""

    async def read_ref(self, branch: BranchName) -> bytes:
        """The bytes of a ref file, at most `REF_SIZE`."""

    async def read_page(self, branch: BranchName, page: str, max_size: int) -> bytes:
        """A compressed history page: `TAIL` or 64 hexadecimal digits."""

    async def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """The bytes of a tree or commit."""

    async def read_content(self, entry: FileEntry) -> bytes:
        """A small content, in the source's form."""

    async def save_content(self, entry: FileEntry, part: Path) -> None:
        """Bring a large content, in the source's form, into `part`, continuing what is there."""

    async def read_trust(self, name: str, max_size: int) -> bytes:
        """A file of signed metadata, at most so many bytes."""

    async def read_graph(self, name: str) -> bytes:
        """A segment of the pack graph: `TAIL` or 64 hexadecimal digits."""

    async def read_verdicts(self, max_size: int) -> bytes:
        """What the farm's suites said of builds; not every farm says it."""

    def estimate_content(self, name: ObjectId, size: int) -> Work:
        """What bringing this content of `size` bytes whole takes, roughly."""

    async def read_pack(self, pack: ObjectId, start: int, end: int, take: "Take") -> None:
        """Hand the bytes from `start` up to `end` of a pack to `take`, in order, piece by piece.

        After a failure that may pass it goes on where it was: no byte is handed over twice.
        """

    def link_content(self, name: str, destination: str) -> bool:
        """Hard-link the object file `name` to `destination`; False if that can't be done."""


def compressed_bound(size: int) -> int:
    """No honest zstd frame of `size` bytes is longer (ZSTD_compressBound, rounded up)."""
    return size + (size >> 7) + 4096
