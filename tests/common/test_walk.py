"""Trees of any shape are walked and counted within bounds of time, depth and length."""

from collections import Counter
from collections.abc import Callable

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
from hacktree.common.objects import walk
from hacktree.common.objects.commit import MAX_ENTRIES, Commit, RootDirectory, Totals
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry, SymlinkEntry, Tree
from hacktree.common.objects.walk import (
    MAX_DEPTH,
    check_totals,
    describe_path,
    find_entry,
    measure,
    walk_tree,
)


def _count(paths: list[tuple[bytes, Entry]]) -> Totals:
    kinds = Counter(type(entry) for _, entry in paths)
    size = sum(entry.size for _, entry in paths if isinstance(entry, FileEntry))
    return Totals(kinds[FileEntry], kinds[DirectoryEntry], kinds[SymlinkEntry], size)


def _walk_all(load: Callable[[ObjectId], Tree], root: ObjectId) -> list[tuple[bytes, Entry]]:
    return list(walk_tree(load, root))


def test_a_directory_comes_before_what_it_holds_in_order_of_names() -> None:
    """The order in which a tree can be created."""
    trees = MemoryTrees()
    root = trees.root(
        trees.directory(b"b", [make_file(b"z"), trees.directory(b"y", [make_file(b"x")])]),
        make_file(b"b-"),
        make_symlink(b"a", b"b"),
    )
    paths = [path for path, _ in walk_tree(trees.load, root)]
    assert paths == [b"a", b"b", b"b/y", b"b/y/x", b"b/z", b"b-"]


@given(outlines)
def test_counting_agrees_with_walking(outline: Outline) -> None:
    """`measure` says what a walk would find, without making it."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    assert measure(trees.load, root) == _count(_walk_all(trees.load, root))


@given(outlines)
def test_every_path_of_a_walk_is_found_and_no_other(outline: Outline) -> None:
    """`find_entry` and `walk_tree` see the same tree."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    for path, entry in walk_tree(trees.load, root):
        assert find_entry(trees.load, root, path) == entry
        assert find_entry(trees.load, root, path + b"/nothing") is None
        assert find_entry(trees.load, root, b"/" + path) is None
        assert find_entry(trees.load, root, path + b"/") is None


def test_links_are_not_followed_to_find_an_entry() -> None:
    """A path through a link names nothing in a tree."""
    trees = MemoryTrees()
    root = trees.root(
        trees.directory(b"usr", [make_file(b"a")]), make_symlink(b"lib", b"usr"), make_file(b"f")
    )
    assert find_entry(trees.load, root, b"lib") == make_symlink(b"lib", b"usr")
    for path in (b"lib/a", b"f/a", b"", b".", b"usr/../f", b"usr//a", b"missing"):
        assert find_entry(trees.load, root, path) is None


@pytest.mark.parametrize("visit", [_walk_all, measure])
def test_the_deepest_tree_allowed_and_one_deeper(
    visit: Callable[[Callable[[ObjectId], Tree], ObjectId], object],
) -> None:
    """256 directories above one another; walking and counting agree to the last one."""
    trees = MemoryTrees()
    visit(trees.load, nest(trees, MAX_DEPTH, [make_file(b"a")]))
    with pytest.raises(FormatError, match="deeper"):
        visit(trees.load, nest(trees, MAX_DEPTH + 1))


@pytest.mark.parametrize("visit", [_walk_all, measure])
def test_nesting_of_100000_is_refused_before_it_is_read(
    visit: Callable[[Callable[[ObjectId], Tree], ObjectId], object],
) -> None:
    """A hostile server makes a client read 257 trees, not 100,000; nor does anything recurse."""
    loads = 0

    def load(tree_id: ObjectId) -> Tree:
        nonlocal loads
        loads += 1
        number = int.from_bytes(tree_id, "big") + 1
        assert number < 100_000
        below = ObjectId(number.to_bytes(32, "big"))
        return Tree(1, (DirectoryEntry(b"d", 0o755, 0, 0, (), below, 60),))

    with pytest.raises(FormatError, match="deeper"):
        visit(load, ObjectId(bytes(32)))
    assert loads <= MAX_DEPTH + 1


def test_depth_counts_along_every_path_to_a_shared_directory() -> None:
    """A directory that is shallow in one place and too deep in another is too deep."""
    trees = MemoryTrees()
    tail_id = nest(trees, MAX_DEPTH // 2)
    tail = DirectoryEntry(b"a", 0o755, 0, 0, (), tail_id, 60)
    deep_id = nest(trees, MAX_DEPTH // 2, [tail])
    deep = DirectoryEntry(b"b", 0o755, 0, 0, (), deep_id, 60)
    later = DirectoryEntry(b"c", 0o755, 0, 0, (), tail_id, 60)
    for root in (
        trees.root(tail, deep),
        trees.root(deep, later),
    ):
        with pytest.raises(FormatError, match="deeper"):
            measure(trees.load, root)
        with pytest.raises(FormatError, match="deeper"):
            _walk_all(trees.load, root)


def _unfold(trees: MemoryTrees, levels: int, copies: int) -> ObjectId:
    """A root of `levels` trees, each naming the next `copies` times."""
    tree_id, size = trees.store([])
    for _ in range(levels):
        tree_id, size = trees.store(
            DirectoryEntry(b"%03d" % i, 0o755, 0, 0, (), tree_id, size) for i in range(copies)
        )
    return tree_id


@pytest.mark.parametrize("copies", [2, 100])
def test_a_tree_that_unfolds_exponentially_is_refused_after_reading_each_tree_once(
    copies: int,
) -> None:
    """40 small trees can name 2**40 or 100**40 paths; nobody makes even one list of them."""
    trees = MemoryTrees()
    root = _unfold(trees, 40, copies)
    with pytest.raises(FormatError, match="unfolds"):
        measure(trees.load, root)
    assert max(trees.loads.values()) == 1
    assert len(trees.loads) <= 41


def test_a_tree_that_unfolds_within_bounds_is_counted_exactly() -> None:
    """2 + 4 + … + 2**24 directories, from 25 reads."""
    trees = MemoryTrees()
    root = _unfold(trees, 24, 2)
    assert measure(trees.load, root) == Totals(0, 2**25 - 2, 0, 0)
    assert trees.loads.total() == 25


def test_each_tree_is_read_once_however_many_directories_name_it() -> None:
    """Work is linear in the distinct trees, not in the references between them."""
    trees = MemoryTrees()
    level: list[Entry] = []
    for _ in range(5):
        level = [trees.directory(b"%02d" % i, [*level, make_file(b"own%d" % i)]) for i in range(20)]
    root = trees.root(*level)
    totals = measure(trees.load, root)
    assert totals.directories == sum(20**depth for depth in range(1, 6))
    assert set(trees.loads.values()) == {1}
    assert len(trees.loads) == 1 + 5 * 20


@pytest.mark.parametrize("limit", [6, 7, 8])
def test_files_directories_and_links_count_together(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is on paths of any kind: 3 files, 2 directories, 2 links are 7."""
    trees = MemoryTrees()
    below: list[Entry] = [make_file(b"f"), make_symlink(b"l", b"t")]
    root = trees.root(trees.directory(b"a", below), trees.directory(b"b", below), make_file(b"c"))
    monkeypatch.setattr(walk, "MAX_ENTRIES", limit)
    if limit < 7:
        with pytest.raises(FormatError, match="unfolds"):
            measure(trees.load, root)
    else:
        assert measure(trees.load, root).entries == 7


def test_the_limit_of_entries_is_the_documented_one() -> None:
    """docs/format.md, "Limits"."""
    assert MAX_ENTRIES == 50_000_000
    assert MAX_DEPTH == 256


@pytest.mark.parametrize("visit", [_walk_all, measure])
def test_the_longest_path_allowed_and_one_longer(
    visit: Callable[[Callable[[ObjectId], Tree], ObjectId], object],
) -> None:
    """4,095 bytes in all, whatever stands at the end; walking and counting agree."""
    for last in (make_file(b"a" * 255), make_symlink(b"a" * 255, b"t")):
        trees = MemoryTrees()
        entry: Entry = last
        for _ in range(15):
            entry = trees.directory(b"d" * 255, [entry])
        visit(trees.load, trees.root(entry))
        longer = trees.directory(b"d", [entry])
        with pytest.raises(FormatError, match="path"):
            visit(trees.load, trees.root(longer))


@given(outlines, st.integers(0, 4), st.integers(1, 12))
def test_walking_and_counting_refuse_the_same_trees(
    outline: Outline, max_depth: int, max_path: int
) -> None:
    """What a client accepts by its count it can also check out; limits lowered to meet them."""
    trees = MemoryTrees()
    root = store_outline(trees, outline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "MAX_DEPTH", max_depth)
        patch.setattr(walk, "MAX_PATH_LENGTH", max_path)
        refused = []
        for visit in (_walk_all, measure):
            try:
                visit(trees.load, root)
                refused.append(False)
            except FormatError:
                refused.append(True)
        found = _within(trees, root, max_depth, max_path)
    assert refused == [not found, not found]


def _within(trees: MemoryTrees, root: ObjectId, max_depth: int, max_path: int) -> bool:
    """The limits, said a second time and by recursion."""

    def check(tree_id: ObjectId, prefix: bytes, depth: int) -> bool:
        return all(
            len(prefix + entry.name) <= max_path
            and (
                not isinstance(entry, DirectoryEntry)
                or (depth < max_depth and check(entry.id, prefix + entry.name + b"/", depth + 1))
            )
            for entry in trees.load(tree_id).entries
        )

    return check(root, b"", 0)


@pytest.mark.parametrize("field", ["files", "directories", "symlinks", "bytes"])
def test_totals_must_be_exact(field: str) -> None:
    """A commit that says one too many or too few is refused."""
    trees = MemoryTrees()
    below: list[Entry] = [make_file(b"f", b"abc"), make_symlink(b"l", b"t")]
    root_id, size = trees.store([trees.directory(b"a", below), trees.directory(b"b", [])])
    commit = Commit(
        format=1,
        root=RootDirectory(root_id, size, 0o755, 0, 0, ()),
        parents=(),
        sequence=1,
        branch="builds",
        architecture="",
        time=0,
        version="",
        subject="",
        body="",
        totals=Totals(1, 2, 1, 3),
        metadata={},
    )
    check_totals(trees.load, commit)
    for off in (-1, 1):
        wrong = msgspec.structs.replace(
            commit.totals, **{field: getattr(commit.totals, field) + off}
        )
        with pytest.raises(FormatError, match="the commit says"):
            check_totals(trees.load, msgspec.structs.replace(commit, totals=wrong))


def test_a_missing_tree_raises_the_loaders_own_error() -> None:
    """Whoever loads knows whose fault it is."""
    trees = MemoryTrees()
    root = trees.root(DirectoryEntry(b"d", 0o755, 0, 0, (), ObjectId(bytes(32)), 60))
    for visit in (_walk_all, measure):
        with pytest.raises(KeyError):
            visit(trees.load, root)


def test_a_path_is_shown_from_the_root() -> None:
    """As a person writes it."""
    assert describe_path(b"usr/bin/\x1b") == r"/usr/bin/\x1b"
