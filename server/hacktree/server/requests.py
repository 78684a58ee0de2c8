"""What the API's routes work with: the repository, the token of a request, bounded bodies."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import msgspec
from aiohttp import hdrs, web

from hacktree.common.errors import BusyError, CorruptError, HacktreeError, SystemFault
from hacktree.common.objects.names import BranchName
from hacktree.common.push.messages import MEDIA_TYPE
from hacktree.common.repository.repository import Repository
from hacktree.server.authorization import Authenticator, ForbiddenError, Token, TooOftenError

P = ParamSpec("P")
T = TypeVar("T")

IDLE_SECONDS: Final = 60.0
"""How long a request's body may stand still."""

TOKEN: Final = web.RequestKey("token", Token)
"""Set for every request that reaches a route."""

_BEARER: Final = "Bearer "
_THREADS: Final = 16


class UnauthenticatedError(HacktreeError):
    """No token, or none that is known."""


class BodyTooLargeError(HacktreeError):
    """The request's body exceeds what its path takes."""


class BodyStalledError(HacktreeError):
    """The body stopped arriving, or its connection broke."""


class Threads:
    """Where blocking work runs. It is never abandoned: who is cancelled waits for it to end."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_THREADS, "hacktree-api")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `call` in a thread."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._executor, lambda: call(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # Who is cancelled doesn't hear of it.
            raise

    def close(self) -> None:
        """End the threads; work in them is finished first."""
        self._executor.shutdown()


def tell_nobody(_branch: BranchName) -> None:
    """For an API without jobs after a publication."""


class StoppingError(HacktreeError):
    """The server is about to stop and takes nothing new."""


class Flight:
    """Requests in flight, so that a stop can wait for them.

    aiohttp by itself waits for handlers, but from the moment it begins to stop it drops what still
    arrives of their bodies.
    """

    def __init__(self) -> None:
        self._count = 0
        self._stopping = False
        self._landed = asyncio.Event()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold while a request is handled; raises `StoppingError` once a stop has begun."""
        if self._stopping:
            raise StoppingError("the server is being stopped", hint="Try again in a moment.")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._landed.set()

    async def stop(self) -> None:
        """Let nothing new begin, and wait for what has begun."""
        self._stopping = True
        while self._count:
            self._landed.clear()
            await self._landed.wait()


FLIGHT: Final = web.AppKey("flight", Flight)


class Api(msgspec.Struct, frozen=True):
    """What the routes work with."""

    repository: Repository
    authenticator: Authenticator
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    on_published: Callable[[BranchName], None] = tell_nobody
    """Told, in a thread, of each branch that moved."""

    threads: Threads = msgspec.field(default_factory=Threads)

    async def authenticate(self, request: web.Request) -> Token:
        """The token in `Authorization`, which is looked at once for each request.

        Raises `UnauthenticatedError` and `TooOftenError`.
        """
        if TOKEN not in request:
            header = request.headers.get(hdrs.AUTHORIZATION, "")
            if not header.startswith(_BEARER):
                raise UnauthenticatedError(
                    "a token is needed", hint="Send Authorization: Bearer SECRET."
                )
            secret = header.removeprefix(_BEARER).strip()
            request[TOKEN] = await self._authenticate(secret, peer_of(request))
        return request[TOKEN]

    async def _authenticate(self, secret: str, peer: str) -> Token:
        now = int(self.clock())
        try:
            return await self.threads.run(self.authenticator.authenticate, secret, now, peer=peer)
        except (TooOftenError, BusyError, CorruptError, SystemFault):
            raise
        except HacktreeError as error:
            raise UnauthenticatedError(error.message, hint=error.hint) from error

    def require(self, token: Token, action: str, branch: BranchName) -> None:
        """Raise `ForbiddenError` unless the token's scope covers it."""
        if not token.allows(action, branch):
            raise ForbiddenError(
                f"token {token.id} may not {action} to {branch}",
                hint="Use a token whose scope has this action and branch.",
            )


def peer_of(request: web.Request) -> str:
    """The address of whoever asks; what a proxy on this machine says it is, if one passes it on."""
    remote = request.remote or "unix"
    if remote in ("unix", "::1") or remote.removeprefix("::ffff:").startswith("127."):
        return request.headers.get("X-Forwarded-For", remote).rpartition(",")[2].strip()[:64]
    return remote


async def read_body(request: web.Request, limit: int) -> bytes:
    """The whole body, of at most `limit` bytes; raises `BodyTooLargeError`, `BodyStalledError`."""
    if (request.content_length or 0) > limit:
        raise BodyTooLargeError(f"a body of {request.content_length} bytes exceeds {limit}")
    body = bytearray()
    while piece := await read_piece(request, limit + 1 - len(body)):
        body += piece
        if len(body) > limit:
            raise BodyTooLargeError(f"the body exceeds {limit} bytes")
    return bytes(body)


async def read_piece(request: web.Request, size: int) -> bytes:
    """The next bytes of the body, at least `size` unless it ends; nothing at its end."""
    pieces: list[bytes] = []
    held = 0
    try:
        while held < size:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await request.content.readany()
            if not piece:
                break
            pieces.append(piece)
            held += len(piece)
    except TimeoutError:
        raise BodyStalledError(f"nothing arrived for {IDLE_SECONDS:g} seconds") from None
    except (ConnectionError, web.RequestPayloadError) as error:
        raise BodyStalledError("the connection broke within the body") from error
    return b"".join(pieces)


def json_answer(message: object) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=msgspec.json.encode(message), content_type="application/json")


def packed(data: bytes) -> web.Response:
    """An answer in msgpack."""
    return web.Response(body=data, content_type=MEDIA_TYPE)
