"""A commit's tree, looked into by path, without a root."""

from collections.abc import Iterator

import msgspec

from hacktree.client.links import TooManyLinksError, follow_links
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry, Tree
from hacktree.common.repository.repository import Repository


class TreeView(msgspec.Struct):
    """Finds what paths (relative, no leading '/') lead to; trees are read as they are needed.

    Links are followed as they would be inside a root: an absolute target begins at the root, and
    `..` never leaves it. Raises what `Repository.load_tree` raises.
    """

    repository: Repository
    commit: Commit
    _trees: dict[ObjectId, dict[bytes, Entry]] = {}

    def find(self, path: bytes) -> Entry | None:
        """What is at `path`, which may lead through links, itself not followed."""
        return self._look(path, follow_last=False)[1]

    def resolve(self, path: bytes) -> tuple[bytes, Entry | None]:
        """Where `path` leads in the end, all links followed, and what is there."""
        return self._look(path, follow_last=True)

    def place(self, path: bytes) -> bytes:
        """The one spelling of `path`: links in its directories followed, also where some are not
        there.
        """
        return self._look(path, follow_last=False)[0]

    def read(self, path: bytes, max_size: int) -> bytes | None:
        """The content of a file, links followed; None if there is none of at most `max_size`."""
        entry = self.resolve(path)[1]
        if not isinstance(entry, FileEntry) or entry.size > max_size:
            return None
        return b"".join(self.repository.read_content(entry))

    def files(self) -> Iterator[FileEntry]:
        """Every file entry, those of equal directories once: however far the tree unfolds, this
        takes time linear in its objects.
        """
        seen = {self.commit.root.id}
        waiting = [self.commit.root.id]
        while waiting:
            for entry in self._entries(waiting.pop()).values():
                if isinstance(entry, FileEntry):
                    yield entry
                elif isinstance(entry, DirectoryEntry) and entry.id not in seen:
                    seen.add(entry.id)
                    waiting.append(entry.id)

    def _entries(self, tree: ObjectId) -> dict[bytes, Entry]:
        entries = self._trees.get(tree)
        if entries is None:
            loaded: Tree = self.repository.load_tree(tree)
            entries = self._trees[tree] = {entry.name: entry for entry in loaded.entries}
        return entries

    def _look(self, path: bytes, *, follow_last: bool) -> tuple[bytes, Entry | None]:
        try:
            place = follow_links(path, self._link_at, last=follow_last)
        except TooManyLinksError:
            return path, None
        return place, self._entry(place)

    def _link_at(self, path: bytes, *, goes_on: bool) -> bytes | None:
        entry = self._entry(path)
        return entry.target if isinstance(entry, SymlinkEntry) else None

    def _entry(self, path: bytes) -> Entry | None:
        """What is at a path without links above it."""
        entry: Entry | None = None
        tree: ObjectId | None = self.commit.root.id
        for name in path.split(b"/"):
            entry = self._entries(tree).get(name) if tree is not None else None
            tree = entry.id if isinstance(entry, DirectoryEntry) else None
        return entry
