"""A repository on this machine as a source: a `file://` remote, or `--reference DIR`.

Nothing in it is believed either: what is linked or copied from it is hashed like a download.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hacktree.client.inventory import Inventory, read_inventory
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
from hacktree.common.delta.work import Work, estimate_whole
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import archive_name, meta_name
from hacktree.common.repository.repository import Repository

T = TypeVar("T")

_PIECE = 1 << 20

_CANT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES})


class LocalSource:
    """See `Source`. In bare modes any variant of a content serves: attributes aren't taken."""

    def __init__(self, repository: Repository) -> None:
        self.traffic = Traffic()
        self._repository = repository
        self._archive = repository.mode is Mode.ARCHIVE
        self.form = ContentForm.ZSTD if self._archive else ContentForm.RAW
        self._inventory: Inventory | None = None

    def content_location(self, entry: FileEntry) -> str:
        """The path of a content."""
        name = archive_name(entry.id) if self._archive else self._variant(entry.id)
        return str(self._repository.objects / (name or entry.id.hex()))

    def meta_location(self, object_id: ObjectId) -> str:
        """The path of a tree or commit."""
        return str(self._repository.objects / meta_name(object_id))

    async def read_ref(self, branch: BranchName) -> bytes:
        """The ref of one of the repository's own branches."""
        return await self._ask(self._read, f"refs/{branch}", MAX_REF_RESPONSE)

    async def read_page(self, branch: BranchName, page: str, max_size: int) -> bytes:
        """A history page; only archives have them."""
        return await self._ask(self._read, f"branches/{branch}/history/{page}", max_size)

    async def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """A tree or commit."""
        return await self._ask(self._read, f"objects/{meta_name(object_id)}", max_size)

    async def read_content(self, entry: FileEntry) -> bytes:
        """A small content."""
        return await self._ask(self._read, self._content_path(entry), self._bound(entry))

    async def save_content(self, entry: FileEntry, part: Path) -> None:
        """A large content, copied (shared where the file system can)."""
        await self._ask(self._copy, self._content_path(entry), part, self._bound(entry))

    async def read_trust(self, name: str, max_size: int) -> bytes:
        """A file of signed metadata; only archives have some."""
        return await self._ask(self._read, f"trust/{name}", max_size)

    async def read_graph(self, name: str) -> bytes:
        """A segment of the pack graph; only archives have one."""
        return await self._ask(self._read, f"graph/{name}", MAX_SEGMENT_SIZE)

    async def read_verdicts(self, max_size: int) -> bytes:
        """What the farm's suites said of builds; only archives with a server have it."""
        return await self._ask(self._read, "dashboard/verdicts.json", max_size)

    def estimate_content(self, name: ObjectId, size: int) -> Work:
        """By its decoded size."""
        return estimate_whole(size)

    async def read_pack(self, pack: ObjectId, start: int, end: int, take: Take) -> None:
        """A range of a pack's file."""
        await self._ask(self._read_range, f"packs/{pack.hex()}", start, end, take)

    def _read_range(self, path: str, start: int, end: int, take: Take) -> None:
        location = self._repository.path / path
        try:
            with location.open("rb", buffering=0) as stream:
                stream.seek(start)
                while start < end and (piece := stream.read(min(end - start, _PIECE))):
                    start += len(piece)
                    self.traffic.bytes += len(piece)
                    take(piece)
        except FileNotFoundError:
            raise self._missing(path) from None
        if start < end:
            raise WrongBytesError(str(location), "shorter than the graph says")

    def link_content(self, name: str, destination: str) -> bool:
        """Hard-link an object file, if nobody else could change its inode afterwards."""
        path = self._repository.objects / name
        try:
            if self._repository.path.stat().st_uid != os.geteuid():
                return False
            if self._repository.mode is not Mode.BARE and path.stat().st_uid != os.geteuid():
                return False
            os.link(path, destination)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _CANT_LINK:
                return False
            raise
        return True

    async def _ask(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.to_thread(function, *arguments)

    def _bound(self, entry: FileEntry) -> int:
        return compressed_bound(entry.size) if self._archive else entry.size

    def _content_path(self, entry: FileEntry) -> str:
        name = archive_name(entry.id) if self._archive else self._variant(entry.id)
        if name is None:
            raise self._missing(f"objects/{entry.id.hex()}")
        return f"objects/{name}"

    def _variant(self, object_id: ObjectId) -> str | None:
        if self._inventory is None:
            self._inventory = read_inventory(self._repository)
        return self._inventory.variant_of(object_id)

    def _missing(self, path: str) -> NotServedError:
        return NotServedError(
            str(self._repository.path / path),
            "there is no such file",
            hint="Check the branch's name, and `hacktree fsck` of that repository.",
        )

    def _read(self, path: str, max_size: int) -> bytes:
        location = self._repository.path / path
        try:
            with location.open("rb", buffering=0) as stream:
                if os.fstat(stream.fileno()).st_size > max_size:
                    raise OversizeError(str(location), max_size)
                data = stream.read()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise self._missing(path) from None
        self.traffic.bytes += len(data)
        return data

    def _copy(self, path: str, part: Path, max_size: int) -> None:
        location = self._repository.path / path
        try:
            with location.open("rb") as reader:
                size = os.fstat(reader.fileno()).st_size
                if size > max_size:
                    raise OversizeError(str(location), max_size)
                with part.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, 1 << 20)
        except FileNotFoundError:
            raise self._missing(path) from None
        self.traffic.bytes += size
