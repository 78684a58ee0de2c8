"""A person gives a build that was not passed another run; its verdicts stay where they are."""

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve
from hacktree.server.database import Database
from hacktree.server.jobs import FARM, Kind, ask
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Retest, Standing, later_builds
from hacktree.server.promotion.desk import standing_of
from hacktree.server.promotion.history import read_history
from hacktree.server.promotion.suites import Suite
from hacktree.server.promotion.verdicts import Outcome, check_line

_MAX_REASON = 500


class NotRetestableError(UserError):
    """A further test of the build would change nothing, or no reason is given."""


def retest(
    repository: Repository,
    database: Database,
    suite: Suite,
    revision: str | None,
    note: tuple[str, str],
    now: int,
) -> Retest:
    """Ask for another run of a suite on a build, None for the newest that it did not pass.

    `note`: why, and who asks. What was found before counts no more. Raises `NotRetestableError`.
    """
    reason, who = note
    if not reason.strip():
        raise NotRetestableError("a reason is needed", hint="--reason TEXT")
    for text in note:
        check_line(text, _MAX_REASON, "reason")
    history = read_history(repository, suite)
    wanted = None if revision is None else resolve(repository, revision)
    with database.writing() as connection:
        standing = standing_of(connection, suite, history, now)
        build = _choose(suite, standing, wanted)
        # All that were found so far: a fail outweighs others of the same build.
        asked = Retest(build, records.last_verdict(connection), reason, who, now)
        records.add_retest(connection, suite.target, asked)
        ask(connection, Kind.DASHBOARD, FARM, now)
    return asked


def _choose(suite: Suite, standing: Standing, wanted: ObjectId | None) -> ObjectId:
    later = [build.id for build in later_builds(standing)]
    judged = {
        build for build in later
        if build in standing.verdicts and standing.verdicts[build].outcome is not Outcome.PASS
    }  # fmt: skip
    if wanted is None:
        found = next((build for build in later if build in judged), None)
        if found is None:
            raise NotRetestableError(
                f"no build that {suite.target} waits for failed or is undecided"
            )
        return found
    if wanted in judged:
        return wanted
    if wanted not in later:
        why = f"is no build of {suite.source} that {suite.target} could still move to"
    elif wanted in standing.verdicts:
        why = f"has passed {suite.target}"
    else:
        why = f"is not judged by {suite.target} yet: it will be tested anyway"
    raise NotRetestableError(
        f"{wanted.hex()[:12]} {why}", hint=f"hacktree branch status {suite.target}"
    )
