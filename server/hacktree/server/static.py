"""The published files of an archive repository over HTTP, as an aiohttp application.

A request is looked up in the whitelist (published.py), its file opened without following links
(beneath.py), the answer decided (conditions.py) and small content read, all in one call to a
worker thread; what is left for the event loop is to send. Large content goes out by sendfile.
aiohttp's own FileResponse is not used: it follows links, ignores an If-Range that holds an entity
tag, and takes two thread hops for a file of a few kilobytes.
"""

import asyncio
import errno
import json
import logging
import os
from dataclasses import dataclass
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict, CIMultiDictProxy

from hacktree.server.beneath import open_beneath
from hacktree.server.conditions import (
    UNCONDITIONAL,
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
from hacktree.server.published import Lifetime, PublishedFile, find_published

SMALL_BODY_LIMIT: Final = 256 * 1024
"""Bytes up to which a body is read into memory at once; what is larger is sent by sendfile."""

_LOG: Final = logging.getLogger("hacktree.server")
_NOT_THERE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO, errno.ENAMETOOLONG}
)
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def make_app(repository: Path) -> web.Application:
    """An application that serves the published files below `repository`, and nothing else."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, {hdrs.ALLOW: "GET, HEAD"})
        published = find_published(request.rel_url.raw_path)
        if published is None:
            return _error(HTTPStatus.NOT_FOUND)
        return await _send(repository, published, request)

    app = web.Application(middlewares=[_errors_as_json])
    app.router.add_route("*", "/{path:.*}", answer)
    app.on_response_prepare.append(_name_server)
    return app


@dataclass(frozen=True, slots=True)
class _Answer:
    """Status and headers, and either the body or the open file and the part of it to send."""

    status: HTTPStatus
    headers: CIMultiDict[str]
    body: bytes = b""
    file: FileIO | None = None
    start: int = 0
    length: int = 0


class _FilePart(web.StreamResponse):
    """A part of an open file, sent by sendfile; closes the file."""

    def __init__(self, answer: _Answer, file: FileIO) -> None:
        super().__init__(status=answer.status, headers=answer.headers)
        self._file = file
        self._start = answer.start
        self._count = answer.length

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        with self._file:
            writer = await super().prepare(request)
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the client has gone")
            loop = asyncio.get_running_loop()
            sent = await loop.sendfile(transport, self._file, self._start, self._count)
        if sent != self._count:
            # The file was cut short under us. Only a broken connection tells the client.
            _LOG.error("%s: sent %d of %d bytes", request.path, sent, self._count)
            transport.abort()
            raise ConnectionResetError("the file shrank while it was sent")
        return writer


async def _send(
    repository: Path, published: PublishedFile, request: web.Request
) -> web.StreamResponse:
    conditions = _conditions_of(request.headers, request.method)
    with_body = request.method == hdrs.METH_GET
    loop = asyncio.get_running_loop()
    try:
        answer = await loop.run_in_executor(
            None, _make_answer, repository, published, conditions, with_body
        )
    except OSError as error:
        return _refusal(error, request.path)
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return _error(answer.status, answer.headers)
    if answer.file is not None:
        return _FilePart(answer, answer.file)
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)


def _make_answer(
    repository: Path, published: PublishedFile, conditions: Conditions, with_body: bool
) -> _Answer:
    """Open, decide and, where it is small, read. Blocks; raises OSError where there is no file."""
    descriptor, status = open_beneath(repository, published.components)
    with FileIO(descriptor) as file:
        validators = Validators(int(status.st_mtime), status.st_size)
        decision = decide(conditions, validators)
        answer = _head_of(decision, published.lifetime, validators)
        if not with_body or answer.length == 0:
            return answer
        if answer.length > SMALL_BODY_LIMIT:
            # A second descriptor of the same open file, so that `with` may close this one.
            return _replace_body(answer, file=FileIO(os.dup(descriptor)))
        body = os.pread(descriptor, answer.length, answer.start)
        if len(body) != answer.length:
            raise OSError(errno.EIO, "the file shrank while it was read")
        return _replace_body(answer, body=body)


def _replace_body(answer: _Answer, *, body: bytes = b"", file: FileIO | None = None) -> _Answer:
    return _Answer(answer.status, answer.headers, body, file, answer.start, answer.length)


def _head_of(decision: Decision, lifetime: Lifetime, validators: Validators) -> _Answer:
    match decision:
        case Unsatisfiable():
            headers = CIMultiDict({hdrs.CONTENT_RANGE: f"bytes */{validators.size}"})
            return _Answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
        case PreconditionFailed():
            return _Answer(HTTPStatus.PRECONDITION_FAILED, CIMultiDict())
        case NotModified():
            return _Answer(HTTPStatus.NOT_MODIFIED, _caching_headers(lifetime, validators))
        case Whole():
            start, stop, status = 0, validators.size, HTTPStatus.OK
        case Part(start, stop):
            status = HTTPStatus.PARTIAL_CONTENT
    headers = _caching_headers(lifetime, validators)
    headers[hdrs.ACCEPT_RANGES] = "bytes"
    headers[hdrs.CONTENT_TYPE] = "application/octet-stream"
    headers[hdrs.CONTENT_LENGTH] = str(stop - start)
    if status is HTTPStatus.PARTIAL_CONTENT:
        headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{validators.size}"
    return _Answer(status, headers, start=start, length=stop - start)


def _caching_headers(lifetime: Lifetime, validators: Validators) -> CIMultiDict[str]:
    return CIMultiDict(
        {
            hdrs.CACHE_CONTROL: lifetime.value,
            hdrs.ETAG: validators.etag,
            hdrs.LAST_MODIFIED: validators.last_modified,
            "X-Content-Type-Options": "nosniff",
        }
    )


def _conditions_of(headers: CIMultiDictProxy[str], method: str) -> Conditions:
    def field(name: str) -> str | None:
        return ", ".join(headers.getall(name)) if name in headers else None

    # A Range has no meaning but for GET (RFC 9110 section 14.2).
    wanted = field(hdrs.RANGE) if method == hdrs.METH_GET else None
    conditions = Conditions(
        if_match=field(hdrs.IF_MATCH),
        if_none_match=field(hdrs.IF_NONE_MATCH),
        if_modified_since=field(hdrs.IF_MODIFIED_SINCE),
        if_unmodified_since=field(hdrs.IF_UNMODIFIED_SINCE),
        if_range=field(hdrs.IF_RANGE),
        range=wanted,
    )
    return conditions if conditions != UNCONDITIONAL else UNCONDITIONAL


def _refusal(error: OSError, path: str) -> web.Response:
    if error.errno is None or error.errno in _NOT_THERE:
        return _error(HTTPStatus.NOT_FOUND)
    _LOG.error("%s: %s", path, error.strerror)
    if error.errno in _EXHAUSTED:
        return _error(HTTPStatus.SERVICE_UNAVAILABLE, {hdrs.RETRY_AFTER: "5"})
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR)
