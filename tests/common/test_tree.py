"""What a tree may hold. How every object is encoded: test_codec.py."""

from typing import Any

import msgspec
import pytest

from common.strategies import make_file, make_symlink, make_tree
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import hash_bytes
from hacktree.common.objects.tree import (
    MAX_FILE_SIZE,
    MAX_TREE_SIZE,
    DirectoryEntry,
    Entry,
    FileEntry,
    SymlinkEntry,
    Tree,
    decode_tree,
    encode_tree,
)

FILE = FileEntry(b"a", 0o644, 0, 0, (), hash_bytes(b""), 0)
DIRECTORY = DirectoryEntry(b"a", 0o755, 0, 0, (), hash_bytes(b""), 8)
SYMLINK = SymlinkEntry(b"a", 0, 0, b"t")
ENTRIES: list[Entry] = [FILE, DIRECTORY, SYMLINK]


def _wire(*entries: Entry) -> bytes:
    """What a peer that checks nothing would send."""
    return msgspec.msgpack.encode(["tree", 1, entries])


@pytest.mark.parametrize("entry", ENTRIES, ids=["file", "directory", "symlink"])
@pytest.mark.parametrize(
    "name",
    [b"", b".", b"..", b"/", b"a/b", b"../a", b"a\0", b"\0", b"a" * 256],
    ids=lambda name: repr(name[:6]),
)
def test_bad_names_are_refused_at_decode_and_at_construction(entry: Entry, name: bytes) -> None:
    """No tree value with a name that leaves its directory exists, whatever made it."""
    bad = msgspec.structs.replace(entry, name=name)
    with pytest.raises(FormatError):
        decode_tree(_wire(bad))
    with pytest.raises(FormatError):
        Tree(1, (bad,))


@pytest.mark.parametrize("second", [b"a", b"A", b"\0a", b""], ids=repr)
def test_names_stand_in_strictly_ascending_order(second: bytes) -> None:
    """Duplicates and disorder are refused, between kinds too."""
    for first in ENTRIES:
        for entry in ENTRIES:
            with pytest.raises(FormatError):
                decode_tree(_wire(first, msgspec.structs.replace(entry, name=second)))


def test_names_are_compared_as_bytes() -> None:
    """Neither case, locale nor the '/' that would follow a directory's name counts."""
    tree = make_tree(make_file(name) for name in (b"a", b"B", b"a-b", b"\xff", b"a.", b"~"))
    assert [entry.name for entry in tree.entries] == [b"B", b"a", b"a-b", b"a.", b"~", b"\xff"]
    assert decode_tree(encode_tree(tree)) == tree


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o10000},
        {"mode": 0o100644},
        {"mode": -1},
        {"uid": 2**32 - 1},
        {"gid": 2**32 - 1},
        {"uid": -1},
        {"id": b""},
        {"id": bytes(31)},
        {"id": bytes(33)},
        {"size": -1},
        {"size": 10_000_000_000},
        {"size": 2**63 - 1},
        {"size": 2**63},
        {"size": 2**64 - 1},
        {"xattrs": (("security.selinux", b"label"),)},
        {"xattrs": (("trusted.overlay.opaque", b"y"),)},
        {"xattrs": (("user.overlay.opaque", b"y"),)},
        {"xattrs": (("user.b", b""), ("user.a", b""))},
        {"xattrs": (("user.a", b""), ("user.a", b""))},
        {"xattrs": (("user.a", bytes(65537)),)},
    ],
    ids=lambda change: repr(change)[:40],
)
@pytest.mark.parametrize("entry", [FILE, DIRECTORY], ids=["file", "directory"])
def test_fields_out_of_bounds_are_refused(
    entry: FileEntry | DirectoryEntry, change: dict[str, Any]
) -> None:
    """Modes without file type, real owners, whole ids, sizes within the limits, known xattrs."""
    with pytest.raises(FormatError):
        decode_tree(_wire(msgspec.structs.replace(entry, **change)))


@pytest.mark.parametrize("target", [b"", b"a\0b", b"a" * 4096], ids=["empty", "NUL", "long"])
def test_impossible_link_targets_are_refused(target: bytes) -> None:
    """A target that symlink(2) would refuse."""
    with pytest.raises(FormatError):
        decode_tree(_wire(msgspec.structs.replace(SYMLINK, target=target)))


@pytest.mark.parametrize("target", [b"/", b"..", b"../../etc/passwd", b"\xff\n", b"a" * 4095])
def test_a_link_may_point_anywhere(target: bytes) -> None:
    """Links are created, never followed: an absolute or outward target is ordinary."""
    tree = make_tree([make_symlink(b"link", target)])
    assert decode_tree(encode_tree(tree)) == tree


def test_the_limits_themselves_are_allowed() -> None:
    """The greatest mode, owner, sizes and name, setuid and sticky included."""
    tree = make_tree(
        [
            FileEntry(b"a" * 255, 0o7777, 2**32 - 2, 2**32 - 2, (), hash_bytes(b""), MAX_FILE_SIZE),
            DirectoryEntry(b"b", 0, 0, 0, (), hash_bytes(b""), MAX_TREE_SIZE),
        ]
    )
    assert decode_tree(encode_tree(tree)) == tree


@pytest.mark.parametrize(
    "wire",
    [
        ["tree", 2, []],
        ["tree", 0, []],
        ["Tree", 1, []],
        ["commit", 1, []],
        ["tree", 1],
        ["tree", 1, [], []],
        ["tree", 1, {}],
        ["tree", 1, None],
        ["tree", 1, [[0, b"a", 0, 0, b"t"]]],
        ["tree", 1, [[4, b"a", 0, 0, b"t"]]],
        ["tree", 1, [[3, b"a", 0, 0]]],
        ["tree", 1, [[3, b"a", 0, 0, b"t", 0]]],
        ["tree", 1, [[]]],
        ["tree", 1, [["3", b"a", 0, 0, b"t"]]],
        ["tree", 1, [[3, "a", 0, 0, b"t"]]],
        ["tree", 1, [[1, b"a", 0, 0, 0, {}, bytes(32), 0]]],
        ["tree", 1, [[1, b"a", 0, 0, 0, [["user.a"]], bytes(32), 0]]],
        ["tree", 1, [[1, b"a", 0, 0, 0, [[b"user.a", b""]], bytes(32), 0]]],
        [],
        {},
        "tree",
        1,
        None,
    ],
    ids=repr,
)
def test_other_shapes_are_refused(wire: object) -> None:
    """Unknown versions and kinds of entry, missing, extra and wrongly typed fields."""
    with pytest.raises(FormatError):
        decode_tree(msgspec.msgpack.encode(wire))


def test_a_tree_can_not_be_changed() -> None:
    """What was checked stays as it was checked."""
    tree = make_tree(ENTRIES[:1])
    with pytest.raises(AttributeError):
        tree.entries = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        FILE.name = b".."  # type: ignore[misc]
