"""Reading how a farm is. What is named is there: refs are read before what they lead to (W10)."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from hacktree.common.objects.commit import Commit
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.packs import list_edges, pack_path
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from hacktree.common.trust.report import describe
from hacktree.common.trust.store import TrustStore
from hacktree.server.dashboard.state import (
    MAX_BLOCKERS,
    MAX_BRANCHES,
    MAX_BUILDS,
    MAX_HOLDS,
    MAX_JOBS,
    MAX_PACKS,
    BlockerState,
    BranchState,
    BuildState,
    FarmState,
    HoldState,
    JobState,
    PackState,
    SignatureState,
    VerdictState,
)
from hacktree.server.database import Database
from hacktree.server.jobs import Job, Kind, State, list_jobs
from hacktree.server.promotion import records
from hacktree.server.promotion.decision import Hold
from hacktree.server.promotion.history import source_of, walk_branch
from hacktree.server.promotion.settings import read_suites
from hacktree.server.promotion.status import BranchStatus, branch_status
from hacktree.server.promotion.suites import Suites
from hacktree.server.promotion.verdicts import Verdict


def survey_farm(repository: Repository, database: Database, now: int) -> FarmState:
    """How the farm is at `now`; the caller holds the repository's shared lock against prunes.

    Raises `CorruptError` where what is published is damaged, and as `read_suites` does.
    """
    suites = read_suites(repository)
    names = sorted(
        {name for name in list_refs(repository) if not name.startswith("remotes/")} | {*suites}
    )
    labels: dict[ObjectId, str] = {}
    branches = [
        _branch(repository, database, suites, BranchName(name), now, labels)
        for name in names[:MAX_BRANCHES]
    ]
    with database.reading() as connection:
        holds = records.load_holds(connection)
    packs = list(_packs(repository, labels))
    jobs = list_jobs(database)
    wrong = _gone_wrong(jobs)
    return FarmState(
        time=now,
        branches=branches,
        branch_count=len(names),
        holds=[_hold(hold) for hold in reversed(holds[-MAX_HOLDS:])],
        hold_count=len(holds),
        packs=packs[:MAX_PACKS],
        pack_count=len(packs),
        pack_bytes=sum(pack.bytes for pack in packs),
        signatures=_signatures(repository, now),
        failed_jobs=[_job(job) for job in wrong[:MAX_JOBS]],
        failed_job_count=len(wrong),
        waiting_jobs=_count(jobs, State.WAITING),
        running_jobs=_count(jobs, State.RUNNING),
    )


def _branch(
    repository: Repository,
    database: Database,
    suites: Suites,
    branch: BranchName,
    now: int,
    labels: dict[ObjectId, str],
) -> BranchState:
    status = branch_status(repository, database, suites, branch, now)
    builds = list(islice(walk_branch(repository, branch, status.head), MAX_BUILDS))
    for _, commit in builds:
        labels.setdefault(commit.root.id, f"{branch} {commit.sequence}")
    judges = [suite.target for suite in suites.values() if suite.source == branch]
    ids = [object_id for object_id, _ in builds]
    with database.reading() as connection:
        verdicts = [records.load_verdicts(connection, judge, ids) for judge in sorted(judges)]
    shown = [
        _build(
            object_id,
            commit,
            _origin(repository, commit),
            [found[object_id] for found in verdicts if object_id in found],
        )
        for object_id, commit in builds
    ]
    return _branch_state(status, shown)


def _branch_state(status: BranchStatus, builds: list[BuildState]) -> BranchState:
    suite = status.suite
    return BranchState(
        name=status.branch,
        head=None if status.head is None else status.head.hex(),
        signed=status.signed,
        source=None if suite is None else suite.source,
        every=None if suite is None else suite.every,
        due=status.due,
        cause=status.cause,
        reason=status.reason,
        builds=builds,
        blockers=[
            BlockerState(one.build.id.hex(), one.build.sequence, one.cause.value, one.explanation)
            for one in status.blockers[:MAX_BLOCKERS]
        ],
        blocked=len(status.blockers),
    )


def _origin(repository: Repository, commit: Commit) -> str:
    source = source_of(commit)
    return source.hex() if source is not None and repository.has_meta(source) else ""


def _build(
    object_id: ObjectId, commit: Commit, origin: str, verdicts: Iterable[Verdict]
) -> BuildState:
    return BuildState(
        id=object_id.hex(),
        sequence=commit.sequence,
        version=commit.version,
        architecture=commit.architecture,
        time=commit.time,
        files=commit.totals.files,
        bytes=commit.totals.bytes,
        promoted_from=origin,
        verdicts=[
            VerdictState(
                suite=one.suite,
                outcome=one.outcome.value,
                reason=one.finding.reason,
                duration=one.duration,
                machine=one.machine,
                time=one.time,
            )
            for one in verdicts
        ],
    )


def _hold(hold: Hold) -> HoldState:
    build = "" if hold.build is None else hold.build.hex()
    return HoldState(hold.branch or "", build, hold.reason, hold.time)


def _packs(repository: Repository, labels: dict[ObjectId, str]) -> Iterator[PackState]:
    """The newest first. A pack whose file is lost is none."""
    for edge in list_edges(repository):
        old = edge.old
        with suppress(FileNotFoundError):
            yield PackState(
                id=edge.pack.hex(),
                old="" if old is None else old.hex(),
                new=edge.new.hex(),
                old_build="" if old is None else labels.get(old, ""),
                new_build=labels.get(edge.new, ""),
                bytes=pack_path(repository, edge.pack).stat().st_size,
            )


def _signatures(repository: Repository, now: int) -> list[SignatureState]:
    store = TrustStore(repository)
    if not store.exists:
        return []
    roles = describe(store, datetime.fromtimestamp(now, UTC)).roles
    return [
        SignatureState(role.name, role.expires, role.expired, role.due, role.behind)
        for role in roles[: MAX_BRANCHES + 4]
    ]


def _gone_wrong(jobs: list[Job]) -> list[Job]:
    """Of each kind and subject the newest job, if it failed or waits after a failure."""
    newest: dict[tuple[str, str], Job] = {}
    for job in jobs:
        newest.setdefault((job.kind, job.subject), job)
    return [
        job
        for job in newest.values()
        if job.state is State.FAILED or (job.state is State.WAITING and job.error)
    ]


def _count(jobs: list[Job], state: State) -> int:
    """The dashboard's own job, which makes what is read here, is left out."""
    return sum(job.state is state and job.kind is not Kind.DASHBOARD for job in jobs)


def _job(job: Job) -> JobState:
    return JobState(
        job.id, job.kind.value, job.subject, job.state.value, job.attempts, job.ended or 0, job.due
    )
