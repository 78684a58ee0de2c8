"""How fast to read on purpose: a token bucket. Pure: clock and sleep are passed in."""

from collections.abc import Awaitable, Callable
from typing import Final

from hacktree.common.errors import UserError

MIN_RATE: Final = 64_000
"""Bytes a second below which servers and clients take each other for dead."""

_BURST: Final = 0.25
"""Seconds at the rate that may be read at once after a pause."""


def check_rate(rate: int) -> int:
    """The rate; raises `UserError` for one that no connection lasts at."""
    if rate < MIN_RATE:
        raise UserError(
            f"{rate} bytes a second is too slow for a connection to last",
            hint=f"Give {MIN_RATE} or more.",
        )
    return rate


class Pace:
    """`rate` bytes a second for all who spend together; raises `UserError` for less than 64 kB."""

    def __init__(
        self,
        rate: int,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._rate = check_rate(rate)
        self._clock = clock
        self._sleep = sleep
        self._paid_until = clock()

    async def spend(self, count: int) -> None:
        """Return when so many bytes, which were read, are paid for: others wait behind them."""
        now = self._clock()
        self._paid_until = max(self._paid_until, now - _BURST) + count / self._rate
        if self._paid_until > now:
            await self._sleep(self._paid_until - now)
