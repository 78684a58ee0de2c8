"""Files beneath a root: whatever links it has, nothing outside of it is found or changed."""

import os
import stat
from pathlib import Path

import pytest

from hacktree.client.beneath import Attributes, has_program, replace_file, resolve_in
from hacktree.client.replay.step import StepFailedError


def test_paths_are_looked_up_as_in_a_chroot(tmp_path: Path) -> None:
    """Whatever links a tree has, nothing outside of it is found."""
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_text("#!")
    (root / "usr/bin/tool").chmod(0o755)
    (tmp_path / "secret").write_text("#!")
    (root / "bin").symlink_to("usr/bin")
    for name, target in (
        ("absolute", "/usr/bin/tool"),
        ("dots", "../../../../../usr/bin/tool"),
        ("out", "../../../../secret"),
        ("out-absolute", str(tmp_path / "secret")),
        ("loop", "loop"),
        ("below-file", "tool/x"),
    ):
        (root / "usr/bin" / name).symlink_to(target)
    tool = root / "usr/bin/tool"
    for inside in ("bin/tool", "bin/absolute", "usr/bin/dots", "./bin/../bin/tool"):
        assert resolve_in(root, inside) == tool
    for outside in ("bin/out", "bin/out-absolute", "bin/loop", "bin/below-file", "../secret"):
        assert resolve_in(root, outside) is None
    assert has_program(root, "/bin/absolute")
    assert not has_program(root, "/sbin/tool")
    tool.chmod(0o644)
    assert not has_program(root, "/bin/absolute")


@pytest.mark.parametrize("database", ["var/lib/dpkg", "var"])
def test_what_is_opened_is_behind_no_link(tmp_path: Path, database: str) -> None:
    """Nor is a file written to that another name shares; made directories are for everybody."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / database).parent.mkdir(parents=True)
    outside.mkdir()
    (root / database).symlink_to(outside)
    for path in ("var/lib/dpkg/status", "var/lib/dpkg/info/x"):
        with pytest.raises(StepFailedError, match="is not a directory in this root"):
            replace_file(root, path, b"new", Attributes(0o644, None))
    assert os.listdir(outside) == []
    (root / database).unlink()
    before = os.umask(0o077)
    try:
        for data in (b"old", b"new"):
            replace_file(root, "var/lib/dpkg/status", data, Attributes(0o644, None))
            if data == b"old":
                os.link(root / "var/lib/dpkg/status", tmp_path / "shared")
    finally:
        os.umask(before)
    assert (tmp_path / "shared").read_bytes() == b"old"
    assert (root / "var/lib/dpkg/status").read_bytes() == b"new"
    assert stat.S_IMODE((root / "var/lib/dpkg/status").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "var/lib/dpkg").stat().st_mode) == 0o755
