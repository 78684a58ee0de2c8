"""Commits: one build of a branch. docs/format.md, "Commit"."""

import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hacktree.common.objects.attributes import Mode, OwnerId, Xattrs, check_xattrs
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.ids import ObjectId, WireObjectId, hash_bytes
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.objects.tree import TreeSize

PROMOTED_FROM: Final = "promoted-from"
"""The name in the metadata that says which commit this one was promoted from, in hexadecimal."""

MAX_COMMIT_SIZE: Final = 4 << 20
"""Bytes of one encoded commit; a list of 650 packages takes about 30 kB."""

MAX_ENTRIES: Final = 50_000_000
"""Files, directories and symbolic links together in one commit, counted by path."""

Count = Annotated[int, Meta(ge=0, le=MAX_ENTRIES)]
ByteCount = Annotated[int, Meta(ge=0, le=1 << 50)]
Line = Annotated[str, Meta(max_length=1000)]
MetadataValue = str | int | list[str | list[str]]

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}|")


class RootDirectory(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The root directory: its tree, the encoded tree's size in bytes, and its own attributes."""

    id: WireObjectId
    size: TreeSize
    mode: Mode
    uid: OwnerId
    gid: OwnerId
    xattrs: Xattrs


class Totals(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the tree holds, counted by path: a decoder's bound on how far a tree may unfold."""

    files: Count
    directories: Count
    symlinks: Count
    bytes: ByteCount

    @property
    def entries(self) -> int:
        """Paths: files, directories and symbolic links together."""
        return self.files + self.directories + self.symlinks


class Commit(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag="commit",
):
    """One build of a branch. `time` is in seconds since 1970 UTC; `sequence` is the parent's + 1.

    `metadata` maps names to text, integers or lists: `packages` (see `packages`), `promoted-from`,
    source revisions.
    """

    format: Literal[1]
    root: RootDirectory
    parents: Annotated[tuple[WireObjectId, ...], Meta(max_length=16)]
    sequence: Annotated[int, Meta(ge=1, le=1 << 40)]
    branch: Annotated[str, Meta(min_length=1, max_length=200)]
    architecture: Annotated[str, Meta(max_length=64)]
    time: Annotated[int, Meta(ge=0, le=1 << 40)]
    version: Line
    subject: Line
    body: Annotated[str, Meta(max_length=100_000)]
    totals: Totals
    metadata: dict[Line, MetadataValue]

    def __post_init__(self) -> None:
        check_xattrs(self.root.xattrs)
        try:
            parse_branch_name(self.branch)
        except NameInvalidError as error:
            raise FormatError(error.message) from error
        if not _ARCHITECTURE.fullmatch(self.architecture):
            raise FormatError(f"not an architecture: {self.architecture!r}")
        if any("\n" in line or "\0" in line for line in (self.version, self.subject)):
            raise FormatError("a commit's version and subject are single lines")
        if (self.sequence == 1) != (not self.parents):
            raise FormatError("a commit has sequence 1 if and only if it has no parent")
        if self.totals.entries > MAX_ENTRIES:
            raise FormatError(f"a commit of more than {MAX_ENTRIES} entries")

    @property
    def branch_name(self) -> BranchName:
        """The branch that the commit was made for."""
        return BranchName(self.branch)


_CODEC = Codec(Commit, "commit", MAX_COMMIT_SIZE)


def encode_commit(commit: Commit) -> bytes:
    """The canonical encoding; raises `FormatError` for a value that is out of bounds."""
    return _CODEC.encode(commit)


def decode_commit(data: bytes) -> Commit:
    """The commit that `data` encodes; raises `FormatError` for anything but its one encoding."""
    return _CODEC.decode(data)


def commit_id(commit: Commit) -> ObjectId:
    """The id of the commit."""
    return hash_bytes(encode_commit(commit))
