"""Layers for tests: real libraries and programs, and roots that layers are laid over."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hacktree.client.layers.steps import LayerSource
from hacktree.client.replay.step import Build
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy, check_out
from support.plain_root import PlainRoot
from support.trees import File, Spec, Symlink, make_commit

_MAKEFILE = """\
libdir = /lib

all: libhello.so.1 hello

libhello.so.1: libhello.c
	gcc -shared -fPIC -Wl,-soname,$@ -o $@ $<

hello: hello.c libhello.so.1
	gcc -o $@ $< ./libhello.so.1

install: all
	install -D -m 755 libhello.so.1 $(DESTDIR)$(libdir)/libhello.so.1
	ln -sf libhello.so.1 $(DESTDIR)$(libdir)/libhello.so
	install -D -m 755 hello $(DESTDIR)/usr/bin/hello
	install -D -m 644 hello.c $(DESTDIR)/usr/share/hello/$(EXTRA)hello.c
"""


def make_library(
    path: Path,
    soname: str,
    functions: Sequence[str],
    *,
    version: str = "",
    needs: Sequence[Path] = (),
) -> Path:
    """A library with these functions, all of symbol version `version`, linked with `needs`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "\n".join(f"int {name}(void) {{ return 1; }}" for name in functions)
    options = ["-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{soname}"]
    if version:
        script = path.with_name(f"{path.name}.map")
        script.write_text(f"{version} {{ global: {'; '.join(functions)}; local: *; }};\n")
        options.append(f"-Wl,--version-script={script}")
    compile_c(path, source, [*options, *map(str, needs)])
    if version:
        script.unlink()
    return path


def make_program(
    path: Path, calls: Sequence[str], libraries: Sequence[Path], *options: str
) -> Path:
    """A program that calls these functions of these libraries; without a C library of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "\n".join(f"int {name}(void);" for name in calls)
    body = " + ".join(f"{name}()" for name in calls) or "0"
    source += f"\nint _start(void) {{ return {body}; }}\n"
    flags = ["-nostdlib", "-fPIE", "-pie", "-Wl,--allow-shlib-undefined", *options]
    compile_c(path, source, [*flags, *map(str, libraries)])
    return path


def compile_c(path: Path, source: str, options: Sequence[str]) -> None:
    """Have gcc make `path` of C; options that name libraries come last."""
    command = ["gcc", "-x", "c", "-", "-x", "none", "-o", str(path), *options]
    subprocess.run(command, input=source.encode(), check=True)


def write_tree(directory: Path, files: Mapping[str, bytes]) -> Path:
    """A directory with these files, as an installation leaves it."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def build_of(sysroot: Sysroot, commit: ObjectId) -> Build:
    """That commit as a replay sees it."""
    return Build(sysroot, commit, sysroot.repository.load_commit(commit), None)


def lay_over(sysroot: Sysroot, commit: ObjectId, path: Path) -> PlainRoot:
    """A copy of the commit at `path`, with the sysroot's layers laid over it."""
    build = build_of(sysroot, commit)
    check_out(sysroot.repository, build.commit, path, policy=LinkPolicy.COPY)
    root = PlainRoot(path, build)
    for step in LayerSource().steps(build):
        step.apply(root)
    return root


def write_project(directory: Path) -> Path:
    """A library and a program that says hello, with a makefile that installs them."""
    return write_tree(
        directory,
        {
            "Makefile": _MAKEFILE.encode(),
            "libhello.c": b'#include <stdio.h>\nvoid hello(void) { puts("hello"); }\n',
            "hello.c": b"void hello(void);\nint main(void) { hello(); return 0; }\n",
        },
    )


def make_system(sysroot: Sysroot, more: Mapping[str | bytes, Spec] | None = None) -> ObjectId:
    """A build with this machine's C library and a merged /usr: its programs run in a root."""
    tree: dict[str | bytes, Spec] = {
        "lib": Symlink(b"usr/lib"),
        "lib64": Symlink(b"usr/lib64"),
        "usr/bin/old": File(b"#!/bin/sh\n", 0o755),
        **(more or {}),
    }
    listed = subprocess.run(["ldd", "/bin/ls"], check=True, capture_output=True, text=True).stdout
    for line in listed.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), None)
        if path is not None and ("libc.so" in path or "/ld-" in path):
            inside = "usr/" + os.path.normpath(path).lstrip("/").removeprefix("usr/")
            tree[inside] = File(Path(path).read_bytes(), 0o755)
    return make_commit(sysroot.repository, tree)
