"""Addresses, stale sockets, and what systemd hands over."""

import os
import socket
from pathlib import Path

import pytest

from hacktree.common.errors import BusyError, SystemFault, UserError
from hacktree.server.listening import (
    ListenAddressError,
    TcpAddress,
    UnixAddress,
    address_text,
    listen_on,
    notify_systemd,
    parse_address,
    sockets_from_systemd,
    url_of,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", TcpAddress("127.0.0.1", 8080)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("unix:/run/x.sock", UnixAddress(Path("/run/x.sock"))),
        ("unix:relative:8080", UnixAddress(Path("relative:8080"))),
    ],
)
def test_addresses(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address
    assert address_text(address) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "8080", ":8080", "host", "host:", "host:x", "host:65536", "host:-1", "host:٣"),
        *("::1:80", "[]:80", "[::1]", "unix:"),
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ListenAddressError):
        parse_address(text)


def test_port_0_is_replaced_by_a_real_one() -> None:
    with listen_on(TcpAddress("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert port != 0
        assert url_of(listening, "http") == f"http://127.0.0.1:{port}"


def test_an_ipv6_url_has_brackets() -> None:
    with listen_on(TcpAddress("::1", 0)) as listening:
        assert url_of(listening, "https").startswith("https://[::1]:")


def test_an_address_in_use_is_somebody_else_s() -> None:
    with (
        listen_on(TcpAddress("127.0.0.1", 0)) as listening,
        pytest.raises(BusyError, match="in use"),
    ):
        listen_on(TcpAddress("127.0.0.1", listening.getsockname()[1]))


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SystemFault, match=r"192\.0\.2\.1:80"):
        listen_on(TcpAddress("192.0.2.1", 80))


def test_a_name_that_does_not_resolve_is_wrong_input() -> None:
    with pytest.raises(UserError, match=r"no\.such\.host\.invalid"):
        listen_on(TcpAddress("no.such.host.invalid", 80))


def test_a_socket_that_nobody_answers_is_replaced(tmp_path: Path) -> None:
    """One is left behind by a server that was killed."""
    address = UnixAddress(tmp_path / "socket")
    listen_on(address).close()
    assert address.path.is_socket()
    with listen_on(address) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address.path))
        assert url_of(listening, "http") == f"unix:{address.path}"


def test_a_socket_that_is_answered_is_left_alone(tmp_path: Path) -> None:
    address = UnixAddress(tmp_path / "socket")
    with listen_on(address):
        with pytest.raises(BusyError):
            listen_on(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address.path))


def test_a_file_is_not_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(BusyError):
        listen_on(UnixAddress(path))
    assert path.read_text() == "precious"


def test_without_socket_activation_nothing_is_taken() -> None:
    assert sockets_from_systemd({}) == []
    another = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "1"}
    assert sockets_from_systemd(another) == []


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract", "path"])
def test_the_service_manager_is_told(tmp_path: Path, *, abstract: bool) -> None:
    name = f"@hacktree-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        notify_systemd({"NOTIFY_SOCKET": name}, "READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_service_manager_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemFault, match="notify"):
        notify_systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}, "READY=1")


def test_without_a_service_manager_nobody_is_told() -> None:
    notify_systemd({}, "READY=1")
