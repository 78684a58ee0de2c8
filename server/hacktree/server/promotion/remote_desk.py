"""The desk of a farm that is reached over HTTP, with a token that allows verdicts only."""

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from hacktree.common.errors import PeerError, UserError
from hacktree.common.objects.errors import FormatError
from hacktree.common.push.refusals import MAX_REFUSAL_SIZE, RefusalCode, decode_refusal
from hacktree.server.promotion.desk import Assignment, Idle, LeaseLostError, Report
from hacktree.server.promotion.messages import (
    MAX_MESSAGE,
    ClaimAnswer,
    ClaimRequest,
    VerdictAnswer,
    decode,
    encode,
    verdict_request,
)
from hacktree.server.promotion.verdicts import Verdict

TIMEOUT: Final = 15.0
"""Seconds without a byte after which the farm counts as unreachable."""

_PAUSES: Final = (1.0, 2.0, 4.0, 8.0, 16.0)

T = TypeVar("T")


class FarmUnreachableError(PeerError):
    """The farm does not answer, or not sensibly."""


class FarmRefusedError(PeerError):
    """The farm says no."""


@dataclass(frozen=True, slots=True)
class RemoteDesk:
    """`url`: of the server, without `/api/v1`; `sleep` waits so many seconds between attempts."""

    url: str
    secret: str = field(repr=False)
    tls: ssl.SSLContext | None = None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"not the URL of a server: {self.url!r}", hint="https://HOST")

    def claim(self, suite: str, holder: str) -> Assignment | Idle:
        """Lease the newest build that is untested and free."""
        answer = self._ask("POST", "qa/claim", encode(ClaimRequest(suite, holder)))
        return _sensible(lambda: decode(ClaimAnswer, answer).claimed())

    def renew(self, lease: str) -> None:
        """Say that this runner is alive; raises `LeaseLostError`."""
        self._ask("POST", f"qa/leases/{lease}/renew", b"")

    def report(self, lease: str, report: Report) -> Verdict:
        """Record the verdict; tried again while the farm is unreachable, since it cost a test."""
        body = encode(verdict_request(report))
        for pause in _PAUSES:
            try:
                return self._report(lease, body)
            except FarmUnreachableError:
                self.sleep(pause)
        return self._report(lease, body)

    def give_up(self, lease: str) -> None:
        """Let another take the build."""
        self._ask("DELETE", f"qa/leases/{lease}", b"")

    def _report(self, lease: str, body: bytes) -> Verdict:
        answer = self._ask("POST", f"qa/leases/{lease}/verdict", body)
        return _sensible(lambda: decode(VerdictAnswer, answer).verdict())

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            f"{self.url.rstrip('/')}/api/v1/{path}",
            data=body,
            method=method,
            headers={
                "Authorization": f"Bearer {self.secret}",
                "Content-Type": "application/json",
            },
        )
        handlers: list[Any] = [_NoRedirects()]
        if self.tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.tls))
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT) as answer:
                data: bytes = answer.read(MAX_MESSAGE)
                return data
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error.code, error.read(MAX_REFUSAL_SIZE)) from None
        except OSError as error:
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
        return FarmRefusedError(f"{self.url} refuses: {refusal.message}", hint=refusal.hint)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that it is for and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _sensible(read: Callable[[], T]) -> T:
    try:
        return read()
    except FormatError as error:
        raise FarmUnreachableError(f"the farm's answer makes no sense: {error}") from error
