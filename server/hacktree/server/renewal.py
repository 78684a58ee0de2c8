"""Renewing the snapshot and the timestamp of a signed repository while it is served.

A server with jobs asks for one when it is time (`watching.py`); one without does it here.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hacktree.common.errors import HacktreeError
from hacktree.common.repository.repository import open_repository

_LOG: Final = logging.getLogger("hacktree.server")
INTERVAL: Final = 3600.0
"""Seconds between two looks: signatures last for days, and are renewed at half of that."""


async def keep_renewed(
    repository: Path,
    now: Callable[[], datetime],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Look every hour until cancelled; a failure is logged, and tried again an hour later."""
    while True:
        try:
            renewed = await asyncio.to_thread(renew_once, repository, now())
        except (HacktreeError, OSError) as error:
            _LOG.error("the signed metadata can't be renewed: %s", error)
        else:
            if renewed:
                _LOG.info("renewed %s", ", ".join(renewed))
        await sleep(INTERVAL)


def renewing(repository: Path) -> Callable[[], Awaitable[None]]:
    """Keeps the signatures of a repository fresh while it is served, if it has some."""
    return lambda: keep_renewed(repository, lambda: datetime.now(UTC))


def renewal_due(path: Path, now: datetime) -> bool:
    """Whether the snapshot or the timestamp is past half of its life."""
    if not (path / "trust" / "timestamp.json").exists():
        return False
    from hacktree.common.trust.roles import SNAPSHOT, TIMESTAMP, is_due
    from hacktree.common.trust.store import TrustStore

    state = TrustStore(open_repository(path)).load()
    return any(
        is_due(name, signed.expires, now)
        for name, signed in ((SNAPSHOT, state.snapshot.signed), (TIMESTAMP, state.timestamp.signed))
    )


def renew_once(path: Path, now: datetime) -> list[str]:
    """Sign again what expires soon; nothing where the repository is not signed."""
    if not (path / "trust" / "timestamp.json").exists():
        return []
    # python-tuf takes longer to import than the rest: only signed repositories pay for it.
    from hacktree.common.trust.editing import renew
    from hacktree.common.trust.store import TrustStore

    store = TrustStore(open_repository(path))
    with store.hold():
        return renew(store, now, {})
