"""When to try a request again, and after how long: clock and randomness are passed in."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from hacktree.client.source import SourceError

T = TypeVar("T")

RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class RetryPolicy(msgspec.Struct, frozen=True):
    """`attempts` in a row without progress end it; delays and rates in seconds and bytes."""

    attempts: int = 5
    first_delay: float = 0.5
    longest_delay: float = 15.0
    longest_retry_after: float = 60.0
    low_speed_bytes: float = 1000.0
    low_speed_seconds: float = 30.0
    connect_seconds: float = 15.0

    def delay(self, failures: int, retry_after: float | None, random: float) -> float:
        """Seconds to wait after the given number of failures; `random` is in [0, 1).

        Exponential with jitter (half fixed, half random), so that a thousand clients of a server
        that comes back don't come at once. A server's Retry-After is a lower bound, within reason.
        """
        backoff = min(self.first_delay * 2.0 ** (failures - 1), self.longest_delay)
        jittered = backoff * (0.5 + random / 2)
        if retry_after is None:
            return jittered
        return max(jittered, min(retry_after, self.longest_retry_after))


class TransientError(Exception):
    """An attempt failed in a way that may pass; `final` is raised when patience is at its end.

    `progressed` says that bytes arrived which the next attempt need not ask for again.
    """

    def __init__(
        self, final: SourceError, *, progressed: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(str(final))
        self.final = final
        self.progressed = progressed
        self.retry_after = retry_after


class Patience(msgspec.Struct, frozen=True):
    """A policy with the outside world it needs: seconds, sleep, and numbers in [0, 1)."""

    policy: RetryPolicy
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]


def real_patience() -> Patience:
    """Patience by the clock of this machine."""
    return Patience(RetryPolicy(), time.monotonic, asyncio.sleep, random.random)


async def retrying(patience: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
    """Run `attempt` until it succeeds, fails for good, or keeps failing without progress."""
    failures = 0
    while True:
        try:
            return await attempt()
        except TransientError as error:
            failures = 1 if error.progressed else failures + 1
            if failures >= patience.policy.attempts:
                raise _exhausted(error.final, failures) from error
            delay = patience.policy.delay(failures, error.retry_after, patience.random())
            await patience.sleep(delay)


def _exhausted(final: SourceError, failures: int) -> SourceError:
    return type(final)(
        final.location,
        f"{final.problem} ({failures} attempts)",
        hint=final.hint or "Run the command again later: it continues where it stopped.",
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); None for absent, dates and nonsense."""
    if value is None or not value.strip().isdecimal():
        return None
    return float(value.strip()[:9])


class SpeedGuard:
    """Notices a body that arrives too slowly: `low_speed_bytes` a second over the window."""

    def __init__(self, policy: RetryPolicy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock
        self._window_start = clock()
        self._window_bytes = 0

    def is_too_slow(self, received: int) -> bool:
        """Count `received` more bytes; whether a whole window has just been too slow."""
        self._window_bytes += received
        elapsed = self._clock() - self._window_start
        if elapsed < self._policy.low_speed_seconds:
            return False
        slow = self._window_bytes < self._policy.low_speed_bytes * elapsed
        self._window_start += elapsed
        self._window_bytes = 0
        return slow
