"""Opening below a directory: never through a link."""

import errno
import os
from pathlib import Path

import pytest

from hacktree.server.beneath import NotRegularError, open_beneath


def read(directory: Path, *components: str) -> bytes:
    descriptor, status = open_beneath(directory, components)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read()
    assert status.st_size == len(content)
    return content


def open_descriptors() -> set[str]:
    # Of what it lists, only this process's own listing changes from one call to the next.
    return {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"content")
    (tmp_path / "top").write_bytes(b"top")
    assert read(tmp_path, "a", "b", "file") == b"content"
    assert read(tmp_path, "top") == b"top"


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("real")
    assert read(tmp_path / "link", "file") == b"content"


@pytest.mark.parametrize("target", ["inside", "../outside", "/etc/passwd", "missing", "link"])
def test_no_component_may_be_a_link(tmp_path: Path, target: str) -> None:
    base = tmp_path / "base"
    (base / "real" / "inside").mkdir(parents=True)
    (base / "real" / "inside" / "file").write_bytes(b"content")
    (base / "real" / "link").symlink_to(target)
    for components in (("real", "link"), ("real", "link", "file")):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number is checked
            open_beneath(base, components)
        assert raised.value.errno in (errno.ELOOP, errno.ENOTDIR)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    for name in ("directory", "fifo"):
        with pytest.raises(NotRegularError):
            open_beneath(tmp_path, [name])
    with pytest.raises(NotRegularError):
        open_beneath(Path("/dev"), ["null"])


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "a" / "fifo")
    before = open_descriptors()
    assert read(tmp_path, "a", "file") == b""
    for components in (("a", "b", "c"), ("x", "y"), ("a", "fifo"), ("a", "b"), ("a", "file", "x")):
        with pytest.raises(OSError):  # noqa: PT011 - any will do
            open_beneath(tmp_path, components)
    assert open_descriptors() == before
