"""`extension add` that is killed at any step leaves one version, which can be deployed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.extensions.store import EXTENSIONS, Options, list_extensions, write_options
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.main import main
from support.debs import build_tool
from support.kill import every_kill
from support.sysroots import make_sysroot

RENAMES = "?rename,?renameat,?renameat2"


def test_a_killed_add_leaves_one_version_and_what_it_may_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename; the same command then completes. Also where the old version's
    file has another name: it is for all machines, or a person put it there.
    """
    own = subprocess.run(
        ["dpkg", "--print-architecture"], check=True, capture_output=True, text=True
    ).stdout.strip()
    first, second = build_tool(tmp_path, 1, "all"), build_tool(tmp_path, 2, own)
    place = tmp_path / "sysroot"
    template = make_sysroot(tmp_path / "template")
    monkeypatch.setenv("HACKTREE_SYSROOT", str(place))
    file = template.path / EXTENSIONS / "mine.deb"
    file.parent.mkdir()
    shutil.copy(first, file)
    write_options(file, Options(replace=("opt/old",)))
    words = ["extension", "add", str(second), "--replace", "usr/new"]
    command = [str(Path(sys.executable).with_name("hacktree")), "--sysroot", str(place), *words]
    seen = set()
    shutil.copytree(template.path, place, symlinks=True)
    for _ in every_kill(command, RENAMES):
        (extension,) = list_extensions(open_sysroot(place))
        version = extension.package.package.version
        assert {"1": "opt/old", "2": "usr/new"}[version] in extension.options.replace
        seen.add((version, extension.package.file.name, len(extension.options.replace)))
        assert main(words) == 0
        (extension,) = list_extensions(open_sysroot(place))
        assert extension.package.package.version == "2"
        assert extension.options == Options(replace=("usr/new",))
        assert [path.name for path in extension.package.file.parent.glob("*.deb")] == [
            f"tool.{own}.deb"
        ]
        assert not list(extension.package.file.parent.glob(".*"))
        shutil.rmtree(place)
        shutil.copytree(template.path, place, symlinks=True)
    assert seen == {
        ("1", "mine.deb", 1),
        ("1", f"tool.{own}.deb", 2),
        ("2", f"tool.{own}.deb", 2),
    }


def test_a_package_never_takes_the_place_of_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a person put there under a name of this one's."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    package = build_tool(tmp_path, 1, "all")
    other = sysroot.path / EXTENSIONS / "tool.all.deb"
    other.parent.mkdir()
    build_tool(tmp_path, 1, "all", name="other").rename(other)
    before = other.read_bytes()
    assert main(["extension", "add", str(package)]) == 2
    assert "holds another package" in capsys.readouterr().err
    assert other.read_bytes() == before
