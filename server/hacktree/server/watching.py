"""Asking for jobs when what they depend on has changed, whoever changed it.

Pushes, promotions, verdicts and holds ask for what follows them themselves. Commits, prunes and
signatures are made by commands that know nothing of jobs, and a crash may come between a head and
what follows it: so a server, and `hacktree jobs run`, look at the files, and at first see all of
them as changed. What is there already costs a job little.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hacktree.common.errors import HacktreeError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.history_rebuilding import history_fault
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database
from hacktree.server.jobs import FARM, Kind, enqueue
from hacktree.server.leasing.leases import settle_leases
from hacktree.server.renewal import renewal_due

_LOG: Final = logging.getLogger("hacktree.server.jobs")
_PAUSE: Final = 5.0
_LEASES_EVERY: Final = 300
_HOUR: Final = 3600
_DAY: Final = 86_400

_Stamp = tuple[int, int, int] | None


class Watch:
    """What a farm's files were like when they were looked at last."""

    def __init__(self, repository: Repository, database: Database) -> None:
        self._repository = repository
        self._database = database
        self._seen: dict[str, object] = {}
        self._heads: dict[str, ObjectId] = {}

    def look(self, now: int) -> None:
        """Ask for what has to be done since the last look; `now` in seconds since 1970.

        One that raises has asked for less, and the next look asks for the rest.
        """
        heads = {
            name: head
            for name, head in list_refs(self._repository).items()
            if not name.startswith("remotes/")
        }
        for name, head in heads.items():
            if self._heads.get(name) != head:
                enqueue(self._database, Kind.DELTAS, name, now)
        pruned = self._stamp("state/condemned")
        self._if_changed("history", (now // _DAY, pruned), lambda: self._ask_history(heads, now))
        signed = self._stamp("trust/timestamp.json")
        self._if_changed("trust", (now // _HOUR, signed), lambda: self._ask_trust(now))
        packs, suites = self._stamp("graph/tail"), self._stamp("server.toml")
        shown = (now // _HOUR, heads, pruned, signed, packs, suites)
        self._if_changed("dashboard", shown, lambda: self._ask(Kind.DASHBOARD, FARM, now))
        self._heads = heads
        # Last: it does what it asks for, and what it meets must not keep signatures from renewal.
        self._if_changed("leases", now // _LEASES_EVERY, lambda: self._settle_leases(now))

    async def keep_looking(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Look every few seconds until cancelled; a failure is logged, and tried again."""
        while True:
            try:
                await asyncio.to_thread(self.look, int(datetime.now(UTC).timestamp()))
            except (HacktreeError, OSError) as error:
                _LOG.error("can't tell which jobs are needed: %s", error)
            await sleep(_PAUSE)

    def _if_changed(self, what: str, state: object, act: Callable[[], None]) -> None:
        if self._seen.get(what) != state:
            act()
            self._seen[what] = state

    def _ask_history(self, heads: dict[str, ObjectId], now: int) -> None:
        for name in heads:
            fault = history_fault(self._repository, BranchName(name))
            if fault:
                _LOG.info("the published history of %s: %s", name, fault)
                self._ask(Kind.HISTORY, name, now)

    def _ask_trust(self, now: int) -> None:
        if renewal_due(self._repository.path, datetime.fromtimestamp(now, UTC)):
            self._ask(Kind.TRUST, FARM, now)

    def _settle_leases(self, now: int) -> None:
        settle_leases(self._repository, self._database, now)

    def _ask(self, kind: Kind, subject: str, now: int) -> None:
        enqueue(self._database, kind, subject, now)

    def _stamp(self, name: str) -> _Stamp:
        try:
            status = Path(self._repository.path, name).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
