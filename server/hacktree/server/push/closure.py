"""Whether a pushed commit is whole: everything it reaches is here, with the sizes that it names.

A commit in `objects/` has everything that it reaches (ADR 2), with the right sizes, since it went
through this check too or was committed here. So what a directory shares with the same directory of
the parent needs no look. Any other tree in `objects/` promises nothing and is walked.
"""

from contextlib import suppress
from typing import Final

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, PROMOTED_FROM, Commit, decode_commit
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.ids import ObjectId, hash_bytes, parse_object_id
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
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import (
    ObjectCorruptError,
    ObjectMissingError,
    Repository,
    content_chunks,
)
from hacktree.server.publication import WrongCommitError
from hacktree.server.push.sessions import Session

_SHOWN: Final = 3


class ObjectsMissingError(HacktreeError):
    """Objects that the commit reaches are neither staged nor published."""


def load_pushed_commit(session: Session) -> Commit:
    """The commit that is being pushed, from wherever it is."""
    return decode_commit(_read_meta(session, session.record.commit, MAX_COMMIT_SIZE))


def check_closure(session: Session, commit: Commit) -> list[ObjectKey]:
    """The staged objects that the commit needs, itself not among them; refuse it if it isn't whole.

    The caller holds the repository's shared lock, so that what was found stays. Raises
    `ObjectsMissingError` and `WrongCommitError`.
    """
    repository = session.repository
    if _is_vouched_for(repository, commit):
        return []
    try:
        survey = _Survey(session)
        survey.walk(commit)
        if survey.missing:
            _refuse_missing(survey.missing)
        _check_published_sizes(repository, survey.published_contents)
        # Last, since it unfolds what must be known to be here.
        check_totals(lambda tree_id: _load_tree(session, tree_id), commit)
    except FormatError as error:
        raise WrongCommitError(f"the commit is not sound: {error.message}") from error
    return sorted(survey.staged)


def _is_vouched_for(repository: Repository, commit: Commit) -> bool:
    """Whether a commit that is here has the same tree: a promotion, most often."""
    candidates = set(list_refs(repository).values())
    source = commit.metadata.get(PROMOTED_FROM)
    if isinstance(source, str):
        with suppress(NameInvalidError):
            candidates.add(parse_object_id(source))
    for candidate in candidates:
        with suppress(ObjectMissingError, ObjectCorruptError):
            other = repository.load_commit(candidate)
            if (other.root.id, other.root.size, other.totals) == (
                commit.root.id,
                commit.root.size,
                commit.totals,
            ):
                return True
    return False


class _Survey:
    """A walk of the commit's trees, each beside the one in the same place of the parent."""

    def __init__(self, session: Session) -> None:
        self.missing: set[ObjectKey] = set()
        self.staged: set[ObjectKey] = set()
        self.published_contents: dict[ObjectId, int] = {}
        """Sizes that trees name, of contents in objects/ that the parent doesn't vouch for."""

        self._session = session
        self._sizes: dict[ObjectId, int] = {}
        self._stack: list[tuple[ObjectId, ObjectId | None]] = []

    def walk(self, commit: Commit) -> None:
        """Find what there is and what is missing; raises `FormatError` for a wrong size."""
        session, root = self._session, commit.root
        parent = session.record.expected_head
        base = None if parent is None else session.repository.load_commit(parent).root
        self._meet_tree(root.id, root.size, None if base is None else (base.id, base.size))
        while self._stack:
            self._compare(*self._stack.pop())

    def _meet_tree(self, tree_id: ObjectId, size: int, beside: tuple[ObjectId, int] | None) -> None:
        """A reference to a tree: the first one is followed, unless the parent has it there too."""
        known = self._sizes.get(tree_id)
        if known is None and beside is not None and beside[0] == tree_id:
            known = beside[1]
        if known is None:
            self._stack.append((tree_id, None if beside is None else beside[0]))
        elif known != size:
            raise _wrong_size(tree_id, known, size)
        self._sizes[tree_id] = size

    def _compare(self, tree_id: ObjectId, old_id: ObjectId | None) -> None:
        session = self._session
        key = ObjectKey(ObjectKind.META, tree_id)
        if session.lacks(key):
            self.missing.add(key)
            return
        if key in session.staged:
            self.staged.add(key)
        tree = _load_sized_tree(session, tree_id, self._sizes[tree_id])
        old = () if old_id is None else session.repository.load_tree(old_id).entries
        beside_of = {entry.name: entry for entry in old}
        for entry in tree.entries:
            beside = beside_of.get(entry.name)
            if isinstance(entry, DirectoryEntry):
                self._meet_tree(
                    entry.id,
                    entry.size,
                    (beside.id, beside.size) if isinstance(beside, DirectoryEntry) else None,
                )
            elif isinstance(entry, FileEntry):
                if isinstance(beside, FileEntry) and _content(beside) == _content(entry):
                    continue
                self._meet_content(entry)

    def _meet_content(self, entry: FileEntry) -> None:
        key = ObjectKey(ObjectKind.FILE, entry.id)
        staged = self._session.staged.get(key)
        if staged is not None:
            self.staged.add(key)
            known = staged.size
        elif self._session.lacks(key):
            self.missing.add(key)
            return
        else:
            known = self.published_contents.setdefault(entry.id, entry.size)
        if known != entry.size:
            raise _wrong_size(entry.id, known, entry.size)


def _content(entry: FileEntry) -> tuple[ObjectId, int]:
    return entry.id, entry.size


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
