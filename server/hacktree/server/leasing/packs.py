"""Packs on demand: what a bisection of a leased range would take and the graph lacks."""

from collections.abc import Sequence

from hacktree.common.delta.bisecting import first_missing
from hacktree.common.delta.pairs import Pair
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.packs import list_edges
from hacktree.common.repository.repository import Repository


def missing_pack(repository: Repository, builds: Sequence[ObjectId]) -> Pair | None:
    """The trees that the next pack for a bisection of these builds, oldest first, should join."""
    trees = [
        repository.load_commit(build).root.id for build in builds if repository.has_meta(build)
    ]
    return first_missing(trees, list_edges(repository))
