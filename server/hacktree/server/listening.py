"""Where a server listens: an address given by name, or the sockets that systemd passes."""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import BusyError, SystemFault, UserError

BACKLOG: Final = 1024
_FIRST_PASSED_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START


class ListenAddressError(UserError):
    """`--listen` names no address."""


class TcpAddress(msgspec.Struct, frozen=True):
    """A host name or address, and a port; port 0 lets the system choose."""

    host: str
    port: int


class UnixAddress(msgspec.Struct, frozen=True):
    """The path of a Unix socket."""

    path: Path


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`; raises `ListenAddressError`."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return UnixAddress(Path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ListenAddressError(
            f"not an address to listen on: {text!r}",
            hint="HOST:PORT, [IPV6]:PORT or unix:PATH, for example 127.0.0.1:8080.",
        )
    return TcpAddress(host, int(port))


def listen_on(address: Address) -> socket.socket:
    """A listening socket. Raises `BusyError` if the address is in use, `SystemFault` otherwise."""
    try:
        if isinstance(address, UnixAddress):
            return _listen_on_path(address.path)
        family, _, _, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(resolved[:2], family=family, backlog=BACKLOG)
    except socket.gaierror as error:
        raise ListenAddressError(f"{address_text(address)}: {error.strerror}") from error
    except OSError as error:
        message = f"can't listen on {address_text(address)}: {os.strerror(error.errno or 0)}"
        if error.errno == errno.EADDRINUSE:
            raise BusyError(message, hint="Stop the other server or choose another port.") from None
        raise SystemFault(message) from error


def sockets_from_systemd(environment: Mapping[str, str]) -> list[socket.socket]:
    """The sockets of socket activation (sd_listen_fds(3)); none if it was not used."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(environment.get("LISTEN_FDS", "0"))
    passed = range(_FIRST_PASSED_DESCRIPTOR, _FIRST_PASSED_DESCRIPTOR + count)
    for descriptor in passed:
        os.set_inheritable(descriptor, False)
    return [socket.socket(fileno=descriptor) for descriptor in passed]


def notify_systemd(environment: Mapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one, `state`, such as `READY=1` (sd_notify(3)).

    Raises `SystemFault` when the manager asked to be told and can't be.
    """
    name = environment.get("NOTIFY_SOCKET", "")
    if not name:
        return
    # A leading '@' stands for the NUL of the abstract namespace.
    address = "\0" + name[1:] if name.startswith("@") else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError as error:
        raise SystemFault(f"can't notify {name}: {error.strerror}") from error


def url_of(listening: socket.socket, scheme: str) -> str:
    """The URL of what listens on a socket; for a Unix socket `unix:PATH`, as `--listen` has it."""
    if listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def address_text(address: Address) -> str:
    """The address as `--listen` takes it."""
    if isinstance(address, UnixAddress):
        return f"unix:{address.path}"
    return (
        f"[{address.host}]:{address.port}"
        if ":" in address.host
        else (f"{address.host}:{address.port}")
    )


def _listen_on_path(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _remove_stale_socket(path)
        listening.bind(str(path))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket that a killed server left: one that nobody answers."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return  # bind() refuses it: EADDRINUSE
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect(str(path))
    except ConnectionRefusedError:
        path.unlink()
    except FileNotFoundError:
        return
