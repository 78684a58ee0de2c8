"""Writing the dashboard: to `dashboard/` of the archive, where servers publish it, or elsewhere."""

from pathlib import Path
from typing import Final

import msgspec

from hacktree.common.errors import SystemFault
from hacktree.common.repository.durable import make_directories, replace_published
from hacktree.common.repository.locks import LockKind
from hacktree.common.repository.repository import Repository
from hacktree.server.dashboard.judged import Judged, survey_verdicts
from hacktree.server.dashboard.page import render_page
from hacktree.server.dashboard.state import FarmState
from hacktree.server.dashboard.survey import survey_farm
from hacktree.server.database import Database

DIRECTORY: Final = "dashboard"
DATA_NAME: Final = "dashboard.json"
PAGE_NAME: Final = "index.html"
VERDICTS_NAME: Final = "verdicts.json"


def publish_dashboard(repository: Repository, database: Database, now: int) -> FarmState:
    """Write how the farm is into its `dashboard/`; returns it."""
    # Until it is written: no prune takes away what it names.
    with repository.lock(LockKind.SHARED):
        state = survey_farm(repository, database, now)
        judged = survey_verdicts(repository, database)
        make_directories(repository.path, Path(DIRECTORY), mode=0o755)
        _write(repository.path / DIRECTORY, state, judged)
    return state


def export_dashboard(
    repository: Repository, database: Database, directory: Path, now: int
) -> FarmState:
    """Write it into another directory, which is made if need be; raises `SystemFault`."""
    with repository.lock(LockKind.SHARED):
        state = survey_farm(repository, database, now)
        judged = survey_verdicts(repository, database)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory, state, judged)
    except OSError as error:
        raise SystemFault(f"{directory}: {error.strerror}") from error
    return state


def _write(directory: Path, state: FarmState, judged: Judged) -> None:
    # All are made before any is written.
    data, page = msgspec.json.encode(state), render_page(state)
    verdicts = msgspec.json.encode(judged) + b"\n"
    if not _holds(directory / VERDICTS_NAME, verdicts):
        replace_published(directory / VERDICTS_NAME, verdicts)
    replace_published(directory / DATA_NAME, data + b"\n")
    replace_published(directory / PAGE_NAME, page)


def _holds(path: Path, data: bytes) -> bool:
    """Whether readers have it already: it is larger than the rest, and changes less often."""
    try:
        return path.read_bytes() == data
    except FileNotFoundError:
        return False
