"""What `hacktree serve --api` adds to serving files: tokens, publications, and jobs after them."""

import time
from collections.abc import Sequence

from aiohttp import web

from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository
from hacktree.server.api import make_api
from hacktree.server.database import open_database
from hacktree.server.jobrunner import JobRunner, command_of
from hacktree.server.jobs import enqueue_publication
from hacktree.server.publication import recover_heads
from hacktree.server.serving import Background
from hacktree.server.token_authenticator import DatabaseAuthenticator
from hacktree.server.watching import Watch


def open_farm(repository: Repository) -> tuple[web.Application, Sequence[Background]]:
    """The API of a repository, and what has to run beside it; completes what a crash cut off.

    The caller holds `hold_jobs`.
    """
    database = open_database(repository)
    recover_heads(repository)

    def published(branch: BranchName) -> None:
        enqueue_publication(database, branch, int(time.time()))

    api = make_api(
        repository, DatabaseAuthenticator(database), on_published=published, database=database
    )
    runner = JobRunner(database, command_of(repository.path), time.time)
    return api, (Watch(repository, database).keep_looking, runner.run)
