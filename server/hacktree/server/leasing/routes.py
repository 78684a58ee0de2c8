"""The HTTP side of leases: ask, renew, list, give back. docs/format.md, "Leases"."""

from functools import partial
from typing import Any, Final

from aiohttp import web

from hacktree.server.authorization import Token
from hacktree.server.database import Database
from hacktree.server.grants import Action
from hacktree.server.leasing.leases import (
    end_lease,
    lease_range,
    list_leases,
    missing,
    renew_lease,
)
from hacktree.server.leasing.messages import (
    LeaseAnswer,
    LeaseRequest,
    LeasesAnswer,
    lease_answer,
)
from hacktree.server.leasing.records import RangeLease, find_lease
from hacktree.server.openapi import json_of, operation
from hacktree.server.promotion.messages import MAX_SMALL, decode
from hacktree.server.refusals import continue_if_authenticated
from hacktree.server.requests import TOKEN, Api, json_answer, read_body

_LEASE: Final = "/leases/{lease:[0-9a-f]{32}}"


def add_lease_routes(app: web.Application, api: Api, database: Database) -> None:
    """Add what bisections ask for."""
    routes = _Routes(api, database)
    expect = partial(continue_if_authenticated, api)
    router = app.router
    router.add_route("POST", "/leases", routes.ask, expect_handler=expect)
    router.add_route("GET", "/leases", routes.list, expect_handler=expect)
    router.add_route("POST", f"{_LEASE}/renew", routes.renew, expect_handler=expect)
    router.add_route("DELETE", _LEASE, routes.end, expect_handler=expect)


class _Routes:
    def __init__(self, api: Api, database: Database) -> None:
        self._api = api
        self._database = database

    @operation(
        "lease-range",
        body=json_of(LeaseRequest),
        answer=json_of(LeaseAnswer),
        refusals=(403, 404, 409, 413),
    )
    async def ask(self, request: web.Request) -> web.Response:
        """Keep a range of builds from being pruned for a while."""
        wanted = decode(LeaseRequest, await read_body(request, MAX_SMALL)).range()
        token = request[TOKEN]
        self._api.require(token, Action.LEASE, wanted.branch)

        def work() -> LeaseAnswer:
            api = self._api
            lease = lease_range(api.repository, self._database, token.id, wanted, api.clock)
            return lease_answer(lease, self._now())

        return json_answer(await self._api.threads.run(work))

    @operation("renew-range-lease", answer=json_of(LeaseAnswer), refusals=(403, 404, 409))
    async def renew(self, request: web.Request) -> web.Response:
        """Keep a leased range for longer."""
        token = request[TOKEN]

        def work() -> LeaseAnswer:
            api = self._api
            lease = self._find(request, token)
            # A token that lost the scope, or its branch, doesn't go on.
            api.require(token, Action.LEASE, lease.branch)
            renewed = renew_lease(api.repository, self._database, token.id, lease.id, api.clock)
            return lease_answer(renewed, self._now())

        return json_answer(await self._api.threads.run(work))

    @operation("list-range-leases", answer=json_of(LeasesAnswer))
    async def list(self, request: web.Request) -> web.Response:
        """List the leases of the token, and those on branches that it administers."""
        token = request[TOKEN]

        def work() -> LeasesAnswer:
            now = self._now()
            leases = list_leases(self._database, now)
            return LeasesAnswer([lease_answer(one, now) for one in leases if _is_for(one, token)])

        return json_answer(await self._api.threads.run(work))

    @operation("end-range-lease", answer=json_of(dict[str, Any]), refusals=(404, 409))
    async def end(self, request: web.Request) -> web.Response:
        """Give a leased range back."""
        token = request[TOKEN]

        def work() -> None:
            lease = self._find(request, token)
            end_lease(self._api.repository, self._database, lease.id)

        await self._api.threads.run(work)
        return json_answer({})

    def _find(self, request: web.Request, token: Token) -> RangeLease:
        """The lease in the path, if the token may know of it; raises `LeaseMissingError`."""
        name = request.match_info["lease"]
        with self._database.reading() as connection:
            lease = find_lease(connection, name)
        if lease is None or not _is_for(lease, token):
            raise missing(name)
        return lease

    def _now(self) -> int:
        return int(self._api.clock())


def _is_for(lease: RangeLease, token: Token) -> bool:
    return lease.token == token.id or token.allows(Action.ADMIN, lease.branch)
