"""How fast the link is: what a transfer tells, and what it can't."""

import pytest

from hacktree.client.bandwidth import Transfer, measured_model, with_bandwidth
from hacktree.common.delta.prefer import Prefer
from hacktree.common.repository.repository import Repository


def measure(client: Repository, *pieces: tuple[int, float]) -> tuple[float, Prefer]:
    """Bytes a second that the next pull reckons with, and what this one prefers, after pieces that
    came so many seconds after the transfer began.
    """
    times = iter([0.0, *(seconds for _, seconds in pieces)])
    transfer = Transfer(lambda: next(times))
    for size, _ in pieces:
        transfer.came(size)
    model = measured_model(client, Prefer.AUTO, 2, 12)
    measured = with_bandwidth(client, model, transfer)
    assert measured_model(client, Prefer.AUTO, 2, 12).bandwidth == pytest.approx(measured.bandwidth)
    return measured.bandwidth, measured.prefer


def test_a_short_transfer_on_a_busy_machine_makes_no_slow_link(client: Repository) -> None:
    assert measure(client, (200_000, 0.008))[0] == pytest.approx(100e6)
    assert measure(client, (200_000, 0.06))[0] == pytest.approx(100e6)
    assert measure(client, (200_000, 0.004))[0] == pytest.approx(125e6), "never beyond 1 Gbit/s"


def test_a_long_one_tells_how_slow_it_is(client: Repository) -> None:
    measure(client, (200_000, 0.008))
    for received, bandwidth, prefer in (
        (1_000_000, 5e6, Prefer.AUTO),
        (200_000, 1e6, Prefer.BYTES),
    ):
        measured = measure(client, (received, 0.22))
        assert measured[0] == pytest.approx(bandwidth)
        assert measured[1] is prefer


def test_a_few_bytes_tell_nothing(client: Repository) -> None:
    before = measured_model(client, Prefer.AUTO, 2, 12).bandwidth
    assert measure(client, (1000, 5.0)) == (before, Prefer.AUTO)


def test_what_comes_first_tells_nothing_of_a_link(client: Repository) -> None:
    """A wait for a busy server, 64 KiB that a router lets through at once: then 10 Mbit/s."""
    pieces = [(1448, 0.19), (64 << 10, 0.2)] + [(12_500, 0.2 + n / 100) for n in range(1, 11)]
    bandwidth, prefer = measure(client, *pieces)
    assert bandwidth == pytest.approx(1.25e6)
    assert prefer is Prefer.BYTES
