"""Triggers: caches follow what earlier steps put into a root; each with its real program."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

from hacktree.client.replay.step import Build, Root, StepFailedError
from hacktree.client.triggers.step import TriggerSource
from hacktree.common.cli.main import main
from hacktree.common.repository.revision import resolve
from support.plain_root import PlainRoot
from support.programs import copy_programs
from support.steps import FunctionStep, replaying
from support.sysroots import deploy, make_build, make_sysroot

TRIPLET: Final = f"{os.uname().machine}-linux-gnu"
PIXBUF: Final = Path(f"/usr/lib/{TRIPLET}/gdk-pixbuf-2.0")
FONT: Final = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
KERNEL: Final = "6.1.0-[test]"

INPUTS: Final = {
    "usr/lib/sysusers.d/mine.conf": 'u mine 498 "My service"\n',
    "usr/lib/udev/hwdb.d/60-mine.hwdb": "mine:*\n ID_MINE=yes\n",
    "usr/share/glib-2.0/schemas/org.mine.gschema.xml": """\
        <schemalist><schema id="org.mine" path="/org/mine/">
        <key name="n" type="i"><default>1</default></key></schema></schemalist>
        """,
    "usr/share/mime/packages/mine.xml": """\
        <mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
        <mime-type type="application/x-mine"><glob pattern="*.mine"/></mime-type></mime-info>
        """,
    "usr/share/applications/mine.desktop": """\
        [Desktop Entry]
        Type=Application
        Name=Mine
        Exec=mine
        MimeType=application/x-mine;
        """,
    "usr/share/icons/hicolor/index.theme": """\
        [Icon Theme]
        Name=Hicolor
        Comment=-
        Directories=48x48/apps
        [48x48/apps]
        Size=48
        """,
    "usr/share/icons/hicolor/48x48/apps/mine.png": "",
}

SOURCES: Final = {
    "usr/lib/libmine.so.1.0": ("int mine(void) { return 1; }", "-Wl,-soname,libmine.so.1"),
    f"usr/lib/modules/{KERNEL}/kernel/mine.ko": (
        '__attribute__((section(".modinfo"))) char alias[] = "alias=pci:v00001234*";',
        "-c",
    ),
    f"usr/lib/{TRIPLET}/gio/modules/libmine-gio.so": (
        "char **g_strsplit(const char *, const char *, int);"
        'char **g_io_module_query(void) { return g_strsplit("mine-point", "!", -1); }'
        "void g_io_module_load(void *module) {} void g_io_module_unload(void *module) {}",
        "-fPIC",
    ),
}

LOADER: Final = f"usr/lib/{TRIPLET}/gdk-pixbuf-2.0/2.10.0/loaders/libpixbufloader-xpm.so"

RESULTS: Final = {
    "etc/passwd": b"mine:x:498:",
    "etc/ld.so.cache": b"libmine.so.1",
    "usr/lib/libmine.so.1": b"\x7fELF",
    f"usr/lib/modules/{KERNEL}/modules.alias": b"alias pci:v00001234* mine",
    "etc/udev/hwdb.bin": b"ID_MINE",
    "usr/share/glib-2.0/schemas/gschemas.compiled": b"org.mine",
    f"usr/lib/{TRIPLET}/gio/modules/giomodule.cache": b"libmine-gio.so: mine-point",
    f"usr/lib/{TRIPLET}/gdk-pixbuf-2.0/2.10.0/loaders.cache": b"libpixbufloader-xpm.so",
    "usr/share/mime/mime.cache": b"application/x-mine",
    "usr/share/applications/mimeinfo.cache": b"application/x-mine=mine.desktop",
    "usr/share/icons/hicolor/icon-theme.cache": b"mine",
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with this machine's programs and the inputs of all caches, but no cache."""
    image = tmp_path_factory.mktemp("image")
    copy_programs(
        image, "systemd-sysusers", "ldconfig", "depmod", "systemd-hwdb", "glib-compile-schemas",
        "gio-querymodules", f"{PIXBUF}/gdk-pixbuf-query-loaders", "update-mime-database",
        "update-desktop-database", "gtk-update-icon-cache", "fc-cache", "fc-list",
    )  # fmt: skip
    copy_programs(image, f"/{LOADER}")
    for path, text in INPUTS.items():
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        (image / path).write_text(dedent(text))
    for path, (source, option) in SOURCES.items():
        (image / path).parent.mkdir(parents=True, exist_ok=True)
        kind = [option] if option == "-c" else ["-shared", option]
        command = ["gcc", *kind, "-x", "c", "-", "-o", str(image / path)]
        subprocess.run(command, input=source.encode(), check=True)
    (image / "etc/fonts").mkdir(parents=True)
    shutil.copy("/etc/fonts/fonts.conf", image / "etc/fonts")
    fonts = image / "usr/share/fonts/mine"
    fonts.mkdir(parents=True)
    shutil.copy(FONT, fonts)
    (image / "var/cache/fontconfig").mkdir(parents=True)
    for name, line in (("passwd", "root:x:0:0::/root:/bin/sh"), ("group", "root:x:0:")):
        (image / "etc" / name).write_text(f"{line}\n")
    return image


@pytest.fixture
def root(image: Path, tmp_path: Path) -> Iterator[PlainRoot]:
    sysroot = make_sysroot(tmp_path / "sysroot")
    commit = make_build(sysroot, 1)
    path = tmp_path / "root"
    shutil.copytree(image, path, symlinks=True, copy_function=os.link)
    yield PlainRoot(path, Build(sysroot, commit, sysroot.repository.load_commit(commit), None))
    shutil.rmtree(path)


def apply(root: PlainRoot) -> None:
    (step,) = TriggerSource().steps(root.build)
    step.apply(root)


def test_every_cache_follows_its_inputs(root: PlainRoot) -> None:
    """The root's own programs find what earlier steps put there."""
    touched = [*INPUTS, *SOURCES, LOADER, "usr/share/fonts/mine/DejaVuSans.ttf"]
    root.changed = touched
    apply(root)
    for path, content in RESULTS.items():
        assert content in (root.path / path).read_bytes(), path
    theme = root.path / "usr/share/icons/hicolor"
    newest = max(theme.stat().st_mtime, (theme / "48x48/apps").stat().st_mtime)
    assert (theme / "icon-theme.cache").stat().st_mtime >= newest, "GTK would ignore the cache"
    caches = list((root.path / "var/cache/fontconfig").glob("*.cache-*"))
    assert any(b"DejaVu Sans" in cache.read_bytes() for cache in caches)
    assert [line.split()[0] for line in root.said] == [
        "systemd-sysusers", "ldconfig", "depmod", "systemd-hwdb", "glib-compile-schemas",
        "gio-querymodules", "gdk-pixbuf-query-loaders", "update-mime-database",
        "update-desktop-database", "gtk-update-icon-cache", "fc-cache",
    ]  # fmt: skip


def test_what_nobody_touched_is_left_as_it_was_built(root: PlainRoot) -> None:
    """Neither does a trigger run for inputs of another one."""
    apply(root)
    root.changed = ["usr/bin/mine", "usr/share/doc/mine", "usr/lib/modules/other/kernel/x.ko"]
    apply(root)
    assert root.said == []
    root.changed = ["usr/share/applications/mine.desktop"]
    apply(root)
    assert root.said == ["update-desktop-database --quiet /usr/share/applications"]


def test_a_root_without_the_program_has_no_trigger(root: PlainRoot) -> None:
    """A server's tree has no icons to cache; the program counts only if the root can start it."""
    root.changed = list(INPUTS)
    for program in ("update-mime-database", "gtk-update-icon-cache"):
        (root.path / "usr/bin" / program).unlink()
    (root.path / "usr/bin/update-mime-database").symlink_to("/usr/bin/absent")
    apply(root)
    assert "gtk-update-icon-cache" not in " ".join(root.said)
    assert not (root.path / "usr/share/mime/mime.cache").exists()


def test_a_trigger_that_fails_is_named(root: PlainRoot) -> None:
    """With what it printed."""
    root.changed = ["usr/lib/libmine.so.1.0"]
    ldconfig = root.path / "usr/sbin/ldconfig"
    ldconfig.unlink()
    copy_programs(root.path, "sh")
    ldconfig.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    ldconfig.chmod(0o755)
    with pytest.raises(StepFailedError, match=r"ldconfig: .*exit status 1") as raised:
        apply(root)
    assert raised.value.log == "cannot\n"


def test_caches_are_current_in_the_root_that_was_deployed(image: Path, tmp_path: Path) -> None:
    """Programs compare times: those of a root's files and directories must not outrun a cache's."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    repository = ["--repo", str(sysroot.repository.path)]
    assert main([*repository, "commit", "fastqa", str(image), "--quiet"]) == 0
    commit = resolve(sysroot.repository, "fastqa")
    build = Build(sysroot, commit, sysroot.repository.load_commit(commit), None)

    def add(root: Root) -> None:
        icons = root.path / "usr/share/icons/hicolor/48x48/apps"
        (icons / "added.png").write_bytes(b"")
        fonts = root.path / "usr/share/fonts"
        shutil.copy(FONT.with_name("DejaVuSerif.ttf"), fonts / "mine")

    deploy(sysroot, commit, replaying(FunctionStep("add", add), *TriggerSource().steps(build)))
    live = sysroot.link
    theme = live / "usr/share/icons/hicolor"
    assert b"added" in (theme / "icon-theme.cache").read_bytes()
    newest = max(theme.stat().st_mtime, (theme / "48x48/apps").stat().st_mtime)
    assert (theme / "icon-theme.cache").stat().st_mtime >= newest
    command = ["chroot", str(live), "fc-cache", "--system-only", "--verbose"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"/usr/share/fonts/mine: skipping, existing cache is valid: 2 fonts", told)
    assert re.search(r"/usr/share/fonts: skipping, existing cache is valid: 0 fonts, 1 dirs", told)
