"""Reading a build's package database out of its tree: which packages, and whose each path is.

The tree is as untrusted as whoever built it: everything is bounded, nothing of it is run.
"""

from typing import Final

from hacktree.client.bisect.components.database import Database, NoPackagesError
from hacktree.client.bisect.components.dpkgreading import read_dpkg
from hacktree.client.bisect.components.rpmreading import read_rpm_packages
from hacktree.client.extensions.treeview import TreeView
from hacktree.common.objects.errors import FormatError

NEXT_HINT: Final = (
    "`hacktree bisect report` says which files and source revisions changed in the build that was "
    "found, `hacktree diff GOOD BAD` in any."
)
"""What is left to do where roots can't be mixed."""


def read_database(view: TreeView, name: str) -> Database:
    """The packages of the build called `name`: dpkg's if it installed any, else rpm's.

    Raises `NoPackagesError`; `FormatError` for a damaged database; what `read_rpm_packages` raises.
    """
    try:
        found = read_dpkg(view, name) or read_rpm_packages(view, name)
    except FormatError as error:
        raise FormatError(
            f"the package database of {name} can't be read: {error.message}", hint=error.hint
        ) from error
    if found is None:
        raise NoPackagesError(
            f"{name} has no packages in a database of dpkg or rpm, so they can't be told apart",
            hint=NEXT_HINT,
        )
    return found
