"""A part file believes only bytes that belong to the ETag beside it."""

import errno
from pathlib import Path

import pytest

from hacktree.client.partfile import PartFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.part"


def test_a_body_goes_on_in_the_next_process(path: Path) -> None:
    first = PartFile(path)
    assert first.progress() == (0, "")
    first.begin(0, '"e"')
    first.write(b"abc")
    first.close()
    second = PartFile(path)
    assert second.progress() == (3, '"e"')
    second.begin(2, '"e"')
    second.write(b"CD")
    second.complete()
    assert path.read_bytes() == b"abCD"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.part"]


def test_without_an_etag_nothing_is_believed(path: Path) -> None:
    part = PartFile(path)
    part.begin(0, "")
    part.write(b"abc")
    part.close()
    assert part.progress() == (0, "")
    path.with_name("x.part.etag").unlink()
    assert part.progress() == (0, "")


def test_older_bytes_never_stand_under_a_newer_etag(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = PartFile(path)
    part.begin(0, '"old"')
    part.write(b"old bytes")
    part.close()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="no room"):
            part.begin(0, '"new"')
    part.close()
    assert part.progress()[0] == 0
    assert path.read_bytes() == b""


def test_bytes_of_a_body_that_has_not_begun_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="not begun"):
        PartFile(path).write(b"abc")
