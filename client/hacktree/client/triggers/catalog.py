"""Which program brings which cache up to date, and which files the cache is made from.

Patterns are those of `Root.touched`, whose `*` also matches `/`. A program is told to work in any
case where it can be: files of a root have one constant mtime, and what compares theirs with a
cache's would think that nothing happened. systemd-tmpfiles is not here: what it makes, in /run and
/var, belongs to the running system, and every boot runs it.
"""

import os
from collections.abc import Callable, Sequence
from glob import escape
from typing import Final

import msgspec

from hacktree.client.beneath import resolve_in
from hacktree.client.replay.step import Root

_PROGRAMS: Final = ("usr/bin", "usr/sbin", "bin", "sbin")
_LIBRARIES: Final = ("usr/lib", "usr/lib64", "usr/local/lib")
_SHARES: Final = ("usr/share", "usr/local/share")
_MODULES: Final = ("usr/lib/modules", "lib/modules")

Arguments = Callable[[Root], Sequence[Sequence[str]]]
"""The argument lists to call a program with; none where nothing that it works on was touched."""


class Trigger(msgspec.Struct, frozen=True):
    """A program and when to run it. `programs`: where it may be; the first found is run."""

    name: str
    programs: Callable[[Root], tuple[str, ...]]
    arguments: Arguments


def _in_path(*names: str) -> Callable[[Root], tuple[str, ...]]:
    paths = tuple(f"{directory}/{name}" for name in names for directory in _PROGRAMS)
    return lambda root: paths


def _in_path_or_libraries(name: str, *below: str) -> Callable[[Root], tuple[str, ...]]:
    """Also with Fedora's suffix, and in Debian's directories for each architecture."""

    def programs(root: Root) -> tuple[str, ...]:
        places = [f"{place}/{path}/{name}" for place in library_places(root) for path in below]
        return (*_in_path(name, f"{name}-64")(root), *places)

    return programs


def library_places(root: Root) -> list[str]:
    """Where libraries keep plugins: usr/lib64, usr/lib/x86_64-linux-gnu and the like."""
    triplets = [
        f"{place}/{name}"
        for place in _LIBRARIES
        for name in _directories(root, place)
        if name.endswith(("-linux-gnu", "-linux-musl", "-linux-gnueabihf"))
    ]
    return [place for place in (*triplets, *_LIBRARIES) if resolve_in(root.path, place)]


def _directories(root: Root, path: str) -> list[str]:
    """The names of the directories in a directory of the root, sorted; none if it has none."""
    directory = resolve_in(root.path, path)
    if directory is None or not directory.is_dir():
        return []
    with os.scandir(directory) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _whenever(*patterns: str, options: Sequence[str] = ()) -> Arguments:
    return lambda root: [options] if root.touched(patterns) else []


def _each(
    directories: Sequence[str], inputs: Sequence[str], options: Sequence[str] = ()
) -> Arguments:
    """Once for each of these directories in which the inputs were touched."""
    return lambda root: [
        [*options, f"/{directory}"]
        for directory in directories
        if root.touched([f"{directory}/{name}" for name in inputs])
        and resolve_in(root.path, directory) is not None
    ]


def _themes(root: Root) -> list[list[str]]:
    return [
        ["--force", "--quiet", f"/{share}/icons/{theme}"]
        for share in _SHARES
        for theme in _directories(root, f"{share}/icons")
        if root.touched([f"{share}/icons/{escape(theme)}/*"])
        and resolve_in(root.path, f"{share}/icons/{theme}/index.theme") is not None
    ]


def _kernels(root: Root) -> list[list[str]]:
    versions = {
        version
        for directory in _MODULES
        for version in _directories(root, directory)
        if root.touched([f"{place}/{escape(version)}/*" for place in _MODULES])
    }
    return [["-a", version] for version in sorted(versions)]


def _gio_modules(root: Root) -> list[list[str]]:
    places = [f"{place}/gio/modules" for place in library_places(root)]
    touched = [place for place in places if root.touched([f"{place}/*.so"])]
    return [[f"/{place}"] for place in touched if resolve_in(root.path, place) is not None]


TRIGGERS: Final = (
    # Users first: what comes after may look them up. The others are independent of one another.
    Trigger(
        "systemd-sysusers",
        _in_path("systemd-sysusers"),
        _whenever("usr/lib/sysusers.d/*", "etc/sysusers.d/*"),
    ),
    # Its auxiliary cache knows libraries by inode and ctime, which every root changes.
    Trigger(
        "ldconfig",
        _in_path("ldconfig"),
        _whenever("*.so", "*.so.*", "etc/ld.so.conf*", options=["-i"]),
    ),
    Trigger("depmod", _in_path("depmod"), _kernels),
    Trigger(
        "systemd-hwdb",
        _in_path("systemd-hwdb"),
        _whenever("usr/lib/udev/hwdb.d/*", "etc/udev/hwdb.d/*", options=["update"]),
    ),
    Trigger(
        "glib-compile-schemas",
        _in_path_or_libraries("glib-compile-schemas", "glib-2.0"),
        _each([f"{share}/glib-2.0/schemas" for share in _SHARES], ["*.xml", "*.override"]),
    ),
    Trigger(
        "gio-querymodules", _in_path_or_libraries("gio-querymodules", "glib-2.0"), _gio_modules
    ),
    Trigger(
        "gdk-pixbuf-query-loaders",
        _in_path_or_libraries(
            "gdk-pixbuf-query-loaders", "gdk-pixbuf-2.0/2.10.0", "gdk-pixbuf-2.0"
        ),
        _whenever("usr/lib*/gdk-pixbuf-2.0/*/loaders/*", options=["--update-cache"]),
    ),
    Trigger(
        "update-mime-database",
        _in_path("update-mime-database"),
        _each([f"{share}/mime" for share in _SHARES], ["packages/*"]),
    ),
    Trigger(
        "update-desktop-database",
        _in_path("update-desktop-database"),
        _each([f"{share}/applications" for share in _SHARES], ["*.desktop"], ["--quiet"]),
    ),
    Trigger(
        "gtk-update-icon-cache",
        _in_path("gtk-update-icon-cache", "gtk4-update-icon-cache"),
        _themes,
    ),
    Trigger(
        "fc-cache",
        _in_path("fc-cache"),
        _whenever(
            *(f"{share}/fonts/*" for share in _SHARES),
            "etc/fonts/*",
            options=["--system-only", "--force"],
        ),
    ),
)
