"""Which trees the branches of an archive are at, and were."""

import msgspec

from hacktree.common.delta.pairs import WINDOW, Build
from hacktree.common.objects.commit import PROMOTED_FROM
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.revision import resolve


class BranchHistory(msgspec.Struct, frozen=True):
    """The last builds of a branch, newest first; `promoted`: its newest comes from another."""

    builds: list[Build]
    promoted: bool


def read_history(repository: Repository, branch: str) -> BranchHistory:
    """The last builds of a branch that are here, at most as many as packs join."""
    builds: list[Build] = []
    promoted = False
    wanted: ObjectId | None = resolve(repository, branch)
    while wanted is not None and len(builds) < WINDOW and repository.has_meta(wanted):
        commit = repository.load_commit(wanted)
        promoted = promoted or (not builds and PROMOTED_FROM in commit.metadata)
        builds.append(Build(commit.sequence, commit.root.id))
        wanted = commit.parents[0] if commit.parents else None
    return BranchHistory(builds, promoted)
