"""`hacktree serve` as a person and a service manager run it: a real process."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hacktree.common.repository.layout import Mode, init_repository
from hacktree.server.listening import TcpAddress, listen_on
from hacktree.server.serving import serve_until, tls_context
from support.certificates import Certificates, make_certificates
from support.layouts import Published, published_layout
from support.rawhttp import receive, send
from support.servers import hacktree_program, hacktree_serving, read_announcement

TIMEOUT_SECONDS = 30


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """The repository that these tests serve."""
    with published_layout(tmp_path_factory.mktemp("serve") / "repository") as layout:
        huge = layout.path(HUGE)
        huge.parent.mkdir()
        with huge.open("wb") as file:
            # No socket buffer holds it, and as a hole it takes no room.
            file.truncate(HUGE_SIZE)
        yield layout


HUGE = f"/objects/ee/{'2e' * 31}.file.zst"
HUGE_SIZE = 512 * 1024 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away authority and a server's certificate."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def hacktree(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [hacktree_program(), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def serving(
    layout: Published,
    log: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """The process; it is killed if it is still there in the end."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [hacktree_program(), "--repo", str(layout.directory), "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
        )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def stop(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(TIMEOUT_SECONDS)


# Starting


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_says_where_it_listens_and_stops_when_told(
    layout: Published, tmp_path: Path, number: signal.Signals
) -> None:
    with serving(layout, tmp_path / "log", "--listen", "127.0.0.1:0") as process:
        url = read_announcement(process, tmp_path / "log")
        host, port = url.removeprefix("http://").split(":")
        answer = send((host, int(port)), layout.ref)
        assert answer.body == layout.content(layout.ref)
        assert stop(process, number) == 0
    assert (tmp_path / "log").read_text() == "", "no access log unless asked for, no complaint"


def test_programs_get_the_address_in_json(layout: Published, tmp_path: Path) -> None:
    with serving(layout, tmp_path / "log", "--json", "--listen", "127.0.0.1:0") as process:
        announced = json.loads(read_announcement(process, tmp_path / "log"))
        assert announced["url"].startswith("http://127.0.0.1:")
        assert stop(process) == 0


def test_a_unix_socket_is_served_and_removed(layout: Published, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(layout, tmp_path / "log", "--listen", f"unix:{path}") as process:
        assert read_announcement(process, tmp_path / "log") == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(f"GET {layout.ref} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert receive(connection).body == layout.content(layout.ref)
        assert stop(process) == 0
    assert not path.exists()


def test_tls(layout: Published, certificates: Certificates) -> None:
    trust = ssl.create_default_context(cafile=certificates.authority)
    with hacktree_serving(layout.directory, tls=certificates.server) as server:
        assert server.url.startswith("https://")
        connection = http.client.HTTPSConnection(*server.address, context=trust)
        with contextlib.closing(connection):
            for path in (layout.ref, layout.large):
                connection.request("GET", path)
                assert connection.getresponse().read() == layout.content(path)


def test_tls_1_1_is_not_spoken(certificates: Certificates) -> None:
    files = certificates.server
    context = tls_context(str(files.certificate), str(files.key))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_the_service_manager_hears_of_start_and_stop(layout: Published, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(TIMEOUT_SECONDS)
        manager.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        arguments = ("--quiet", "--listen", f"unix:{tmp_path / 'socket'}")
        with serving(layout, tmp_path / "log", *arguments, environment=environment) as process:
            assert manager.recv(100) == b"READY=1"
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(tmp_path / "socket"))
            process.send_signal(signal.SIGTERM)
            assert manager.recv(100) == b"STOPPING=1"
            assert process.wait(TIMEOUT_SECONDS) == 0
            assert process.stdout is not None
            assert process.stdout.read() == b"", "quiet"


# systemd sets LISTEN_PID after fork(): so does this, then it becomes the server.
ACTIVATOR = """
import os, sys
listening = int(sys.argv[1])
os.dup2(listening, 3, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(layout: Published, tmp_path: Path) -> None:
    """The connection was made before the server was started: it is answered, not refused."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), timeout=TIMEOUT_SECONDS) as early,
        (tmp_path / "log").open("wb") as log,
    ):
        early.sendall(f"GET {layout.ref} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        command = [hacktree_program(), "--repo", str(layout.directory), "serve"]
        descriptor = str(listening.fileno())
        process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATOR, descriptor, *command],
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=log,
        )
        with process:
            assert receive(early).body == layout.content(layout.ref)
            announced = read_announcement(process, tmp_path / "log")
            assert announced == f"http://127.0.0.1:{listening.getsockname()[1]}"
            assert stop(process) == 0
        # The socket is the manager's: it still listens for the next server.
        socket.create_connection(listening.getsockname(), timeout=TIMEOUT_SECONDS).close()


# Stopping


def test_a_request_in_flight_is_finished(layout: Published, tmp_path: Path) -> None:
    """After SIGTERM the rest of a large body still arrives; new connections are refused."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(TIMEOUT_SECONDS)
        manager.bind(str(tmp_path / "notify"))
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        path = tmp_path / "socket"
        arguments = ("--listen", f"unix:{path}")
        with (
            serving(layout, tmp_path / "log", *arguments, environment=environment) as process,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            assert manager.recv(100) == b"READY=1"
            connection.settimeout(TIMEOUT_SECONDS)
            connection.connect(str(path))
            connection.sendall(f"GET {HUGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection)
            with contextlib.closing(response):
                response.begin()
                assert response.length == HUGE_SIZE
                process.send_signal(signal.SIGTERM)
                assert manager.recv(100) == b"STOPPING=1"
                received = 0
                while block := response.read(1 << 20):
                    received += len(block)
            assert received == HUGE_SIZE
            assert process.wait(TIMEOUT_SECONDS) == 0
    assert (tmp_path / "log").read_text() == ""


async def test_a_client_that_stopped_reading_is_cut_off(
    layout: Published, caplog: pytest.LogCaptureFixture
) -> None:
    """It can't keep a server from stopping for longer than the grace."""
    stopping, ready = asyncio.Event(), asyncio.Event()
    listening = listen_on(TcpAddress("127.0.0.1", 0))
    task = asyncio.create_task(
        serve_until(
            stopping, layout.directory, [listening], None, lambda _: ready.set(), grace=0.05
        )
    )
    await ready.wait()
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(f"GET {HUGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    stopping.set()
    await task
    assert "cut off requests" in caplog.text
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


# Refusing to start


def test_only_an_archive_is_served(tmp_path: Path) -> None:
    init_repository(tmp_path / "bare", Mode.BARE_USER)
    refused = hacktree("--repo", str(tmp_path / "bare"), "serve")
    assert refused.returncode == 2
    assert "bare-user mode; only an archive can be served" in refused.stderr


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_what_is_no_repository_is_refused(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    refused = hacktree("--repo", str(tmp_path / what), "serve")
    assert refused.returncode == 2
    assert f"{tmp_path / what} is not a hacktree repository" in refused.stderr


def test_a_damaged_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "format").write_bytes(b"\xff")
    assert hacktree("--repo", str(tmp_path), "serve").returncode == 5


def test_an_address_in_use_is_refused(layout: Published) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused = hacktree("--repo", str(layout.directory), "serve", "--listen", address)
    assert refused.returncode == 6
    assert address in refused.stderr


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:http", "unix:"])
def test_a_bad_address_is_refused(layout: Published, address: str) -> None:
    refused = hacktree("--repo", str(layout.directory), "serve", "--listen", address)
    assert refused.returncode == 2
    assert "not an address" in refused.stderr


def test_unusable_tls_files_are_refused(
    layout: Published, certificates: Certificates, tmp_path: Path
) -> None:
    good_certificate, good_key = str(certificates.server.certificate), str(certificates.server.key)
    (tmp_path / "garbage").write_text("not PEM")
    encrypted = tmp_path / "encrypted.key"
    command = ["openssl", "pkcs8", "-topk8", "-in", good_key, "-out", str(encrypted)]
    subprocess.run([*command, "-passout", "pass:secret"], check=True, capture_output=True)
    serve = ("--repo", str(layout.directory), "serve", "--listen", "127.0.0.1:0")
    for certificate, key in (
        (good_certificate, str(tmp_path / "missing")),
        (str(tmp_path / "garbage"), good_key),
        (good_certificate, str(certificates.client_key)),
        (good_certificate, str(encrypted)),
    ):
        refused = hacktree(*serve, "--tls-cert", certificate, "--tls-key", key)
        assert refused.returncode == 2, refused.stderr
        assert "Traceback" not in refused.stderr
    alone = hacktree(*serve, "--tls-cert", good_certificate)
    assert alone.returncode == 2
    assert "go together" in alone.stderr


def test_help_tells_the_exit_statuses() -> None:
    told = hacktree("serve", "--help")
    assert told.returncode == 0
    for word in ("--listen", "--access-log", "--tls-cert", "--tls-key", "exit statuses:"):
        assert word in told.stdout


def test_a_request_that_is_no_http_costs_one_line_of_log(layout: Published) -> None:
    """Not a traceback: anybody can send one."""
    with hacktree_serving(layout.directory) as server:
        for noise in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"):
            with socket.create_connection(server.address, timeout=TIMEOUT_SECONDS) as connection:
                connection.sendall(noise)
                assert receive(connection).status == 400
        log = server.error_log.read_text()
    assert "Traceback" not in log
    assert len(log.splitlines()) <= 4, "an access log line and a reason for each"
