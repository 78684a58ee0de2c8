"""Reading the line of builds that a bisection is about, from the remote's verified history.

Every build is named by the one after it, up to the head that the remote's keys sign, or up to a
build that such a history names (`promoted-from`): neither pages nor objects need any trust.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from hacktree.client.bisect.core.model import MAX_LINE, Candidate
from hacktree.client.bisect.farm.costs import BuildTree
from hacktree.client.heads import HeadReader
from hacktree.client.roots import read_roots
from hacktree.client.source import NotServedError, Source, WrongBytesError
from hacktree.client.sysroot import Sysroot
from hacktree.client.target import (
    ID_PREFIX,
    STEPS,
    Target,
    fetch_commit,
    parse_moment,
    walk_history,
)
from hacktree.common.errors import UserError
from hacktree.common.objects.commit import PROMOTED_FROM, Commit, decode_commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, parse_object_id
from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.common.repository.repository import Repository

MAX_BUILDS: Final = 2 * MAX_LINE
"""Builds of a branch that are looked through for an end."""

_ROOTS: Final = ("current", "previous")


class NoSuchBuildError(UserError):
    """The branch's history has no build of this name, or not where it would have to be."""


class BuildsGoneError(UserError):
    """Builds of the line are no longer in the remote's history."""


class ReadLine(msgspec.Struct, frozen=True):
    """The builds of a line, the oldest first, and by commit what it takes to bring each."""

    builds: tuple[Candidate, ...] = ()
    trees: Mapping[str, BuildTree] = {}

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "ReadLine":
        """Of commits as history has them, the newest first."""
        return cls(
            tuple(as_candidate(target) for target in reversed(targets)),
            {target.id.hex(): BuildTree.of(target) for target in targets},
        )


class Name(msgspec.Struct, frozen=True):
    """A build as a person names it, once the machine's roots are known.

    One of: `commit`, an id (of a root; on another branch the build with the same tree, `tree`);
    `prefix` of an id; `steps` before the head; `until`, seconds since 1970, the newest build that
    is not younger; or `version`.
    """

    text: str
    commit: str = ""
    tree: ObjectId | None = None
    prefix: str = ""
    steps: int | None = None
    until: int | None = None
    version: str = ""

    def matches(self, target: Target, position: int) -> bool:
        """Whether this is the build `position` places before the head; the newest one counts."""
        commit = target.commit
        if self.commit:
            return target.id.hex() == self.commit or commit.root.id == self.tree
        if self.steps is not None:
            return position == self.steps
        if self.until is not None:
            return commit.time <= self.until
        # "20261123" may be a version as well as the beginning of an id.
        known = bool(self.prefix) and target.id.hex().startswith(self.prefix)
        return known or commit.version == self.version


def parse_name(text: str, branch: BranchName, sysroot: Sysroot | None) -> Name:
    """What `text` names on `branch`: `current`, `previous`, BRANCH~N, ~N, a date, id or version,
    the last three also as BRANCH@….

    Raises `UserError`.
    """
    _require_name(text.partition("@")[2] if "@" in text else text)
    if text in _ROOTS:
        if sysroot is None:
            raise UserError(f"there is no {text} root with --repo", hint="Name a build.")
        record = read_roots(sysroot).find(text)
        return Name(text, commit=record.commit, tree=parse_object_id(record.tree))
    named, at, rest = text.partition("@")
    if at and named:
        _same_branch(named, branch, text)
        text = rest
    match = STEPS.fullmatch(text) or re.fullmatch(r"()~(\d{1,9})", text)
    if text == branch or (match is not None and match[1] in ("", branch)):
        return Name(text, steps=0 if match is None else int(match[2]))
    if match is not None:
        _same_branch(match[1], branch, text)
    moment = _parse_date(text)
    if moment is not None:
        return Name(text, until=moment)
    return Name(text, prefix=text if ID_PREFIX.fullmatch(text) else "", version=text)


def _require_name(text: str) -> None:
    """An empty word, as of an unset variable, would name the builds without a version."""
    if not text:
        raise NoSuchBuildError(
            "an empty word names no build",
            hint="Builds are named by id, version, date, BRANCH~N, current or previous.",
        )


def _same_branch(named: str, branch: BranchName, text: str) -> None:
    if named != branch:
        raise UserError(
            f"{text} is not of branch {branch}", hint=f"Both ends are builds of it: {branch}~N."
        )


def branch_of_names(names: Sequence[str], sysroot: Sysroot | None) -> BranchName | None:
    """The branch that the names of the ends tell by themselves, or None."""
    for text in names:
        if text in _ROOTS and sysroot is not None:
            return parse_branch_name(read_roots(sysroot).find(text).branch)
        match = STEPS.fullmatch(text)
        if match is not None or "@" in text:
            return parse_branch_name(text.partition("@")[0] if match is None else match[1])
    return None


def _parse_date(text: str) -> int | None:
    """The last second of a day, or a moment; UTC unless it says otherwise. None: it is no date."""
    if not re.match(r"\d{4}-\d\d-\d\d", text):
        return None
    try:
        return parse_moment(text)
    except ValueError:
        return None


async def read_line(
    repository: Repository,
    source: Source,
    heads: HeadReader,
    branch: BranchName,
    old: Name,
    new: Name,
) -> ReadLine:
    """The builds from `old` to `new`, both included.

    Raises `NoSuchBuildError`, `PeerError`.
    """
    head = await heads.read_head(branch)
    line: list[Target] = []
    position = 0
    async for target in walk_history(repository, source, head, branch):
        is_old = old.matches(target, position)
        if line or new.matches(target, position):
            line.append(target)
            _require_room(line, old, new)
            if is_old:
                _require_two(line, old, new)
                return ReadLine.of(line)
        elif is_old:
            raise NoSuchBuildError(
                f"{branch} has no build {new.text} that is newer than {old.text}",
                hint="The older end comes first (`--find-fix` looks for a build that mends); or "
                "the farm no longer has the newer one.",
            )
        position += 1
        if position >= MAX_BUILDS:
            break
    missing = old if line else new
    raise NoSuchBuildError(
        f"{branch} has no build {missing.text} among its newest {position}",
        hint="A build is named by id, version, date, BRANCH~N, current or previous; the farm may "
        f"have pruned older ones. `hacktree log {branch}` lists those that are here.",
    )


def _require_room(line: Sequence[Target], old: Name, new: Name) -> None:
    if len(line) > MAX_LINE:
        raise NoSuchBuildError(
            f"there are more than {MAX_LINE} builds from {old.text} to {new.text}",
            hint="Name a build or a date that is nearer; or search a branch that these builds were "
            "promoted to: it leads into this one.",
        )


def _require_two(line: Sequence[Target], old: Name, new: Name) -> None:
    if len(line) < 2:
        raise NoSuchBuildError(
            f"{old.text} and {new.text} are the same build {line[0].id.hex()[:9]}",
            hint="Name an older build that was good.",
        )


async def read_finer_line(
    repository: Repository, source: Source, low: Candidate, high: Candidate
) -> ReadLine:
    """The builds of the branch that two neighbours were promoted from, both ends included.

    Empty if they were not promoted, or from one build. Raises `BuildsGoneError`, `PeerError`.
    """
    if not low.promoted_from or not high.promoted_from or low.promoted_from == high.promoted_from:
        return ReadLine()
    newest = parse_object_id(high.promoted_from)
    branch = (await _read_commit(repository, source, newest)).branch_name
    return await read_between(repository, source, branch, low.promoted_from, high.promoted_from)


async def read_between(
    repository: Repository, source: Source, branch: BranchName, oldest: str, newest: str
) -> ReadLine:
    """The builds of `branch` from one commit to a later one, which verified history has named.

    Raises `BuildsGoneError`, `PeerError`.
    """
    line: list[Target] = []
    async for target in walk_history(repository, source, parse_object_id(newest), branch):
        line.append(target)
        if target.id.hex() == oldest:
            return ReadLine.of(line)
        if len(line) >= MAX_LINE:
            break
    raise BuildsGoneError(
        f"{oldest[:9]} is not among the builds of {branch} before {newest[:9]}",
        hint=f"The farm may have pruned it: {branch} can't be searched between the two.",
    )


async def _read_commit(repository: Repository, source: Source, wanted: ObjectId) -> Commit:
    if repository.has_meta(wanted):
        return repository.load_commit(wanted)
    try:
        data = await fetch_commit(source, wanted)
    except NotServedError as error:
        raise BuildsGoneError(
            f"the remote no longer has the build {wanted.hex()[:9]} that was promoted",
            hint="The farm has pruned it: what it was promoted from can't be searched.",
        ) from error
    try:
        return decode_commit(data)
    except FormatError as error:
        raise WrongBytesError(source.meta_location(wanted), error.message) from error


def as_candidate(target: Target) -> Candidate:
    """What a bisection knows of a build."""
    commit = target.commit
    promoted = commit.metadata.get(PROMOTED_FROM)
    known = isinstance(promoted, str) and re.fullmatch(r"[0-9a-f]{64}", promoted)
    return Candidate(
        commit=target.id.hex(),
        branch=commit.branch,
        sequence=commit.sequence,
        time=commit.time,
        version=commit.version,
        promoted_from=promoted if isinstance(promoted, str) and known else "",
    )


def find_candidate(line: Sequence[Candidate], text: str) -> Candidate:
    """The build of a line that `text` names: an id or its beginning, a version, or a date.

    A date means the newest build until then. Raises `NoSuchBuildError`.
    """
    _require_name(text)
    moment = _parse_date(text)
    if moment is not None:
        found = [build for build in line if build.time <= moment][-1:]
    else:
        prefix = text if ID_PREFIX.fullmatch(text) else None
        found = [
            build
            for build in line
            if build.version == text or (prefix is not None and build.commit.startswith(prefix))
        ]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(build.commit[:12] for build in found[:4])
        raise NoSuchBuildError(f"{len(found)} builds are called {text}: {ids}", hint="Say its id.")
    raise NoSuchBuildError(
        f"no build called {text} is among the {len(line)} that are searched",
        hint="A build is named by id, version or date; `hacktree bisect status --verbose` lists "
        "them.",
    )


def find_range(line: Sequence[Candidate], text: str) -> tuple[Candidate, Candidate]:
    """The ends of `A..B`, older first; a single name is both. Raises `NoSuchBuildError`."""
    first, dots, last = text.partition("..")
    low = find_candidate(line, first)
    high = find_candidate(line, last) if dots else low
    if low.sequence > high.sequence:
        raise NoSuchBuildError(f"{first} is newer than {last}", hint="The older one comes first.")
    return low, high
