"""A published repository on a web server, read with aiohttp.

Every response is bounded by the caller, every failure that may pass is retried, and a large body
continues where it stopped: `Range` with `If-Range` on a strong ETag, else from the start.
"""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from hacktree.client.aiohttp_client import aiohttp
from hacktree.client.pace import Pace
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
    MAX_REF_RESPONSE,
    ContentForm,
    NotServedError,
    OversizeError,
    SourceError,
    Take,
    Traffic,
    compressed_bound,
)
from hacktree.client.waiting import Waiting
from hacktree.common.delta.graph import MAX_SEGMENT_SIZE
from hacktree.common.delta.pack import MAX_PACK_LENGTH
from hacktree.common.delta.route import Work, estimate_whole
from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.moments import display_time
from hacktree.common.objects.names import BranchName
from hacktree.common.objects.tree import FileEntry
from hacktree.common.repository.durable import write_all
from hacktree.common.repository.objectnames import archive_name, meta_name

ETAG_SUFFIX: Final = ".etag"
_WRITE_SIZE: Final = 1 << 20
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


class HttpSource:
    """See `Source`; made by `open_http_source`. Not verified here: whoever reads checks hashes."""

    form = ContentForm.ZSTD

    def __init__(
        self,
        remote: Remote,
        session: aiohttp.ClientSession,
        patience: Patience,
        pace: Pace | None = None,
    ) -> None:
        self.traffic = Traffic()
        # Asked once: aiohttp's own `trust_env` costs two thread hops for every request.
        self._proxy = remote.proxy or environment_proxy(remote.url)
        self._base = remote.url.rstrip("/") + "/"
        self._shown = remote.shown_url.rstrip("/") + "/"
        self._remote = remote
        self._session = session
        self._patience = patience
        self._pace = pace
        self._waiting = Waiting()

    def content_location(self, entry: FileEntry) -> str:
        """The URL of a content."""
        return f"{self._shown}objects/{archive_name(entry.id)}"

    def meta_location(self, object_id: ObjectId) -> str:
        """The URL of a tree or commit."""
        return f"{self._shown}objects/{meta_name(object_id)}"

    async def read_ref(self, branch: BranchName) -> bytes:
        """The ref file of a branch."""
        return await self._read(f"refs/{branch}", MAX_REF_RESPONSE)

    async def read_page(self, branch: BranchName, page: str, max_size: int) -> bytes:
        """A compressed history page."""
        return await self._read(f"branches/{branch}/history/{page}", max_size)

    async def read_meta(self, object_id: ObjectId, max_size: int) -> bytes:
        """A tree or commit."""
        return await self._read(f"objects/{meta_name(object_id)}", max_size)

    async def read_content(self, entry: FileEntry) -> bytes:
        """A small content's zstd frame."""
        return await self._read(f"objects/{archive_name(entry.id)}", compressed_bound(entry.size))

    async def save_content(self, entry: FileEntry, part: Path) -> None:
        """A large content's zstd frame."""
        path = f"objects/{archive_name(entry.id)}"
        max_size = compressed_bound(entry.size)
        await retrying(self._patience, lambda: self._continue(path, part, max_size))

    async def read_trust(self, name: str, max_size: int) -> bytes:
        """A file of signed metadata."""
        return await self._read(f"trust/{name}", max_size)

    async def read_graph(self, name: str) -> bytes:
        """A segment of the pack graph."""
        return await self._read(f"graph/{name}", MAX_SEGMENT_SIZE)

    async def read_verdicts(self, max_size: int) -> bytes:
        """What the farm's suites said of builds."""
        return await self._read("dashboard/verdicts.json", max_size)

    def estimate_content(self, name: ObjectId, size: int) -> Work:
        """By its decoded size: how well it is compressed is not known."""
        return estimate_whole(size)

    async def read_pack(self, pack: ObjectId, start: int, end: int, take: Take) -> None:
        """A range of a pack. Its name is its content, so no `If-Range` is needed to go on."""
        path = f"packs/{pack.hex()}"
        position = start

        def count(piece: bytes) -> None:
            nonlocal position
            position += len(piece)
            take(piece)

        async def attempt() -> None:
            before = position
            try:
                await self._read_range(path, position, end, count)
            except TransientError as error:
                error.progressed = position > before
                raise

        await retrying(self._patience, attempt)

    async def _read_range(self, path: str, start: int, end: int, take: Take) -> None:
        async with self._get(path, {"Range": f"bytes={start}-{end - 1}"}) as response:
            self._check_status(response, path, (200, 206))
            # A server that knows no ranges sends everything: what is before the range is skipped.
            skipped = start - _accepted_offset(response, start)
            position = start - skipped
            # Never more than this: the body is left where the range ends.
            async for chunk in self._chunks(response, path, MAX_PACK_LENGTH):
                piece = chunk[max(start - position, 0) : end - position]
                position += len(chunk)
                if piece:
                    take(piece)
                if position >= end:
                    return
            raise self._transient(path, "the answer ends before the range that was asked for")

    def link_content(self, name: str, destination: str) -> bool:
        """A web server's files can't be linked."""
        return False

    async def _read(self, path: str, max_size: int) -> bytes:
        return await retrying(self._patience, lambda: self._read_once(path, max_size))

    async def _read_once(self, path: str, max_size: int) -> bytes:
        chunks: list[bytes] = []
        async with self._get(path, {}) as response:
            self._check_status(response, path, (200,))
            self._check_length(response, path, max_size)
            async for chunk in self._chunks(response, path, max_size):
                chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _continue(self, path: str, part: Path, max_size: int) -> None:
        """One attempt at the rest of a large body."""
        etag_file = part.with_name(part.name + ETAG_SUFFIX)
        offset, etag = _progress_of(part, etag_file)
        headers = {"Range": f"bytes={offset}-", "If-Range": etag} if offset else {}
        progressed = False
        try:
            async with self._get(path, headers) as response:
                if offset and response.status == 416:
                    os.unlink(part)
                    raise self._transient(path, "the server can't continue the download")
                self._check_status(response, path, (200, 206) if offset else (200,))
                offset = _accepted_offset(response, offset)
                self._check_length(response, path, max_size - offset)
                _write_etag(etag_file, response.headers.get("ETag", ""))
                with part.open("r+b" if offset else "wb", buffering=0) as stream:
                    stream.truncate(offset)
                    stream.seek(offset)
                    buffered = bytearray()
                    try:
                        async for chunk in self._chunks(response, path, max_size - offset):
                            progressed = True
                            buffered += chunk
                            if len(buffered) >= _WRITE_SIZE:
                                data, buffered = buffered, bytearray()
                                await asyncio.to_thread(
                                    write_all, stream.fileno(), memoryview(data)
                                )
                    finally:
                        write_all(stream.fileno(), memoryview(buffered))
        except TransientError as error:
            error.progressed = progressed
            raise
        etag_file.unlink(missing_ok=True)

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
            if self._pace is not None:
                await self._pace.spend(len(chunk))
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


def _progress_of(part: Path, etag_file: Path) -> tuple[int, str]:
    """Bytes that need not be asked for again, and the ETag they belong to; (0, "") for none."""
    try:
        etag = etag_file.read_text("latin-1")
        size = os.stat(part).st_size
    except FileNotFoundError:
        return 0, ""
    return (size, etag) if etag else (0, "")


def _write_etag(etag_file: Path, etag: str) -> None:
    # A weak ETag promises no byte-for-byte equality (RFC 9110, 13.1.5).
    etag_file.write_text("" if etag.startswith("W/") else etag, "latin-1")


def _accepted_offset(response: aiohttp.ClientResponse, offset: int) -> int:
    """Where the body that follows begins: `offset` if the server went along, else 0."""
    if response.status != 206:
        return 0
    if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise SourceError(str(response.url), "answered another range than the one asked for")
    return offset


@asynccontextmanager
async def open_http_source(
    remote: Remote, patience: Patience, connections: int, pace: Pace | None = None
) -> AsyncIterator[HttpSource]:
    """A session with the remote's server, of at most `connections` at a time, read at a pace."""
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
        yield HttpSource(remote, session, patience, pace)


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
