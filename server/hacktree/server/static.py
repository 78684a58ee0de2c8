"""The published files of an archive repository over HTTP, as an aiohttp application.

A request is looked up in the whitelist (published.py), its file opened without following links
(beneath.py) and the answer decided (conditions.py). Small content is then read at once if it is in
the page cache, by a thread if it is not; large content goes out by sendfile.

A hop to a thread for every object would cost more than all the rest. 8 KiB objects a second, 16
connections, one process: this 7,500, the same with an unconditional hop 3,400, aiohttp's own
FileResponse, which makes two, 2,200. (It also follows links and ignores an If-Range that holds an
entity tag.)
"""

import asyncio
import errno
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from msgspec.structs import replace

from hacktree.common.push.messages import API_PREFIX
from hacktree.server.beneath import NotRegularError, open_beneath
from hacktree.server.conditions import (
    Conditions,
    Decision,
    NotModified,
    Part,
    PreconditionFailed,
    Unsatisfiable,
    Validators,
    Whole,
    decide,
)
from hacktree.server.published import POLICY, PublishedFile, find_published

SMALL_BODY_LIMIT: Final = 256 * 1024
"""Bytes up to which a body is read into memory at once; what is larger is sent by sendfile."""

SERVER_NAME: Final = "hacktree"

_LOG: Final = logging.getLogger("hacktree.server")
_NOT_THERE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO, errno.ENAMETOOLONG}
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_MESSAGES: Final = MappingProxyType(
    {
        HTTPStatus.NOT_FOUND: "nothing is published here",
        HTTPStatus.METHOD_NOT_ALLOWED: "only GET and HEAD",
    }
)


def make_app(repository: Path, api: web.Application | None = None) -> web.Application:
    """An application that serves the published files below `repository`, and the API if given."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, {hdrs.ALLOW: "GET, HEAD"})
        published = find_published(request.rel_url.raw_path)
        if published is None:
            return _error(HTTPStatus.NOT_FOUND)
        return await _answer_with_file(repository, published, request)

    app = web.Application(middlewares=[_errors_as_json])
    if api is not None:
        app.add_subapp(API_PREFIX, api)
    app.router.add_route("*", "/{path:.*}", answer, expect_handler=_ignore_expectation)
    return app


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        # The router's own: a target such as `*` that is no path.
        return _error(HTTPStatus(refusal.status))
    except Exception:  # noqa: BLE001 - a bug must not be cached, nor answered by aiohttp's own page
        _LOG.exception("%s %s failed", request.method, request.raw_path)
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR)


async def _ignore_expectation(request: web.Request) -> None:
    """No request needs a body here, so none is asked for: the final answer comes at once."""


class _Answer(msgspec.Struct, frozen=True):
    """Status and headers of a file's answer, and the part of the open file that is its body."""

    status: HTTPStatus
    headers: Mapping[str, str]
    offset: int = 0
    length: int = 0
    file: FileIO | None = None


class _FilePart(web.StreamResponse):
    """Part of an open file, sent by sendfile; closes the file."""

    def __init__(self, answer: _Answer, file: FileIO) -> None:
        super().__init__(status=answer.status, headers=answer.headers)
        self._file = file
        self._offset = answer.offset
        self._count = answer.length

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        with self._file:
            writer = await super().prepare(request)
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client has gone")
            loop = asyncio.get_running_loop()
            sent = await loop.sendfile(transport, self._file, self._offset, self._count)
        if sent != self._count:
            # The file was cut short under us. Only a broken connection tells the client.
            _LOG.error("%s: sent %d of %d bytes", request.path, sent, self._count)
            transport.abort()
            raise ConnectionResetError("the file shrank while it was sent")
        return writer


async def _answer_with_file(
    repository: Path, published: PublishedFile, request: web.Request
) -> web.StreamResponse:
    try:
        answer = _make_answer(repository, published, request.method, _conditions_of(request))
        if answer.file is None:
            body = None
        elif answer.length > SMALL_BODY_LIMIT:
            return _FilePart(answer, answer.file)
        else:
            body = await _read_small(answer.file, answer.offset, answer.length)
    except OSError as error:
        return _refusal(error, request.path)
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return _error(answer.status, answer.headers)
    return web.Response(status=answer.status, headers=answer.headers, body=body)


def _make_answer(
    repository: Path, published: PublishedFile, method: str, conditions: Conditions
) -> _Answer:
    """Open the file and decide; the caller closes the answer's file. Raises OSError."""
    descriptor, status = open_beneath(repository, published.components)
    with ExitStack() as held:
        file = held.enter_context(FileIO(descriptor))
        validators = Validators(int(status.st_mtime), status.st_size)
        if method == hdrs.METH_HEAD:
            # A Range has no meaning but for GET (RFC 9110 section 14.2).
            conditions = replace(conditions, range=None)
        answer = _describe(decide(conditions, validators), published, validators)
        if method == hdrs.METH_HEAD or not answer.length:
            return answer
        held.pop_all()
        return replace(answer, file=file)


async def _read_small(file: FileIO, offset: int, length: int) -> bytes | bytearray:
    """`length` bytes at `offset`; closes `file`. A thread is used only where the disk is."""
    with ExitStack() as held:
        held.enter_context(file)
        body = _read_cached(file, offset, length)
        if body is not None:
            return body
        held.pop_all()
    return await asyncio.get_running_loop().run_in_executor(
        None, _read_and_close, file, offset, length
    )


def _read_cached(file: FileIO, offset: int, length: int) -> bytearray | None:
    """The bytes if all of them are in the page cache; None, without waiting, if not."""
    body = bytearray(length)
    try:
        count = os.preadv(file.fileno(), [body], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS):
            return None
        raise
    return body if count == length else None


def _read_and_close(file: FileIO, offset: int, length: int) -> bytes:
    with file:
        body = os.pread(file.fileno(), length, offset)
    if len(body) != length:
        raise OSError(errno.EIO, "the file shrank while it was read")
    return body


def _describe(decision: Decision, published: PublishedFile, validators: Validators) -> _Answer:
    match decision:
        case Unsatisfiable():
            extent: dict[str, str] = {hdrs.CONTENT_RANGE: f"bytes */{validators.size}"}
            return _Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, extent)
        case PreconditionFailed():
            return _Answer(HTTPStatus.PRECONDITION_FAILED, {})
        case NotModified():
            return _Answer(HTTPStatus.NOT_MODIFIED, _caching_headers(published, validators))
        case Whole():
            start, length, status = 0, validators.size, HTTPStatus.OK
        case Part(start, stop):
            length, status = stop - start, HTTPStatus.PARTIAL_CONTENT
    headers = _caching_headers(published, validators)
    headers[hdrs.ACCEPT_RANGES] = "bytes"
    headers[hdrs.CONTENT_TYPE] = published.media_type
    headers[hdrs.CONTENT_LENGTH] = str(length)
    if status is HTTPStatus.PARTIAL_CONTENT:
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{start + length - 1}/{validators.size}"
    return _Answer(status, headers, start, length)


def _caching_headers(published: PublishedFile, validators: Validators) -> dict[str, str]:
    headers: dict[str, str] = {
        hdrs.CACHE_CONTROL: published.lifetime.value,
        hdrs.ETAG: validators.etag,
        hdrs.LAST_MODIFIED: validators.last_modified,
        hdrs.SERVER: SERVER_NAME,
        "X-Content-Type-Options": "nosniff",
    }
    if published.components[0] == "dashboard":
        headers["Content-Security-Policy"] = POLICY
    return headers


def _conditions_of(request: web.Request) -> Conditions:
    headers = request.headers

    def field(name: str) -> str | None:
        return ", ".join(headers.getall(name)) if name in headers else None

    return Conditions(
        if_match=field(hdrs.IF_MATCH),
        if_none_match=field(hdrs.IF_NONE_MATCH),
        if_modified_since=field(hdrs.IF_MODIFIED_SINCE),
        if_unmodified_since=field(hdrs.IF_UNMODIFIED_SINCE),
        if_range=field(hdrs.IF_RANGE),
        range=field(hdrs.RANGE),
    )


def _refusal(error: OSError, path: str) -> web.Response:
    if isinstance(error, NotRegularError) or error.errno in _NOT_THERE:
        return _error(HTTPStatus.NOT_FOUND)
    _LOG.error("%s: %s", path, error.strerror)
    if error.errno in _EXHAUSTED:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, {hdrs.RETRY_AFTER: "5"})
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR)


def _error(status: HTTPStatus, headers: Mapping[str, str] = _NO_HEADERS) -> web.Response:
    """A refusal that no cache keeps: `{"error": {"code", "message"}}`, code being kebab-case."""
    code = status.phrase.lower().replace(" ", "-")
    return web.Response(
        status=status,
        headers={**headers, hdrs.CACHE_CONTROL: "no-store", hdrs.SERVER: SERVER_NAME},
        text=json.dumps({"error": {"code": code, "message": _MESSAGES.get(status, status.phrase)}}),
        content_type="application/json",
    )
