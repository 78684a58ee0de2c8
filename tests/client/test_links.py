"""Links of a root lead where they lead a program that is chrooted there, and never out of it."""

import os
from pathlib import Path

import pytest

from hacktree.client.beneath import resolve_in
from hacktree.client.entering.filesystem import resolve_inside
from hacktree.client.layers.view import DiskView, resolve
from hacktree.client.links import MAX_LINKS, TooManyLinksError, follow_links
from support.sysroots import make_sysroot

LINKS = {
    "lib": "usr/lib",
    "usr/up": "../../../..",
    "usr/lib/absolute": "/usr/share",
    "usr/lib/around": "./../lib//absolute/../share/.",
    "usr/share/out": "/../../usr/./lib/x",
    "home": "usr/up/lib/around",
    "usr/lib/x": "absolute",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for directory in ("usr/lib", "usr/share"):
        (root / directory).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    return root


def in_chroot(root: Path, path: str) -> str:
    """What realpath says there."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.chroot(root)
        os.chdir("/")
        os.write(writing, os.fsencode(os.path.realpath(f"/{path}")))
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as stream:
        return os.fsdecode(stream.read())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")
def test_links_lead_where_they_lead_in_a_chroot(root: Path, tmp_path: Path) -> None:
    """By each of the walks that roots are seen through."""
    view = DiskView(root, make_sysroot(tmp_path / "sysroot").repository)
    for path in LINKS:
        expected = in_chroot(root, path)
        assert resolve_inside(root, path) == expected, path
        assert resolve_in(root, path) == root / expected[1:], path
        assert resolve(view, os.fsencode(path), last=True) == os.fsencode(expected[1:]), path
        assert resolve(view, os.fsencode(path)).endswith(os.fsencode(path).rpartition(b"/")[2])
    assert resolve_inside(root, "lib/absent/x") == "/usr/lib/absent/x"
    assert resolve_in(root, "lib/absent") is None


def test_a_circle_ends() -> None:
    """After as many links as the kernel follows."""
    asked = []

    def link_at(path: bytes, *, goes_on: bool) -> bytes:
        asked.append(path)
        return b"/b" if path == b"a" else b"a"

    with pytest.raises(TooManyLinksError):
        follow_links(b"a", link_at, last=True)
    assert len(asked) == MAX_LINKS + 1
