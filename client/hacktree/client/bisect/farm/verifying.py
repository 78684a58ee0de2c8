"""Whether the builds of a session that came from a file are those of the remote's history.

A file says which commits to bring and to deploy, so it is believed in nothing: its lines are read
again from the history that the remote's keys sign, and must be the same.
"""

from collections.abc import Sequence

import msgspec

from hacktree.client.bisect.core.model import Candidate, Descended, Session
from hacktree.client.bisect.core.state import apply_event, current_state, standing_events
from hacktree.client.bisect.farm.lines import Name
from hacktree.client.bisect.farm.reading import read_ends, read_finer
from hacktree.client.remote import Remote
from hacktree.common.errors import UserError
from hacktree.common.objects.names import parse_branch_name
from hacktree.common.repository.repository import Repository


class ForgedSessionError(UserError):
    """A session's builds are not those of the remote's history."""


def verify_lines(repository: Repository, remote: Remote, session: Session) -> None:
    """Compare every line that stands with the remote's verified history.

    Raises `ForgedSessionError`; `NoSuchBuildError` or `BuildsGoneError` where the history lacks an
    end, pruned or never there; `PeerError`.
    """
    oldest, newest = session.line[0], session.line[-1]
    branch = parse_branch_name(oldest.branch)
    read = read_ends(repository, remote, branch, _name(oldest), _name(newest))
    _compare(session.line, read.value.builds, remote)
    state = current_state(msgspec.structs.replace(session, events=()))
    for event in standing_events(session.events):
        if isinstance(event, Descended):
            # `apply_event` ties the ends to what the neighbours were promoted from.
            finer = read_finer(repository, remote, state.before, state.last)
            _compare(event.line, finer.value.builds, remote)
        state = apply_event(state, event)


def _name(build: Candidate) -> Name:
    return Name(f"{build.branch}@{build.commit[:12]}", commit=build.commit)


def _compare(said: Sequence[Candidate], found: Sequence[Candidate], remote: Remote) -> None:
    if len(said) == len(found):
        wrong = next((pair for pair in zip(said, found, strict=True) if pair[0] != pair[1]), None)
        if wrong is None:
            return
        problem = f"{wrong[0]} is not what {remote.name} has as {wrong[1]}"
    else:
        problem = (
            f"{said[0]} to {said[-1]} are {len(found)} builds of {remote.name}, not {len(said)}"
        )
    raise ForgedSessionError(
        f"the session's builds are not those of the remote: {problem}",
        hint="It was changed: have it exported again, or start a search of your own.",
    )
