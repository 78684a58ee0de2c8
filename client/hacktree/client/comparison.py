"""What a build changes against another, for a plan that people read."""

import msgspec

from hacktree.common.objects.commit import Commit
from hacktree.common.objects.diff import diff_trees
from hacktree.common.objects.names import display_path
from hacktree.common.objects.packages import PackageDiff, diff_package_metadata
from hacktree.common.repository.repository import Repository


class Comparison(msgspec.Struct):
    """Paths, without a leading '/', sorted; `packages` is None unless both builds list theirs."""

    added: list[str] = []
    changed: list[str] = []
    removed: list[str] = []
    packages: PackageDiff | None = None


def compare_builds(repository: Repository, old: Commit, new: Commit) -> Comparison:
    """Compare two commits whose trees are here. Raises `ObjectMissingError`."""
    found = Comparison()
    for change in diff_trees(repository.load_tree, old.root.id, new.root.id):
        if change.old is None:
            paths = found.added
        else:
            paths = found.removed if change.new is None else found.changed
        paths.append(display_path(change.path))
    found.packages = diff_package_metadata(old.metadata, new.metadata)
    return found
