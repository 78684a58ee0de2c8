"""How the host's rpm is asked to install on a build, and to check without one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hacktree.client.extensions.conflicts import paths_of
from hacktree.client.extensions.programs import ask
from hacktree.client.extensions.provides import (
    Provides,
    find_libraries,
    provided_paths,
    rpm_provides,
)
from hacktree.client.extensions.rpmbase import make_base
from hacktree.client.extensions.store import Extension
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.scratch import scratch_directory
from hacktree.common.errors import UserError
from hacktree.common.repository.packages import RPM_DATABASES

DATABASE: Final = "usr/lib/sysimage/rpm"
"""Where a root gets its database if the build has none. Not in /var, which roots share."""

BASE: Final = "hacktree-base.rpm"
LEFTOVERS: Final = (".rpm.lock", "rpmdb.sqlite-wal", "rpmdb.sqlite-shm")
SCRIPTLET_FAILED: Final = re.compile(r"scriptlet failed")

_FILE: Final = b"rpmdb.sqlite"
_MAX_DATABASE: Final = 512 << 20
_UNMET: Final = re.compile(r"^\s+(\S+)(?: \S+ \S+)? is needed by ", re.MULTILINE)


def database_of(view: TreeView) -> str:
    """The directory of the build's rpm database, without links in its path, or `DATABASE`."""
    for directory in RPM_DATABASES:
        place, entry = view.resolve(directory + b"/" + _FILE)
        if entry is not None:
            return place.rpartition(b"/")[0].decode()
    return DATABASE


def settings(database: str) -> list[str]:
    """Options of every call: rpm's own defaults differ, Debian's even lead to $HOME."""
    defined = {
        "_dbpath": database,
        "_rpmlock_path": f"{database}/.rpm.lock",
        "_db_backend": "sqlite",
        "_tmppath": "/tmp",  # noqa: S108 - the step's own
        "_pkgverify_level": "digest",
    }
    words = [word for name, value in defined.items() for word in ("--define", f"{name} {value}")]
    # The host's plugins log, label and inhibit for the host.
    return [*words, "--nosignature", "--noplugins"]


def install_options(view: TreeView, extensions: Sequence[Extension]) -> list[str]:
    """Of the one transaction: also older and equal versions than the build's own."""
    options = ["-U", "--oldpackage", "--replacepkgs"]
    owns = view.resolve(database_of(view).encode() + b"/" + _FILE)[1] is not None
    # find_conflicts has allowed these.
    replacing = any(extension.options.replace for extension in extensions)
    return [*options, "--replacefiles"] if owns and replacing else options


def provides_of(view: TreeView) -> Provides:
    """What the build provides, but for paths."""
    return rpm_provides(view, find_libraries(view))


def base_of(view: TreeView, extensions: Sequence[Extension]) -> bytes:
    """hacktree-base for that build, and for what these extensions ask for."""
    needed = sorted({name for e in extensions for name in e.package.requires})
    provides = {**provides_of(view), **provided_paths(view, needed)}
    for extension in extensions:
        provides.update(extension.options.assumed)
    return make_base(view.commit.root.id.hex()[:9], provides)


def check(view: TreeView, extensions: Sequence[Extension]) -> str:
    """What rpm says against installing them on the build; "" if nothing. No root is needed."""
    with scratch_directory() as scratch:
        _copy_database(view, scratch)
        base = scratch / BASE
        base.write_bytes(base_of(view, extensions))
        command = ["rpm", *settings(str(scratch))]
        for words in (["--initdb"], ["-i", "--justdb", "--force", str(base)]):
            status, said = ask([*command, *words])
            if status:
                raise UserError(f"rpm failed: {said.strip()}")
        files = [extension.package.file for extension in extensions]
        # Space is the deploy's to check: this is not where they would be installed.
        options = [*install_options(view, extensions), "--ignoresize", "--test"]
        status, said = ask([*command, *options, *files])
    return without_advice(said) if status else ""


def owned_by(view: TreeView, extensions: Sequence[Extension]) -> dict[str, frozenset[bytes]]:
    """What the build's own packages of these names own, where it has an rpm database."""
    owned: dict[str, frozenset[bytes]] = {}
    if not extensions:
        return owned  # Copying a database takes its while.
    with scratch_directory() as scratch:
        if _copy_database(view, scratch):
            for extension in extensions:
                status, said = ask(["rpm", *settings(str(scratch)), "-ql", extension.name])
                owned[extension.name] = paths_of(said) if status == 0 else frozenset()
    return owned


def _copy_database(view: TreeView, directory: Path) -> bool:
    data = view.read(f"{database_of(view)}/{_FILE.decode()}".encode(), _MAX_DATABASE)
    if data is None:
        return False
    (directory / _FILE.decode()).write_bytes(data)
    return True


def unmet_names(said: str) -> list[str]:
    """What rpm says is needed, without versions."""
    return list(dict.fromkeys(_UNMET.findall(said)))


def without_advice(said: str) -> str:
    """Without what Debian's rpm says to everybody who installs outside a --root."""
    lines = [line for line in said.splitlines() if not line.startswith("rpm: ")]
    return "\n".join(lines).strip()
