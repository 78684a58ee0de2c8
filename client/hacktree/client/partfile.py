"""A large body on its way in: a file that grows, and beside it the ETag of its bytes."""

import os
from pathlib import Path
from typing import IO, Final

from hacktree.common.repository.durable import write_all

_ETAG_SUFFIX: Final = ".etag"


class PartFile:
    """What a killed pull left is continued; see `transport.Part`. Raises `OSError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._etag_file = path.with_name(path.name + _ETAG_SUFFIX)
        self._stream: IO[bytes] | None = None

    def progress(self) -> tuple[int, str]:
        """Bytes that need not be asked for again, and their ETag; (0, "") for none."""
        try:
            etag = self._etag_file.read_text("latin-1")
            size = os.stat(self._path).st_size
        except FileNotFoundError:
            return 0, ""
        return (size, etag) if etag else (0, "")

    def begin(self, offset: int, etag: str) -> None:
        """Bytes with this ETag ("" for none) follow behind the first `offset`."""
        self.close()
        self._stream = self._path.open("r+b" if offset else "wb", buffering=0)
        self._stream.truncate(offset)
        self._stream.seek(offset)
        # Now: a kill in between must not leave older bytes under a newer ETag.
        self._etag_file.write_text(etag, "latin-1")

    def write(self, data: bytes) -> None:
        """The next bytes."""
        if self._stream is None:
            raise ValueError("bytes of a body that has not begun")
        write_all(self._stream.fileno(), data)

    def close(self) -> None:
        """Nothing follows for now."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def complete(self) -> None:
        """The body is whole."""
        self.close()
        self._etag_file.unlink(missing_ok=True)
