"""Access log lines in the "combined" format that nginx writes and every log analyser reads."""

import time
from typing import Final

from aiohttp import hdrs, web
from aiohttp.abc import AbstractAccessLogger

_MONTHS: Final = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


class CombinedAccessLogger(AbstractAccessLogger):
    """One line a request; the byte count is the body's, also where sendfile sent it."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Called by aiohttp when the answer is out; `time` is how long it took, in seconds."""
        version = f"HTTP/{request.version.major}.{request.version.minor}"
        self.logger.info(
            '%s - - [%s] "%s %s %s" %d %s "%s" "%s"',
            request.remote or "unix",
            _local_time(),
            request.method,
            _escaped(request.raw_path),
            version,
            response.status,
            _body_length(request, response),
            _escaped(request.headers.get(hdrs.REFERER, "-")),
            _escaped(request.headers.get(hdrs.USER_AGENT, "-")),
            extra={"fields": _fields(request, response, time)},
        )


def _fields(
    request: web.BaseRequest, response: web.StreamResponse, seconds: float
) -> dict[str, int | float | str]:
    """What a log in JSON says of a request."""
    fields: dict[str, int | float | str] = {
        "address": request.remote or "unix",
        "method": request.method,
        "path": request.raw_path,
        "status": response.status,
        "bytes": int(_body_length(request, response)),
        "seconds": round(seconds, 4),
    }
    if "X-Request-Id" in response.headers:
        fields["request-id"] = response.headers["X-Request-Id"]
    return fields


def _body_length(request: web.BaseRequest, response: web.StreamResponse) -> str:
    if request.method == hdrs.METH_HEAD:
        return "0"
    return response.headers.get(hdrs.CONTENT_LENGTH, "0")


def _escaped(text: str) -> str:
    r"""`text` with what could end the field or reach a terminal as `\xNN`, as nginx does."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02X}"
        for byte in raw
    )


def _local_time() -> str:
    # Not %b: an access log has English months in every locale.
    now = time.localtime()
    return time.strftime(f"%d/{_MONTHS[now.tm_mon - 1]}/%Y:%H:%M:%S %z", now)
