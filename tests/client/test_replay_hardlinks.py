"""Whatever a step does to its root, the repository's inodes and other roots stay as they were."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from hacktree.client.replay.integrity import (
    RepositoryDamagedError,
    change_time,
    prove_untouched,
)
from hacktree.client.replay.step import Root
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import ObjectId
from hacktree.common.repository.fsck import fsck
from support.steps import FunctionStep, replaying
from support.sysroots import assert_nothing_left_over, deploy, make_sysroot
from support.trees import File, Spec, make_commit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

ATTACKS = r"""
import ctypes, mmap, os, sys
os.chdir(os.environ["HACKTREE_ROOT"])
libc = ctypes.CDLL(None, use_errno=True)

def at(name):
    return f"data/{name}"

with open(at("append"), "ab") as f:
    f.write(b"more")
os.chmod(at("chmod"), 0o4777)
os.chown(at("chown"), 12, 34)
os.truncate(at("truncate"), 1)
with open(at("mmap"), "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
    m[0:4] = b"XXXX"
    m.flush()
os.utime(at("utimes"), (5, 5))
os.setxattr(at("setxattr"), "user.evil", b"1")
os.setxattr(at("capability"), "security.capability",
            bytes.fromhex("0100000200040000000000000000000000000000"))
os.link(at("link"), at("linked"))
with open(at("linked"), "r+b") as f:
    f.write(b"through the new name")
with open(at("fresh"), "wb") as f:
    f.write(b"fresh")
os.rename(at("fresh"), at("rename"))
os.rename(at("renamed-away"), at("elsewhere"))
with open(at("elsewhere"), "r+b") as f:
    f.write(b"after")
os.unlink(at("unlink"))
os.unlink(at("file-to-directory"))
os.mkdir(at("file-to-directory"))
open(at("file-to-directory/inside"), "w").close()
for name in os.listdir(at("directory-to-file")):
    os.unlink(at(f"directory-to-file/{name}"))
os.rmdir(at("directory-to-file"))
with open(at("directory-to-file"), "w") as f:
    f.write("a file now")
descriptor = os.open(at("sparse"), os.O_RDWR)
os.pwrite(descriptor, b"end", 1 << 20)
assert libc.fallocate(descriptor, 3, ctypes.c_long(0), ctypes.c_long(2)) == 0
os.close(descriptor)
# Opened before anything is written, written through it afterwards.
descriptor = os.open(at("descriptor"), os.O_RDWR)
os.fchmod(descriptor, 0o600)
os.fchown(descriptor, 1, 1)
os.write(descriptor, b"written")
os.ftruncate(descriptor, 3)
os.utime(descriptor, (1, 1))
os.setxattr(descriptor, "user.evil", b"2")
os.close(descriptor)
# By way of /proc, with a read-only descriptor.
reading = os.open(at("proc"), os.O_RDONLY)
with open(f"/proc/self/fd/{reading}", "r+b") as f:
    f.write(b"proc")
os.close(reading)
source = os.open(at("append"), os.O_RDONLY)
target = os.open(at("copy-range"), os.O_WRONLY)
os.copy_file_range(source, target, 4)
os.close(target)
os.rename(at("exchange"), at("exchange.tmp"))
os.symlink("append", at("exchange"))
os.chmod(at("twin-a"), 0o600)
with open(at("put-back"), "r+b") as f:
    f.write(b"!")
os.utime(at("put-back"), (1, 1))
"""

NAMES = (
    *("append", "chmod", "chown", "truncate", "mmap", "utimes", "setxattr", "capability", "link"),
    *("rename", "renamed-away", "unlink", "file-to-directory", "sparse", "descriptor", "proc"),
    *("copy-range", "exchange", "put-back", "directory-to-file/one"),
)


def snapshot(directory: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory but access and change times, and how many links there are."""
    found: dict[str, tuple[object, ...]] = {}
    for place in sorted(directory.rglob("*")):
        status = place.lstat()
        if place.is_symlink() or not place.is_file():
            continue
        found[str(place.relative_to(directory))] = (
            status.st_ino,
            status.st_mode,
            (status.st_uid, status.st_gid),
            status.st_size,
            status.st_blocks,
            status.st_mtime_ns,
            {name: os.getxattr(place, name) for name in os.listxattr(place)},
            hashlib.sha256(place.read_bytes()).hexdigest(),
        )
    return found


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture
def commit(sysroot: Sysroot) -> ObjectId:
    tree: dict[str | bytes, Spec] = {
        f"data/{name}": File(f"content of {name}".encode() * 300) for name in NAMES
    }
    tree |= {"data/twin-a": b"twins", "data/twin-b": b"twins"}
    return make_commit(sysroot.repository, tree)


def attack(root: Root) -> None:
    """Every way to change a file that a script has."""
    root.run([sys.executable, "-c", ATTACKS], inside=False)


def test_a_step_that_tries_everything(sysroot: Sysroot, commit: ObjectId) -> None:
    """Bit for bit and stat for stat, for the objects and for another root of the same commit."""
    other = sysroot.roots / deploy(sysroot, commit).root
    objects, files = snapshot(sysroot.repository.objects), snapshot(other)
    deploy(sysroot, commit, replaying(FunctionStep("attack", attack)))
    assert snapshot(sysroot.repository.objects) == objects
    assert snapshot(other) == files
    assert fsck(sysroot.repository).intact
    live = sysroot.link / "data"
    assert live.joinpath("append").read_bytes().endswith(b"more")
    assert live.joinpath("chmod").stat().st_mode & 0o7777 == 0o4777
    assert os.getxattr(live / "setxattr", "user.evil") == b"1"
    assert live.joinpath("link").samefile(live / "linked")
    assert live.joinpath("link").read_bytes().startswith(b"through")
    assert live.joinpath("file-to-directory/inside").is_file()
    assert live.joinpath("directory-to-file").read_text() == "a file now"
    assert live.joinpath("twin-b").stat().st_mode & 0o777 == 0o644, "a twin is another file"
    assert live.joinpath("sparse").stat().st_blocks < 1 << 10, "holes stay holes"
    assert_nothing_left_over(sysroot.path)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("chmod 600 {}", "its mode is 0600"),
        ("chown 5:6 {}", "it belongs to 5:6"),
        ("echo >>{}", "it was written to"),
        ("printf X | dd of={} conv=notrunc status=none; touch -d @1 {}", "sha256 differs"),
        (
            '{python} -c \'import os; os.setxattr("{}", "user.x", b"1")\'',
            "extended attributes differ",
        ),
    ],
)
def test_a_damaged_repository_refuses_the_swap(
    sysroot: Sysroot, commit: ObjectId, damage: str, why: str
) -> None:
    """A step that leaves its namespace, or anybody else: noticed before anything is live."""
    before = deploy(sysroot, commit)
    victim = sysroot.roots / before.root / "data/append"
    command = damage.replace("{python}", sys.executable).replace("{}", str(victim))
    step = FunctionStep("escape", lambda root: root.run(["sh", "-c", command], inside=False))
    with pytest.raises(RepositoryDamagedError, match=why) as caught:
        deploy(sysroot, commit, replaying(step))
    assert "hacktree fsck --repair" in caught.value.hint
    assert set(read_roots(sysroot).records) == {before.root}
    assert os.readlink(sysroot.link).endswith(before.root)
    assert_nothing_left_over(sysroot.path)


def test_only_what_changed_since_the_checkout_is_read_whole(
    sysroot: Sysroot, commit: ObjectId
) -> None:
    root = sysroot.roots / deploy(sysroot, commit).root
    repository = sysroot.repository
    linked = change_time(repository)
    while (since := change_time(repository)) == linked:
        continue
    build = repository.load_commit(commit)
    checked = prove_untouched(repository, build, since)
    assert checked.objects > 5
    assert checked.read == 0
    os.link(root / "data/append", root / "data/once-more")
    assert prove_untouched(repository, build, since).read == 1
