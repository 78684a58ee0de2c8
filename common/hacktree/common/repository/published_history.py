"""Writing a branch's published history. docs/format.md, "History".

The tail is written before the ref moves: a crash in between leaves a page that is ahead of the ref,
which readers skip and the next commit rebuilds.
"""

from pathlib import Path
from typing import Final

from hacktree.common.objects.commit import MAX_COMMIT_SIZE, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.history import (
    MAX_PAGE_SIZE,
    PAGE_LENGTH,
    HistoryPage,
    decode_page,
    encode_page,
    verified_chain,
)
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.zstandard import compress, decompress_bounded
from hacktree.common.repository.durable import (
    make_directories,
    replace_published,
    write_durably,
)
from hacktree.common.repository.repository import Repository

_LEVEL: Final = 9
_FULL_TAIL: Final = MAX_PAGE_SIZE // 2
"""Bytes of commits at which the tail is sealed, however few they are."""
_EMPTY: Final = HistoryPage(1, (), b"")


def publish_history(repository: Repository, branch: BranchName, head: ObjectId) -> None:
    """Write the pages so that they hold `head`, whose commit is in the repository already."""
    directory = history_directory(repository, branch)
    make_directories(repository.path, directory.relative_to(repository.path), mode=0o755)
    encoded = repository.read_meta(head, MAX_COMMIT_SIZE)
    parents = decode_commit(encoded).parents
    tail = _read_tail(directory / "tail")
    older: list[bytes] = []
    older_page = b""
    if parents:
        older = [data for _, data, _ in verified_chain(parents[0], tail.commits)]
        if older and older[-1] == tail.commits[-1]:
            older_page = tail.older
        else:
            older = _commits_from_objects(repository, parents[0])
    commits, older_page = seal_full_pages(directory, [encoded, *older], older_page)
    write_tail(directory, commits, older_page)


def history_directory(repository: Repository, branch: BranchName) -> Path:
    """Where the pages of a branch are."""
    return repository.path / "branches" / branch / "history"


def write_tail(directory: Path, commits: list[bytes], older_page: bytes) -> None:
    """Replace the newest page; `older_page` must be there already, or empty."""
    page = HistoryPage(1, tuple(commits), older_page)
    replace_published(directory / "tail", compress(encode_page(page), _LEVEL))


def seal_full_pages(
    directory: Path, commits: list[bytes], older_page: bytes
) -> tuple[list[bytes], bytes]:
    """Seal the oldest commits while there are too many for a tail; the rest, and the page before.

    `commits` are newest first.
    """
    while len(commits) > 2 * PAGE_LENGTH or sum(map(len, commits)) > _FULL_TAIL:
        count = _oldest_page(commits)
        older_page = _seal(directory, tuple(commits[-count:]), older_page)
        commits = commits[:-count]
    return commits, older_page


def _oldest_page(commits: list[bytes]) -> int:
    """How many of the oldest commits go into one page: 64, fewer when they are large."""
    size = 0
    for count, data in enumerate(reversed(commits[-PAGE_LENGTH:])):
        size += len(data)
        if size > _FULL_TAIL // 2:
            return max(count, 1)
    return PAGE_LENGTH


def _seal(directory: Path, commits: tuple[bytes, ...], older: bytes) -> bytes:
    data = compress(encode_page(HistoryPage(1, commits, older)), _LEVEL)
    name = hash_bytes(data)
    write_durably(directory / name.hex(), data, mode=0o644)
    return name


def _read_tail(path: Path) -> HistoryPage:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return _EMPTY
    try:
        return decode_page(decompress_bounded(data, MAX_PAGE_SIZE))
    except FormatError:
        # A damaged tail is derived data: it is rebuilt from the commits themselves.
        return _EMPTY


def _commits_from_objects(repository: Repository, newest: ObjectId) -> list[bytes]:
    """Encoded commits from `newest` back, as far as they are here."""
    found: list[bytes] = []
    wanted: ObjectId | None = newest
    while wanted is not None and repository.has_meta(wanted):
        data = repository.read_meta(wanted, MAX_COMMIT_SIZE)
        found.append(data)
        parents = decode_commit(data).parents
        wanted = parents[0] if parents else None
    return found
