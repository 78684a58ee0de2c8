"""Saying for whom one waits: a server may take a connection and then say nothing for long."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LOGGER: Final = "hacktree.client"
SILENT_SECONDS: Final = 5.0
"""For which a server is silent before somebody is told."""

_log = logging.getLogger(f"{LOGGER}.waiting")


class Waiting:
    """For the answers of one server. Requests that wait for one another are no silence of its."""

    def __init__(self) -> None:
        self._heard = 0.0

    def heard(self) -> None:
        """Something came from the server."""
        self._heard = asyncio.get_running_loop().time()

    @contextmanager
    def answer_from(self, location: str) -> Iterator[Callable[[], None]]:
        """While the request is under way; whoever gets its answer calls what this yields."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            if loop.time() - self._heard >= SILENT_SECONDS:
                _log.warning("waiting for %s, which has not answered yet", location)
                self.heard()  # The others that wait need not say so, too.
            else:
                timer = loop.call_later(SILENT_SECONDS, look)

        def answered() -> None:
            timer.cancel()
            self.heard()

        timer = loop.call_later(SILENT_SECONDS, look)
        try:
            yield answered
        finally:
            timer.cancel()
