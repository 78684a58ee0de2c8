"""Laying layers over a root: where files go, what conflicts, what is left of an older version."""

import os
import stat
from pathlib import Path

import pytest

from hacktree.client.layers.branch import commit_layer
from hacktree.client.layers.definition import (
    LayerDefinition,
    SourceKind,
    read_layers,
    write_layer,
)
from hacktree.client.layers.steps import LayerConflictError, LayerSource
from hacktree.client.layers.view import DiskView, TreeView
from hacktree.client.replay.step import StepFailedError
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.checkout import LinkPolicy, check_out
from support.layering import build_of, lay_over, write_tree
from support.plain_root import PlainRoot
from support.sysroots import make_sysroot
from support.trees import Directory, File, Symlink, make_commit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture
def build(sysroot: Sysroot) -> ObjectId:
    """A system with a merged /usr, a file and a link to replace, and a directory of its own."""
    return make_commit(
        sysroot.repository,
        {
            "lib": Symlink(b"usr/lib"),
            "bin": Symlink(b"/usr/bin"),
            "usr/lib/libold.so.1": b"the system's",
            "usr/lib/libold.so": Symlink(b"libold.so.1"),
            "usr/bin/tool": File(b"the system's", 0o755),
            "usr/share": Directory(0o755),
            "usr/share/doc/tool/README": b"read me",
            "usr/share/private": Directory(0o700),
            "run": Directory(0o755),
        },
    )


def add(sysroot: Sysroot, name: str, source: Path, **options: object) -> LayerDefinition:
    """Commit a directory as the newest version of a layer, and define the layer."""
    layers = read_layers(sysroot)
    order = layers[name].order if name in layers else 10 * (len(layers) + 1)
    fields = {"source": SourceKind.DIRECTORY, "path": str(source), "order": order, **options}
    layer = LayerDefinition(**fields)  # type: ignore[arg-type]
    commit_layer(sysroot.repository, name, layer, 1_700_000_000, lambda invocation: 0)
    write_layer(sysroot, name, layer)
    return layer


def conflicts(sysroot: Sysroot, build: ObjectId) -> list[str]:
    """What is listed when the layers can't be laid."""
    with pytest.raises(LayerConflictError) as caught:
        LayerSource().steps(build_of(sysroot, build))
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_a_layer_follows_the_links_of_a_merged_usr(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """What is shipped in /lib and /bin lands in /usr; the links stay, and nobody's mode changes."""
    source = write_tree(
        tmp_path / "layer",
        {"lib/libnew.so.1": b"new", "bin/new": b"#!", "usr/lib/sub/x": b"x", "opt/a/b": b"b"},
    )
    (source / "usr/share/private").mkdir(parents=True)
    (source / "bin/new").chmod(0o4755)
    (source / "opt/a").chmod(0o2750)
    os.symlink("libnew.so.1", source / "lib/libnew.so")
    add(sysroot, "mesa", source)
    root = lay_over(sysroot, build, tmp_path / "root")
    assert os.readlink(root.path / "lib") == "usr/lib"
    assert os.readlink(root.path / "bin") == "/usr/bin"
    assert (root.path / "usr/lib/libnew.so.1").read_bytes() == b"new"
    assert os.readlink(root.path / "usr/lib/libnew.so") == "libnew.so.1"
    assert (root.path / "usr/lib/sub/x").read_bytes() == b"x"
    assert stat.S_IMODE((root.path / "usr/share/private").stat().st_mode) == 0o700
    mode = 0o2750 if os.geteuid() == 0 else 0o750
    assert stat.S_IMODE((root.path / "opt/a").stat().st_mode) == mode
    mode = 0o4755 if os.geteuid() == 0 else 0o755
    assert stat.S_IMODE((root.path / "usr/bin/new").stat().st_mode) == mode
    assert root.said == ["5 files"]


def test_every_conflict_is_listed_before_anything_is_made(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """With the tree, between layers, and of kinds; identical files are none."""
    first = {
        "usr/bin/tool": b"another",
        "usr/share/doc": b"a file",
        "usr/lib/libold.so.1/x": b"below a file",
        "lib/libold.so": b"a file for a link",
        "run/lock": b"never seen",
        "usr/share/.wh.doc": b"",
        "usr/shared": b"of both layers",
        "usr/same": b"same",
    }
    source = write_tree(tmp_path / "first", first)
    os.symlink("elsewhere", source / "bin")
    second = write_tree(tmp_path / "second", {"usr/shared": b"another", "usr/same": b"same"})
    os.symlink("/etc", second / "lib")
    add(sysroot, "first", source)
    add(sysroot, "second", second)
    called = f"build {build.hex()[:9]}"
    assert sorted(conflicts(sysroot, build)) == sorted(
        [
            f"layer first: bin: a link here, a link to a directory in {called}",
            f"layer first: lib/libold.so: is in {called}, too",
            "layer first: run/lock: nothing in /run is part of a root",
            f"layer first: usr/bin/tool: is in {called}, too",
            f"layer first: usr/lib/libold.so.1: a directory here, a file in {called}",
            "layer first: usr/share/.wh.doc: is a whiteout of a container's layer: name what is to "
            "go as a pattern of `remove`",
            f"layer first: usr/share/doc: a file here, a directory in {called}",
            f"layer second: lib: a link here, a link to a directory in {called}",
            "layer second: usr/shared: is in layer first, too",
        ]
    )


def test_a_layer_replaces_and_removes_what_its_patterns_say(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """A pattern of a directory holds for what is below it; one without a match is told of."""
    source = write_tree(
        tmp_path / "layer", {"lib/libold.so.1": b"mine", "bin/tool": b"mine", "usr/share/doc": b"."}
    )
    os.symlink("libold.so.9", source / "lib/libold.so")
    replace, remove = ("usr/lib", "bin/to*"), ("usr/share/d*", "lib/absent", "usr/none*")
    add(sysroot, "mesa", source, replace=replace, remove=remove)
    root = lay_over(sysroot, build, tmp_path / "root")
    assert (root.path / "usr/lib/libold.so.1").read_bytes() == b"mine"
    assert os.readlink(root.path / "usr/lib/libold.so") == "libold.so.9"
    assert (root.path / "usr/bin/tool").read_bytes() == b"mine"
    assert (root.path / "usr/share/doc").read_bytes() == b"."
    assert root.said == [
        "nothing to remove matches lib/absent",
        "nothing to remove matches usr/none*",
        "4 files, 3 replaced, 1 removed",
    ]


def test_a_file_that_the_next_version_lacks_is_in_no_root_made_from_it(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """Each root is fresh; what was replaced is the build's again."""
    files = {"usr/lib/old/x": b"x", "usr/bin/tool": b"mine", "usr/bin/stays": b"1"}
    source = write_tree(tmp_path / "layer", files)
    add(sysroot, "mesa", source, replace=("usr/bin/tool",))
    before = lay_over(sysroot, build, tmp_path / "before").path
    assert (before / "usr/lib/old/x").exists()
    steps = LayerSource().steps(build_of(sysroot, build))
    for name in ("usr/lib/old/x", "usr/bin/tool"):
        (source / name).unlink()
    (source / "usr/lib/old").rmdir()
    add(sysroot, "mesa", source, replace=("usr/bin/tool",))
    after = lay_over(sysroot, build, tmp_path / "after").path
    assert not (after / "usr/lib/old").exists()
    assert (after / "usr/bin/tool").read_bytes() == b"the system's"
    assert (after / "usr/bin/stays").read_bytes() == b"1"
    digests = {step.digest for step in LayerSource().steps(build_of(sysroot, build))}
    assert not digests & {step.digest for step in steps}


def test_what_an_earlier_step_brought_is_a_conflict_too(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """An extension's file isn't in the tree: it is found when the layer is laid, and stays."""
    add(sysroot, "mesa", write_tree(tmp_path / "layer", {"usr/bin/extra": b"mine"}))
    made = build_of(sysroot, build)
    root = PlainRoot(tmp_path / "root", made)
    check_out(sysroot.repository, made.commit, root.path, policy=LinkPolicy.COPY)
    (root.path / "usr/bin/extra").write_bytes(b"the extension's")
    (step, *_) = LayerSource().steps(made)
    with pytest.raises(StepFailedError, match="usr/bin/extra: is in the root, too"):
        step.apply(root)
    assert (root.path / "usr/bin/extra").read_bytes() == b"the extension's"


def test_views_list_directories_and_follow_no_link(sysroot: Sysroot, tmp_path: Path) -> None:
    """A commit and a directory of the same tree show the same."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").touch()
    link = Symlink(os.fsencode(tmp_path / "outside"))
    build = make_commit(sysroot.repository, {b"usr/\xff": b"", "usr/link": link})
    root = lay_over(sysroot, build, tmp_path / "root")
    tree = TreeView(sysroot.repository, sysroot.repository.load_commit(build).root.id)
    for view in (tree, DiskView(root.path, sysroot.repository)):
        assert view.names(b"usr") == [b"link", b"\xff"]
        assert view.names(b"usr/link") == view.names(b"usr/\xff") == view.names(b"absent") == []


def test_links_of_a_root_never_lead_out_of_it(sysroot: Sysroot, tmp_path: Path) -> None:
    """A link to / or to above it ends in the root; a loop is a conflict."""
    outside = tmp_path / "outside"
    outside.mkdir()
    build = make_commit(
        sysroot.repository,
        {
            "up": Symlink(b"../../../../usr"),
            "usr/absolute": Symlink(os.fsencode(outside)),
            "loop": Symlink(b"loop"),
        },
    )
    source = write_tree(tmp_path / "layer", {"up/x": b"x"})
    add(sysroot, "mesa", source)
    root = lay_over(sysroot, build, tmp_path / "root")
    assert (root.path / "usr/x").read_bytes() == b"x"
    write_tree(source, {"usr/absolute/y": b"y", "loop/z": b"z"})
    add(sysroot, "mesa", source)
    called = f"build {build.hex()[:9]}"
    assert conflicts(sysroot, build) == [
        f"layer mesa: loop: a directory here, a link to no directory in {called}",
        f"layer mesa: usr/absolute: a directory here, a link to no directory in {called}",
    ]
    assert os.listdir(outside) == []


@as_root
def test_files_belong_to_root_unless_the_layer_keeps_owners(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """An ordinary user's installation must not leave them files in /usr; capabilities stay."""
    source = write_tree(tmp_path / "layer", {"opt/tool": b"x"})
    capability = b"\x01\x00\x00\x02\x00\x20" + bytes(14)
    for path in (source / "opt", source / "opt/tool"):
        os.chown(path, 1234, 1235)
    os.setxattr(source / "opt/tool", "security.capability", capability)
    add(sysroot, "mesa", source)
    tool = lay_over(sysroot, build, tmp_path / "root").path / "opt/tool"
    owners = [(path.stat().st_uid, path.stat().st_gid) for path in (tool, tool.parent)]
    assert owners == [(0, 0), (0, 0)]
    assert os.getxattr(tool, "security.capability") == capability
    add(sysroot, "mesa", source, keep_owners=True)
    tool = lay_over(sysroot, build, tmp_path / "kept").path / "opt/tool"
    assert (tool.stat().st_uid, tool.parent.stat().st_gid) == (1234, 1235)
    assert os.getxattr(tool, "security.capability") == capability


def test_the_repositorys_inodes_stay_out_of_the_root(
    sysroot: Sysroot, build: ObjectId, tmp_path: Path
) -> None:
    """A layer's files are copies: whoever writes to one changes no object."""
    add(sysroot, "mesa", write_tree(tmp_path / "layer", {"usr/bin/new": b"new"}))
    root = lay_over(sysroot, build, tmp_path / "root")
    objects = {path.stat().st_ino for path in sysroot.repository.objects.rglob("*.file")}
    assert (root.path / "usr/bin/new").stat().st_ino not in objects
    assert (root.path / "usr/bin/new").stat().st_nlink == 1
