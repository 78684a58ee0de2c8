"""`layer add` that is killed at any step leaves what can be deployed, and completes again."""

import shutil
import sys
from pathlib import Path

import pytest

from hacktree.client.layers.branch import layer_versions
from hacktree.client.layers.definition import read_layers
from hacktree.client.layers.steps import LayerSource
from hacktree.client.sysroot import open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.fsck import fsck
from support.kill import every_kill
from support.layering import build_of, write_tree
from support.sysroots import make_build, make_sysroot

RENAMES = "?rename,?renameat,?renameat2"


def test_a_killed_add_leaves_layers_that_can_be_laid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every rename, the last of which defines the layer: its versions come before."""
    build = make_build(make_sysroot(tmp_path / "template"), 1)
    tree = write_tree(tmp_path / "tree", {"usr/share/a": b"1"})
    place = tmp_path / "sysroot"
    words = ["layer", "add", "mine", str(tree)]
    command = [str(Path(sys.executable).with_name("hacktree")), "--sysroot", str(place), *words]
    monkeypatch.setenv("HACKTREE_SYSROOT", str(place))
    shutil.copytree(tmp_path / "template", place, symlinks=True)
    for _ in every_kill(command, RENAMES):
        sysroot = open_sysroot(place)
        repository = sysroot.repository
        assert read_layers(sysroot) == {}
        assert list(LayerSource().steps(build_of(sysroot, build))) == []
        assert fsck(repository, jobs=1).intact
        assert main(words) == 0
        assert list(read_layers(sysroot)) == ["mine"]
        assert len(LayerSource().steps(build_of(sysroot, build))) == 2
        assert len(layer_versions(repository, "mine")) == 1
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "template", place, symlinks=True)
