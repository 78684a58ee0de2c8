"""Which build took away what an extension needs."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from hacktree.client.extensions.provides import Provides
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.commit import Commit, commit_id
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.moments import display_time

_MAX_BUILDS: Final = 64

ProvidesOf = Callable[[TreeView], Provides]


def explain_missing(
    view: TreeView, previous: ObjectId | None, names: Iterable[str], provides_of: ProvidesOf
) -> list[str]:
    """A line for each of `names` that the build `previous`, the live one, has and `view` has not.

    The builds between them are looked at as far as they are here.
    """
    repository = view.repository
    if previous is None or not repository.has_meta(previous):
        return []
    live = TreeView(repository, repository.load_commit(previous))
    had, has = provides_of(live), provides_of(view)
    lost = {name: had[name] for name in names if name in had and had[name] != has.get(name)}
    first_without: dict[str, Commit] = {}
    newer = view
    for older in [*_between(view, previous), live] if lost else []:
        provides = provides_of(older)
        for name, version in lost.items():
            if provides.get(name) == version:
                first_without.setdefault(name, newer.commit)
        if len(first_without) == len(lost):
            break
        newer = older
    return [
        f"{_capability(name, lost[name])} is gone since build {_describe(commit)}"
        for name, commit in sorted(first_without.items())
    ]


def _between(view: TreeView, previous: ObjectId) -> Iterator[TreeView]:
    """Builds before `view`, the newest first, down to `previous`; none if that isn't one of them
    or they aren't all here.
    """
    between = list(islice(_ancestors(view), _MAX_BUILDS))
    ids = [commit_id(older.commit) for older in between]
    return iter(between[: ids.index(previous)] if previous in ids else [])


def _ancestors(view: TreeView) -> Iterator[TreeView]:
    commit, repository = view.commit, view.repository
    while commit.parents and repository.has_meta(ObjectId(commit.parents[0])):
        commit = repository.load_commit(ObjectId(commit.parents[0]))
        yield TreeView(repository, commit)


def _capability(name: str, version: str) -> str:
    return f"{name} = {version}" if version else name


def _describe(commit: Commit) -> str:
    when = display_time(commit.time)
    version = f"{commit.version}, " if commit.version else ""
    return f"{commit_id(commit).hex()[:9]} ({version}{when})"
