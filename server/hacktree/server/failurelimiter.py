"""Slowing down peers that keep failing to authenticate. Pure: the clock is passed in.

It does not protect secrets, which nobody can guess, but the log from whoever tries. So it is asked
about failures alone: good tokens come through from an address that is blocked, where many machines
may stand behind one address. What a failure costs then, a short hash and a look-up by key, is less
than the request around it. And when an attacker has more addresses than there is room for, the
oldest are forgotten rather than peers refused that have done nothing.
"""

import math
import threading
from collections import OrderedDict
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

import msgspec

from hacktree.common.errors import PeerError

_IPV6_SITE_BITS: Final = 64
"""What one customer of a provider gets: whoever has it has 2^64 addresses."""
_ADDRESS_LENGTH: Final = 64


class PeerBlockedError(PeerError):
    """Too many failures came from this address; `retry_after` is in seconds, at least 1."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            f"too many failed attempts: wait {retry_after} s", hint="Check the token meanwhile."
        )
        self.retry_after = retry_after


class FailureLimits(msgspec.Struct, frozen=True):
    """`failures` within `window` seconds block an address for `first_delay` seconds; each further
    block takes twice as long, up to `longest_delay`, until the address has been quiet for
    `longest_delay`. `addresses` are remembered at most, with `failures` numbers each.
    """

    failures: int = 10
    window: float = 60.0
    first_delay: float = 30.0
    longest_delay: float = 3600.0
    addresses: int = 10_000

    def __post_init__(self) -> None:
        if self.failures < 1 or self.addresses < 1:
            raise ValueError("at least one failure and one address")
        if not (self.window > 0 and 0 < self.first_delay <= self.longest_delay < math.inf):
            raise ValueError("the window and the delays are positive, the longest is the longest")


class _Record(msgspec.Struct):
    recent: list[float] = []
    last: float = 0.0
    blocks: int = 0
    blocked_until: float = -math.inf

    @property
    def quiet_since(self) -> float:
        """The last failure, or the end of the block that it led to."""
        return max(self.last, self.blocked_until)


class FailureLimiter:
    """Remembers failures by address. Thread-safe; times are seconds of any steady clock."""

    def __init__(self, limits: FailureLimits | None = None) -> None:
        self._limits = limits or FailureLimits()
        # By last failure, oldest first.
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._records)

    def require_open(self, address: str, now: float) -> None:
        """Raise `PeerBlockedError`, which says how long to wait, while `address` is blocked."""
        seconds = self.seconds_to_wait(address, now)
        if seconds:
            raise PeerBlockedError(seconds)

    def seconds_to_wait(self, address: str, now: float) -> int:
        """Whole seconds, rounded up, until `address` may try again; 0 if it may now."""
        with self._lock:
            record = self._records.get(_site(address))
        if record is None or now >= record.blocked_until:
            return 0
        # A clock that was set back must not make it longer than any block is.
        return math.ceil(min(record.blocked_until - now, self._limits.longest_delay))

    def record_failure(self, address: str, now: float) -> None:
        """A failure at `now`; blocks the address when it was one too many."""
        limits = self._limits
        site = _site(address)
        with self._lock:
            record = self._records.pop(site, None)
            if record is None or now - record.quiet_since > limits.longest_delay:
                record = _Record()
            record.recent = [then for then in record.recent if now - then < limits.window]
            record.recent.append(now)
            record.last = now
            if len(record.recent) >= limits.failures:
                _block(record, limits, now)
            self._records[site] = record
            while len(self._records) > limits.addresses:
                self._records.popitem(last=False)


def _block(record: _Record, limits: FailureLimits, now: float) -> None:
    record.recent.clear()
    delay = limits.first_delay
    for _ in range(record.blocks):
        delay = min(2 * delay, limits.longest_delay)
    record.blocked_until = now + delay
    if delay < limits.longest_delay:
        record.blocks += 1


def _site(address: str) -> str:
    """What addresses of one owner have in common; an address that is none stands for itself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_ADDRESS_LENGTH]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), _IPV6_SITE_BITS), strict=False))
