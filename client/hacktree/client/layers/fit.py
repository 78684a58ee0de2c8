"""Whether layers still fit a root: are the libraries there that they need, and those of others?

Checked are the libraries that an ELF file names (DT_NEEDED), the versions of their symbols that it
was linked with, and its interpreter: what the dynamic linker refuses to start without. A library
that a layer brings or takes is checked from the other side, too: against what needs it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from hacktree.client.layers.dynamic import Dynamic
from hacktree.client.layers.linking import Linker
from hacktree.common.objects.names import display_path

SHOWN: Final = 20


class Misfit(msgspec.Struct, frozen=True):
    """A library that a file needs and the root lacks, or that lacks a `version` of its symbols.

    `layer` has brought the file, or, where the file is the `build_file` of the build, taken or
    replaced the library. `instead`: versions of the library that are there.
    """

    layer: str
    path: bytes
    library: bytes
    version: bytes = b""
    instead: tuple[bytes, ...] = ()
    build_file: bool = False

    def describe(self, build: str) -> str:
        """A sentence; `build` is what to call the build."""
        what = display_path(self.library)
        owner = build if self.build_file else f"layer {self.layer}"
        root = f"with layer {self.layer} the root" if self.build_file else build
        lacks = f"has {', '.join(map(display_path, self.instead))}" if self.instead else "lacks it"
        if self.version:
            what, lacks = f"{display_path(self.version)} of {what}", f"has {what} without it"
        return f"{what} is needed by {display_path(self.path)} of {owner}; {root} {lacks}"


def library_name(path: bytes) -> bytes:
    """The name by which a path may be asked for as a library; empty for what can't be one."""
    name = path.rpartition(b"/")[2]
    return name if b".so" in name else b""


def find_misfits(linker: Linker, layers: Mapping[str, Sequence[bytes]]) -> list[Misfit]:
    """What the layers' files, by their paths in the root, need and the root lacks.

    A library that a layer ships where the linker wouldn't look is not missed: a program that loads
    its own plug-ins, or a wrapper that sets LD_LIBRARY_PATH, knows of it.
    """
    found: list[Misfit] = []
    for layer, paths in layers.items():
        shipped = {library_name(path) for path in paths}
        for path in paths:
            dynamic = linker.read(path)
            if dynamic is not None:
                found += (
                    misfit
                    for misfit in check_file(linker, layer, path, dynamic)
                    if misfit.version or misfit.library not in shipped
                )
    return found


def find_broken(
    after: Linker, before: Linker, files: Iterable[bytes], libraries: Mapping[bytes, str]
) -> list[Misfit]:
    """What the build's own `files` need of `libraries` and had `before` the layers came.

    `libraries` maps what layers bring or take to the layer.
    """
    found = []
    for path in sorted(set(files)):
        dynamic = after.read(path)
        if dynamic is None or dynamic != before.read(path):
            continue  # A layer replaced it, or took it away.
        misfits = [m for m in check_file(after, "", path, dynamic) if m.library in libraries]
        if misfits:
            known = {(m.library, m.version) for m in check_file(before, "", path, dynamic)}
            found += [
                replace(misfit, layer=libraries[misfit.library], build_file=True)
                for misfit in misfits
                if (misfit.library, misfit.version) not in known
            ]
    return found


def check_file(linker: Linker, layer: str, path: bytes, file: Dynamic) -> Iterator[Misfit]:
    """What one file needs and the linker's root lacks."""
    if file.interpreter and linker.locate(file.interpreter) is None:
        yield Misfit(layer, path, file.interpreter.lstrip(b"/"))
    requires = dict(file.requires)
    for name in file.needed:
        library = linker.find(name, file, path)
        if library is None:
            yield Misfit(layer, path, name, instead=tuple(linker.similar(name, file, path)))
        elif library.provides:
            # Of a library without versions the linker takes any symbol, and says so.
            for version in requires.get(name, ()):
                if version not in library.provides:
                    yield Misfit(layer, path, name, version)
