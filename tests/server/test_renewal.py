"""Promise: a served repository's signatures never expire by themselves."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hacktree.server.renewal import INTERVAL, keep_renewed, renew_once
from support.pulling import make_repository
from support.trusting import SignedFarm


def test_what_is_past_half_of_its_life_is_renewed(tmp_path: Path) -> None:
    farm = SignedFarm(make_repository(tmp_path / "farm"))
    assert renew_once(farm.repository.path, farm.now) == []
    assert renew_once(farm.repository.path, farm.now + timedelta(days=4)) != []


def test_an_unsigned_repository_is_left_alone(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "farm")
    assert renew_once(repository.path, datetime.now(UTC)) == []
    assert not (repository.path / "trust").exists()


async def test_a_failure_is_logged_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    farm = SignedFarm(make_repository(tmp_path / "farm"))
    moments = iter([farm.now, farm.now + timedelta(days=4), farm.now + timedelta(days=4)])
    slept: list[float] = []
    online = next(farm.store.private.glob("online-*"))
    away = online.rename(tmp_path / "away")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            away.rename(online)
        if len(slept) == 3:
            raise asyncio.CancelledError

    caplog.set_level(logging.INFO, "hacktree.server")
    with pytest.raises(asyncio.CancelledError):
        await keep_renewed(farm.repository.path, lambda: next(moments), sleep)
    assert slept == [INTERVAL] * 3
    messages = [record.getMessage() for record in caplog.records]
    assert "no online key" in messages[0]
    assert messages[1] == "renewed snapshot, timestamp"
