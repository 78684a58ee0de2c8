"""Running the static application: from listening sockets to a stop that finishes what it began."""

import asyncio
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from hacktree.common.errors import UserError
from hacktree.server.accesslog import CombinedAccessLogger
from hacktree.server.listening import BACKLOG, notify_systemd, url_of
from hacktree.server.requests import FLIGHT
from hacktree.server.static import make_app

GRACE_SECONDS: Final = 30.0
"""How long requests in flight may go on after the signal to stop."""

ACCESS_LOG: Final = logging.getLogger("hacktree.server.access")
_LOG: Final = logging.getLogger("hacktree.server")


class TlsFilesError(UserError):
    """The certificate or its key can't be used."""


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """A server's context, TLS 1.2 or later; raises `TlsFilesError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_passphrase)
    except OSError as error:  # ssl.SSLError is one
        raise TlsFilesError(
            f"can't use certificate {certificate} with key {key}: {error.strerror or error}",
            hint="Both are PEM files; the certificate file holds the chain, the server's first.",
        ) from error
    return context


def serve(
    repository: Path,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    on_ready: Callable[[Sequence[str]], None],
    api: web.Application | None = None,
) -> None:
    """Serve `repository` until SIGTERM or SIGINT; a second signal ends the process at once.

    `on_ready` gets the URLs once they answer. Closes the sockets. `api`: see `make_app`.
    """
    _use_all_descriptors()
    asyncio.run(_serve_until_signal(repository, sockets, tls, on_ready, api))


async def serve_until(
    stop: asyncio.Event,
    repository: Path,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    on_ready: Callable[[Sequence[str]], None],
    grace: float = GRACE_SECONDS,
    api: web.Application | None = None,
) -> None:
    """Serve `repository` until `stop` is set, then give requests in flight `grace` seconds."""
    runner = web.AppRunner(
        make_app(repository, api),
        access_log=ACCESS_LOG if ACCESS_LOG.isEnabledFor(logging.INFO) else None,
        access_log_class=CombinedAccessLogger,
        shutdown_timeout=grace,
    )
    await runner.setup()
    try:
        for listening in sockets:
            await web.SockSite(runner, listening, ssl_context=tls, backlog=BACKLOG).start()
        on_ready([url_of(listening, "https" if tls else "http") for listening in sockets])
        notify_systemd(os.environ, "READY=1")
        await stop.wait()
        notify_systemd(os.environ, "STOPPING=1")
    finally:
        await _finish(runner, api, grace)


async def _finish(runner: web.AppRunner, api: web.Application | None, grace: float) -> None:
    try:
        # cleanup() by itself waits up to twice its shutdown_timeout.
        async with asyncio.timeout(grace):
            if api is not None:
                for site in list(runner.sites):
                    await site.stop()
                await api[FLIGHT].stop()
            await runner.cleanup()
    except TimeoutError:
        _LOG.warning("cut off requests that took longer than %g s to finish", grace)


async def _serve_until_signal(
    repository: Path,
    sockets: Sequence[socket.socket],
    tls: ssl.SSLContext | None,
    on_ready: Callable[[Sequence[str]], None],
    api: web.Application | None,
) -> None:
    # Not AppRunner(handle_signals=True): it raises out of whatever runs, and requests are lost.
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def begin_to_stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, begin_to_stop)
    await serve_until(stop, repository, sockets, tls, on_ready, api=api)


def strip_traceback_of_bad_request(record: logging.LogRecord) -> bool:
    """A log filter: what is no HTTP is the client's fault, one line says enough."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args = f"{record.getMessage()}: {type(error).__name__}", ()
        record.exc_info = None
    return True


def _use_all_descriptors() -> None:
    """Each connection takes a descriptor, and the usual soft limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _refuse_passphrase() -> str:
    raise TlsFilesError("the private key is encrypted", hint="A server can't ask: decrypt it.")
