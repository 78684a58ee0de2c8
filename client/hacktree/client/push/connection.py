"""The API of a server, as a push uses it. docs/format.md, "Push".

Every request but a batch is repeated here when its failure may pass: each can be. After a broken
batch it has to be asked first what arrived, which is up to whoever sends batches.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import msgspec
from yarl import URL

from hacktree.client.aiohttp_client import aiohttp
from hacktree.client.http_transport import environment_proxy, ssl_setting
from hacktree.client.push.batches import Batch
from hacktree.client.push.refused import PushRefusedError, error_of
from hacktree.client.remote import Remote
from hacktree.client.retry import (
    RETRIED_STATUSES,
    Patience,
    TransientError,
    parse_retry_after,
    retrying,
)
from hacktree.client.source import SourceError, Traffic
from hacktree.client.waiting import Waiting
from hacktree.common.objects.codec import Codec
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.push.framing import ObjectKey
from hacktree.common.push.messages import (
    API_PREFIX,
    BATCH_ANSWER,
    BATCH_TYPE,
    FINISH_ANSWER,
    FINISH_REQUEST,
    MAX_IDS,
    MEDIA_TYPE,
    MISSING_ANSWER,
    MISSING_REQUEST,
    OPEN_ANSWER,
    OPEN_REQUEST,
    BatchAnswer,
    FinishRequest,
    OpenAnswer,
    OpenRequest,
    ask_about,
    select_missing,
)
from hacktree.common.push.refusals import MAX_REFUSAL_SIZE, RefusalCode, decode_refusal

M = TypeVar("M", bound=msgspec.Struct)

_ANSWER_SECONDS: Final = 900.0
"""How long a server may be silent: it checks whole builds before it answers."""
_NO_API_HINT: Final = (
    "Is it the server's base URL, and does the server take pushes (`hacktree serve --api`, and "
    "/api/ passed on by nginx)?"
)


class PushServer:
    """A server that takes pushes; made by `connect_for_push`."""

    def __init__(self, remote: Remote, session: aiohttp.ClientSession, patience: Patience) -> None:
        self.traffic = Traffic()
        self.patience = patience
        self._session = session
        self._proxy = remote.proxy or environment_proxy(remote.url)
        self._base = remote.url.rstrip("/") + API_PREFIX
        self._waiting = Waiting()
        self.shown = remote.shown_url.rstrip("/") + API_PREFIX

    async def open(self, request: OpenRequest) -> OpenAnswer:
        """Open a push or find it again."""
        return await self._ask("/pushes", OPEN_REQUEST.encode(request), OPEN_ANSWER)

    async def find_missing(self, push: str, keys: list[ObjectKey]) -> list[ObjectKey]:
        """Those of `keys` that have to be sent; one request for each 65,536."""
        missing: list[ObjectKey] = []
        for start in range(0, len(keys), MAX_IDS):
            request, asked = ask_about(keys[start : start + MAX_IDS])
            path = f"/pushes/{push}/missing"
            answer = await self._ask(path, MISSING_REQUEST.encode(request), MISSING_ANSWER)
            try:
                missing += select_missing(asked, answer)
            except FormatError as error:
                raise PushRefusedError(self.shown + path, error.message) from error
        return missing

    async def send_batch(self, push: str, batch: Batch, body: Iterator[bytes]) -> BatchAnswer:
        """Send a batch, once; raises `TransientError` for a failure that may pass."""
        # An upload that is refused is refused before its body.
        headers = {"Content-Type": BATCH_TYPE, "Content-Length": str(batch.length)}
        return await self._request(
            "PUT", f"/pushes/{push}/batch", BATCH_ANSWER, headers, _in_thread(body)
        )

    async def finish(self, push: str, role: bytes | None) -> ObjectId:
        """Publish the commit; returns the branch's new head."""
        body = FINISH_REQUEST.encode(FinishRequest(1, role or b""))
        return (await self._ask(f"/pushes/{push}/finish", body, FINISH_ANSWER)).head

    async def _ask(self, path: str, body: bytes, codec: Codec[M]) -> M:
        headers = {"Content-Type": MEDIA_TYPE}

        async def attempt() -> M:
            with self._waiting.answer_from(self.shown + path):
                return await self._request("POST", path, codec, headers, body)

        return await retrying(self.patience, attempt)

    async def _request(
        self,
        method: str,
        path: str,
        codec: Codec[M],
        headers: dict[str, str],
        body: bytes | AsyncIterator[bytes],
    ) -> M:
        self.traffic.requests += 1
        location = self.shown + path
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=headers,
                proxy=self._proxy,
                expect100=not isinstance(body, bytes),
                allow_redirects=False,
            ) as response:
                limit = codec.max_size if response.status == 200 else MAX_REFUSAL_SIZE
                data = await _read_bounded(response, limit)
                self.traffic.bytes += len(data)
                if response.status != 200:
                    raise _refusal(location, response, data)
        except aiohttp.ClientConnectorCertificateError as error:
            problem = f"its TLS certificate is not trusted: {error.certificate_error}"
            raise SourceError(
                location, problem, hint="--tls-ca FILE names the authority."
            ) from error
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            problem = str(error) or "the server stopped answering"
            raise TransientError(SourceError(location, problem)) from error
        try:
            return codec.decode(data)
        except FormatError as error:
            raise PushRefusedError(location, f"answers nonsense: {error.message}") from error


async def _in_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Read the disk beside the event loop."""
    while piece := await asyncio.to_thread(next, pieces, b""):
        yield piece


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise PushRefusedError(str(response.url), f"answers more than {limit} bytes")
    return bytes(data)


def _refusal(location: str, response: aiohttp.ClientResponse, data: bytes) -> Exception:
    """The error, or a `TransientError` with it, that an answer other than 200 stands for."""
    status = response.status
    try:
        refusal = decode_refusal(data)
    except FormatError:
        problem = f"HTTP {status} {response.reason or ''}".rstrip()
        error: Exception = PushRefusedError(location, problem, hint=_NO_API_HINT)
        code = ""
    else:
        error, code = error_of(refusal, location), refusal.code
        if status in (404, 405) and code != RefusalCode.NO_SUCH_PUSH:
            error = PushRefusedError(location, refusal.message, hint=_NO_API_HINT)
    if isinstance(error, SourceError) and (status in RETRIED_STATUSES or code == RefusalCode.BUSY):
        wait = parse_retry_after(response.headers.get("Retry-After"))
        return TransientError(error, retry_after=wait)
    return error


@asynccontextmanager
async def connect_for_push(
    remote: Remote, secret: str, patience: Patience
) -> AsyncIterator[PushServer]:
    """A session of one connection with the server, with the token's secret."""
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=patience.policy.connect_seconds, sock_read=_ANSWER_SECONDS
    )
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1, ssl=ssl_setting(remote)),
        timeout=timeout,
        headers={
            "Authorization": f"Bearer {secret}",
            "Accept-Encoding": "identity",
            "User-Agent": "hacktree",
        },
    ) as session:
        yield PushServer(remote, session, patience)
