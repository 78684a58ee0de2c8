"""A bundle as a source: a small part of a published repository in one file.

Nothing in it is believed: it is read as any other source is.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from hacktree.client.source import (
    MAX_REF_RESPONSE,
    ContentForm,
    NotServedError,
    OversizeError,
    Take,
    Traffic,
    WrongBytesError,
    compressed_bound,
)
from hacktree.common.delta.graph import MAX_SEGMENT_SIZE
from hacktree.common.delta.pack import MAX_PACK_LENGTH
from hacktree.common.delta.work import Work
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.bundle import Bundle
from hacktree.common.repository.objectnames import archive_name, meta_name

_UNOBTAINABLE: Final = Work(1 << 50, 1, 0)
_PIECE: Final = 1 << 20


class BundleSource:
    """See `Source`; reads `bundle`, which is the open file `stream`."""

    form = ContentForm.ZSTD

    def __init__(self, bundle: Bundle, stream: IO[bytes], shown: str) -> None:
        self.traffic = Traffic()
        self._bundle = bundle
        self._descriptor = stream.fileno()
        self._shown = shown

    def content_location(self, entry: FileEntry) -> str:
        """The place of a content in the bundle."""
        return f"{self._shown}:objects/{archive_name(entry.id)}"

    def meta_location(self, object_id: ObjectId) -> str:
        """The place of a tree or commit in the bundle."""
        return f"{self._shown}:objects/{meta_name(object_id)}"

    def estimate_content(self, name: ObjectId, size: int) -> Work:
        """What the bundle lacks can't be had at any price."""
        place = self._bundle.places.get(f"objects/{archive_name(name)}")
        return _UNOBTAINABLE if place is None else Work(place[1], 1, 0)

    async def read_ref(self, branch: BranchName) -> bytes:
        """The ref of the bundle's branch."""
        return self._read(f"refs/{branch}", MAX_REF_RESPONSE)

    async def read_page(self, branch: BranchName, page: str, max_size: int) -> bytes:
        """A bundle has no history."""
        return self._read(f"branches/{branch}/history/{page}", max_size)

    async def read_trust(self, name: str, max_size: int) -> bytes:
        """A bundle has no signed metadata."""
        return self._read(f"trust/{name}", max_size)

    async def read_graph(self, name: str) -> bytes:
        """The packs in the bundle."""
        return self._read(f"graph/{name}", MAX_SEGMENT_SIZE)

    async def read_verdicts(self, max_size: int) -> bytes:
        """A bundle has no verdicts."""
        return self._read("dashboard/verdicts.json", max_size)

    async def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """A commit."""
        return self._read(f"objects/{meta_name(object_id)}", max_size)

    async def read_content(self, entry: FileEntry) -> bytes:
        """A small content's zstd frame."""
        return self._read(f"objects/{archive_name(entry.id)}", compressed_bound(entry.size))

    async def save_content(self, entry: FileEntry, part: Path) -> None:
        """A large content's zstd frame."""
        path = f"objects/{archive_name(entry.id)}"
        length = self._place(path, compressed_bound(entry.size))[1]
        with part.open("wb") as stream:
            self._copy(path, 0, length, stream.write)

    async def read_pack(self, pack: ObjectId, start: int, end: int, take: Take) -> None:
        """A range of a pack."""
        self._copy(f"packs/{pack.hex()}", start, end, take)

    def link_content(self, name: str, destination: str) -> bool:
        """Not out of a bundle."""
        return False

    def _place(self, path: str, max_size: int) -> tuple[int, int]:
        place = self._bundle.places.get(path)
        location = f"{self._shown}:{path}"
        if place is None:
            raise NotServedError(
                location,
                "the bundle has no such file",
                hint="It leads here from other builds than this machine has, or an object of "
                "that build is missing here: `hacktree fsck`.",
            )
        if place[1] > max_size:
            raise OversizeError(location, max_size)
        return place

    def _read(self, path: str, max_size: int) -> bytes:
        pieces: list[bytes] = []
        self._copy(path, 0, self._place(path, max_size)[1], pieces.append)
        return b"".join(pieces)

    def _copy(self, path: str, start: int, end: int, take: Callable[[bytes], object]) -> None:
        offset, length = self._place(path, MAX_PACK_LENGTH)
        if end > length:
            raise WrongBytesError(f"{self._shown}:{path}", "shorter than the graph says")
        self.traffic.requests += 1
        while start < end:
            piece = os.pread(self._descriptor, min(end - start, _PIECE), offset + start)
            if not piece:
                raise WrongBytesError(f"{self._shown}:{path}", "cut short")
            start += len(piece)
            self.traffic.bytes += len(piece)
            take(piece)
