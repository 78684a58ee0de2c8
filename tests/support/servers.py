"""Real servers over a real directory: nginx with deploy/nginx/hacktree.conf, and `hacktree serve`.

Both are context managers that yield a `RunningServer`. It answers from the first moment: the
listening socket exists before the server does, or the server has said that it is ready.
"""

import contextlib
import dataclasses
import http.client
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from support.certificates import ServerTls

PROJECT: Final = Path(__file__).parents[2]
SITE_CONFIGURATION: Final = PROJECT / "deploy" / "nginx" / "hacktree.conf"
START_SECONDS: Final = 30
STOP_SECONDS: Final = 30

_BARRIER: Final = "/log-barrier"
_LOG_LINE: Final = re.compile(
    r'\S+ - \S+ \[[^]]*] "(?P<method>\S+) (?P<path>\S+) HTTP/[0-9.]+" '
    r'(?P<status>\d+) (?P<length>\d+) "[^"]*" "(?P<agent>[^"]*)"'
)


@dataclasses.dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One line of an access log; `length` is the body's bytes."""

    method: str
    path: str
    status: int
    length: int
    agent: str


@dataclasses.dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers at `url` (no slash at its end)."""

    url: str
    access_log: Path
    error_log: Path
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a socket."""
        parts = urllib.parse.urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    def requests(self) -> list[LoggedRequest]:
        """Every request answered so far, oldest first. Not for a server with TLS.

        A server logs a request after the client has its answer. Each of the two does so before it
        turns to the next request, so one more request, which is left out here, waits for them all.
        """
        connection = http.client.HTTPConnection(*self.address, timeout=START_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", _BARRIER)
            connection.getresponse().read()
        return [entry for entry in read_access_log(self.access_log) if entry.path != _BARRIER]


def read_access_log(path: Path) -> list[LoggedRequest]:
    """The requests in an access log of the "combined" format."""
    entries = []
    for line in path.read_text().splitlines():
        match = _LOG_LINE.fullmatch(line)
        if match is None:
            # Not HTTP at all: nginx logs what it got instead of a request line.
            continue
        method, target, status, length, agent = match.groups()
        entries.append(LoggedRequest(method, target, int(status), int(length), agent))
    return entries


@contextlib.contextmanager
def nginx_serving(
    directory: Path, *, tls: ServerTls | None = None, api: str | None = None
) -> Iterator[RunningServer]:
    """A real nginx over `directory`, configured by the file that we ship.

    `api`: URL of the server to which it passes the API, if any.
    """
    with (
        tempfile.TemporaryDirectory(prefix="hacktree-nginx-") as name,
        socket.create_server(("127.0.0.1", 0), backlog=511) as listening,
    ):
        prefix = Path(name)
        host, port = listening.getsockname()
        site = site_configuration(
            root=directory,
            listen=f"{host}:{port}",
            access_log=prefix / "access.log",
            tls=tls,
            api=api,
        )
        main = write_main_configuration(prefix, site)
        process = subprocess.Popen(
            [nginx_program(), "-p", name, "-e", str(prefix / "error.log"), "-c", str(main)],
            # nginx takes over sockets named here, as it does in an upgrade of its own program: no
            # port can be lost to somebody else, and connections wait until it accepts them.
            env={**os.environ, "NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_answer(process, (host, port), prefix / "error.log")
            scheme = "https" if tls else "http"
            yield RunningServer(
                url=f"{scheme}://{host}:{port}",
                access_log=prefix / "access.log",
                error_log=prefix / "error.log",
                pid=process.pid,
            )
        finally:
            stop_server(process)


@contextlib.contextmanager
def hacktree_serving(directory: Path, *, tls: ServerTls | None = None) -> Iterator[RunningServer]:
    """`hacktree serve` in a process of its own over the archive repository `directory`."""
    with _serving(directory, (), tls) as server:
        yield server


@contextlib.contextmanager
def api_serving(directory: Path) -> Iterator[RunningServer]:
    """`hacktree serve --api` likewise."""
    with _serving(directory, ("--api",), None) as server:
        yield server


@contextlib.contextmanager
def _serving(
    directory: Path, options: Sequence[str], tls: ServerTls | None
) -> Iterator[RunningServer]:
    with tempfile.TemporaryDirectory(prefix="hacktree-serve-") as name:
        log = Path(name) / "stderr"
        arguments = ["--repo", str(directory), "serve", "--listen", "127.0.0.1:0", "--access-log"]
        arguments += options
        if tls is not None:
            arguments += ["--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [hacktree_program(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        try:
            url = read_announcement(process, log)
            yield RunningServer(url=url, access_log=log, error_log=log, pid=process.pid)
        finally:
            stop_server(process)


def read_announcement(process: subprocess.Popen[bytes], log: Path) -> str:
    """The line in which `hacktree serve` says where it listens, without its end."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if ready else b""
    if not line.endswith(b"\n"):
        pytest.fail(f"hacktree serve did not start: {log.read_text()}")
    return line.decode().strip()


def site_configuration(
    *,
    root: Path,
    listen: str,
    access_log: Path,
    tls: ServerTls | None = None,
    api: str | None = None,
) -> str:
    """deploy/nginx/hacktree.conf for this site, changed where it says that a site changes it."""
    text = SITE_CONFIGURATION.read_text()
    changes = {"root": str(root), "access_log": str(access_log)}
    if api is not None:
        text = re.sub(r"^( *)#api ", r"\1", text, flags=re.MULTILINE)
        changes["proxy_pass"] = api
    if tls is None:
        changes["listen"] = listen
    else:
        text = re.sub(r"^ *listen .*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"^( *)#tls ", r"\1", text, flags=re.MULTILINE)
        changes["listen"] = f"{listen} ssl"
        changes["ssl_certificate"] = str(tls.certificate)
        changes["ssl_certificate_key"] = str(tls.key)
        changes["ssl_client_certificate"] = str(tls.client_authority)
    for directive, value in changes.items():
        text, count = re.subn(
            rf"^( *{directive} +)[^;]*;", rf"\g<1>{value};", text, flags=re.MULTILINE
        )
        assert count == 1, f"{SITE_CONFIGURATION} has {count} lines for {directive}"
    return text


def write_main_configuration(prefix: Path, site: str) -> Path:
    """A minimal nginx.conf below `prefix` that runs `site` as the current user."""
    temporary = "\n".join(
        f"    {kind}_temp_path {prefix}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (prefix / "site.conf").write_text(site)
    main = prefix / "nginx.conf"
    main.write_text(
        # Temporary directories are often below one that only root may enter.
        f"{'user root;' if os.geteuid() == 0 else ''}\n"
        # One, so that the access log is in order.
        "worker_processes 1;\n"
        "daemon off;\n"
        f"pid {prefix}/nginx.pid;\n"
        f"error_log {prefix}/error.log;\n"
        "events { worker_connections 1024; }\n"
        f"http {{\n{temporary}\n    include {prefix}/site.conf;\n}}\n"
    )
    return main


def nginx_program() -> str:
    """The path of nginx; the test fails where there is none."""
    search = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
    program = shutil.which("nginx", path=search)
    if program is None:
        pytest.fail("these tests need a real nginx: install the package nginx (or nginx-light)")
    return program


def hacktree_program() -> str:
    """The `hacktree` that is installed beside the running Python."""
    program = Path(sys.executable).with_name("hacktree")
    if not program.exists():
        pytest.fail(f"no {program}: install the project into this environment (make setup)")
    return str(program)


def _await_answer(
    process: subprocess.Popen[bytes], address: tuple[str, int], error_log: Path
) -> None:
    """Return when nginx has answered something; a TLS server answers this with a 400."""
    try:
        with socket.create_connection(address, timeout=START_SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1)
    except OSError as error:
        answer = b""
        reason = str(error)
    else:
        reason = "it closed the connection"
    if not answer or process.poll() is not None:
        log = error_log.read_text() if error_log.exists() else ""
        pytest.fail(f"nginx did not start ({reason}): {log}")


def stop_server(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and wait for the end; kill and fail if it doesn't come."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        if process.stdout is not None:
            process.stdout.close()
