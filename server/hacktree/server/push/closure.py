"""Whether a pushed commit is whole: everything it reaches is here, with the sizes that it names.

A commit in `objects/` has everything that it reaches (ADR 2), with the right sizes, since it went
through this check too or was committed here. So what a directory shares with the same directory of
the parent needs no look. Any other tree in `objects/` promises nothing and is walked.
"""

from dataclasses import dataclass, field
from typing import Final

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.tree import (
    MAX_TREE_SIZE,
    DirectoryEntry,
    FileEntry,
    Tree,
    decode_tree,
)
from hacktree.common.objects.walk import check_totals
from hacktree.common.push.framing import ObjectKey, ObjectKind
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.repository import (
    ObjectCorruptError,
    Repository,
    content_chunks,
)
from hacktree.server.publication import WrongCommitError
from hacktree.server.push.sessions import Session

_SHOWN: Final = 3


class ObjectsMissingError(HacktreeError):
    """Objects that the commit reaches are neither staged nor published."""


@dataclass(slots=True)
class Closure:
    """What a commit reaches beyond its parent; `staged` is what is to be published for it."""

    missing: set[ObjectKey] = field(default_factory=set)
    staged: set[ObjectKey] = field(default_factory=set)
    published_contents: dict[ObjectId, int] = field(default_factory=dict)
    """Size that the commit names, of contents in objects/ that the parent doesn't vouch for."""


def load_pushed_commit(session: Session) -> Commit:
    """The commit that is being pushed, from wherever it is."""
    return decode_commit(_read_meta(session, session.record.commit, MAX_COMMIT_SIZE))


def check_closure(session: Session, commit: Commit) -> list[ObjectKey]:
    """The staged objects that the commit needs, itself not among them; refuse it if it isn't whole.

    The caller holds the repository's shared lock, so that what was found stays. Raises
    `ObjectsMissingError` and `WrongCommitError`.
    """
    parent = session.record.expected_head
    try:
        base = None if parent is None else session.repository.load_commit(parent).root.id
        closure = _survey(session, commit, base)
        if closure.missing:
            _refuse_missing(closure.missing)
        _check_published_sizes(session.repository, closure.published_contents)
        # Last, since it unfolds what must be known to be here.
        check_totals(lambda tree_id: _load_tree(session, tree_id), commit)
    except FormatError as error:
        raise WrongCommitError(f"the commit is not sound: {error.message}") from error
    return sorted(closure.staged)


def _survey(session: Session, commit: Commit, base: ObjectId | None) -> Closure:
    """Walk the trees, each beside the one in the same place of the parent."""
    closure = Closure()
    root = commit.root
    seen: set[ObjectId] = set()
    stack: list[tuple[ObjectId, int, ObjectId | None]] = [(root.id, root.size, base)]
    while stack:
        tree_id, size, old_id = stack.pop()
        if tree_id in seen or tree_id == old_id:
            continue
        seen.add(tree_id)
        key = ObjectKey(ObjectKind.META, tree_id)
        if session.lacks(key):
            closure.missing.add(key)
            continue
        if key in session.staged:
            closure.staged.add(key)
        tree = _load_sized_tree(session, tree_id, size)
        old = None if old_id is None else session.repository.load_tree(old_id)
        known = {} if old is None else {entry.name: entry for entry in old.entries}
        for entry in tree.entries:
            beside = known.get(entry.name)
            if isinstance(entry, DirectoryEntry):
                old_directory = beside.id if isinstance(beside, DirectoryEntry) else None
                stack.append((entry.id, entry.size, old_directory))
            elif isinstance(entry, FileEntry):
                same = isinstance(beside, FileEntry) and (
                    (beside.id, beside.size) == (entry.id, entry.size)
                )
                if not same:
                    _survey_content(session, entry, closure)
    return closure


def _survey_content(session: Session, entry: FileEntry, closure: Closure) -> None:
    key = ObjectKey(ObjectKind.FILE, entry.id)
    staged = session.staged.get(key)
    if staged is not None:
        closure.staged.add(key)
        if staged.size != entry.size:
            raise _wrong_size(entry.id, staged.size, entry.size)
    elif session.lacks(key):
        closure.missing.add(key)
    elif closure.published_contents.setdefault(entry.id, entry.size) != entry.size:
        raise _wrong_size(entry.id, closure.published_contents[entry.id], entry.size)


def _check_published_sizes(repository: Repository, sizes: dict[ObjectId, int]) -> None:
    """Decompress, in bounded pieces, contents whose size nobody has vouched for yet."""
    for object_id, named in sizes.items():
        found = 0
        with open(repository.objects / archive_name(object_id), "rb", buffering=0) as stream:
            for chunk in content_chunks(stream, repository.mode):
                found += len(chunk)
                if found > named:
                    break
        if found != named:
            raise _wrong_size(object_id, found, named)


def _wrong_size(object_id: ObjectId, found: int, named: int) -> FormatError:
    return FormatError(f"a tree names {named} bytes for {object_id.hex()}, which has {found}")


def _refuse_missing(missing: set[ObjectKey]) -> None:
    shown = ", ".join(f"{key.kind.name.lower()} {key.id.hex()}" for key in sorted(missing)[:_SHOWN])
    raise ObjectsMissingError(
        f"{len(missing)} objects that the commit needs are missing, such as {shown}",
        hint="Ask again which are missing, send them, and finish.",
    )


def _load_sized_tree(session: Session, tree_id: ObjectId, size: int) -> Tree:
    data = _read_meta(session, tree_id, MAX_TREE_SIZE)
    if len(data) != size:
        raise _wrong_size(tree_id, len(data), size)
    return decode_tree(data)


def _load_tree(session: Session, tree_id: ObjectId) -> Tree:
    return decode_tree(_read_meta(session, tree_id, MAX_TREE_SIZE))


def _read_meta(session: Session, object_id: ObjectId, max_size: int) -> bytes:
    """A meta from staging, else from objects/; verified."""
    key = ObjectKey(ObjectKind.META, object_id)
    if key not in session.staged:
        return session.repository.read_meta(object_id, max_size)
    path = session.path(key)
    with open(path, "rb", buffering=0) as stream:
        data = stream.read(max_size + 1)
    if len(data) > max_size or hash_bytes(data) != object_id:
        raise ObjectCorruptError(path, "its sha256 differs from its name")
    return data
