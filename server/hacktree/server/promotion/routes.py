"""The HTTP side of verdicts: claim, renew, report, status. docs/format.md, "API"."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from aiohttp import web

from hacktree.common.objects.names import BranchName, parse_branch_name
from hacktree.server.database import Database
from hacktree.server.grants import Action
from hacktree.server.openapi import json_of, operation
from hacktree.server.promotion.desk import LocalDesk
from hacktree.server.promotion.messages import (
    BRANCH,
    MAX_MESSAGE,
    MAX_SMALL,
    ClaimAnswer,
    ClaimRequest,
    StatusAnswer,
    VerdictAnswer,
    VerdictRequest,
    claim_answer,
    decode,
)
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import as_json, branch_status, verdict_as_json
from hacktree.server.refusals import continue_if_authenticated
from hacktree.server.requests import TOKEN, Api, json_answer, read_body

T = TypeVar("T")

_LEASE: Final = "/qa/leases/{lease:[0-9a-f]{32}}"


def add_promotion_routes(app: web.Application, api: Api, database: Database) -> None:
    """Add what runners ask for."""
    routes = _Routes(api, database)
    expect = partial(continue_if_authenticated, api)
    router = app.router
    router.add_route("POST", "/qa/claim", routes.claim, expect_handler=expect)
    router.add_route("POST", f"{_LEASE}/renew", routes.renew, expect_handler=expect)
    router.add_route("POST", f"{_LEASE}/verdict", routes.verdict, expect_handler=expect)
    router.add_route("DELETE", _LEASE, routes.give_up, expect_handler=expect)
    router.add_route("GET", f"/qa/status/{{branch:{BRANCH}}}", routes.status, expect_handler=expect)


_EMPTY: Final = json_of(dict[str, Any])
_LATER: Final = (404, 409, 422)


class _Routes:
    def __init__(self, api: Api, database: Database) -> None:
        self._api = api
        self._database = database

    @operation(
        "claim-build",
        body=json_of(ClaimRequest),
        answer=json_of(ClaimAnswer),
        refusals=(403, *_LATER),
    )
    async def claim(self, request: web.Request) -> web.Response:
        """Lease the newest untested build of a suite, or say why there is none."""
        message = decode(ClaimRequest, await read_body(request, MAX_SMALL))
        # The suite's name is its branch: a verdict-only token is one for `verdict:fastqa`.
        self._require_verdict(request, parse_branch_name(message.suite))
        claimed = await self._at_desk(
            request, lambda desk: desk.claim(message.suite, message.holder)
        )
        return json_answer(claim_answer(claimed))

    @operation("renew-lease", answer=_EMPTY, refusals=(403, *_LATER))
    async def renew(self, request: web.Request) -> web.Response:
        """Hold a lease for longer."""
        lease = await self._lease(request)
        await self._at_desk(request, lambda desk: desk.renew(lease))
        return json_answer({})

    @operation(
        "report-verdict",
        body=json_of(VerdictRequest),
        answer=json_of(VerdictAnswer),
        refusals=(403, 413, *_LATER),
    )
    async def verdict(self, request: web.Request) -> web.Response:
        """Record what a runner found out; the lease ends."""
        report = decode(VerdictRequest, await read_body(request, MAX_MESSAGE)).report()
        lease = await self._lease(request)
        recorded = await self._at_desk(request, lambda desk: desk.report(lease, report))
        return json_answer(verdict_as_json(recorded))

    @operation("give-up-lease", answer=_EMPTY, refusals=_LATER)
    async def give_up(self, request: web.Request) -> web.Response:
        """Let another runner have the build."""
        lease = request.match_info["lease"]
        # The desk lets go only of what this token claimed.
        await self._at_desk(request, lambda desk: desk.give_up(lease))
        return json_answer({})

    @operation("show-branch", answer=json_of(StatusAnswer), refusals=(404,))
    async def status(self, request: web.Request) -> web.Response:
        """Say why a branch does not move: anybody with a token may know."""
        branch = parse_branch_name(request.match_info["branch"])
        api = self._api

        def read() -> dict[str, Any]:
            suites = read_suites(api.repository)
            now = int(api.clock())
            return as_json(branch_status(api.repository, self._database, suites, branch, now))

        return json_answer(await api.threads.run(read))

    async def _lease(self, request: web.Request) -> str:
        """The lease in the path, if the token still may judge its suite."""
        lease = request.match_info["lease"]
        suite = await self._at_desk(request, lambda desk: desk.suite_of(lease))
        self._require_verdict(request, suite)
        return lease

    def _require_verdict(self, request: web.Request, suite: BranchName) -> None:
        self._api.require(request[TOKEN], Action.VERDICT, suite)

    async def _at_desk(self, request: web.Request, ask: Callable[[LocalDesk], T]) -> T:
        api, token = self._api, request[TOKEN].id

        def work() -> T:
            suites = read_suites(api.repository)
            return ask(LocalDesk(api.repository, self._database, suites, api.clock, token))

        return await api.threads.run(work)
