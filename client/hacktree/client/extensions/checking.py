"""Whether this machine's packages fit a build: conflicts and dependencies, without a root."""

from collections.abc import Sequence

import msgspec

from hacktree.client.extensions import deb, rpm
from hacktree.client.extensions.breaking import explain_missing
from hacktree.client.extensions.conflicts import Conflict, find_conflicts
from hacktree.client.extensions.package import Kind
from hacktree.client.extensions.provides import Provides, provided_paths
from hacktree.client.extensions.store import Extension
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.ids import ObjectId


class Findings(msgspec.Struct, frozen=True):
    """What is wrong: paths that packages would overwrite, what rpm and dpkg said, word for word,
    and for what is missing which build took it away.
    """

    conflicts: tuple[Conflict, ...]
    said: tuple[str, ...]
    since: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether nothing is wrong."""
        return not self.conflicts and not self.said


def of_kind(extensions: Sequence[Extension], kind: Kind) -> list[Extension]:
    """Those of one kind."""
    return [extension for extension in extensions if extension.package.kind == kind]


def conflicts_with(view: TreeView, extensions: Sequence[Extension]) -> list[Conflict]:
    """Paths that packages would overwrite in the build, or that two of them bring."""
    rpms, debs = of_kind(extensions, "rpm"), of_kind(extensions, "deb")
    owned = {**rpm.owned_by(view, rpms), **deb.owned_by(view, debs)}
    return find_conflicts(view, extensions, owned)


def explain(kind: Kind, view: TreeView, previous: ObjectId | None, said: str) -> list[str]:
    """Which build took away what `said` misses, against the build `previous`, the live one."""
    if kind == "deb":
        return explain_missing(view, previous, deb.unmet_names(said), deb.provides_of)
    names = rpm.unmet_names(said)

    def provides_of(of: TreeView) -> Provides:
        return {**rpm.provides_of(of), **provided_paths(of, names)}

    return explain_missing(view, previous, names, provides_of)


def check_extensions(
    view: TreeView, extensions: Sequence[Extension], previous: ObjectId | None
) -> Findings:
    """What keeps the packages from being installed on the build; raises `ProgramMissingError`."""
    rpms, debs = of_kind(extensions, "rpm"), of_kind(extensions, "deb")
    from_rpm = rpm.check(view, rpms) if rpms else ""
    from_dpkg = deb.check(view, debs) if debs else ""
    since = explain("rpm", view, previous, from_rpm) + explain("deb", view, previous, from_dpkg)
    said = tuple(answer for answer in (from_rpm, from_dpkg) if answer)
    conflicts = conflicts_with(view, extensions)
    return Findings(tuple(conflicts), said, tuple(since))
