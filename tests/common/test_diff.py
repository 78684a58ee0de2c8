"""A diff says everything that differs, nothing else, and reads nothing that is the same."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import (
    MemoryTrees,
    Outline,
    make_file,
    make_symlink,
    nest,
    outlines,
    store_outline,
)
from hacktree.common.objects.diff import Change, diff_trees
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry
from hacktree.common.objects.walk import MAX_DEPTH, walk_tree

NO_TREE = ObjectId(bytes(32))


def _own(entry: Entry) -> Entry:
    """An entry without what a directory holds: its own path says nothing of that."""
    if isinstance(entry, DirectoryEntry):
        return msgspec.structs.replace(entry, id=NO_TREE, size=1)
    return entry


def _flatten(trees: MemoryTrees, root: ObjectId) -> dict[bytes, Entry]:
    return {path: _own(entry) for path, entry in walk_tree(trees.load, root)}


@st.composite
def tree_pairs(draw: st.DrawFn) -> tuple[MemoryTrees, ObjectId, ObjectId]:
    """Two trees that are unrelated, or of which one is the other with some names replaced."""
    old: Outline = draw(outlines)
    new: Outline = draw(outlines)
    if draw(st.booleans()):
        new = {**old, **new}
    trees = MemoryTrees()
    return trees, store_outline(trees, old), store_outline(trees, new)


@given(tree_pairs())
def test_applying_the_changes_to_the_old_gives_the_new(
    pair: tuple[MemoryTrees, ObjectId, ObjectId],
) -> None:
    """Nothing that differs is left out, and every change says truly what was there."""
    trees, old, new = pair
    result = _flatten(trees, old)
    for change in diff_trees(trees.load, old, new):
        before = result.pop(change.path, None)
        assert before == (None if change.old is None else _own(change.old))
        if change.new is not None:
            result[change.path] = _own(change.new)
    assert result == _flatten(trees, new)


@given(tree_pairs())
def test_only_differences_are_reported_and_each_once(
    pair: tuple[MemoryTrees, ObjectId, ObjectId],
) -> None:
    """A path that is the same on both sides is no change."""
    trees, old, new = pair
    before, after = _flatten(trees, old), _flatten(trees, new)
    changes = list(diff_trees(trees.load, old, new))
    expected = {path for path in before | after if before.get(path) != after.get(path)}
    assert Counter(change.path for change in changes) == Counter(expected)


@given(tree_pairs())
def test_changes_come_in_the_order_of_a_walk(
    pair: tuple[MemoryTrees, ObjectId, ObjectId],
) -> None:
    """By name within a directory, a directory before what it holds."""
    trees, old, new = pair
    paths = [change.path.split(b"/") for change in diff_trees(trees.load, old, new)]
    assert paths == sorted(paths)


@given(tree_pairs())
def test_the_other_way_round_is_the_mirror_image(
    pair: tuple[MemoryTrees, ObjectId, ObjectId],
) -> None:
    """What one way adds the other removes."""
    trees, old, new = pair
    mirrored = [Change(c.path, c.new, c.old) for c in diff_trees(trees.load, new, old)]
    assert list(diff_trees(trees.load, old, new)) == mirrored


@given(tree_pairs())
def test_only_directories_that_differ_are_read(
    pair: tuple[MemoryTrees, ObjectId, ObjectId],
) -> None:
    """Time goes with what differs: a subtree that both sides have in one place is not opened."""
    trees, old, new = pair
    expected: Counter[ObjectId] = Counter()
    sides: list[dict[bytes, ObjectId]] = []
    for root in (old, new):
        found = {b"": root}
        for path, entry in walk_tree(trees.load, root):
            if isinstance(entry, DirectoryEntry):
                found[path] = entry.id
        sides.append(found)
    for path in sides[0] | sides[1]:
        before, after = sides[0].get(path), sides[1].get(path)
        if before != after:
            expected.update(tree_id for tree_id in (before, after) if tree_id is not None)
    trees.loads.clear()
    list(diff_trees(trees.load, old, new))
    assert trees.loads == expected


@given(outlines)
def test_the_same_tree_is_not_even_read(outline: Outline) -> None:
    """Equal ids are equal trees."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    assert list(diff_trees(trees.load, root, root)) == []
    assert not trees.loads


@given(outlines)
def test_against_nothing_every_path_is_added_or_removed(outline: Outline) -> None:
    """None stands for an empty tree, on either side."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    walked = list(walk_tree(trees.load, root))
    added = list(diff_trees(trees.load, None, root))
    removed = list(diff_trees(trees.load, root, None))
    assert added == [Change(path, None, entry) for path, entry in walked]
    assert removed == [Change(path, entry, None) for path, entry in walked]
    assert all(change.is_content for change in added + removed)
    assert list(diff_trees(trees.load, None, None)) == []


def test_a_chmod_is_a_change_of_attributes_only() -> None:
    """Of a file and of a directory: what is below the directory is not opened."""
    trees = MemoryTrees()
    below = trees.directory(b"d", [make_file(b"f")], mode=0o755)
    old = trees.root(make_file(b"a", b"x", 0o644), below)
    new = trees.root(
        make_file(b"a", b"x", 0o4755), trees.directory(b"d", [make_file(b"f")], mode=0o700)
    )
    changes = list(diff_trees(trees.load, old, new))
    assert [change.path for change in changes] == [b"a", b"d"]
    assert not any(change.is_content for change in changes)
    assert below.id not in trees.loads


def test_a_chmod_below_does_not_report_the_directories_above() -> None:
    """Their ids differ, they themselves do not."""
    trees = MemoryTrees()
    old, new = (
        trees.root(trees.directory(b"d", [trees.directory(b"e", [make_file(b"f", b"x", mode)])]))
        for mode in (0o644, 0o600)
    )
    (change,) = diff_trees(trees.load, old, new)
    assert change.path == b"d/e/f"
    assert not change.is_content


def test_a_file_that_becomes_a_directory_and_back() -> None:
    """One change for the swap, then one for each path below; the same backwards."""
    trees = MemoryTrees()
    file = make_file(b"a", b"x")
    inside = make_file(b"b")
    directory = trees.directory(b"a", [inside])
    old, new = trees.root(file), trees.root(directory)
    there = [Change(b"a", file, directory), Change(b"a/b", None, inside)]
    back = [Change(b"a", directory, file), Change(b"a/b", inside, None)]
    assert list(diff_trees(trees.load, old, new)) == there
    assert list(diff_trees(trees.load, new, old)) == back
    assert all(change.is_content for change in there + back)


LINK = make_symlink(b"a", b"t")
FILE = make_file(b"a", b"x")
DIRECTORY = DirectoryEntry(b"a", 0o755, 0, 0, (), NO_TREE, 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FILE, make_file(b"a", b"y")),
        (FILE, LINK),
        (FILE, DIRECTORY),
        (LINK, make_symlink(b"a", b"u")),
        (DIRECTORY, LINK),
        (None, FILE),
        (DIRECTORY, None),
    ],
)
def test_another_content_target_or_kind_is_a_change_of_content(
    old: Entry | None, new: Entry | None
) -> None:
    """In both directions."""
    assert Change(b"a", old, new).is_content
    assert Change(b"a", new, old).is_content


@pytest.mark.parametrize(
    ("old", "change"),
    [
        (FILE, {"mode": 0o600}),
        (FILE, {"uid": 1}),
        (FILE, {"xattrs": (("user.a", b""),)}),
        (LINK, {"gid": 1}),
        (DIRECTORY, {"mode": 0o700}),
    ],
)
def test_another_owner_mode_or_attribute_is_not(old: Entry, change: dict[str, Any]) -> None:
    """What a checkout can do without any download."""
    new = msgspec.structs.replace(old, **change)
    assert not Change(b"a", old, new).is_content
    assert not Change(b"a", new, old).is_content


def test_the_deepest_trees_allowed_and_one_deeper() -> None:
    """The same limit as for a walk, on either side."""
    trees = MemoryTrees()
    deepest = nest(trees, MAX_DEPTH)
    assert len(list(diff_trees(trees.load, None, deepest))) == MAX_DEPTH
    too_deep = nest(trees, MAX_DEPTH + 1)
    for old, new in ((None, too_deep), (too_deep, None), (deepest, too_deep)):
        with pytest.raises(FormatError, match="deeper"):
            list(diff_trees(trees.load, old, new))


def test_differences_come_one_by_one() -> None:
    """Two hostile trees that unfold exponentially cost no more than what is asked of them."""
    trees = MemoryTrees()
    tree_id, size = trees.store([])
    for _ in range(40):
        tree_id, size = trees.store(
            DirectoryEntry(name, 0o755, 0, 0, (), tree_id, size) for name in (b"a", b"b")
        )
    changes = diff_trees(trees.load, None, tree_id)
    for _ in range(1000):
        next(changes)
    assert trees.loads.total() <= 1001
