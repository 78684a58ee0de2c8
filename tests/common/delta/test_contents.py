"""Writer and reader of a pack make the same lists from the same trees, and from one walk."""

import pytest
from hypothesis import given

from common.strategies import (
    MemoryTrees,
    Outline,
    make_file,
    make_symlink,
    nest,
    outlines,
    store_outline,
)
from hacktree.common.delta.contents import (
    compare_contents,
    compare_trees,
    contents,
    list_contents,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import DirectoryEntry, FileEntry
from hacktree.common.objects.walk import MAX_DEPTH, LoadTree, walk_tree


def _walked(load: LoadTree, root: ObjectId) -> tuple[dict[ObjectId, int], list[ObjectId]]:
    """The lists by the plainest reading of the document: every path, first appearances kept."""
    entries = [entry for _, entry in walk_tree(load, root)]
    files = {e.id: e.size for e in reversed(entries) if isinstance(e, FileEntry) and e.size}
    order = dict.fromkeys(e.id for e in entries if isinstance(e, FileEntry) and e.size)
    trees = dict.fromkeys([root, *(e.id for e in entries if isinstance(e, DirectoryEntry))])
    return {name: files[name] for name in order}, list(trees)


def test_files_stand_in_the_order_of_the_walk() -> None:
    """A directory's content comes where its name does, between the files beside it."""
    trees = MemoryTrees()
    root = trees.root(
        make_file(b"a", b"1"),
        trees.directory(b"b", [make_file(b"x", b"2"), make_file(b"y", b"1")]),
        make_file(b"c", b"3"),
        make_file(b"d"),
        make_symlink(b"e", b"a"),
    )
    assert contents(trees.load, root) == [hash_bytes(text) for text in (b"1", b"2", b"3")]


@given(outlines)
def test_a_listing_is_what_a_walk_of_every_path_finds(outline: Outline) -> None:
    """Each content and tree once, where it appears first."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    files, metas = _walked(trees.load, root)
    listed = list_contents(trees.load, root)
    assert list(listed.files.items()) == list(files.items())
    assert list(listed.trees) == metas


@given(outlines, outlines)
def test_a_comparison_is_the_difference_of_two_walks(before: Outline, after: Outline) -> None:
    """What the walk spares, because the old tree has it, changes no list."""
    trees = MemoryTrees()
    old, new = store_outline(trees, before), store_outline(trees, after)
    old_files, old_trees = _walked(trees.load, old)
    new_files, new_trees = _walked(trees.load, new)
    trees.loads.clear()
    found = compare_trees(trees.load, old, new)
    assert found.bases == tuple(old_files)
    assert found.targets == tuple(name for name in new_files if name not in old_files)
    assert found.sizes == {**old_files, **new_files}
    assert found.metas == tuple(tree for tree in new_trees if tree not in old_trees)
    assert found.old_trees == tuple(old_trees)
    assert set(trees.loads.values()) == {1}
    assert compare_contents(trees.load, list_contents(trees.load, old), new) == found


@given(outlines)
def test_from_scratch_everything_is_a_target(outline: Outline) -> None:
    """No bases, and every tree is new."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    found = compare_trees(trees.load, None, root)
    assert not found.bases
    assert not found.old_trees
    assert list(found.targets) == contents(trees.load, root)
    assert found.metas == list_contents(trees.load, root).trees


def test_one_content_of_two_sizes_is_refused() -> None:
    """Within a tree, and between two: a decoder would not know what is due."""
    trees = MemoryTrees()
    name = hash_bytes(b"x")
    one, two = FileEntry(b"a", 0, 0, 0, (), name, 1), FileEntry(b"b", 0, 0, 0, (), name, 2)
    both, first, second = trees.root(one, two), trees.root(one), trees.root(two)
    with pytest.raises(FormatError, match="1 and 2 bytes"):
        contents(trees.load, both)
    with pytest.raises(FormatError, match="1 and 2 bytes"):
        compare_trees(trees.load, first, second)


def test_depth_is_bounded() -> None:
    """As for every other walk."""
    trees = MemoryTrees()
    allowed = nest(trees, MAX_DEPTH, [make_file(b"a", b"1")])
    assert contents(trees.load, allowed) == [hash_bytes(b"1")]
    with pytest.raises(FormatError, match="deeper"):
        contents(trees.load, trees.root(DirectoryEntry(b"d", 0, 0, 0, (), allowed, 1)))


def test_a_tree_that_unfolds_to_more_than_all_memory_is_listed_at_once() -> None:
    """2**200 paths in 200 trees: each is read once."""
    trees = MemoryTrees()
    below, size = trees.store([make_file(b"a", b"1")])
    for _ in range(200):
        twice = [DirectoryEntry(name, 0, 0, 0, (), below, size) for name in (b"a", b"b")]
        below, size = trees.store(twice)
    assert contents(trees.load, below) == [hash_bytes(b"1")]
    assert max(trees.loads.values()) == 1
