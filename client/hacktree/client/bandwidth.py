"""How fast the link is: what transfers tell, kept in `state/` for the next pull's plan."""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.route import CostModel
from hacktree.common.repository.repository import Repository

_DEFAULT_BANDWIDTH: Final = 12.5e6
_SLOWEST: Final = 1e3
_FASTEST: Final = 1.25e8
"""Bytes a second that are believed: a few hundred kilobytes don't tell of more than 1 Gbit/s."""

_SLOW_LINK: Final = 2e6
"""Bytes a second below which `auto` spares bytes, not time: such links are shared or metered."""

_DEFAULT_ROUND_TRIP: Final = 0.02
_MEASURABLE: Final = 64 << 10
"""Bytes of a transfer from which a bandwidth can be told."""

_TELLING: Final = 0.05
"""Seconds of a transfer from which on the link, and not this process, is what took so long."""

_RATE_FILE: Final = "bandwidth"


def measured_model(
    repository: Repository, prefer: Prefer, cores: int, connections: int
) -> CostModel:
    """A cost model with the bandwidth that the last pull measured."""
    try:
        bandwidth = float((repository.state / _RATE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        bandwidth = _DEFAULT_BANDWIDTH
    bandwidth = min(max(bandwidth, _SLOWEST), _FASTEST)
    return CostModel(
        bandwidth, _DEFAULT_ROUND_TRIP, cores=cores, connections=connections, prefer=prefer
    )


def _remember(repository: Repository, bandwidth: float) -> None:
    """Keep what a transfer measured, in bytes a second, for the next plan; a hint, not synced."""
    (repository.state / _RATE_FILE).write_text(f"{bandwidth:.0f}\n")


def with_round_trip(model: CostModel, seconds: float) -> CostModel:
    """The model after a small request that took so long."""
    return replace(model, round_trip=min(seconds, 5.0))


class Transfer:
    """How fast something comes, told of each piece of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = self._ahead_until = self._until = clock()
        self._ahead = self._behind = 0

    def came(self, size: int) -> None:
        """So many bytes are here."""
        self._until = self._clock()
        if self._ahead < _MEASURABLE:
            self._ahead += size
            self._ahead_until = self._until
        else:
            self._behind += size

    def measured(self, round_trip: float) -> tuple[int, float]:
        """Bytes, and the seconds that they took; too few of them tell nothing.

        What came first is left out if there is enough behind it: it waited for the server, and what
        routers let pass in one burst is no measure of the link.
        """
        if self._behind >= _MEASURABLE:
            return self._behind, self._until - self._ahead_until
        seconds = self._until - self._started
        return self._ahead + self._behind, max(seconds - round_trip, seconds / 4)


def with_bandwidth(repository: Repository, model: CostModel, transfer: Transfer) -> CostModel:
    """The model after a transfer as this one; `auto` spares bytes where the link is slow."""
    received, busy = transfer.measured(model.round_trip)
    if received < _MEASURABLE:
        return model
    bandwidth = received / max(busy, 1e-4)
    if busy < _TELLING:
        # The link has at least that; a busy machine would take it for a slow one.
        bandwidth = max(bandwidth, model.bandwidth)
    bandwidth = min(bandwidth, _FASTEST)
    _remember(repository, bandwidth)
    measured = replace(model, bandwidth=bandwidth)
    if measured.prefer is Prefer.AUTO and measured.bandwidth < _SLOW_LINK:
        return replace(measured, prefer=Prefer.BYTES)
    return measured
