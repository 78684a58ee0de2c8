"""How the host's dpkg is asked to install on a build, and to check without one."""

import re
from collections.abc import Sequence
from typing import Final

from hacktree.client.extensions.conflicts import paths_of
from hacktree.client.extensions.programs import ask
from hacktree.client.extensions.provides import Provides, deb_provides, find_libraries
from hacktree.client.extensions.store import Extension
from hacktree.client.extensions.treeview import TreeView
from hacktree.client.scratch import scratch_directory
from hacktree.common.objects.packages import MAX_DPKG_STATUS_SIZE

DATABASE: Final = "var/lib/dpkg"
PARTS: Final = ("info", "updates", "triggers")

INSTALL: Final = (
    "--log=/dev/null",  # dpkg would log to the host's
    "--path-include=*",  # against what the host's dpkg.cfg leaves out
    # find_conflicts has looked at these; hacktree syncs the root itself.
    "--force-overwrite,overwrite-dir,confnew,downgrade,unsafe-io",
)

_UNMET: Final = re.compile(r"^ \S+ (?:pre-)?depends on ([a-z0-9][a-z0-9+.-]*)", re.MULTILINE)
_PACKAGE: Final = re.compile(r"^Package:[ \t]*(\S+)", re.MULTILINE | re.IGNORECASE)
_PRE_DEPENDS: Final = re.compile(r"^(?:Pre-)?Depends:[ \t]*(.*(?:\n[ \t].*)*)\n?", re.M | re.I)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_VERSION: Final = re.compile(r"(?:\d+:)?\d[A-Za-z0-9.+~-]*")


def has_database(view: TreeView) -> bool:
    """Whether the build was made of debs and says which."""
    return bool(_own_status(view))


def provides_of(view: TreeView) -> Provides:
    """What the build provides; nothing if its own database says so."""
    return {} if has_database(view) else deb_provides(view, find_libraries(view))


def status_of(view: TreeView, extensions: Sequence[Extension]) -> str:
    """dpkg's status of the build: its own, and the stanza of hacktree-base."""
    provides = provides_of(view)
    for extension in extensions:
        provides.update(extension.options.assumed)
    words = [_provide(name, version) for name, version in sorted(provides.items())]
    base = [
        "Package: hacktree-base",
        "Status: install ok installed",
        "Maintainer: hacktree",
        "Architecture: all",
        f"Version: 0-{view.commit.root.id.hex()[:9]}",
        f"Provides: {', '.join(filter(None, words))}",
        "Description: What the build under the extensions provides",
    ]
    lines = [line for line in base if not line.endswith(": ")]
    return "\n\n".join(filter(None, [_own_status(view).strip("\n"), "\n".join(lines)])) + "\n"


def check(view: TreeView, extensions: Sequence[Extension]) -> str:
    """What dpkg says against configuring them on the build; "" if nothing. No root is needed."""
    names = {extension.name for extension in extensions}
    stanzas = [
        stanza
        for stanza in status_of(view, extensions).split("\n\n")
        if not (found := _PACKAGE.search(stanza)) or found[1] not in names
    ]
    stanzas += [_unpacked(extension.package.control) for extension in extensions]
    with scratch_directory() as scratch:
        for part in PARTS:
            (scratch / part).mkdir()
        joined = "\n\n".join(stanza.strip("\n") for stanza in stanzas)
        (scratch / "status").write_bytes(f"{joined}\n".encode("utf-8", "surrogateescape"))
        command = ["dpkg", f"--admindir={scratch}", "--no-act", "--log=/dev/null", "--configure"]
        status, said = ask([*command, *sorted(names)])
    lines = [line for line in said.splitlines() if not line.startswith("dpkg: warning: files list")]
    return "\n".join(lines).strip() if status else ""


def _unpacked(control: str) -> str:
    """The control paragraph as the status of a package that only waits for its configuration."""
    needs = [found[1].strip() for found in _PRE_DEPENDS.finditer(control)]
    fields = [_PRE_DEPENDS.sub("", control).strip(), "Status: install ok unpacked"]
    return "\n".join([*fields, f"Depends: {', '.join(needs)}"] if needs else fields)


def owned_by(view: TreeView, extensions: Sequence[Extension]) -> dict[str, frozenset[bytes]]:
    """What the build's own packages of these names own."""
    owned = {}
    for extension in extensions:
        package = extension.package.package
        for name in (package.name, f"{package.name}:{package.architecture}"):
            listing = view.read(f"{DATABASE}/info/{name}.list".encode(), MAX_DPKG_STATUS_SIZE)
            if listing is not None:
                owned[package.name] = paths_of(listing.decode("utf-8", "surrogateescape"))
    return owned


def unmet_names(said: str) -> list[str]:
    """The packages that dpkg says are needed."""
    return list(dict.fromkeys(_UNMET.findall(said)))


def _own_status(view: TreeView) -> str:
    data = view.read(f"{DATABASE}/status".encode(), MAX_DPKG_STATUS_SIZE)
    return (data or b"").decode("utf-8", "surrogateescape")


def _provide(name: str, version: str) -> str:
    if not _NAME.fullmatch(name):
        return ""
    return f"{name} (= {version})" if _VERSION.fullmatch(version) else name
