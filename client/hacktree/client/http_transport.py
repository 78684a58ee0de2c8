"""Reading from a web server with aiohttp, in this process.

Every response is bounded by the caller, every failure that may pass is retried, and a large body
continues where it stopped: `Range` with `If-Range` on a strong ETag, else from the start.
"""

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from hacktree.client.aiohttp_client import aiohttp
from hacktree.client.remote import Remote
from hacktree.client.retry import (
    RETRIED_STATUSES,
    Patience,
    SpeedGuard,
    TransientError,
    parse_retry_after,
    retrying,
)
from hacktree.client.source import (
    NotServedError,
    OversizeError,
    SourceError,
    Take,
    Traffic,
)
from hacktree.client.transport import Part
from hacktree.client.waiting import Waiting
from hacktree.common.errors import UserError
from hacktree.common.objects.moments import display_time

Spend = Callable[[int], Awaitable[None]]
"""Told of the bytes that were read; nothing more is read until it returns."""

_UNTIMELY: Final = (9, 10)
"""OpenSSL's codes for a certificate that is not valid yet, or no longer."""

_CERTIFICATE_HINT: Final = (
    "It may want a TLS client certificate: `hacktree remote add NAME URL --tls-cert FILE "
    "--tls-key FILE` names one."
)

_SILENT_HINT: Final = (
    "Check its address (`hacktree remote list`), or run the command again later: it continues "
    "where it stopped."
)


class HttpTransport:
    """See `Transport`; made by `open_http_transport`."""

    def __init__(
        self,
        remote: Remote,
        session: aiohttp.ClientSession,
        patience: Patience,
        spend: Spend | None = None,
    ) -> None:
        self.traffic = Traffic()
        # Asked once: aiohttp's own `trust_env` costs two thread hops for every request.
        self._proxy = remote.proxy or environment_proxy(remote.url)
        self._base = remote.url.rstrip("/") + "/"
        self._shown = remote.shown_url.rstrip("/") + "/"
        self._remote = remote
        self._session = session
        self._patience = patience
        self._spend = spend
        self._waiting = Waiting()

    async def read(self, path: str, max_size: int) -> bytes:
        """A body at once."""
        return await retrying(self._patience, lambda: self._read_once(path, max_size))

    async def save(self, path: str, part: Part, max_size: int) -> None:
        """A large body."""
        await retrying(self._patience, lambda: self._continue(path, part, max_size))

    async def read_range(self, path: str, start: int, end: int, max_size: int, take: Take) -> None:
        """A range of a body. No `If-Range` is sent: a path that has ranges names its content."""
        position = start

        def count(piece: bytes) -> None:
            nonlocal position
            position += len(piece)
            take(piece)

        async def attempt() -> None:
            before = position
            try:
                await self._read_range(path, position, end, max_size, count)
            except TransientError as error:
                error.progressed = position > before
                raise

        await retrying(self._patience, attempt)

    async def _read_range(self, path: str, start: int, end: int, max_size: int, take: Take) -> None:
        async with self._get(path, {"Range": f"bytes={start}-{end - 1}"}) as response:
            self._check_status(response, path, (200, 206))
            # A server that knows no ranges sends everything: what is before the range is skipped.
            skipped = start - _accepted_offset(response, start)
            position = start - skipped
            # Never more than this: the body is left where the range ends.
            async for chunk in self._chunks(response, path, max_size):
                piece = chunk[max(start - position, 0) : end - position]
                position += len(chunk)
                if piece:
                    take(piece)
                if position >= end:
                    return
            raise self._transient(path, "the answer ends before the range that was asked for")

    async def _read_once(self, path: str, max_size: int) -> bytes:
        chunks: list[bytes] = []
        async with self._get(path, {}) as response:
            self._check_status(response, path, (200,))
            self._check_length(response, path, max_size)
            async for chunk in self._chunks(response, path, max_size):
                chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _continue(self, path: str, part: Part, max_size: int) -> None:
        """One attempt at the rest of a large body."""
        offset, etag = part.progress()
        headers = {"Range": f"bytes={offset}-", "If-Range": etag} if offset else {}
        progressed = False
        try:
            async with self._get(path, headers) as response:
                if offset and response.status == 416:
                    part.begin(0, "")
                    raise self._transient(path, "the server can't continue the download")
                self._check_status(response, path, (200, 206) if offset else (200,))
                offset = _accepted_offset(response, offset)
                self._check_length(response, path, max_size - offset)
                part.begin(offset, _strong_etag(response))
                async for chunk in self._chunks(response, path, max_size - offset):
                    progressed = True
                    part.write(chunk)
        except TransientError as error:
            error.progressed = progressed
            raise

    @asynccontextmanager
    async def _get(
        self, path: str, headers: dict[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A GET whose every network failure comes out as our own error."""
        self.traffic.requests += 1
        answered = False
        try:
            with self._waiting.answer_from(self._shown + path) as heard:
                async with self._session.get(
                    URL(self._base + path, encoded=True), headers=headers, proxy=self._proxy
                ) as response:
                    heard()
                    answered = True
                    yield response
        except aiohttp.ClientConnectorCertificateError as error:
            raise SourceError(
                self._shown,
                f"its TLS certificate is not trusted: {error.certificate_error}",
                hint=_untrusted_hint(error.certificate_error),
            ) from error
        except aiohttp.ServerDisconnectedError as error:
            raise self._transient(
                path, "the server closed the connection without an answer", self._tls_hint()
            ) from error
        except aiohttp.ClientPayloadError as error:
            raise self._transient(path, "the answer was cut short") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise self._transient(path, "the server can't be reached in time") from error
        except TimeoutError as error:
            if answered:
                raise self._transient(path, "the server stopped answering") from error
            silence = f"{self._patience.policy.low_speed_seconds:g} s"
            raise self._transient(
                path, f"the server is there, but did not answer for {silence}", _SILENT_HINT
            ) from error
        except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
            raise SourceError(self._shown + path, f"can't be asked for: {error!r}") from error
        except (aiohttp.ClientError, ssl.SSLError) as error:
            hint = self._tls_hint() if "SSL" in repr(error).upper() else ""
            raise self._transient(path, f"can't be reached: {error}", hint) from error
        except ConnectionError as error:
            raise self._transient(path, f"the connection broke: {error}") from error

    def _transient(self, path: str, problem: str, hint: str = "") -> TransientError:
        return TransientError(SourceError(self._shown + path, problem, hint=hint))

    def _tls_hint(self) -> str:
        wanting = self._remote.url.startswith("https:") and self._remote.tls_cert is None
        return _CERTIFICATE_HINT if wanting else ""

    def _check_status(
        self, response: aiohttp.ClientResponse, path: str, accepted: tuple[int, ...]
    ) -> None:
        status = response.status
        location = self._shown + path
        if status in accepted:
            encoding = response.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise SourceError(
                    location,
                    f"sent with Content-Encoding {encoding}, which was not asked for",
                    hint="Switch compression off for this location in the web server or proxy.",
                )
            return
        if status in (404, 410):
            raise NotServedError(
                location,
                f"the server has no such file (HTTP {status})",
                hint="Check the branch's name and the remote's URL (`hacktree remote list`).",
            )
        problem = f"HTTP {status} {response.reason or ''}".rstrip()
        if status in RETRIED_STATUSES:
            raise TransientError(
                SourceError(location, problem),
                retry_after=parse_retry_after(response.headers.get("Retry-After")),
            )
        hint = self._tls_hint() if status in (400, 401, 403, 495, 496) else ""
        raise SourceError(location, problem, hint=hint)

    def _check_length(self, response: aiohttp.ClientResponse, path: str, max_size: int) -> None:
        if response.content_length is not None and response.content_length > max_size:
            raise OversizeError(self._shown + path, max_size)

    async def _chunks(
        self, response: aiohttp.ClientResponse, path: str, max_size: int
    ) -> AsyncIterator[bytes]:
        policy = self._patience.policy
        guard = SpeedGuard(policy, self._patience.clock)
        received = 0
        while chunk := await response.content.readany():
            received += len(chunk)
            self.traffic.bytes += len(chunk)
            self._waiting.heard()
            if received > max_size:
                raise OversizeError(self._shown + path, max_size)
            if self._spend is not None:
                await self._spend(len(chunk))
            yield chunk
            if guard.is_too_slow(len(chunk)):
                slow = f"slower than {policy.low_speed_bytes:g} B/s"
                raise self._transient(path, f"{slow} over {policy.low_speed_seconds:g} s")


def environment_proxy(url: str) -> str | None:
    """The proxy that `https_proxy`, `no_proxy` and the like ask for."""
    parts = urlsplit(url)
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return getproxies().get(parts.scheme)


def _untrusted_hint(error: Exception) -> str:
    """What to do about a server's certificate."""
    if getattr(error, "verify_code", 0) in _UNTIMELY:
        return f"Is the clock right? It says {display_time(int(time.time()))}."
    return "`hacktree remote add NAME URL --tls-ca FILE` names the authority."


def _strong_etag(response: aiohttp.ClientResponse) -> str:
    """The ETag that ranges can be asked for with, "" for none."""
    etag = response.headers.get("ETag", "")
    # A weak one promises no byte-for-byte equality (RFC 9110, 13.1.5).
    return "" if etag.startswith("W/") else etag


def _accepted_offset(response: aiohttp.ClientResponse, offset: int) -> int:
    """Where the body that follows begins: `offset` if the server went along, else 0."""
    if response.status != 206:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise SourceError(str(response.url), "answered another range than the one asked for")
    return offset


@asynccontextmanager
async def open_http_transport(
    remote: Remote, patience: Patience, connections: int, spend: Spend | None = None
) -> AsyncIterator[HttpTransport]:
    """A session with the remote's server, of at most `connections` at a time."""
    policy = patience.policy
    connector = aiohttp.TCPConnector(limit=connections, ssl=ssl_setting(remote))
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=policy.connect_seconds, sock_read=policy.low_speed_seconds
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        headers={"Accept-Encoding": "identity", "User-Agent": "hacktree"},
    ) as session:
        yield HttpTransport(remote, session, patience, spend)


def ssl_setting(remote: Remote) -> ssl.SSLContext | bool:
    if remote.tls_ca is None and remote.tls_cert is None:
        return True
    try:
        context = ssl.create_default_context(cafile=remote.tls_ca)
        if remote.tls_cert is not None:
            context.load_cert_chain(remote.tls_cert, remote.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UserError(
            f"remote {remote.name}: its TLS files can't be used: {error}",
            hint="`hacktree remote show` names them.",
        ) from error
    return context
