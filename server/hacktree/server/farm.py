"""What `hacktree serve --api` adds to serving files: tokens, publications, and jobs after them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from hacktree.common.objects.names import BranchName
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.server.api import make_api
from hacktree.server.authorization import Token, TooOftenError
from hacktree.server.database import Database, open_database
from hacktree.server.failurelimiter import FailureLimiter, PeerBlockedError
from hacktree.server.grants import Action
from hacktree.server.jobrunner import JobRunner, command_of
from hacktree.server.jobs import Kind, enqueue
from hacktree.server.publication import recover_heads
from hacktree.server.serving import Background
from hacktree.server.tokens import Token as StoredToken
from hacktree.server.tokens import admit


@dataclass(frozen=True, slots=True)
class _Holder:
    """A stored token as the API asks about it."""

    token: StoredToken

    @property
    def id(self) -> str:
        return self.token.id

    def allows(self, action: str, branch: BranchName) -> bool:
        return self.token.allows(Action(action), branch)


class TokenAuthenticator:
    """Knows the tokens in a database; slows down who guesses."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limiter = FailureLimiter()

    def authenticate(self, secret: str, now: int, *, peer: str) -> Token:
        """See `Authenticator`."""
        try:
            return _Holder(admit(self._database, self._limiter, secret, now, peer=peer))
        except PeerBlockedError as error:
            raise TooOftenError(error.message, error.retry_after) from error


def open_farm(repository: Repository) -> tuple[web.Application, Sequence[Background]]:
    """The API of a repository, and what has to run beside it; completes what a crash cut off.

    The caller holds `hold_jobs`.
    """
    database = open_database(repository)
    recover_heads(repository)
    for name in list_refs(repository):
        # A crash may have lost the job of the last publication; packs that are there cost nothing.
        enqueue(database, Kind.DELTAS, name, int(time.time()))

    def published(branch: BranchName) -> None:
        enqueue(database, Kind.DELTAS, branch, int(time.time()))

    api = make_api(
        repository, TokenAuthenticator(database), on_published=published, database=database
    )
    runner = JobRunner(database, command_of(repository.path), time.time)
    return api, (runner.run,)
