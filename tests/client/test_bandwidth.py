"""How fast the link is: what a transfer tells, and what it can't."""

import pytest

from hacktree.client.packs import measured_model, with_bandwidth
from hacktree.common.delta.prefer import Prefer
from hacktree.common.repository.repository import Repository


def measure(client: Repository, received: int, seconds: float) -> tuple[float, Prefer]:
    """Bytes a second that the next pull reckons with, and what this one prefers."""
    model = measured_model(client, Prefer.AUTO, 2, 12)
    measured = with_bandwidth(client, model, received, seconds)
    assert measured_model(client, Prefer.AUTO, 2, 12).bandwidth == pytest.approx(measured.bandwidth)
    return measured.bandwidth, measured.prefer


def test_a_short_transfer_on_a_busy_machine_makes_no_slow_link(client: Repository) -> None:
    assert measure(client, 200_000, 0.008)[0] == pytest.approx(100e6)
    assert measure(client, 200_000, 0.06)[0] == pytest.approx(100e6)
    assert measure(client, 200_000, 0.004)[0] == pytest.approx(125e6), "never beyond 1 Gbit/s"


def test_a_long_one_tells_how_slow_it_is(client: Repository) -> None:
    measure(client, 200_000, 0.008)
    for received, bandwidth, prefer in (
        (1_000_000, 5e6, Prefer.AUTO),
        (200_000, 1e6, Prefer.BYTES),
    ):
        measured = measure(client, received, 0.22)
        assert measured[0] == pytest.approx(bandwidth)
        assert measured[1] is prefer


def test_a_few_bytes_tell_nothing(client: Repository) -> None:
    before = measured_model(client, Prefer.AUTO, 2, 12).bandwidth
    assert measure(client, 1000, 5.0) == (before, Prefer.AUTO)
