"""Whether a layer still fits, with ELF files that the compiler made."""

import os
import random
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hacktree.client.layers import dependents
from hacktree.client.layers.branch import commit_layer
from hacktree.client.layers.definition import LayerDefinition, MisfitPolicy, SourceKind, write_layer
from hacktree.client.layers.dynamic import read_dynamic
from hacktree.client.replay.step import StepFailedError
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from support.layering import lay_over, make_library, make_program
from support.plain_root import PlainRoot
from support.sysroots import make_sysroot
from support.trees import File, Spec, Symlink, make_commit

LINKER = b"/usr/lib/ld-test.so.1"
"""The interpreter of the programs here: a path that is in the builds, not on this machine."""

INTERPRETER = f"-Wl,--dynamic-linker={LINKER.decode()}"


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


def make_build(sysroot: Sysroot, files: Mapping[str, Path | Spec]) -> ObjectId:
    """A build with a dynamic linker and these files."""
    tree: dict[str | bytes, Spec] = {"usr/lib/ld-test.so.1": b"", "lib": Symlink(b"usr/lib")}
    for path, what in files.items():
        tree[path] = File(what.read_bytes(), 0o755) if isinstance(what, Path) else what
    return make_commit(sysroot.repository, tree)


def add(sysroot: Sysroot, source: Path, **options: object) -> None:
    """The layer mesa, with what is in a directory."""
    fields = {"source": SourceKind.DIRECTORY, "path": str(source), **options}
    layer = LayerDefinition(**fields)  # type: ignore[arg-type]
    commit_layer(sysroot.repository, "mesa", layer, 1, lambda invocation: 0)
    write_layer(sysroot, "mesa", layer)


def lay(sysroot: Sysroot, build: ObjectId) -> PlainRoot:
    """A root of the build with the layer, in a place of its own."""
    return lay_over(sysroot, build, Path(tempfile.mkdtemp(dir=sysroot.path)) / "root")


def misfits(sysroot: Sysroot, build: ObjectId) -> list[str]:
    """What the check says, a line each; nothing if all fits."""
    try:
        lay(sysroot, build)
    except StepFailedError as error:
        first, *lines = error.message.splitlines()
    else:
        return []
    assert first == f"layers don't fit build {build.hex()[:9]}:"
    return [line.strip() for line in lines]


def test_a_changed_soname_is_named_with_the_build_that_broke_it(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """The layer's program fits the build it was made for, and not the one with another libfoo."""
    old = make_library(tmp_path / "old/libfoo.so", "libfoo.so.5", ["foo"])
    new = make_library(tmp_path / "new/libfoo.so", "libfoo.so.6", ["foo"])
    fits = make_build(sysroot, {"usr/lib/libfoo.so.5": old})
    breaks = make_build(
        sysroot, {"usr/lib/libfoo.so.6.1": new, "usr/lib/libfoo.so.6": Symlink(b"libfoo.so.6.1")}
    )
    make_program(tmp_path / "layer/usr/bin/x", ["foo"], [old], INTERPRETER)
    add(sysroot, tmp_path / "layer")
    assert misfits(sysroot, fits) == []
    assert misfits(sysroot, breaks) == [
        "libfoo.so.5 is needed by usr/bin/x of layer mesa; "
        f"build {breaks.hex()[:9]} has libfoo.so.6"
    ]
    add(sysroot, tmp_path / "layer", misfit=MisfitPolicy.WARN)
    said = lay(sysroot, breaks).said
    assert said[1].startswith("warning: libfoo.so.5 is needed by usr/bin/x")


def test_versions_of_symbols_and_the_interpreter_are_looked_at(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """A library of the same soname that lacks the newer symbols does not do."""
    old = make_library(tmp_path / "old/libfoo.so", "libfoo.so.5", ["foo"], version="FOO_1")
    new = make_library(tmp_path / "new/libfoo.so", "libfoo.so.5", ["foo"], version="FOO_2")
    plain = make_library(tmp_path / "plain/libfoo.so", "libfoo.so.5", ["foo"])
    make_program(tmp_path / "layer/usr/bin/x", ["foo"], [new], INTERPRETER)
    make_program(tmp_path / "layer/usr/bin/y", ["foo"], [new], "-Wl,--dynamic-linker=/lib/ld-9")
    add(sysroot, tmp_path / "layer")
    build = make_build(sysroot, {"usr/lib/libfoo.so.5": old, "usr/lib/ld-9": b""})
    called = f"build {build.hex()[:9]}"
    assert misfits(sysroot, build) == [
        f"FOO_2 of libfoo.so.5 is needed by usr/bin/{name} of layer mesa; {called} has libfoo.so.5 "
        "without it"
        for name in "xy"
    ]
    build = make_build(sysroot, {"usr/lib/libfoo.so.5": new})
    assert misfits(sysroot, build) == [
        f"lib/ld-9 is needed by usr/bin/y of layer mesa; build {build.hex()[:9]} lacks it"
    ]
    # The linker takes any symbol of a library without versions.
    build = make_build(sysroot, {"usr/lib/libfoo.so.5": plain, "usr/lib/ld-9": b""})
    assert misfits(sysroot, build) == []


def test_libraries_are_found_where_the_linker_finds_them(sysroot: Sysroot, tmp_path: Path) -> None:
    """ld.so.conf and its includes, $ORIGIN, RPATH, links, the layer itself; not elsewhere."""
    libraries = {
        name: make_library(tmp_path / f"{name}.so", f"lib{name}.so.1", [name])
        for name in ("conf", "origin", "rpath", "own", "hidden", "nowhere")
    }
    program = tmp_path / "layer/opt/app/bin/x"
    make_program(
        program,
        [*libraries],
        [*libraries.values()],
        INTERPRETER,
        "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib:/opt/r",
    )
    make_program(
        tmp_path / "layer/opt/app/bin/y",
        ["rpath"],
        [libraries["rpath"]],
        INTERPRETER,
        "-Wl,--disable-new-dtags,-rpath,/opt/r",
    )
    for place, name in (
        ("usr/local/lib/libown.so.1", "own"),
        ("opt/app/private/libhidden.so.1", "hidden"),
    ):
        path = tmp_path / "layer" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(libraries[name].read_bytes())
    add(sysroot, tmp_path / "layer")
    build = make_build(
        sysroot,
        {
            "etc/ld.so.conf": b"include ld.so.conf.d/*.conf # all\n\n/usr/local/lib\n",
            "etc/ld.so.conf.d/a.conf": b"/opt/c\n",
            "etc/ld.so.conf.d/b.notes": b"/opt/elsewhere\n",
            "opt/c": Symlink(b"../srv/real"),
            "srv/real/libconf.so.1": libraries["conf"],
            "opt/app/lib/liborigin.so.1": libraries["origin"],
            "opt/r/librpath.so.1": libraries["rpath"],
            "opt/elsewhere/libnowhere.so.1": libraries["nowhere"],
        },
    )
    called = f"build {build.hex()[:9]}"
    assert misfits(sysroot, build) == [
        f"libnowhere.so.1 is needed by opt/app/bin/x of layer mesa; {called} lacks it"
    ]


def test_a_library_that_a_layer_replaces_must_do_for_the_build(
    sysroot: Sysroot, tmp_path: Path
) -> None:
    """The build's programs are checked against it; what was broken before is not the layer's."""
    one = make_library(tmp_path / "1/libfoo.so", "libfoo.so.5", ["foo"], version="FOO_1")
    two = make_library(tmp_path / "2/libfoo.so", "libfoo.so.5", ["foo"], version="FOO_2")
    bar = make_library(tmp_path / "libbar.so", "libbar.so.1", ["bar"])
    user = make_program(tmp_path / "user", ["foo"], [one], INTERPRETER)
    broken = make_program(tmp_path / "broken", ["foo"], [two], INTERPRETER)
    build = make_build(
        sysroot,
        {
            "usr/lib/libfoo.so.5": one,
            "usr/lib/libbar.so.1": bar,
            "usr/bin/user": user,
            "usr/bin/broken": broken,
            "usr/bin/bar": make_program(tmp_path / "bar", ["bar"], [bar], INTERPRETER),
            "usr/bin/text": File(b"\x7fELF but no more", 0o755),
        },
    )
    make_library(tmp_path / "layer/usr/lib/libfoo.so.5", "libfoo.so.5", ["foo"], version="FOO_2")
    add(sysroot, tmp_path / "layer", replace=("usr/lib/libfoo*",), remove=("usr/lib/libbar*",))
    assert misfits(sysroot, build) == [
        "libbar.so.1 is needed by usr/bin/bar of build "
        f"{build.hex()[:9]}; with layer mesa the root lacks it",
        f"FOO_1 of libfoo.so.5 is needed by usr/bin/user of build {build.hex()[:9]}; with layer "
        "mesa the root has libfoo.so.5 without it",
    ]
    caches = list((sysroot.repository.state / "needs").iterdir())
    assert len(caches) == 1
    caches[0].write_bytes(b"damaged")
    assert len(misfits(sysroot, build)) == 2
    good = make_library(tmp_path / "3/libfoo.so", "libfoo.so.5", ["foo"], version="FOO_1")
    (tmp_path / "layer/usr/lib/libfoo.so.5").write_bytes(good.read_bytes())
    add(sysroot, tmp_path / "layer", replace=("usr/lib/libfoo*",))
    assert misfits(sysroot, build) == []


def test_what_is_read_of_elf_files_is_what_readelf_reads(tmp_path: Path) -> None:
    """Of real programs and libraries of this machine, and of 32-bit ones where gcc makes them."""
    programs = [Path("/bin/bash"), Path("/usr/bin/gcc"), Path("/usr/bin/python3")]
    for path in programs:
        with open(path, "rb") as stream:
            dynamic = read_dynamic(stream.fileno())
        assert dynamic is not None
        shown = subprocess.run(
            ["readelf", "--wide", "--dynamic", "--version-info", str(path)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", shown)
        assert [os.fsdecode(name) for name in dynamic.needed] == needed
        section = shown.partition("Version needs section")[2]
        files = re.split(r"File: ", section)[1:]
        expected = {block.split()[0]: sorted(re.findall(r"Name: (\S+)", block)) for block in files}
        assert {
            name.decode(): sorted(version.decode() for version in versions)
            for name, versions in dynamic.requires
        } == expected
        assert dynamic.interpreter.startswith(b"/lib")


def test_a_damaged_elf_file_is_none_and_does_no_harm(tmp_path: Path) -> None:
    """Whatever its headers and tables claim: read, or found to be nothing, in bounded time."""
    library = make_library(tmp_path / "lib.so", "lib.so.1", ["f", "g"], version="V_1")
    program = make_program(tmp_path / "program", ["f", "g"], [library], INTERPRETER)
    chance = random.Random(21)
    nothing = 0
    broken = tmp_path / "broken"
    for data in (library.read_bytes(), program.read_bytes()):
        at = data.index(b"\0f\0")  # The strings; versions and the dynamic section are near.
        for _ in range(100):
            lies = bytearray(data)
            for _ in range(chance.choice([1, 2, 8])):
                place = chance.choice([chance.randrange(0x300), at + chance.randrange(0x200)])
                lies[place % len(lies)] = chance.choice([0, 1, 0xFF, chance.randrange(256)])
            end = chance.choice([len(lies), len(lies), chance.randrange(len(lies))])
            broken.write_bytes(lies[:end])
            with open(broken, "rb") as stream:
                nothing += read_dynamic(stream.fileno()) is None
    assert 20 < nothing < 180


def test_checks_at_the_same_time_leave_the_newest_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them waits for another, which may delete what this one has listed."""
    for number in range(6):
        (tmp_path / str(number)).touch()
        os.utime(tmp_path / str(number), (number, number))
    listed = [*tmp_path.iterdir(), tmp_path / "gone"]
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(listed))
    dependents._drop_old(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["2", "3", "4", "5"]
