"""A log done again: its builds are read from the remote, its events are fed to the core."""

from collections.abc import Mapping

import msgspec

from hacktree.client.bisect.core.model import Candidate, Session
from hacktree.client.bisect.core.sessionlog import Descent, Log, replay_log
from hacktree.client.bisect.core.state import current_state
from hacktree.client.bisect.farm.lines import Name
from hacktree.client.bisect.farm.reading import read_again, read_ends
from hacktree.client.remote import Remote
from hacktree.common.repository.repository import Repository


def read_replayed(
    repository: Repository,
    remote: Remote,
    log: Log,
    *,
    session_id: str,
    created: int,
    constant: Mapping[str, str],
) -> Session:
    """The session that a log leads to, over lines of the remote's verified history.

    `constant`: what this machine combines builds with; what the answers were given with, no log
    tells. Raises `LogInvalidError`,
    `NoSuchBuildError`, `BuildsGoneError`, `PeerError`.
    """
    oldest, newest = (
        Name(f"{log.branch}@{commit[:12]}", commit=commit) for commit in (log.oldest, log.newest)
    )
    line = read_ends(repository, remote, log.branch, oldest, newest).value.builds
    options = msgspec.structs.replace(log.options, constant=dict(constant))
    session = Session(session_id, remote.name, created, options, line)
    lines: dict[Descent, tuple[Candidate, ...]] = {}
    for descent in log.descents:
        # Nothing is brought of a line that the neighbours found above don't name as theirs:
        # `replay_log` refuses it.
        read = read_again(repository, remote, descent.branch, descent.first, descent.last)
        lines[descent] = read.value.builds
    session = replay_log(session, log, lines)
    options = msgspec.structs.replace(options, imported=current_state(session).tests > 0)
    return msgspec.structs.replace(session, options=options)
