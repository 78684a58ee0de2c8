"""From an exception to the answer that says why a request was refused. docs/format.md, "API"."""

import logging
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiohttp import hdrs, web

from hacktree.common.errors import NO_SPACE, BusyError, HacktreeError, SpaceError
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.push.refusals import Refusal, RefusalCode, encode_refusal
from hacktree.common.repository.revision import RevisionError
from hacktree.server.authorization import ForbiddenError, TooOftenError
from hacktree.server.jobs import JobMissingError
from hacktree.server.leasing.leases import (
    LeaseMissingError,
    RangeInvalidError,
    RangeTooLongError,
    TooManyLeasesError,
)
from hacktree.server.promotion.desk import LeaseLostError
from hacktree.server.promotion.holding import HoldInvalidError, NotHeldError
from hacktree.server.promotion.promoting import (
    HeadUnsignedError,
    KeyNeededError,
    PromotionRefusedError,
)
from hacktree.server.promotion.retesting import NotRetestableError
from hacktree.server.promotion.status import NoBranchError
from hacktree.server.promotion.suites import SuiteMissingError
from hacktree.server.promotion.verdicts import VerdictInvalidError
from hacktree.server.publication import HeadMovedError, SignatureWrongError, WrongCommitError
from hacktree.server.push.closure import ObjectsMissingError
from hacktree.server.push.receiving import QuotaExceededError, WrongObjectError
from hacktree.server.push.sessions import PushMissingError
from hacktree.server.requests import (
    Api,
    BodyStalledError,
    BodyTooLargeError,
    StoppingError,
    UnauthenticatedError,
)

SERVER_NAME: Final = "hacktree"

_LOG: Final = logging.getLogger("hacktree.server.api")
_REFUSALS: Final[Mapping[type[Exception], tuple[int, RefusalCode]]] = MappingProxyType(
    {
        UnauthenticatedError: (401, RefusalCode.UNAUTHENTICATED),
        ForbiddenError: (403, RefusalCode.FORBIDDEN),
        TooOftenError: (429, RefusalCode.TOO_OFTEN),
        PushMissingError: (404, RefusalCode.NO_SUCH_PUSH),
        JobMissingError: (404, RefusalCode.NO_SUCH_JOB),
        SuiteMissingError: (404, RefusalCode.NO_SUCH_SUITE),
        NoBranchError: (404, RefusalCode.NO_SUCH_BRANCH),
        RevisionError: (404, RefusalCode.NO_SUCH_BUILD),
        RangeInvalidError: (404, RefusalCode.NO_SUCH_BUILD),
        LeaseMissingError: (404, RefusalCode.NO_SUCH_LEASE),
        NotHeldError: (404, RefusalCode.NOT_HELD),
        HoldInvalidError: (400, RefusalCode.MALFORMED),
        PromotionRefusedError: (409, RefusalCode.NOT_PROMOTABLE),
        KeyNeededError: (409, RefusalCode.NOT_PROMOTABLE),
        HeadUnsignedError: (409, RefusalCode.NOT_PROMOTABLE),
        NotRetestableError: (409, RefusalCode.NOT_RETESTABLE),
        LeaseLostError: (409, RefusalCode.LEASE_LOST),
        VerdictInvalidError: (400, RefusalCode.MALFORMED),
        HeadMovedError: (409, RefusalCode.HEAD_MOVED),
        ObjectsMissingError: (409, RefusalCode.OBJECTS_MISSING),
        BusyError: (409, RefusalCode.BUSY),
        BodyTooLargeError: (413, RefusalCode.TOO_LARGE),
        RangeTooLongError: (413, RefusalCode.TOO_LARGE),
        TooManyLeasesError: (413, RefusalCode.QUOTA_EXCEEDED),
        QuotaExceededError: (413, RefusalCode.QUOTA_EXCEEDED),
        WrongCommitError: (422, RefusalCode.WRONG_COMMIT),
        SignatureWrongError: (422, RefusalCode.WRONG_SIGNATURE),
        WrongObjectError: (422, RefusalCode.WRONG_OBJECT),
        StoppingError: (503, RefusalCode.BUSY),
        SpaceError: (507, RefusalCode.NO_SPACE),
        BodyStalledError: (408, RefusalCode.MALFORMED),
        NameInvalidError: (400, RefusalCode.MALFORMED),
        FormatError: (400, RefusalCode.MALFORMED),
    }
)
"""Looked through in this order: a class before those that it derives from."""

_DISCREET: Final[Mapping[type[Exception], str]] = MappingProxyType(
    {
        BusyError: "the server is busy with another request for this, or with a prune",
        SpaceError: "the server's disk is full",
    }
)


async def continue_if_authenticated(api: Api, request: web.Request) -> web.Response | None:
    """For `expect_handler`: ask for the body of whoever may send one, and of nobody else."""
    try:
        await api.authenticate(request)
    except HacktreeError as error:
        request_id = new_request_id()
        response = refuse(request, error, request_id)
        add_headers(response, request_id)
        response.force_close()
        return response
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # Those bytes are no part of the answer.
    return None


def new_request_id() -> str:
    """What a person finds in the log."""
    return secrets.token_hex(8)


def refuse(request: web.Request, error: Exception, request_id: str) -> web.Response:
    """The answer to a request that ended in `error`; what is no refusal is logged whole."""
    status, refusal = _describe(request, error, request_id)
    response = web.Response(
        status=status, body=encode_refusal(refusal), content_type="application/json"
    )
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if isinstance(error, TooOftenError):
        response.headers[hdrs.RETRY_AFTER] = str(error.retry_after)
    if not request.content.is_eof():
        # What is left of the body would be read as the next request.
        response.force_close()
    return response


def add_headers(response: web.StreamResponse, request_id: str) -> None:
    """What every answer of the API carries."""
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = SERVER_NAME
    response.headers["X-Request-Id"] = request_id
    response.headers["X-Content-Type-Options"] = "nosniff"


def _describe(request: web.Request, error: Exception, request_id: str) -> tuple[int, Refusal]:
    if isinstance(error, web.HTTPException):
        code = error.reason.lower().replace(" ", "-")
        return error.status, Refusal(code, f"{error.status} {error.reason}", request_id)
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        error = SpaceError(str(error))
    for kind, (status, code) in _REFUSALS.items():
        if isinstance(error, HacktreeError) and isinstance(error, kind):
            fields = _fields(request, request_id, status=status, code=code.value)
            _LOG.info(
                "%s %s %s: %s", request_id, request.method, request.path, error.message,
                extra={"fields": fields},
            )  # fmt: skip
            # Those speak of paths and processes, which are for the log.
            message = _DISCREET.get(kind, error.message)
            hint = "" if kind in _DISCREET else error.hint
            return status, Refusal(code.value, message, request_id, hint)
    _LOG.error(
        "%s %s %s failed", request_id, request.method, request.path, exc_info=error,
        extra={"fields": _fields(request, request_id, status=500)},
    )  # fmt: skip
    message = "the server failed; its log says why"
    return 500, Refusal(RefusalCode.INTERNAL.value, message, request_id)


def _fields(request: web.Request, request_id: str, **more: int | str) -> dict[str, int | str]:
    """What a log in JSON says of a request besides its message."""
    return {"request-id": request_id, "method": request.method, "path": request.path, **more}
