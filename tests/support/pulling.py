"""What the tests of pull share: sources to pull from, and proof that a commit is whole."""

from pathlib import Path

from hacktree.client.connect import open_references, open_source
from hacktree.client.heads import UnsignedHeads
from hacktree.client.pull import PullReport, PullRequest, PullResult, decoders, pull
from hacktree.client.remote import Remote
from hacktree.client.retry import Patience, RetryPolicy
from hacktree.client.source import Source, Traffic
from hacktree.client.target import Wanted
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.tree import FileEntry
from hacktree.common.objects.walk import check_totals, walk_tree
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.repository import Repository, open_repository


class FakeTime:
    """A clock that only sleeping moves; remembers how long was slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def patience(time: FakeTime, policy: RetryPolicy | None = None) -> Patience:
    """Retries that cost no time."""
    return Patience(policy or RetryPolicy(), time.clock, time.sleep, lambda: 0.5)


def make_repository(path: Path, mode: Mode = Mode.ARCHIVE) -> Repository:
    """A new repository that may fill its file system."""
    init_repository(path, mode)
    (path / "config.toml").write_text('min-free-space = "0"\n')
    return open_repository(path)


def remote_at(url: str) -> Remote:
    """An unsigned remote."""
    return Remote("farm", url, "unsigned")


async def pull_from(
    repository: Repository,
    url: str,
    wanted: str = "fastqa",
    *,
    references: tuple[Path, ...] = (),
    report: PullReport | None = None,
    policy: RetryPolicy | None = None,
) -> tuple[PullResult, Traffic]:
    """Pull as the command does, without waiting between retries."""
    async with open_source(remote_at(url), patience(FakeTime(), policy), 4) as source:
        sources: list[Source] = [*open_references(references), source]
        request = PullRequest("farm", Wanted.parse(wanted), 4)
        heads = UnsignedHeads(source)
        with decoders(repository) as pool:
            told = report or PullReport()
            result = await pull(repository, request, heads, sources, told, pool)
        return result, source.traffic


def assert_whole(repository: Repository, commit_id: ObjectId) -> dict[bytes, bytes]:
    """Rehash everything that the commit reaches; returns the files' contents by path."""
    commit = repository.load_commit(commit_id)
    check_totals(repository.load_tree, commit)
    return {
        path: b"".join(repository.read_content(entry))
        for path, entry in walk_tree(repository.load_tree, commit.root.id)
        if isinstance(entry, FileEntry)
    }
