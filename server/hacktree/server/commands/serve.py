"""`hacktree serve`: the published files of an archive repository over HTTP."""

import argparse
import logging
import os
import socket
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hacktree.common.cli.context import repository_path
from hacktree.common.cli.output import emit_event, show
from hacktree.common.errors import UserError
from hacktree.common.repository.layout import Mode, read_format
from hacktree.common.repository.repository import open_repository
from hacktree.server.listening import (
    Address,
    UnixAddress,
    listen_on,
    parse_address,
    sockets_from_systemd,
)

if TYPE_CHECKING:
    from aiohttp import web

    from hacktree.server.serving import Background


class NotPublishableError(UserError):
    """The repository is not of the kind that is served."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = textwrap.dedent("""\
        Serve the published files of an archive repository over HTTP: refs, history and objects,
        and nothing else that lies in its directory. GET and HEAD only, but for what --api takes
        below /api/v1. The address is printed when it can be connected to. SIGTERM or SIGINT: no
        new connections, requests in flight get 30 seconds to finish.

        Fit for a machine, a laboratory or behind a proxy. For many testers or TLS at speed let
        nginx serve the same directory: deploy/nginx/.""")
    parser.epilog = textwrap.dedent("""\
        examples:
          hacktree --repo /srv/hacktree serve
          hacktree --repo /srv/hacktree serve --listen 0.0.0.0:8080 --access-log
          hacktree --repo /srv/hacktree serve --listen unix:/run/hacktree.sock
          hacktree --repo /srv/hacktree serve --api

        With systemd's socket activation the passed sockets are used and --listen is ignored;
        Type=notify is understood.

        exit statuses:
          0  stopped by SIGTERM or SIGINT
          1  unexpected failure
          2  no repository, not an archive, bad address, unusable certificate or key
          5  the repository's format file is damaged
          6  the address is in use, or another server has the API of this repository
          8  the system refused: permission, address not of this machine""")
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default="127.0.0.1:8080",
        help="HOST:PORT, [IPV6]:PORT or unix:PATH (default %(default)s); port 0: any free port",
    )
    parser.add_argument(
        "--access-log", action="store_true", help="write a line a request to standard error"
    )
    parser.add_argument(
        "--log-json", action="store_true", help="write the log as JSON, a document a line"
    )
    parser.add_argument(
        "--api", action="store_true", help="take pushes and verdicts too, from those with a token"
    )
    parser.add_argument(
        "--tls-cert", metavar="FILE", help="serve HTTPS with this certificate chain"
    )
    parser.add_argument("--tls-key", metavar="FILE", help="the private key of --tls-cert")


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    repository = repository_path(args)
    _check_publishable(repository)
    if (args.tls_cert is None) != (args.tls_key is None):
        raise UserError("--tls-cert and --tls-key go together")
    address = parse_address(args.listen)
    # aiohttp takes longer to import than a wrong argument takes to be refused.
    from hacktree.server.serving import serve, tls_context

    tls = tls_context(args.tls_cert, args.tls_key) if args.tls_cert else None
    _log_to_stderr(with_requests=args.access_log, as_json=args.log_json)

    def announce(urls: Sequence[str]) -> None:
        for url in urls:
            if args.json:
                emit_event({"url": url})
            elif not args.quiet:
                show(url)
                sys.stdout.flush()

    with _farm(repository, args) as (api, background), _listening(address) as sockets:
        serve(repository, sockets, tls, announce, api, background)
    return 0


@contextmanager
def _farm(
    path: Path, args: argparse.Namespace
) -> "Iterator[tuple[web.Application | None, Sequence[Background]]]":
    """The API, where it is asked for, and what runs beside the server."""
    from hacktree.server.renewal import renewing

    if not args.api:
        yield None, (renewing(path),)
        return
    # Only who pushes or promotes pays for importing what that takes.
    from hacktree.server.farm import open_farm
    from hacktree.server.jobrunner import hold_jobs

    repository = open_repository(path)
    with hold_jobs(repository):
        api, background = open_farm(repository)
        yield api, background


@contextmanager
def _listening(address: Address) -> Iterator[Sequence[socket.socket]]:
    """systemd's sockets, else one of our own."""
    sockets = sockets_from_systemd(os.environ)
    if sockets:
        yield sockets
        return
    own = listen_on(address)
    try:
        yield [own]
    finally:
        if isinstance(address, UnixAddress):
            address.path.unlink(missing_ok=True)


def _check_publishable(repository: Path) -> None:
    mode = read_format(repository).mode
    if mode is not Mode.ARCHIVE:
        raise NotPublishableError(
            f"{repository} is a repository in {mode.value} mode; only an archive can be served",
            hint="Name one with --repo, or make one: hacktree --repo DIR init --mode archive",
        )


def _log_to_stderr(*, with_requests: bool, as_json: bool) -> None:
    from hacktree.server.serving import ACCESS_LOG, strip_traceback_of_bad_request

    handler = logging.StreamHandler()
    handler.addFilter(strip_traceback_of_bad_request)
    if as_json:
        from hacktree.server.jsonlog import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.getLogger().addHandler(handler)
    # Refusals, which clients are told the id of, and jobs.
    logging.getLogger("hacktree.server").setLevel(logging.INFO)
    ACCESS_LOG.setLevel(logging.INFO if with_requests else logging.WARNING)
