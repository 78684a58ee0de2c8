"""One HTTP request over a bare socket, so that nothing tidies its target on the way."""

import contextlib
import dataclasses
import http.client
import socket
from collections.abc import Mapping
from typing import Final

_TIMEOUT_SECONDS: Final = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; `body` is whole, as its Content-Length says."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def directives(self) -> set[str]:
        """Everything that the Cache-Control fields say together, as a cache reads them."""
        fields = self.headers.get_all("Cache-Control", [])
        return {part.strip() for field in fields for part in field.split(",")}


def send(
    address: tuple[str, int],
    target: str | bytes,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
) -> Answer:
    """Send `target` as it is, byte by byte, and read one answer."""
    raw_target = target.encode("latin-1") if isinstance(target, str) else target
    fields = {"Host": "test.example", "Connection": "close", **(headers or {})}
    if body:
        fields["Content-Length"] = str(len(body))
    head = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields.items())
    with socket.create_connection(address, timeout=_TIMEOUT_SECONDS) as connection:
        request_line = method.encode() + b" " + raw_target + b" HTTP/1.1\r\n"
        connection.sendall(request_line + head + b"\r\n" + body)
        return receive(connection, method)


def receive(connection: socket.socket, method: str = "GET") -> Answer:
    """Read one answer; raises `http.client.IncompleteRead` if its body is cut short."""
    with contextlib.closing(http.client.HTTPResponse(connection, method=method)) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read())
