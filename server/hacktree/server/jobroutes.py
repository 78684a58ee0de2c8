"""Jobs over HTTP, for whoever may administer. docs/format.md, "API"."""

import msgspec
from aiohttp import web

from hacktree.common.objects.names import BranchName
from hacktree.server.database import Database
from hacktree.server.grants import Action
from hacktree.server.jobs import find_job, list_jobs, retry
from hacktree.server.openapi import json_of, operation
from hacktree.server.requests import TOKEN, Api, json_answer


class JobAnswer(msgspec.Struct, frozen=True):
    """A job; times are in seconds since 1970, None for not yet."""

    id: int
    kind: str
    subject: str
    state: str
    attempts: int
    due: int
    created: int
    started: int | None
    ended: int | None
    error: str


class JobsAnswer(msgspec.Struct, frozen=True):
    """All jobs, the newest first."""

    jobs: list[JobAnswer]


def add_job_routes(app: web.Application, api: Api, database: Database) -> None:
    """Add what shows jobs and has them tried again."""
    routes = _Routes(api, database)
    app.router.add_route("GET", "/jobs", routes.list)
    app.router.add_route("POST", "/jobs/{job:[0-9]{1,12}}/retry", routes.retry)


class _Routes:
    def __init__(self, api: Api, database: Database) -> None:
        self._api = api
        self._database = database

    @operation("list-jobs", answer=json_of(JobsAnswer))
    async def list(self, request: web.Request) -> web.Response:
        """List the work that follows publications of the branches that the token administers."""
        token = request[TOKEN]
        jobs = [
            msgspec.convert(job, JobAnswer, from_attributes=True)
            for job in await self._api.threads.run(list_jobs, self._database)
            if token.allows(Action.ADMIN, BranchName(job.subject))
        ]
        return json_answer(JobsAnswer(jobs))

    @operation("retry-job", refusals=(403, 404), status=204)
    async def retry(self, request: web.Request) -> web.Response:
        """Try a failed job again, now."""
        number, now = int(request.match_info["job"]), int(self._api.clock())
        job = await self._api.threads.run(find_job, self._database, number)
        self._api.require(request[TOKEN], Action.ADMIN, BranchName(job.subject))
        await self._api.threads.run(retry, self._database, number, now)
        return web.Response(status=204)
