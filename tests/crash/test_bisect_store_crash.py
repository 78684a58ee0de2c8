"""A step of a bisection that is killed anywhere was saved or was not, and the next one works."""

import sys
from pathlib import Path

import pytest

from hacktree.client.bisect.core.model import Answered, Verdict
from hacktree.client.bisect.core.state import record
from hacktree.client.bisect.store import (
    Saved,
    find_bisection,
    hold_bisection,
    read_bisection,
    write_bisection,
)
from hacktree.client.sysroot import open_sysroot
from support.bisecting import make_line, make_session
from support.kill import every_kill
from support.sysroots import make_sysroot

STEP = """
import sys
from pathlib import Path
from hacktree.client.bisect.core.model import Answered, Verdict
from hacktree.client.bisect.core.state import record
from hacktree.client.bisect.store import Saved, hold_bisection, read_bisection, write_bisection
from hacktree.client.sysroot import open_sysroot
sysroot = open_sysroot(Path(sys.argv[1]))
with hold_bisection(sysroot):
    saved = read_bisection(sysroot)
    session = record(saved.session, Answered(sys.argv[2], Verdict.BAD))
    write_bisection(sysroot, Saved(session, saved.local))
"""
RESET = """
import sys
from pathlib import Path
from hacktree.client.bisect.store import hold_bisection, remove_bisection
from hacktree.client.sysroot import open_sysroot
sysroot = open_sysroot(Path(sys.argv[1]))
with hold_bisection(sysroot):
    remove_bisection(sysroot)
"""
LINE = make_line(8)
BEFORE = make_session(LINE)
AFTER = record(BEFORE, Answered(LINE[4].commit, Verdict.BAD))


@pytest.mark.parametrize("call", ["?rename,?renameat,?renameat2", "fsync"])
def test_a_step_killed_at_every_call_is_whole_or_absent(tmp_path: Path, call: str) -> None:
    """What is read then is the session before or after; what was being written is cleared away."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(BEFORE))
    command = [sys.executable, "-B", "-c", STEP, str(sysroot.path), LINE[4].commit]
    for _ in every_kill(command, call):
        again = open_sysroot(sysroot.path)
        assert read_bisection(again).session in (BEFORE, AFTER)
        with hold_bisection(again):
            names = {path.name for path in (again.repository.state / "bisect").iterdir()}
            assert names == {"lock", "session.json"}
            write_bisection(again, Saved(BEFORE))
    assert read_bisection(sysroot).session == AFTER


def test_a_reset_killed_at_every_call_is_done_or_not(tmp_path: Path) -> None:
    """The session is whole until it is gone."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(AFTER))
    command = [sys.executable, "-B", "-c", RESET, str(sysroot.path)]
    for _ in every_kill(command, "?unlink,?unlinkat"):
        saved = find_bisection(sysroot)
        assert saved is None or saved.session == AFTER
    assert find_bisection(sysroot) is None
