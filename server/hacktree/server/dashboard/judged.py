"""What suites said of builds, for programs: `dashboard/verdicts.json`. docs/format.md, "Dashboard".

The dashboard shows the newest builds; a bisection asks about old ones. All of it is public.
"""

from typing import Final

import msgspec

from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository
from hacktree.server.database import Database
from hacktree.server.promotion import records

MAX_VERDICTS: Final = 4096
MAX_SHOWN_REASON: Final = 200


class SuiteVerdict(msgspec.Struct, frozen=True, rename="kebab"):
    """What a suite says of a build, and when it was found out (s since 1970)."""

    suite: str
    outcome: str
    reason: str
    time: int


class Judged(msgspec.Struct, frozen=True, rename="kebab", tag_field="format", tag="verdicts-1"):
    """By build that is here: the verdicts that count, of the newest `MAX_VERDICTS`."""

    builds: dict[str, list[SuiteVerdict]]


def survey_verdicts(repository: Repository, database: Database) -> Judged:
    """What suites say; the caller holds the repository's shared lock against prunes."""
    builds: dict[str, list[SuiteVerdict]] = {}
    with database.reading() as connection:
        judged: dict[BranchName, list[ObjectId]] = {}
        for suite, build in records.last_judged(connection, MAX_VERDICTS):
            if repository.has_meta(build):
                judged.setdefault(suite, []).append(build)
        for suite in sorted(judged):
            for build, one in records.load_verdicts(connection, suite, judged[suite]).items():
                reason = one.finding.reason[:MAX_SHOWN_REASON]
                shown = SuiteVerdict(suite, one.outcome.value, reason, one.time)
                builds.setdefault(build.hex(), []).append(shown)
    return Judged(dict(sorted(builds.items())))
