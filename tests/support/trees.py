"""Small commits for tests, written straight into a repository."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hacktree.common.objects.attributes import Xattrs
from hacktree.common.objects.commit import MetadataValue
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.objects.tree import Entry, SymlinkEntry
from hacktree.common.repository.committing import CommitRequest, commit_source
from hacktree.common.repository.content import FileAttributes, store_bytes
from hacktree.common.repository.ingest import IngestReport
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import Transaction
from hacktree.common.repository.treebuilder import BuildDirectory


@dataclass(frozen=True, slots=True)
class File:
    """A regular file of a test's tree."""

    data: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Xattrs = ()


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory whose attributes matter; others come into being with what they hold."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    xattrs: Xattrs = ()


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link."""

    target: bytes
    uid: int = 0
    gid: int = 0


Spec = bytes | File | Directory | Symlink
"""Bytes stand for a file of mode 0644 that belongs to root."""


def make_commit(
    repository: Repository,
    tree: Mapping[str | bytes, Spec],
    *,
    branch: str = "fastqa",
    time: int = 1_700_000_000,
    version: str = "",
    architecture: str = "",
    metadata: Mapping[str, MetadataValue] | None = None,
) -> ObjectId:
    """Commit `tree` (path → what is there; the path "" is the root) and move the branch to it."""

    def ingest(
        transaction: Transaction, base: Callable[[bytes], Entry | None] | None
    ) -> tuple[BuildDirectory, IngestReport]:
        root = BuildDirectory()
        for path, spec in tree.items():
            _place(transaction, root, path.encode() if isinstance(path, str) else path, spec)
        return root, IngestReport()

    request = CommitRequest(
        branch=parse_branch_name(branch),
        time=time,
        version=version,
        architecture=architecture,
        metadata=dict(metadata or {}),
        allow_renumbering=True,
    )
    return commit_source(repository, ingest, request).id


def _place(transaction: Transaction, root: BuildDirectory, path: bytes, spec: Spec) -> None:
    parents, _, name = path.rpartition(b"/")
    directory = root
    for part in parents.split(b"/") if parents else ():
        directory = _enter(directory, part)
    if isinstance(spec, Directory):
        target = _enter(directory, name) if name else root
        target.mode, target.uid, target.gid = spec.mode, spec.uid, spec.gid
        target.xattrs = spec.xattrs
    elif isinstance(spec, Symlink):
        directory.children[name] = SymlinkEntry(name, spec.uid, spec.gid, spec.target)
    else:
        file = File(spec) if isinstance(spec, bytes) else spec
        attributes = FileAttributes(file.mode, file.uid, file.gid, file.xattrs)
        directory.children[name] = store_bytes(transaction, name, file.data, attributes)


def _enter(directory: BuildDirectory, name: bytes) -> BuildDirectory:
    child = directory.children.setdefault(name, BuildDirectory())
    assert isinstance(child, BuildDirectory), f"{name!r} is a file already"
    return child
