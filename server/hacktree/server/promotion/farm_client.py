"""A farm that is reached over HTTP: its API, with a token, and the files that it publishes."""

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from hacktree.common.errors import BusyError, PeerError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.push.refusals import MAX_REFUSAL_SIZE, RefusalCode, decode_refusal
from hacktree.common.trust.verifying import AbsentError, EndlessError
from hacktree.server.promotion.desk import LeaseLostError
from hacktree.server.promotion.messages import MAX_MESSAGE

TIMEOUT: Final = 15.0
"""Seconds without a byte after which the farm counts as unreachable."""

_PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
_MOVED: Final = frozenset({RefusalCode.HEAD_MOVED.value, RefusalCode.BUSY.value})

T = TypeVar("T")


class FarmUnreachableError(PeerError):
    """The farm does not answer, or not sensibly."""


class FarmRefusedError(PeerError):
    """The farm says no."""


class FarmBusyError(BusyError):
    """Somebody else is at it, or was quicker."""


@dataclass(frozen=True, slots=True)
class FarmClient:
    """`url`: of the server, without `/api/v1`; `sleep` waits so many seconds between attempts."""

    url: str
    secret: str = field(repr=False)
    tls: ssl.SSLContext | None = None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"not the URL of a server: {self.url!r}", hint="https://HOST")

    def ask(self, method: str, path: str, body: bytes = b"", limit: int = MAX_MESSAGE) -> bytes:
        """The answer of the API, of at most `limit` bytes.

        Raises `FarmUnreachableError`, `FarmRefusedError`, `FarmBusyError`, `LeaseLostError`.
        """
        headers = {"Authorization": f"Bearer {self.secret}", "Content-Type": "application/json"}
        status, data = self._request(method, f"api/v1/{path}", headers, body or None, limit)
        if status >= 300:
            raise self._refusal(status, data)
        if len(data) > limit:
            raise FarmUnreachableError(f"{self.url} answers more than {limit} bytes")
        return data

    def insist(self, method: str, path: str, body: bytes) -> bytes:
        """As `ask`, tried again while the farm is unreachable: for what may be repeated."""
        for pause in _PAUSES:
            try:
                return self.ask(method, path, body)
            except FarmUnreachableError:
                self.sleep(pause)
        return self.ask(method, path, body)

    def read(self, path: str, limit: int) -> bytes:
        """A published file, without a token.

        Raises `AbsentError`, `EndlessError`, `FarmUnreachableError`.
        """
        status, data = self._request("GET", path, {}, None, limit)
        if status == 404:
            raise AbsentError(f"{self.url} has no {path}")
        if status != 200:
            raise FarmUnreachableError(f"{self.url} answers {status} for {path}")
        if len(data) > limit:
            raise EndlessError(f"{self.url}: {path} is larger than {limit} bytes")
        return data

    def _request(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None, limit: int
    ) -> tuple[int, bytes]:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            f"{self.url.rstrip('/')}/{path}", data=body, method=method, headers=headers
        )
        handlers: list[Any] = [_NoRedirects()]
        if self.tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.tls))
        opener = urllib.request.build_opener(*handlers)
        try:
            try:
                answer, size = opener.open(request, timeout=TIMEOUT), limit + 1
            except urllib.error.HTTPError as error:
                answer, size = error, MAX_REFUSAL_SIZE
            with answer:
                return answer.status, answer.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise FarmUnreachableError(
                f"{self.url} can't be reached: {getattr(error, 'reason', None) or error}",
                hint="Does the server run, with its API, and is the address right?",
            ) from error

    def _refusal(self, status: int, body: bytes) -> Exception:
        try:
            refusal = decode_refusal(body)
        except FormatError:
            return FarmUnreachableError(
                f"{self.url} answers {status} and no reason", hint="Is it a server with an API?"
            )
        if refusal.code == RefusalCode.LEASE_LOST:
            return LeaseLostError(refusal.message, hint=refusal.hint)
        if status >= 500:
            return FarmUnreachableError(f"{self.url}: {refusal.message}", hint=refusal.hint)
        kind = FarmBusyError if refusal.code in _MOVED else FarmRefusedError
        return kind(f"{self.url} refuses: {refusal.message}", hint=refusal.hint)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that it is for and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def sensible(read: Callable[[], T]) -> T:
    """What `read` makes of an answer; an answer without sense is the farm's failure."""
    try:
        return read()
    except FormatError as error:
        raise FarmUnreachableError(f"the farm's answer makes no sense: {error}") from error
