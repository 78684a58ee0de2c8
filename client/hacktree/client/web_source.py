"""A published repository on a web server: which file holds what, and how large it can be."""

from pathlib import Path

from hacktree.client.partfile import PartFile
from hacktree.client.remote import Remote
from hacktree.client.source import (
    MAX_REF_RESPONSE,
    ContentForm,
    Take,
    Traffic,
    compressed_bound,
)
from hacktree.client.transport import Transport
from hacktree.common.delta.graph import MAX_SEGMENT_SIZE
from hacktree.common.delta.pack import MAX_PACK_LENGTH
from hacktree.common.delta.work import Work, estimate_whole
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.objectnames import archive_name, meta_name


class WebSource:
    """See `Source`; reads through `transport`."""

    form = ContentForm.ZSTD

    def __init__(self, remote: Remote, transport: Transport) -> None:
        self._shown = remote.shown_url.rstrip("/") + "/"
        self._transport = transport

    @property
    def traffic(self) -> Traffic:
        """Counters of the transport."""
        return self._transport.traffic

    def content_location(self, entry: FileEntry) -> str:
        """The URL of a content."""
        return f"{self._shown}objects/{archive_name(entry.id)}"

    def meta_location(self, object_id: ObjectId) -> str:
        """The URL of a tree or commit."""
        return f"{self._shown}objects/{meta_name(object_id)}"

    async def read_ref(self, branch: BranchName) -> bytes:
        """The ref file of a branch."""
        return await self._transport.read(f"refs/{branch}", MAX_REF_RESPONSE)

    async def read_page(self, branch: BranchName, page: str, max_size: int) -> bytes:
        """A compressed history page."""
        return await self._transport.read(f"branches/{branch}/history/{page}", max_size)

    async def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """A tree or commit."""
        return await self._transport.read(f"objects/{meta_name(object_id)}", max_size)

    async def read_content(self, entry: FileEntry) -> bytes:
        """A small content's zstd frame."""
        return await self._transport.read(
            f"objects/{archive_name(entry.id)}", compressed_bound(entry.size)
        )

    async def save_content(self, entry: FileEntry, part: Path) -> None:
        """A large content's zstd frame."""
        path = f"objects/{archive_name(entry.id)}"
        body = PartFile(part)
        try:
            await self._transport.save(path, body, compressed_bound(entry.size))
            body.complete()
        finally:
            body.close()

    async def read_trust(self, name: str, max_size: int) -> bytes:
        """A file of signed metadata."""
        return await self._transport.read(f"trust/{name}", max_size)

    async def read_graph(self, name: str) -> bytes:
        """A segment of the pack graph."""
        return await self._transport.read(f"graph/{name}", MAX_SEGMENT_SIZE)

    async def read_verdicts(self, max_size: int) -> bytes:
        """What the farm's suites said of builds."""
        return await self._transport.read("dashboard/verdicts.json", max_size)

    def estimate_content(self, name: ObjectId, size: int) -> Work:
        """By its decoded size: how well it is compressed is not known."""
        return estimate_whole(size)

    async def read_pack(self, pack: ObjectId, start: int, end: int, take: Take) -> None:
        """A range of a pack."""
        path = f"packs/{pack.hex()}"
        await self._transport.read_range(path, start, end, MAX_PACK_LENGTH, take)

    def link_content(self, name: str, destination: str) -> bool:
        """A web server's files can't be linked."""
        return False
