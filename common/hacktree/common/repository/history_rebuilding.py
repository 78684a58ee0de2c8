"""A branch's published history compared with its commits, and written anew where it differs.

Publishing keeps the history as it goes. What it can't see is a page that was damaged or lost, and a
prune: pages hold whole commits, and would go on naming builds that nobody can pull any more.
"""

from collections.abc import Iterator

import msgspec

from hacktree.common.objects.commit import MAX_COMMIT_SIZE
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import MAX_PAGE_SIZE, HistoryPage, decode_page, verified_chain
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.durable import make_directories
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.packs import require_archive
from hacktree.common.repository.published_history import (
    history_directory,
    seal_full_pages,
    write_tail,
)
from hacktree.common.repository.refs import BranchMissingError, hold_refs, read_ref
from hacktree.common.repository.repository import Repository

_SEALED_DIGITS = 64


class HistoryReport(msgspec.Struct, frozen=True):
    """`fault`: how the pages differed from the commits that are here, empty if they did not."""

    builds: int
    fault: str = ""


def history_fault(repository: Repository, branch: BranchName) -> str:
    """How the published history differs from the builds that are here; empty if it does not.

    A page that is ahead of the ref is right: it is written first.
    """
    head = read_ref(repository, branch)
    if head is None:
        return ""
    return _compare(repository, branch, _builds(repository, branch, head))


def rebuild_history(repository: Repository, branch: BranchName) -> HistoryReport:
    """Write the pages anew from the commits, unless they are as they should be.

    Sealed pages come before the tail that names them, and those that neither the old tail nor the
    new one leads to are deleted. Raises `BranchMissingError`, and `UserError` for no archive.
    """
    require_archive(repository)
    # Shared: what is found can't be pruned before it is written. Refs: nobody publishes meanwhile.
    with repository.lock(LockKind.SHARED), hold_refs(repository):
        head = read_ref(repository, branch)
        if head is None:
            raise BranchMissingError(
                f"there is no branch {branch}", hint="`hacktree refs` lists them."
            )
        builds = _builds(repository, branch, head)
        fault = _compare(repository, branch, builds)
        before = _sealed_names(repository, branch)
        if fault:
            _write(repository, branch, builds)
        _delete_others(repository, branch, before | _sealed_names(repository, branch))
    return HistoryReport(len(builds), fault)


def _builds(repository: Repository, branch: BranchName, head: ObjectId) -> list[ObjectId]:
    """The builds of the branch from its head back, as far as they are here."""
    found: list[ObjectId] = []
    wanted: ObjectId | None = head
    while wanted is not None and (wanted == head or repository.has_meta(wanted)):
        commit = repository.load_commit(wanted)
        if commit.branch != branch:
            break
        found.append(wanted)
        wanted = commit.parents[0] if commit.parents else None
    return found


def _compare(repository: Repository, branch: BranchName, builds: list[ObjectId]) -> str:
    if not builds:
        return ""  # The head is a build of another branch: no reader takes that.
    try:
        chain = verified_chain(builds[0], _published(repository, branch))
        published = [object_id for object_id, _, _ in chain]
    except FormatError as error:
        return error.message
    if published == builds:
        return ""
    if len(published) > len(builds):
        return f"it names {len(published) - len(builds)} builds that were pruned"
    return f"it lacks {len(builds) - len(published)} of {len(builds)} builds"


def _published(repository: Repository, branch: BranchName) -> Iterator[bytes]:
    for page in _pages(repository, branch):
        yield from page.commits


def _pages(repository: Repository, branch: BranchName) -> Iterator[HistoryPage]:
    """The pages from the tail on; raises `FormatError` for one that is damaged or missing."""
    directory = history_directory(repository, branch)
    name = "tail"
    while name:
        try:
            data = (directory / name).read_bytes()
        except FileNotFoundError:
            raise FormatError(f"the page {name} is missing") from None
        if name != "tail" and hash_bytes(data).hex() != name:
            raise FormatError(f"the page {name} is damaged: its sha256 differs from its name")
        try:
            page = decode_page(decompress_bounded(data, MAX_PAGE_SIZE))
        except FormatError as error:
            raise FormatError(f"the page {name} is damaged: {error.message}") from error
        yield page
        name = page.older.hex()


def _sealed_names(repository: Repository, branch: BranchName) -> set[str]:
    """The sealed pages that the tail leads to, as far as the pages are whole."""
    names = set()
    try:
        for page in _pages(repository, branch):
            names.add(page.older.hex())
    except FormatError:
        # Whatever lies beyond is found by nobody.
        return names
    return names


def _write(repository: Repository, branch: BranchName, builds: list[ObjectId]) -> None:
    directory = history_directory(repository, branch)
    make_directories(repository.path, directory.relative_to(repository.path), mode=0o755)
    commits: list[bytes] = []
    older_page = b""
    for build in reversed(builds):
        data = repository.read_meta(build, MAX_COMMIT_SIZE)
        commits, older_page = seal_full_pages(directory, [data, *commits], older_page)
    write_tail(directory, commits, older_page)


def _delete_others(repository: Repository, branch: BranchName, kept: set[str]) -> None:
    """No sync: what a power cut brings back is deleted the next time."""
    for path in history_directory(repository, branch).iterdir():
        if len(path.name) == _SEALED_DIGITS and path.name not in kept:
            path.unlink()
