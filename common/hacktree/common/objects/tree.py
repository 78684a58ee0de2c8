"""Trees: what a directory holds. docs/format.md, "Tree"."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.objects.attributes import Mode, OwnerId, Xattrs, check_xattrs
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import WireObjectId
from hacktree.common.objects.names import MAX_PATH_LENGTH, check_entry_names

MAX_TREE_SIZE: Final = 64 << 20
"""Bytes of one encoded tree: about 600,000 entries in one directory."""

MAX_FILE_SIZE: Final = 8 << 30
"""Bytes of one file's content."""

Name = Annotated[bytes, Meta(min_length=1, max_length=255)]
Target = Annotated[bytes, Meta(min_length=1, max_length=MAX_PATH_LENGTH)]
FileSize = Annotated[int, Meta(ge=0, le=MAX_FILE_SIZE)]
TreeSize = Annotated[int, Meta(ge=1, le=MAX_TREE_SIZE)]


class FileEntry(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag=1,
    gc=False,
):
    """A regular file: its attributes, the id of its content and the content's size in bytes."""

    name: Name
    mode: Mode
    uid: OwnerId
    gid: OwnerId
    xattrs: Xattrs
    id: WireObjectId
    size: FileSize


class DirectoryEntry(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag=2,
    gc=False,
):
    """A directory: its attributes, the id of its tree and the encoded tree's size in bytes."""

    name: Name
    mode: Mode
    uid: OwnerId
    gid: OwnerId
    xattrs: Xattrs
    id: WireObjectId
    size: TreeSize


class SymlinkEntry(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag=3,
    gc=False,
):
    """A symbolic link: its owner and its target. Linux gives links no mode of their own."""

    name: Name
    uid: OwnerId
    gid: OwnerId
    target: Target


Entry = FileEntry | DirectoryEntry | SymlinkEntry


class Tree(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="tree"):
    """The entries of one directory, in ascending byte order of their names."""

    version: Literal[1]
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        entries = self.entries
        check_entry_names([entry.name for entry in entries])
        for entry in entries:
            if isinstance(entry, SymlinkEntry):
                if b"\0" in entry.target:
                    raise FormatError("the target of a symbolic link contains NUL")
            elif entry.xattrs:
                check_xattrs(entry.xattrs)


_CODEC = Codec(Tree, "tree", MAX_TREE_SIZE)


def encode_tree(tree: Tree) -> bytes:
    """The canonical encoding; raises `FormatError` for a value that is out of bounds."""
    return _CODEC.encode(tree)


def decode_tree(data: bytes) -> Tree:
    """The tree that `data` encodes; raises `FormatError` for anything but its one encoding."""
    return _CODEC.decode(data)
