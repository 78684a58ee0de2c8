"""Gathering a bisection's report from a repository that holds the builds."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from hacktree.client.bisect.core.model import Candidate, Session
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.farm.fetching import BuildRequest, bring_build
from hacktree.client.bisect.farm.known import hints_for
from hacktree.client.bisect.farm.reading import read_verdicts
from hacktree.client.bisect.report.history import levels
from hacktree.client.bisect.report.ownership import find_owners
from hacktree.client.bisect.report.result import Report
from hacktree.client.bisect.report.verdict import Narrowing, Owners, compare_commits
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.layers.placing import compile_patterns
from hacktree.client.pull import PullReport
from hacktree.client.remote import Remote
from hacktree.common.objects.commit import Commit
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import parse_object_id
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import Repository

MAX_PATTERNS = 100


class _Reader(msgspec.Struct):
    """Reads owners, and keeps why it could not."""

    repository: Repository
    commits: tuple[Commit, Commit]
    problem: str = ""

    def read_owners(self, paths: frozenset[bytes]) -> tuple[Owners, Owners] | None:
        found = []
        try:
            for commit in self.commits:
                owners = find_owners(TreeView(self.repository, commit), paths)
                if owners is None:
                    return None
                found.append(owners)
        except FormatError as error:
            self.problem = f"whose the files are is not known: {error.message}"
            return None
        return found[0], found[1]


def gather_report(
    repository: Repository,
    session: Session,
    patterns: tuple[str, ...] = (),
    hints: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Report, str]:
    """The report, and what could not be read, "" for all was.

    `patterns`: `fnmatch` patterns of paths, which also match what is below, as in layers. Where a
    build is not here the report has no difference and says which.
    """
    state = current_state(session)
    ends = (state.before, state.last)
    commits = [_load(repository, build) for build in ends]
    old, new = commits
    if old is None or new is None:
        absent = [build for build, one in zip(ends, commits, strict=True) if one is None]
        return Report(session, state, old, new, missing=_missing(absent), hints=hints), ""
    reader = _Reader(repository, (old, new))
    narrowing = Narrowing(patterns, compile_patterns(patterns)) if patterns else None
    difference = compare_commits(repository.load_tree, old, new, reader.read_owners, narrowing)
    found = Report(session, state, old, new, difference, hints=hints)
    return found, reader.problem


def _load(repository: Repository, build: Candidate) -> Commit | None:
    """A commit that is here has everything that it reaches (ADR 2)."""
    commit_id = parse_object_id(build.commit)
    return repository.load_commit(commit_id) if repository.has_meta(commit_id) else None


def read_hints(remote: Remote, session: Session) -> dict[str, str]:
    """What the farm's suites said of the builds of every line, by commit.

    Raises `FormatError` and what reading from a remote raises.
    """
    known = read_verdicts(remote).value
    hints: dict[str, str] = {}
    for level in levels(current_state(session)):
        hints |= hints_for(known, level.line)
    return hints


def bring_ends(
    repository: Repository, remote: Remote, session: Session, pulling: PullReport
) -> None:
    """Bring the two builds that the report compares, and keep them until the bisection ends.

    Raises what `bring_build` raises.
    """
    state = current_state(session)
    for build in (state.before, state.last):
        branch, commit_id = parse_branch_name(build.branch), parse_object_id(build.commit)
        bring_build(repository, remote, BuildRequest(branch, commit_id), pulling)


def _missing(absent: list[Candidate]) -> str:
    named = " and ".join(map(str, absent))
    return (
        f"What changed is not known, without {named}: `hacktree bisect report --fetch` brings what "
        "is not here."
    )
