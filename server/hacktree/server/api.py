"""The API below `/api/v1`: who asks, and what there is to ask for. docs/format.md, "API"."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from hacktree.common.objects.names import BranchName
from hacktree.common.push.messages import API_PREFIX
from hacktree.common.repository.repository import Repository
from hacktree.server.authorization import Authenticator
from hacktree.server.database import Database
from hacktree.server.jobroutes import add_job_routes
from hacktree.server.leasing.routes import add_lease_routes
from hacktree.server.openapi import describe_api, json_of, operation
from hacktree.server.promotion.routes import add_promotion_routes
from hacktree.server.promotion.steering_routes import add_steering_routes
from hacktree.server.push.routes import add_push_routes
from hacktree.server.refusals import add_headers, new_request_id, refuse
from hacktree.server.requests import FLIGHT, Api, Flight, tell_nobody

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_api(
    repository: Repository,
    authenticator: Authenticator,
    *,
    clock: Callable[[], float] = time.time,
    on_published: Callable[[BranchName], None] = tell_nobody,
    database: Database | None = None,
) -> web.Application:
    """The application that `make_app` mounts below `/api/v1`; `clock` in seconds since 1970.

    `on_published` is told, in a thread, of each branch that moved. Without a database there is
    nothing but pushes.
    """
    api = Api(repository, authenticator, clock, on_published)
    flight = Flight()
    app = web.Application(middlewares=[_make_gate(api, flight)])
    app[FLIGHT] = flight
    add_push_routes(app, api)
    if database is not None:
        add_job_routes(app, api, database)
        add_promotion_routes(app, api, database)
        add_steering_routes(app, api, database)
        add_lease_routes(app, api, database)
    app.router.add_route("GET", "/openapi.json", _describe(app))

    async def close(_: web.Application) -> None:
        api.threads.close()

    app.on_cleanup.append(close)
    return app


def _describe(app: web.Application) -> Handler:
    @operation("describe", answer=json_of(dict[str, Any]))
    async def describe(_request: web.Request) -> web.Response:
        """Show this document."""
        return web.json_response(describe_api(app, API_PREFIX))

    return describe


def _make_gate(api: Api, flight: Flight) -> Middleware:
    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_id = new_request_id()
        try:
            await api.authenticate(request)
            with flight.request():
                response = await handler(request)
        except Exception as error:  # noqa: BLE001 - a bug is answered like any refusal
            response = refuse(request, error, request_id)
        add_headers(response, request_id)
        return response

    return gate
