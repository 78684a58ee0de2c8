"""How a web server's files are read: in this process (`http_transport.py`), or in one of its own
beside it (`process_transport.py`).
"""

from typing import Protocol

from hacktree.client.source import Take, Traffic


class Part(Protocol):
    """Where a large body goes, which may come in several attempts."""

    def progress(self) -> tuple[int, str]:
        """Bytes that are there already, and the ETag that they belong to; (0, "") for none."""

    def begin(self, offset: int, etag: str) -> None:
        """Bytes with this ETag ("" for none) follow behind the first `offset`."""

    def write(self, data: bytes) -> None:
        """The next bytes."""


class Transport(Protocol):
    """GETs below one URL; `path` is relative to it. Not verified: whoever reads checks hashes.

    Every body is bounded by `max_size` bytes, what may pass is retried. Raises `NotServedError`,
    `OversizeError` and other `SourceError`s, `UserError` where the remote's TLS files can't be
    used, and what `take` and `part` raise.
    """

    @property
    def traffic(self) -> Traffic:
        """Counters of this transport."""

    async def read(self, path: str, max_size: int) -> bytes:
        """A whole body."""

    async def save(self, path: str, part: Part, max_size: int) -> None:
        """A whole body; what `part` has of it already is not asked for again."""

    async def read_range(self, path: str, start: int, end: int, max_size: int, take: Take) -> None:
        """Hand the bytes from `start` up to `end` to `take`, in order; none is handed over twice.

        `max_size`: of the whole body, which a server that knows no ranges sends.
        """
