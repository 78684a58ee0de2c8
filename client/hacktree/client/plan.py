"""What a pull has to do, as plain data. Pure: nothing here reads, asks or waits."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import msgspec

from hacktree.client.source import compressed_bound
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import EMPTY_FILE_ID, ObjectId
from hacktree.common.objects.tree import FileEntry, Tree
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.objectnames import content_name

LARGE_FILE: Final = 2 << 20
"""Contents above this many bytes go through a part file, never through memory."""

LARGE_AT_ONCE: Final = 3
_BLOCK: Final = 4096

_ARCHIVE_SHARE: Final = 0.3
"""Compressed size is unknown beforehand; operating-system trees compress to about 0.35."""


class Fetch(msgspec.Struct, frozen=True):
    """One content to bring here, as the variant `entry`, and to copy as each of `variants`."""

    entry: FileEntry
    variants: tuple[FileEntry, ...] = ()


class LocalCopy(msgspec.Struct, frozen=True):
    """One variant to make of the content in the object file `source`, which is here."""

    source: str
    entry: FileEntry


@dataclass(frozen=True, slots=True)
class ContentPlan:
    """The file contents of a commit: distinct ones by where they come from."""

    fetches: tuple[Fetch, ...] = ()
    copies: tuple[LocalCopy, ...] = ()
    names: frozenset[str] = field(default=frozenset(), repr=False)
    reused_files: int = 0
    reused_bytes: int = 0

    @property
    def fetch_bytes(self) -> int:
        """Decoded bytes to fetch; fewer travel, since they are compressed."""
        return sum(fetch.entry.size for fetch in self.fetches)

    def space_needed(self, mode: Mode) -> int:
        """Bytes that the file system must have free for this."""
        if mode is Mode.ARCHIVE:
            return int(self.fetch_bytes * _ARCHIVE_SHARE) + len(self.fetches) * _BLOCK // 2
        written = [fetch.entry.size for fetch in self.fetches]
        written += [entry.size for fetch in self.fetches for entry in fetch.variants]
        written += [copy.entry.size for copy in self.copies]
        largest = sorted((fetch.entry.size for fetch in self.fetches), reverse=True)
        parts = sum(compressed_bound(s) for s in largest[:LARGE_AT_ONCE] if s > LARGE_FILE)
        return sum(-(-size // _BLOCK) * _BLOCK for size in written) + parts


def plan_content(
    trees: Iterable[Tree],
    mode: Mode,
    present: AbstractSet[str],
    variant_of: Callable[[ObjectId], str | None],
) -> ContentPlan:
    """Decide for every file of `trees` whether it is here, can be copied, or must be fetched.

    `present` are the names in objects/; `variant_of` finds any of them that holds a content.
    """
    wanted = _distinct(trees, mode)
    missing: dict[ObjectId, list[FileEntry]] = {}
    reused_files = reused_bytes = 0
    for name, entry in wanted.items():
        if name in present:
            reused_files += 1
            reused_bytes += entry.size
        else:
            missing.setdefault(entry.id, []).append(entry)
    fetches: list[Fetch] = []
    copies: list[LocalCopy] = []
    for object_id, entries in missing.items():
        source = None
        if mode is not Mode.ARCHIVE and object_id != EMPTY_FILE_ID:
            source = variant_of(object_id)
        if source is None:
            fetches.append(Fetch(entries[0], tuple(entries[1:])))
            continue
        copies.extend(LocalCopy(source, entry) for entry in entries)
        reused_files += 1
        reused_bytes += entries[0].size
    # The largest first, so that no connection is left with one at the end.
    fetches.sort(key=lambda fetch: (-fetch.entry.size, fetch.entry.id))
    return ContentPlan(tuple(fetches), tuple(copies), frozenset(wanted), reused_files, reused_bytes)


def _distinct(trees: Iterable[Tree], mode: Mode) -> dict[str, FileEntry]:
    wanted: dict[str, FileEntry] = {}
    for tree in trees:
        for entry in tree.entries:
            if isinstance(entry, FileEntry):
                known = wanted.setdefault(content_name(mode, entry), entry)
                if known.size != entry.size:
                    raise SizeConflictError(entry.id, known.size, entry.size)
    return wanted


class SizeConflictError(FormatError):
    """Two entries give one content two sizes: at least one of them lies."""

    def __init__(self, object_id: ObjectId, first: int, second: int) -> None:
        super().__init__(f"content {object_id.hex()} has {first} and also {second} bytes")


class Progress(msgspec.Struct, frozen=True):
    """How far a pull is. Bytes are decoded bytes; `received` is what came over the wire."""

    objects_done: int = 0
    objects_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    received: int = 0


ProgressSink = Callable[[Progress], None]
