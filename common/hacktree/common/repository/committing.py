"""Making a commit out of a stored tree, and moving its branch to it."""

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from hacktree.common.errors import UserError
from hacktree.common.objects.commit import (
    PROMOTED_FROM,
    Commit,
    MetadataValue,
    commit_id,
    encode_commit,
)
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName, display_path
from hacktree.common.objects.packages import packages_to_metadata
from hacktree.common.objects.tree import DirectoryEntry, Entry, FileEntry
from hacktree.common.objects.walk import find_entry
from hacktree.common.repository.architecture import detect_architecture
from hacktree.common.repository.ingest import IngestReport
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.packages import detect_packages
from hacktree.common.repository.published_history import publish_history
from hacktree.common.repository.refs import hold_refs, move_ref, read_ref
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.transaction import Transaction, begin_transaction
from hacktree.common.repository.treebuilder import (
    BuildDirectory,
    StoredTree,
    store_trees,
)
from hacktree.common.repository.users import find_renumbered

Ingest = Callable[
    [Transaction, Callable[[bytes], Entry | None] | None],
    tuple[BuildDirectory, IngestReport],
]
"""Stages a tree's files; given how to find a path's entry in the previous commit, if any."""


class RenumberedError(UserError):
    """A user or group of the tree changed its number against the parent."""


class CommitRequest(msgspec.Struct, frozen=True):
    """What a person says of a commit. `time` is in seconds since 1970 UTC."""

    branch: BranchName
    time: int
    subject: str = ""
    body: str = ""
    version: str = ""
    architecture: str | None = None
    metadata: dict[str, MetadataValue] = {}
    allow_renumbering: bool = False
    only_if_changed: bool = False


class CommitResult(msgspec.Struct, frozen=True):
    """The branch's head afterwards; `changed` is false when nothing was to commit."""

    id: ObjectId
    commit: Commit
    changed: bool
    report: IngestReport
    new_objects: int
    new_bytes: int


def commit_source(repository: Repository, ingest: Ingest, request: CommitRequest) -> CommitResult:
    """Ingest a tree and commit it to `request.branch`."""
    with begin_transaction(repository) as transaction:
        parent_id = read_ref(repository, request.branch)
        base = None if parent_id is None else _base_lookup(repository, parent_id)
        directory, report = ingest(transaction, base)
        stored = store_trees(transaction, directory)
        return _commit(transaction, stored, request, parent_id, report)


def commit_existing(
    repository: Repository, source: ObjectId, request: CommitRequest
) -> CommitResult:
    """Commit the tree of another commit, which is recorded as `promoted-from`."""
    with begin_transaction(repository) as transaction:
        original = repository.load_commit(source)
        parent_id = read_ref(repository, request.branch)
        stored = StoredTree(original.root, original.totals)
        inherited: dict[str, MetadataValue] = {
            **original.metadata,
            PROMOTED_FROM: source.hex(),
            **request.metadata,
        }
        return _commit(
            transaction,
            stored,
            replace(request, metadata=inherited),
            parent_id,
            IngestReport(),
        )


def _base_lookup(repository: Repository, parent: ObjectId) -> Callable[[bytes], Entry | None]:
    """Find entries of the parent by path, decoding each directory once."""
    root = repository.load_commit(parent).root
    top = DirectoryEntry(b"/", root.mode, root.uid, root.gid, root.xattrs, root.id, root.size)
    directories: dict[bytes, dict[bytes, Entry]] = {}

    def entries(path: bytes) -> dict[bytes, Entry]:
        if path not in directories:
            directory = lookup(path)
            found: tuple[Entry, ...] = ()
            if isinstance(directory, DirectoryEntry):
                found = repository.load_tree(directory.id).entries
            directories[path] = {entry.name: entry for entry in found}
        return directories[path]

    def lookup(path: bytes) -> Entry | None:
        if not path:
            return top
        parent_path, _, name = path.rpartition(b"/")
        return entries(parent_path).get(name)

    return lookup


def _commit(
    transaction: Transaction,
    stored: StoredTree,
    request: CommitRequest,
    parent_id: ObjectId | None,
    report: IngestReport,
) -> CommitResult:
    repository = transaction.repository
    parent = None if parent_id is None else repository.load_commit(parent_id)
    unchanged = parent is not None and parent.root == stored.root
    if parent_id is not None and parent is not None and unchanged and request.only_if_changed:
        return CommitResult(parent_id, parent, False, report, 0, 0)
    # The trees are published first: what follows reads them like any reader does.
    transaction.publish()
    read_file = _file_reader(repository, stored.root.id)
    if parent is not None and not request.allow_renumbering:
        _refuse_renumbering(_file_reader(repository, parent.root.id), read_file)
    commit = Commit(
        format=1,
        root=stored.root,
        parents=() if parent_id is None else (parent_id,),
        sequence=1 if parent is None else parent.sequence + 1,
        branch=request.branch,
        architecture=_architecture(request, repository, stored),
        time=request.time,
        version=request.version,
        subject=request.subject,
        body=request.body,
        totals=stored.totals,
        metadata=_metadata(request, read_file, report),
    )
    new_id = transaction.put_commit(encode_commit(commit))
    transaction.publish()
    with hold_refs(repository):
        if repository.mode is Mode.ARCHIVE and read_ref(repository, request.branch) == parent_id:
            publish_history(repository, request.branch, new_id)
        move_ref(repository, request.branch, new_id, expected=parent_id)
    return CommitResult(
        commit_id(commit),
        commit,
        True,
        report,
        transaction.new_files,
        transaction.new_bytes,
    )


def _architecture(request: CommitRequest, repository: Repository, stored: StoredTree) -> str:
    if request.architecture is not None:
        return request.architecture
    return detect_architecture(repository, stored.root.id)


def _metadata(
    request: CommitRequest,
    read_file: Callable[[bytes, int], bytes | None],
    report: IngestReport,
) -> dict[str, MetadataValue]:
    metadata = dict(request.metadata)
    if "packages" not in metadata:
        try:
            packages = detect_packages(read_file)
        except FormatError as error:
            # A tree is worth committing without its package list; the person is told.
            report.notices.append(f"no package list: {error.message}")
            packages = None
        if packages:
            metadata["packages"] = packages_to_metadata(packages)
    return metadata


def _refuse_renumbering(
    old: Callable[[bytes, int], bytes | None], new: Callable[[bytes, int], bytes | None]
) -> None:
    renumbered = find_renumbered(old, new)
    if renumbered:
        raise RenumberedError(
            "numbers of users or groups changed against the previous build: "
            + "; ".join(renumbered[:5]),
            hint="Files on testers' machines keep the old numbers. Keep them stable, or say "
            "--allow-renumbering.",
        )


def _file_reader(repository: Repository, root: ObjectId) -> Callable[[bytes, int], bytes | None]:
    """Read a regular file of a stored tree by path; None if there is none."""

    def read(path: bytes, max_size: int) -> bytes | None:
        entry = find_entry(repository.load_tree, root, path)
        if not isinstance(entry, FileEntry):
            return None
        if entry.size > max_size:
            raise FormatError(f"/{display_path(path)} is larger than {max_size} bytes")
        return b"".join(repository.read_content(entry))

    return read
