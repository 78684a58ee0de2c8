"""A materialised root is what the steps saw: every attribute, link, device and byte of it."""

import contextlib
import os
import pickle
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hacktree.client.replay.materialise import materialise
from hacktree.client.replay.mounts import make_private
from hacktree.client.replay.namespaces import Send, run_isolated
from hacktree.client.replay.overlay import MAX_LAYERS, Layers, TooManyLayersError, mount_overlay
from hacktree.client.replay.step import Root
from hacktree.client.replay.upper import UpperRefusedError, seal, stamp
from support.steps import FunctionStep, replaying
from support.sysroots import deploy, make_sysroot
from support.trees import Directory, File, Spec, Symlink, make_commit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices and owners")

MOUNTED = {"dev", "proc", "run", "sys", "tmp"}
"""What a step sees mounted in its root, and the trees of these tests lack."""

NAMES = ("a", "b", "c", "d", "e")
View = dict[str, tuple[object, ...]]


def view(root: Path) -> View:
    """Everything in a root that a program could tell, but inode numbers and the size of links."""
    found: View = {}
    names: dict[int, list[str]] = {}
    for directory, directories, files in os.walk(root):
        if Path(directory) == root:
            directories[:] = [name for name in directories if name not in MOUNTED]
        for name in [".", *directories, *files]:
            place = Path(directory) / name
            status = place.lstat()
            path = str(place.relative_to(root))
            if not stat.S_ISDIR(status.st_mode):
                names.setdefault(status.st_ino, []).append(path)
            found[path] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_rdev,
                status.st_mtime_ns,
                {
                    name: os.getxattr(place, name, follow_symlinks=False)
                    for name in os.listxattr(place, follow_symlinks=False)
                },
                content(place, status),
            )
    links = sorted(sorted(paths) for paths in names.values() if len(paths) > 1)
    return found | {"<links>": tuple(map(tuple, links))}


def content(place: Path, status: os.stat_result) -> object:
    """What is in a file, or where a link leads."""
    if stat.S_ISREG(status.st_mode):
        return place.read_bytes()
    return os.readlink(place) if stat.S_ISLNK(status.st_mode) else None


def random_tree(source: random.Random) -> dict[str | bytes, Spec]:
    """Few names, so that steps meet them; equal contents, so that objects have many links."""
    tree: dict[str | bytes, Spec] = {}

    def fill(prefix: str, depth: int) -> None:
        for name in source.sample(NAMES, source.randint(1, 4)):
            kind = source.random()
            if depth < 3 and kind < 0.45:
                mode = source.choice([0o755, 0o700, 0o1777, 0o2755])
                tree[prefix + name] = Directory(mode, source.choice([0, 7]))
                fill(f"{prefix}{name}/", depth + 1)
            elif kind < 0.55:
                tree[prefix + name] = Symlink(source.choice([b"a", b"../b", b"/nowhere"]))
            else:
                data = source.choice([b"", b"twin", b"twin", b"x" * 5000])
                mode = source.choice([0o644, 0o4755, 0o400])
                tree[prefix + name] = File(data, mode, source.choice([0, 7]))

    fill("", 0)
    return tree


def places(root: Path) -> Iterator[Path]:
    for directory, directories, files in os.walk(root):
        if Path(directory) == root:
            directories[:] = [name for name in directories if name not in MOUNTED]
        for name in [*directories, *files]:
            yield Path(directory) / name


def change(root: Path, source: random.Random) -> None:
    """One operation on a place that is there, or next to it."""
    there = sorted(places(root))
    place = source.choice(there) if there else root / "a"
    other = source.choice(there) if there else root / "b"
    new = place.with_name(source.choice(NAMES))
    inside = other / source.choice(NAMES) if other.is_dir() and not other.is_symlink() else new
    operations: list[Callable[[], object]] = [
        lambda: write(new, source.randbytes(20)),
        lambda: write(inside, b"inside"),
        lambda: os.truncate(place, source.choice([0, 2, 9000])),
        lambda: append(place),
        lambda: os.chmod(place, source.choice([0o600, 0o755, 0o4711])),
        lambda: os.chown(place, source.choice([0, 5]), 6, follow_symlinks=False),
        lambda: os.unlink(place),
        lambda: remove_directory(place),
        lambda: os.rename(place, inside),
        lambda: os.rename(place, new),
        lambda: os.link(place, inside, follow_symlinks=False),
        lambda: os.symlink(source.choice(["a", "../c"]), inside),
        lambda: os.mkdir(inside),
        lambda: os.mkfifo(inside),
        lambda: os.mknod(inside, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        lambda: os.mknod(inside, stat.S_IFBLK | 0o600, os.makedev(7, 200)),
        lambda: os.setxattr(place, "user.x", source.randbytes(3)),
        lambda: os.utime(place, (source.randint(0, 9), source.randint(0, 9))),
        lambda: replace_directory(place),
    ]
    with contextlib.suppress(OSError):
        source.choice(operations)()


def write(place: Path, data: bytes) -> None:
    """Opening a pipe would wait for its other end, and a link may lead anywhere."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(place, flags, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def append(place: Path) -> None:
    if stat.S_ISREG(place.lstat().st_mode):
        with open(place, "ab") as stream:
            stream.write(b"more")


def remove_directory(place: Path) -> None:
    """shutil.rmtree opens even a pipe, and waits."""
    if not stat.S_ISDIR(place.lstat().st_mode):
        raise NotADirectoryError
    shutil.rmtree(place)


def replace_directory(place: Path) -> None:
    """A directory by a new one of that name, which hides what was in it."""
    remove_directory(place)
    place.mkdir(0o711)
    (place / "new").write_bytes(b"new")


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 1 << 32))
def test_any_steps_on_any_tree(tmp_path: Path, seed: int) -> None:
    """The root equals what the last step saw when it ended."""
    place = Path(tempfile.mkdtemp(dir=tmp_path))
    sysroot = make_sysroot(place / "sysroot")
    source = random.Random(seed)
    commit = make_commit(sysroot.repository, random_tree(source))
    seen = place / "seen"

    def apply(root: Root) -> None:
        dice = random.Random(f"{seed} {root.touched(['*'])} {sorted(os.listdir(root.path))}")
        for _ in range(25):
            change(root.path, dice)
        seen.write_bytes(pickle.dumps(view(root.path)))

    names = [f"step {number}" for number in range(source.randint(1, 3))]
    result = deploy(sysroot, commit, replaying(*(FunctionStep(name, apply) for name in names)))
    assert view(sysroot.roots / result.root) == pickle.loads(seen.read_bytes())
    assert result.replayed is not None
    # From the cache it is the same again.
    rest = [*(FunctionStep(name, apply) for name in names), FunctionStep("no", lambda root: None)]
    again = deploy(sysroot, commit, replaying(*rest))
    assert again.replayed is not None
    assert again.replayed.ran == ["no"]
    assert view(sysroot.roots / again.root) == view(sysroot.roots / result.root)


def test_many_layers_in_a_place_with_a_long_name(tmp_path: Path) -> None:
    """Far more than mount(2) would take by their whole paths; one too many is refused."""
    top = tmp_path / ("long-" * 40)
    (top / "scratch").mkdir(parents=True)
    lowers = []
    for number in range(MAX_LAYERS - 1):
        lower = top / f"{number:064}"
        lower.mkdir()
        lowers.append(lower)
        (lower / "top").write_text(f"{number}")
    (lowers[-1] / "bottom").write_text("seen through all")
    layers = Layers(top / "scratch", lowers)
    layers.make()
    seen: list[bytes] = []

    def look(send: Send) -> None:
        make_private()
        mount_overlay(layers)
        send((layers.merged / "top").read_bytes())
        send((layers.merged / "bottom").read_bytes())

    run_isolated(look, seen.append)
    assert seen == [b"0", b"seen through all"]
    (top / "other").mkdir()
    with pytest.raises(TooManyLayersError, match="500 layers"):
        Layers(top / "other", [*lowers, top]).make()


@pytest.mark.parametrize("name", ["redirect", "metacopy", "overlay.opaque"])
def test_what_is_no_file_but_a_reference_is_refused(tmp_path: Path, name: str) -> None:
    """A step that mounts an overlay of its own could leave such; a root can't hold it."""
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "file").write_bytes(b"")
    os.setxattr(upper / "file", f"trusted.overlay.{name}", b"y")
    with pytest.raises(UpperRefusedError, match=f"file carries trusted.overlay.{name}"):
        seal(upper)


def test_a_root_keeps_what_only_names_a_layer(tmp_path: Path) -> None:
    """The overlay's notes don't get into a root; a stamp sees an edit of a linked file."""
    upper, root = tmp_path / "upper", tmp_path / "root"
    (upper / "directory").mkdir(parents=True)
    (upper / "directory/file").write_bytes(b"1")
    os.setxattr(upper / "directory", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "directory", "trusted.overlay.origin", b"z")
    os.setxattr(upper / "directory/file", "trusted.overlay.origin", b"z")
    (root / "directory").mkdir(parents=True)
    (root / "directory/hidden").write_bytes(b"")
    assert seal(upper) == []
    before = stamp(upper)
    materialise(upper, root)
    assert os.listdir(root / "directory") == ["file"]
    assert os.listxattr(root / "directory") == []
    assert os.listxattr(root / "directory/file") == []
    assert stamp(upper) == before
    linked = root / "directory/file"
    os.setxattr(linked, "user.mine", b"1")
    assert stamp(upper) != before, "a file capability, as setcap(8) gives one, is one of these"
    os.removexattr(linked, "user.mine")
    assert stamp(upper) == before
    linked.write_bytes(b"2")
    assert stamp(upper) != before
