"""The tree of a mixture: the good build's with some changes applied. Pure: trees in memory.

No content is made, only trees of entries that both builds have.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from hacktree.common.objects.diff import Change
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, Entry, Tree, encode_tree
from hacktree.common.objects.walk import LoadTree

_EMPTY: Final = Tree(1, ())


class Mixture(msgspec.Struct, frozen=True):
    """The root's tree: its id, its size in bytes, and every tree that was made for it, encoded."""

    root: ObjectId
    size: int
    trees: Mapping[ObjectId, bytes]


class _Node(msgspec.Struct):
    """What happens at and below one path."""

    change: Change | None = None
    below: dict[bytes, "_Node"] = {}


class Mixer:
    """Applies changes to one tree. `changes`: all that there are between the two builds."""

    def __init__(self, load: LoadTree, root: ObjectId, changes: Iterable[Change]) -> None:
        self._load = load
        self._root = root
        self._new_directories = {
            change.path: change.new for change in changes if isinstance(change.new, DirectoryEntry)
        }

    def mix(self, applied: Iterable[Change]) -> Mixture:
        """The tree with these changes, and no others.

        A directory is there while anything is in it, whoever brings or removes it. Raises
        `FormatError` where a directory would be needed in the place of a file.
        """
        top = _Node()
        for change in applied:
            node = top
            for name in change.path.split(b"/"):
                node = node.below.setdefault(name, _Node())
            node.change = change
        trees: dict[ObjectId, bytes] = {}
        root, size = _keep(self._merge(b"", self._load(self._root), top, trees), trees)
        return Mixture(root, size, trees)

    def _merge(
        self, prefix: bytes, before: Tree, node: _Node, trees: dict[ObjectId, bytes]
    ) -> tuple[Entry, ...]:
        entries = {entry.name: entry for entry in before.entries}
        for name, child in node.below.items():
            after = self._apply(prefix + name, entries.pop(name, None), child, trees)
            if after is not None:
                entries[name] = after
        return tuple(entry for _, entry in sorted(entries.items()))

    def _apply(
        self, path: bytes, before: Entry | None, node: _Node, trees: dict[ObjectId, bytes]
    ) -> Entry | None:
        own = before if node.change is None else node.change.new
        if own is not None and not isinstance(own, DirectoryEntry):
            return own
        inside = self._load(before.id) if isinstance(before, DirectoryEntry) else _EMPTY
        below = self._merge(path + b"/", inside, node, trees)
        if own is None:
            if not below:
                return None
            # Another component has something in what this one removes, or brings no directory for.
            own = before if before is not None else self._new_directories.get(path)
        if not isinstance(own, DirectoryEntry):
            raise FormatError(f"a file is in the place of a directory: {path!r}")
        tree, size = _keep(below, trees)
        return msgspec.structs.replace(own, id=tree, size=size)


def _keep(entries: tuple[Entry, ...], trees: dict[ObjectId, bytes]) -> tuple[ObjectId, int]:
    data = encode_tree(Tree(1, entries))
    tree = hash_bytes(data)
    trees[tree] = data
    return tree, len(data)
