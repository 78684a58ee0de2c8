"""The HTTP side of a push. docs/format.md, "Push"."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiohttp import web

from hacktree.common.objects.names import parse_branch_name
from hacktree.common.push.messages import (
    BATCH_ANSWER,
    BATCH_TYPE,
    FINISH_ANSWER,
    FINISH_REQUEST,
    MEDIA_TYPE,
    MISSING_ANSWER,
    MISSING_REQUEST,
    OPEN_ANSWER,
    OPEN_REQUEST,
    FinishAnswer,
    MissingAnswer,
    pack_bits,
)
from hacktree.server.openapi import Content, operation
from hacktree.server.push.receiving import BatchReceiver
from hacktree.server.push.sessions import Session, expire_pushes, hold_session
from hacktree.server.push.steps import (
    Opening,
    acknowledge,
    allowance_for,
    find_missing,
    finish_push,
    open_push,
)
from hacktree.server.refusals import continue_if_authenticated
from hacktree.server.requests import TOKEN, Api, packed, read_body, read_piece

ACTION: Final = "push"
_PIECE: Final = 1 << 20
_PUSH: Final = "/pushes/{push:[0-9a-f]{32}}"


def add_push_routes(app: web.Application, api: Api) -> None:
    """Add the requests of a push; what expired while no server ran is deleted at the start."""
    routes = _Routes(api)
    expect = partial(continue_if_authenticated, api)

    async def expire(_: web.Application) -> None:
        await api.threads.run(expire_pushes, api.repository, api.clock())

    router = app.router
    router.add_route("POST", "/pushes", routes.open, expect_handler=expect)
    router.add_route("POST", f"{_PUSH}/missing", routes.missing, expect_handler=expect)
    router.add_route("PUT", f"{_PUSH}/batch", routes.batch, expect_handler=expect)
    router.add_route("POST", f"{_PUSH}/finish", routes.finish, expect_handler=expect)
    app.on_startup.append(expire)


_PACKED: Final = Content(MEDIA_TYPE)
_BATCH: Final = Content(BATCH_TYPE)
_OF_PUSH: Final = (403, 404, 409)


class _Routes:
    def __init__(self, api: Api) -> None:
        self._api = api

    @operation("open-push", body=_PACKED, answer=_PACKED, refusals=(403, 409, 413, 422))
    async def open(self, request: web.Request) -> web.Response:
        """Create the push of a commit, or find it again."""
        api, token = self._api, request[TOKEN]
        message = OPEN_REQUEST.decode(await read_body(request, OPEN_REQUEST.max_size))
        branch = parse_branch_name(message.branch)
        api.require(token, ACTION, branch)
        opening = Opening.of(message, branch)
        answer = await api.threads.run(open_push, api.repository, token.id, opening, api.clock())
        return packed(OPEN_ANSWER.encode(answer))

    @operation("ask-what-is-missing", body=_PACKED, answer=_PACKED, refusals=_OF_PUSH)
    async def missing(self, request: web.Request) -> web.Response:
        """Say which of some objects the server lacks."""
        message = MISSING_REQUEST.decode(await read_body(request, MISSING_REQUEST.max_size))
        async with self._hold(request) as session:
            bits = await self._api.threads.run(find_missing, session, message.objects())
        return packed(MISSING_ANSWER.encode(MissingAnswer(1, pack_bits(bits))))

    @operation("send-batch", body=_BATCH, answer=_PACKED, refusals=(*_OF_PUSH, 413, 422, 507))
    async def batch(self, request: web.Request) -> web.Response:
        """Take objects, verify them and acknowledge what is on disk."""
        threads = self._api.threads
        async with self._hold(request) as session:
            allowance = await threads.run(allowance_for, session)
            receiver = BatchReceiver(session, allowance)
            try:
                while piece := await read_piece(request, _PIECE):
                    await threads.run(receiver.feed, piece)
                receiver.finish()
            finally:
                # Also after a broken connection: what came whole need not come again.
                await threads.run(receiver.settle)
            answer = acknowledge(session)
        return packed(BATCH_ANSWER.encode(answer))

    @operation("finish-push", body=_PACKED, answer=_PACKED, refusals=(*_OF_PUSH, 422, 507))
    async def finish(self, request: web.Request) -> web.Response:
        """Publish the commit and move the branch, if everything is there."""
        message = FINISH_REQUEST.decode(await read_body(request, FINISH_REQUEST.max_size))
        async with self._hold(request) as session:
            now = datetime.fromtimestamp(self._api.clock(), UTC)
            head = await self._api.threads.run(finish_push, session, message.role or None, now)
            await self._api.threads.run(self._api.on_published, session.record.branch_name)
        return packed(FINISH_ANSWER.encode(FinishAnswer(1, head)))

    @asynccontextmanager
    async def _hold(self, request: web.Request) -> AsyncIterator[Session]:
        """The push that the path names, locked; for its own token, if that still may push."""
        api, token = self._api, request[TOKEN]
        held = hold_session(api.repository, request.match_info["push"], token.id)
        session = await api.threads.run(held.__enter__)
        try:
            api.require(token, ACTION, session.record.branch_name)
            yield session
        finally:
            held.__exit__(None, None, None)
