"""Leasing the builds of a bisection from the server, so that it doesn't prune them meanwhile.

Asked for at the start, again at each step, which renews, and given back at the end. The server
names a lease by token, session and ends: nothing has to be remembered here, and it does not matter
which answer was lost. A bisection goes on without a lease: what goes wrong is told, never raised.
docs/format.md, "Leases".
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from yarl import URL

from hacktree.client.aiohttp_client import aiohttp
from hacktree.client.bisect.core.model import Candidate, Session
from hacktree.client.http_transport import environment_proxy, ssl_setting
from hacktree.client.remote import Remote, load_remote
from hacktree.common.errors import HacktreeError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import display_text
from hacktree.common.push.messages import API_PREFIX
from hacktree.common.push.refusals import MAX_REFUSAL_SIZE, RefusalCode, decode_refusal
from hacktree.common.repository.leases import MAX_LEASED
from hacktree.common.repository.repository import Repository

_SECONDS: Final = 10.0
"""How long a tester waits for the server at most, for everything together."""

_MAX_ANSWER: Final = 1 << 20
_MAX_SECRET: Final = 4096
_MAX_REASON: Final = 300

Say = Callable[[str], None]
"""Tells a person a line."""

T = TypeVar("T")


class Leased(msgspec.Struct, frozen=True):
    """What the server promised: `kept` of `wanted` builds stay until `until` (s since 1970).

    `problem`: why it promised nothing, or less; empty if all is well. `until` is 0 for no lease.
    """

    wanted: int
    kept: int = 0
    until: int = 0
    problem: str = ""


class _Refused(Exception):
    """The server's answer is no; the message says why."""


class _Lease(msgspec.Struct, frozen=True):
    """What is read of an answer; more fields may follow."""

    lease: Annotated[str, Meta(pattern="^[0-9a-f]{32}$(?!\\n)")]
    session: Annotated[str, Meta(max_length=64)]
    builds: Annotated[int, Meta(ge=0, le=MAX_LEASED)]
    expires: Annotated[int, Meta(ge=0, le=1 << 40)]


class _Leases(msgspec.Struct, frozen=True):
    leases: Annotated[list[_Lease], Meta(max_length=4096)]


def known_secret(remote: Remote) -> str:
    """The token to lease with, from the remote's `token-file`; empty for none.

    Not from the environment: a token for one farm must not be shown to another. Raises `UserError`
    for a file that can't be read or holds no token.
    """
    if remote.token_file is None:
        return ""
    try:
        with Path(remote.token_file).open(encoding="ascii", errors="replace") as stream:
            secret = stream.read(_MAX_SECRET).strip()
    except OSError as error:
        raise UserError(
            f"the token of remote {remote.name} can't be read: {error}",
            hint="`hacktree remote show` names its file.",
        ) from error
    if not secret or not secret.isascii() or not secret.isprintable():
        raise UserError(f"{remote.token_file} holds no token")
    return secret


def keep_builds(remote: Remote, secret: str, session: Session) -> Leased:
    """Ask the server to keep the builds of all lines of the session, or to keep them for longer.

    Takes `_SECONDS` at most; never raises for what the server or the network does.
    """
    ranges = list(_ranges(session))
    wanted = sum(len(builds) for builds in ranges)
    if remote.local_path is not None:
        return Leased(wanted, problem=f"{remote.shown_url} is not a server")
    if not secret:
        return Leased(wanted, problem=f"no token for {remote.name} is known")
    leases: list[_Lease] = []

    async def ask(server: "_Server") -> None:
        for builds in ranges:
            leases.append(await server.ask(session.id, builds))

    problem = _attempt(remote, secret, ask)
    kept = sum(lease.builds for lease in leases)
    until = min((lease.expires for lease in leases), default=0)
    if not problem and kept < wanted:
        problem = "the others were pruned before"
    return Leased(wanted, kept, until, problem)


def give_back(remote: Remote, secret: str, session: Session) -> str:
    """End the session's leases, those of which the answer was lost too; says what went wrong."""
    if remote.local_path is not None or not secret:
        return ""

    async def end(server: "_Server") -> None:
        for lease in await server.list():
            if lease.session == session.id:
                await server.end(lease.lease)

    return _attempt(remote, secret, end)


def describe_lease(leased: Leased) -> str:
    """What a tester has to know of it, as one sentence."""
    if leased.kept == 0:
        return f"The server may prune builds meanwhile: {leased.problem}."
    which = "all" if leased.kept == leased.wanted else f"{leased.kept} of"
    text = f"The server keeps {which} {leased.wanted} builds until {display_time(leased.until)}"
    return f"{text}: {leased.problem}." if leased.problem else f"{text}."


def begin_lease(repository: Repository, session: Session, say: Say) -> None:
    """Lease the builds with the remote's token, and tell how it stands."""
    try:
        remote = load_remote(repository, session.remote)
        secret = known_secret(remote)
    except HacktreeError as error:
        say(f"The server may prune builds meanwhile: {error.message}.")
        return
    if secret and remote.url.startswith("http:") and not remote.is_near:
        say("Without https the token can be read on its way.")
    say(describe_lease(keep_builds(remote, secret, session)))


def renew_lease(repository: Repository, session: Session, say: Say) -> None:
    """Lease the builds for one more step, and those of a line that is new; tells what goes wrong.

    Without a token nothing was leased, and before the first answer it has just been.
    """
    try:
        remote = load_remote(repository, session.remote)
        secret = known_secret(remote)
    except HacktreeError as error:
        say(f"The server may prune builds meanwhile: {error.message}.")
        return
    if secret and session.events:
        leased = keep_builds(remote, secret, session)
        if leased.problem:
            say(describe_lease(leased))


def end_lease(repository: Repository, session: Session, say: Say) -> None:
    """Give the builds back; what goes wrong is told, and the lease ends by itself."""
    try:
        remote = load_remote(repository, session.remote)
        problem = give_back(remote, known_secret(remote), session)
    except HacktreeError as error:
        problem = error.message
    if problem:
        say(f"The server may keep the builds for up to a week: {problem}.")


def _ranges(session: Session) -> Iterator[Sequence[Candidate]]:
    """Each line of the session, oldest build first, in pieces that one lease can keep."""
    for line in session.lines:
        for start in range(0, len(line), MAX_LEASED):
            yield line[start : start + MAX_LEASED]


def _attempt(
    remote: Remote, secret: str, work: Callable[["_Server"], Coroutine[Any, Any, None]]
) -> str:
    """Do it; what went wrong, in words."""

    async def connected() -> None:
        async with asyncio.timeout(_SECONDS), _connect(remote, secret) as server:
            await work(server)

    try:
        asyncio.run(connected())
    except _Refused as error:
        return str(error)
    except HacktreeError as error:
        return error.message
    except TimeoutError:
        return f"{remote.shown_url} does not answer within {_SECONDS:g} seconds"
    except (aiohttp.ClientError, OSError) as error:
        return f"{remote.shown_url} can't be reached: {error or type(error).__name__}"
    return ""


class _Server:
    """The server's API, as far as leases go."""

    def __init__(self, remote: Remote, session: aiohttp.ClientSession) -> None:
        self._session = session
        # Without a password: its header is the token's.
        self._base = remote.shown_url.rstrip("/") + API_PREFIX
        self._shown = remote.shown_url
        self._proxy = remote.proxy or environment_proxy(remote.url)

    async def ask(self, session: str, builds: Sequence[Candidate]) -> _Lease:
        low, high = builds[0], builds[-1]
        body = {"session": session, "branch": high.branch, "low": low.commit, "high": high.commit}
        return await self._request("POST", "/leases", _Lease, body)

    async def list(self) -> list[_Lease]:
        return (await self._request("GET", "/leases", _Leases)).leases

    async def end(self, lease: str) -> None:
        try:
            await self._request("DELETE", f"/leases/{lease}", dict[str, Any])
        except _GoneError:
            return

    async def _request(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        async with self._session.request(
            method,
            URL(self._base + path, encoded=True),
            data=None if body is None else msgspec.json.encode(body),
            headers={} if body is None else {"Content-Type": "application/json"},
            proxy=self._proxy,
            allow_redirects=False,
        ) as response:
            limit = _MAX_ANSWER if response.status == 200 else MAX_REFUSAL_SIZE
            data = await _read_bounded(response, limit)
            if response.status != 200:
                raise self._refusal(response.status, data)
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise _Refused(f"{self._shown} answers nonsense about leases") from None

    def _refusal(self, status: int, data: bytes) -> _Refused:
        try:
            refusal = decode_refusal(data)
        except FormatError:
            return _Refused(f"{self._shown} knows of no leases (HTTP {status})")
        said = f"{self._shown} refuses a lease: {display_text(refusal.message[:_MAX_REASON])}"
        return (_GoneError if refusal.code == RefusalCode.NO_SUCH_LEASE else _Refused)(said)


class _GoneError(_Refused):
    """There is no such lease any more."""


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise _Refused(f"{response.url.origin()} answers more than {limit} bytes")
    return bytes(data)


@asynccontextmanager
async def _connect(remote: Remote, secret: str) -> AsyncIterator[_Server]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, ssl=ssl_setting(remote)),
        headers={
            "Authorization": f"Bearer {secret}",
            "Accept-Encoding": "identity",
            "User-Agent": "hacktree",
        },
    ) as session:
        yield _Server(remote, session)
