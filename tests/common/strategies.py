"""Hypothesis strategies for valid objects, and trees in memory that count how often each is read.

Objects made here are valid by the rules of docs/format.md, not by asking the code under test.
"""

from collections import Counter
from collections.abc import Iterable

from hypothesis import strategies as st

from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import Commit, MetadataValue, RootDirectory, Totals
from hacktree.common.objects.history import HistoryPage
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import RESERVED_COMPONENTS
from hacktree.common.objects.tree import (
    DirectoryEntry,
    Entry,
    FileEntry,
    SymlinkEntry,
    Tree,
    encode_tree,
)

modes = st.integers(0, 0o7777)
owners = st.integers(0, 2**32 - 2)
object_ids = st.binary(min_size=32, max_size=32).map(ObjectId)
tree_sizes = st.integers(1, 64 << 20)
file_sizes = st.integers(0, 8 << 30)

_ODD_NAMES = [b"\xff", b"...", b" ", b"\n", b"-rf", b"a" * 255, b"\xc3\xa9", b"a.", b"~"]


def _is_name(name: bytes) -> bool:
    return name not in (b".", b"..") and b"/" not in name and b"\0" not in name


names = st.sampled_from(_ODD_NAMES) | st.binary(min_size=1, max_size=12).filter(_is_name)
targets = st.binary(min_size=1, max_size=40).filter(lambda target: b"\0" not in target)

_user_attributes = (
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    .map(lambda rest: f"user.{rest}")
    .filter(lambda name: not name.startswith("user.overlay.") and len(name.encode()) <= 255)
)
attribute_names = _user_attributes | st.sampled_from(
    ["security.capability", "system.posix_acl_access", "system.posix_acl_default"]
)


def _sorted_pairs(pairs: dict[str, bytes]) -> Xattrs:
    return tuple(sorted(pairs.items(), key=lambda pair: pair[0].encode()))


xattrs: st.SearchStrategy[Xattrs] = st.dictionaries(
    attribute_names, st.binary(max_size=20), max_size=3
).map(_sorted_pairs)

file_entries = st.builds(FileEntry, names, modes, owners, owners, xattrs, object_ids, file_sizes)
directory_entries = st.builds(
    DirectoryEntry, names, modes, owners, owners, xattrs, object_ids, tree_sizes
)
symlink_entries = st.builds(SymlinkEntry, names, owners, owners, targets)
entries: st.SearchStrategy[Entry] = file_entries | directory_entries | symlink_entries


def make_tree(entries: Iterable[Entry]) -> Tree:
    """A tree of `entries`, which may come in any order."""
    return Tree(1, tuple(sorted(entries, key=lambda entry: entry.name)))


trees = st.lists(entries, max_size=6, unique_by=lambda entry: entry.name).map(make_tree)

_component = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,11}", fullmatch=True).filter(
    lambda text: text not in RESERVED_COMPONENTS and not text.endswith((".lock", ".tmp"))
)
branches = st.lists(_component, min_size=1, max_size=4).map("/".join)

_line = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=20)
_word = st.text(max_size=12)
metadata_values: st.SearchStrategy[MetadataValue] = (
    _word
    | st.integers(-(2**63), 2**64 - 1)
    | st.lists(_word | st.lists(_word, max_size=3), max_size=4)
)


@st.composite
def commits(draw: st.DrawFn) -> Commit:
    """Any valid commit; a sequence of 1 goes with no parent, any other with at least one."""
    parents = tuple(draw(st.lists(object_ids, max_size=3)))
    counts = st.integers(0, 16_000_000)
    return Commit(
        format=1,
        root=RootDirectory(
            draw(object_ids), draw(tree_sizes), draw(modes), draw(owners), draw(owners),
            draw(xattrs),
        ),
        parents=parents,
        sequence=draw(st.integers(2, 1 << 40)) if parents else 1,
        branch=draw(branches),
        architecture=draw(st.sampled_from(["", "x86_64", "aarch64", "riscv64"])),
        time=draw(st.integers(0, 1 << 40)),
        version=draw(_line),
        subject=draw(_line),
        body=draw(st.text(max_size=60)),
        totals=Totals(draw(counts), draw(counts), draw(counts), draw(st.integers(0, 1 << 50))),
        metadata=draw(st.dictionaries(_word, metadata_values, max_size=4)),
    )  # fmt: skip


history_pages = st.builds(
    HistoryPage,
    st.just(1),
    st.lists(st.binary(max_size=60), max_size=4).map(tuple),
    st.just(b"") | object_ids,
)


class MemoryTrees:
    """Trees by id; `loads` counts how often each was read."""

    def __init__(self) -> None:
        self.loads: Counter[ObjectId] = Counter()
        self._trees: dict[ObjectId, Tree] = {}

    def store(self, entries: Iterable[Entry]) -> tuple[ObjectId, int]:
        """Keep the tree of `entries`; gives its id and encoded size."""
        tree = make_tree(entries)
        data = encode_tree(tree)
        tree_id = hash_bytes(data)
        self._trees[tree_id] = tree
        return tree_id, len(data)

    def directory(self, name: bytes, entries: Iterable[Entry], mode: int = 0o755) -> DirectoryEntry:
        """An entry for a directory that holds `entries`."""
        tree_id, size = self.store(entries)
        return DirectoryEntry(name, mode, 0, 0, (), tree_id, size)

    def root(self, *entries: Entry) -> ObjectId:
        """The id of a root directory that holds `entries`."""
        return self.store(entries)[0]

    def load(self, tree_id: ObjectId) -> Tree:
        """Read a tree, as `LoadTree` does."""
        self.loads[tree_id] += 1
        return self._trees[tree_id]


def make_file(name: bytes, content: bytes = b"", mode: int = 0o644) -> FileEntry:
    """A file of root's."""
    return FileEntry(name, mode, 0, 0, (), hash_bytes(content), len(content))


def make_symlink(name: bytes, target: bytes) -> SymlinkEntry:
    """A symbolic link of root's."""
    return SymlinkEntry(name, 0, 0, target)


def nest(trees: MemoryTrees, count: int, innermost: Iterable[Entry] = ()) -> ObjectId:
    """The id of a root with `count` directories, each in the one before."""
    tree_id, size = trees.store(innermost)
    for _ in range(count):
        tree_id, size = trees.store([DirectoryEntry(b"d", 0o755, 0, 0, (), tree_id, size)])
    return tree_id


Outline = dict[bytes, "bytes | tuple[bytes, int] | Directory"]
"""A small tree: a name stands for a link's target, a file's (content, mode) or a directory."""


class Directory:
    """A directory of an `Outline`."""

    def __init__(self, mode: int, children: Outline) -> None:
        self.mode = mode
        self.children = children

    def __repr__(self) -> str:
        return f"Directory({self.mode:#o}, {self.children!r})"


# Few names, contents and modes: two outlines then agree here and differ there, and hold the same
# directory in several places.
_few_names = st.sampled_from([b"a", b"a-", b"b", b"c\xff"])
_few_modes = st.sampled_from([0o644, 0o755])
_leaves = st.sampled_from([b"a", b"../b"]) | st.tuples(
    st.sampled_from([b"", b"x", b"y"]), _few_modes
)


def _outlines_of(
    children: st.SearchStrategy[bytes | tuple[bytes, int] | Directory],
) -> st.SearchStrategy[Outline]:
    return st.dictionaries(_few_names, children, max_size=4)


_nodes: st.SearchStrategy[bytes | tuple[bytes, int] | Directory] = st.recursive(
    _leaves,
    lambda below: st.builds(Directory, st.sampled_from([0o700, 0o755]), _outlines_of(below)),
    max_leaves=12,
)
outlines = _outlines_of(_nodes)


def store_outline(trees: MemoryTrees, outline: Outline) -> ObjectId:
    """The id of the root directory that `outline` describes."""
    return trees.root(*_outline_entries(trees, outline))


def _outline_entries(trees: MemoryTrees, outline: Outline) -> Iterable[Entry]:
    for name, node in outline.items():
        if isinstance(node, Directory):
            yield trees.directory(name, _outline_entries(trees, node.children), node.mode)
        elif isinstance(node, bytes):
            yield make_symlink(name, node)
        else:
            yield make_file(name, *node)
