"""Which commit to pull: what a person wrote, and the walk from the head that finds it.

Every commit on the walk is checked by its hash, named by the child before it, so neither history
pages nor the objects that stand in for them need any trust.
"""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from hacktree.client.source import TAIL, NotServedError, Source, SourceError, WrongBytesError
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import MAX_COMMIT_SIZE, Commit, decode_commit
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.history import MAX_PAGE_SIZE, check_succession, decode_page
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.objects.zstandard import decompress_bounded
from hacktree.common.repository.repository import Repository

STEPS: Final = re.compile(r"(.+)~(\d{1,9})")
"""A branch, and how many builds before its head."""

ID_PREFIX: Final = re.compile(r"[0-9a-f]{6,64}")
"""An id of a commit, or enough of its beginning."""


class WrongBranchError(SourceError):
    """The remote serves another branch's commit as this branch's."""


class NotInHistoryError(UserError):
    """The branch's history has no such commit."""


class Steps(msgspec.Struct, frozen=True):
    """So many builds before the head."""

    count: int = 0


class IdPrefix(msgspec.Struct, frozen=True):
    """The commit whose id begins with these hexadecimal digits."""

    digits: str


class Until(msgspec.Struct, frozen=True):
    """The newest commit that is not younger than this (seconds since 1970)."""

    time: int


class Wanted(msgspec.Struct, frozen=True):
    """What a person asked for. `branch` may lack the configured prefix."""

    remote: str | None
    branch: BranchName
    which: Steps | IdPrefix | Until

    @classmethod
    def parse(cls, text: str) -> "Wanted":
        """`[REMOTE:]BRANCH`, then `~N`, `@COMMIT` or `@DATE`; raises `UserError`."""
        remote, colon, rest = text.partition(":") if ":" in text.split("@")[0] else ("", "", text)
        branch, at, name = rest.partition("@")
        which: Steps | IdPrefix | Until = Steps()
        match = STEPS.fullmatch(branch)
        if at:
            which = _parse_commit(name)
        elif match is not None:
            branch, which = match[1], Steps(int(match[2]))
        return cls(remote if colon else None, parse_branch_name(branch), which)


def _parse_commit(text: str) -> IdPrefix | Until:
    if ID_PREFIX.fullmatch(text):
        return IdPrefix(text)
    try:
        return Until(parse_moment(text))
    except ValueError:
        raise NameInvalidError(
            f"neither a commit nor a date: {text!r}",
            hint="After '@': 6 to 64 hexadecimal digits, or a date like 2026-11-23.",
        ) from None


def parse_moment(text: str) -> int:
    """The last second of a day, or a moment, in seconds since 1970; UTC unless it says otherwise.

    Raises `ValueError`.
    """
    moment = datetime.fromisoformat(text)
    if len(text) <= len("2026-11-23"):
        moment += timedelta(days=1, seconds=-1)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp())


class Target(msgspec.Struct, frozen=True):
    """The commit to pull: its id, its bytes, and what they say."""

    id: ObjectId
    data: bytes
    commit: Commit


async def find_target(
    repository: Repository, source: Source, head: ObjectId, wanted: Wanted
) -> Target:
    """The wanted commit of the branch whose verified head is given."""
    which = wanted.which
    chain = walk_history(repository, source, head, wanted.branch)
    found: list[Target] = []
    position = 0
    async for target in chain:
        if isinstance(which, Steps) and position == which.count:
            return target
        if isinstance(which, Until) and target.commit.time <= which.time:
            return target
        if isinstance(which, IdPrefix) and target.id.hex().startswith(which.digits):
            if len(which.digits) == 64:
                return target
            found.append(target)
        position += 1
    if len(found) > 1:
        ids = ", ".join(target.id.hex()[:16] for target in found[:4])
        raise UserError(f"several commits of {wanted.branch} match: {ids}", hint="Add digits.")
    if not found:
        raise NotInHistoryError(
            f"no such commit among the {position} of branch {wanted.branch}",
            hint="`hacktree log` shows what is here; a publisher may have pruned older builds.",
        )
    return found[0]


async def walk_history(
    repository: Repository, source: Source, head: ObjectId, branch: BranchName
) -> AsyncIterator[Target]:
    """Commits of `branch` from `head` back along first parents, each verified.

    Read from here where they are, else from history pages, else as single objects. Ends early
    where the source has pruned the rest.
    """
    pages = _Pages(source, branch)
    wanted, child = head, None
    while True:
        data = await _read_commit(repository, source, pages, wanted, is_head=child is None)
        if data is None:
            return
        location = source.meta_location(wanted)
        try:
            commit = decode_commit(data)
            if child is not None:
                check_succession(child, commit)
        except FormatError as error:
            raise WrongBytesError(location, error.message) from error
        if commit.branch != branch:
            raise WrongBranchError(
                location,
                f"a commit of branch {commit.branch}, served as branch {branch}",
                hint="Nothing of it was used. Tell whoever runs the server.",
            )
        yield Target(wanted, data, commit)
        if not commit.parents:
            return
        wanted, child = commit.parents[0], commit


async def _read_commit(
    repository: Repository, source: Source, pages: "_Pages", wanted: ObjectId, *, is_head: bool
) -> bytes | None:
    if repository.has_meta(wanted):
        return repository.read_meta(wanted, MAX_COMMIT_SIZE)
    # The head is needed as an object anyway; its history may not be needed at all.
    if not is_head:
        data = await pages.find(wanted)
        if data is not None:
            return data
    try:
        return await fetch_commit(source, wanted)
    except NotServedError:
        if is_head:
            raise
        return None


async def fetch_commit(source: Source, wanted: ObjectId) -> bytes:
    """The bytes of a commit, read as an object and checked by its name.

    Raises `NotServedError`, `WrongBytesError`, other `SourceError`s.
    """
    data = await source.read_meta(wanted, MAX_COMMIT_SIZE)
    if hash_bytes(data) != wanted:
        raise WrongBytesError(source.meta_location(wanted), "its sha256 differs from its name")
    return data


class _Pages:
    """The branch's history pages, read from the newest on as far as they are asked for."""

    def __init__(self, source: Source, branch: BranchName) -> None:
        self._source = source
        self._branch = branch
        self._next: str | None = TAIL
        self._commits: dict[ObjectId, bytes] = {}

    async def find(self, wanted: ObjectId) -> bytes | None:
        """The bytes of a commit, or None if no page has it."""
        while wanted not in self._commits and self._next is not None:
            await self._read(self._next)
        return self._commits.pop(wanted, None)

    async def _read(self, page: str) -> None:
        self._next = None
        try:
            data = await self._source.read_page(self._branch, page, MAX_PAGE_SIZE)
        except NotServedError:
            return
        where = f"branches/{self._branch}/history/{page}"
        try:
            if page != TAIL and hash_bytes(data).hex() != page:
                raise FormatError("its sha256 differs from its name")
            decoded = decode_page(decompress_bounded(data, MAX_PAGE_SIZE))
        except FormatError as error:
            raise WrongBytesError(where, error.message) from error
        self._commits.update((hash_bytes(commit), commit) for commit in decoded.commits)
        self._next = decoded.older.hex() or None
