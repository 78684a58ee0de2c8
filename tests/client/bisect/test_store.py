"""The bisection of a sysroot: one file, one writer, and what can't be read is said, not guessed."""

import os
from pathlib import Path

import pytest

from hacktree.client.bisect.core.model import Answered, Options, Verdict
from hacktree.client.bisect.core.state import record
from hacktree.client.bisect.store import (
    Intent,
    Local,
    NoBisectionError,
    Saved,
    Step,
    find_bisection,
    hold_bisection,
    read_bisection,
    remove_bisection,
    write_bisection,
)
from hacktree.client.extensions.store import MAX_EXTENSIONS
from hacktree.client.sysroot import Sysroot
from hacktree.common.errors import BusyError, CorruptError
from support.bisecting import make_line, make_session
from support.sysroots import make_sysroot

LINE = make_line(8)
SESSION = record(make_session(LINE), Answered(LINE[4].commit, Verdict.BAD, 5, "no sound"))
LOCAL = Local("gnomeos-1", Intent(LINE[2].commit, Step.TESTING, "gnomeos-2", 7), ("gnomeos-2",))


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


def _file(sysroot: Sysroot) -> Path:
    return sysroot.repository.state / "bisect/session.json"


def test_a_machine_with_many_extensions_has_a_bisection(sysroot: Sysroot) -> None:
    """As many as it can have, and scripts besides."""
    held = {f"extension {n:0200}.rpm": "5e" * 32 for n in range(MAX_EXTENSIONS + 200)}
    saved = Saved(make_session(LINE, Options(constant=held)))
    with hold_bisection(sysroot):
        write_bisection(sysroot, saved)
    assert read_bisection(sysroot) == saved


def test_a_bisection_is_read_as_it_was_written(sysroot: Sysroot) -> None:
    """The session, and what this machine is about to do; nobody else may read it."""
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(SESSION, LOCAL))
    assert read_bisection(sysroot) == Saved(SESSION, LOCAL)
    assert _file(sysroot).stat().st_mode & 0o777 == 0o600
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(make_session(LINE)))
        assert read_bisection(sysroot) == Saved(make_session(LINE))
        remove_bisection(sysroot)
    assert find_bisection(sysroot) is None


def test_without_a_bisection_it_is_said_how_to_begin(sysroot: Sysroot) -> None:
    """Also where there never was one."""
    assert find_bisection(sysroot) is None
    with pytest.raises(NoBisectionError) as refusal:
        read_bisection(sysroot)
    assert "hacktree bisect start" in refusal.value.hint
    with hold_bisection(sysroot):
        remove_bisection(sysroot)


def test_the_lock_clears_what_a_killed_writer_left(sysroot: Sysroot) -> None:
    """A pin's temporary file, once it is too old to be under way; no pin, and nobody else's."""
    names = [".bisect-0123456789abcdef.01234567.tmp", ".bisect-packages-0a.89abcdef.tmp"]
    others = ["bisect-0123456789abcdef", ".root-gnomeos-0.tmp", ".bisect-0a.0a.tmp"]
    for name in names + others:
        (sysroot.pins / name).touch()
    for name in (*names, others[0]):
        os.utime(sysroot.pins / name, (0, 0))
    (_file(sysroot).parent).mkdir(exist_ok=True)
    unfinished = _file(sysroot).with_name(f".{_file(sysroot).name}.01234567.tmp")
    unfinished.touch()
    with hold_bisection(sysroot):
        assert sorted(os.listdir(sysroot.pins)) == sorted(others)
        assert not unfinished.exists()


def test_two_commands_never_change_it_at_once(sysroot: Sysroot) -> None:
    """The second is told who is at it; reading goes on."""
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(SESSION))
        with pytest.raises(BusyError, match=str(os.getpid())), hold_bisection(sysroot):
            raise AssertionError("held twice")
        assert read_bisection(sysroot).session == SESSION


DAMAGE = {
    "cut off": lambda data: data[:-20],
    "empty": lambda data: b"",
    "an answer for no build": lambda data: data.replace(
        b'"answered",\n    "commit": "' + LINE[4].commit[:4].encode(),
        b'"answered",\n    "commit": "0000',
    ),
    "a newer format": lambda data: data.replace(b'"format": 1', b'"format": 2'),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_named(sysroot: Sysroot, damage: object) -> None:
    """With what to do; it is neither believed nor deleted."""
    assert callable(damage)
    with hold_bisection(sysroot):
        write_bisection(sysroot, Saved(SESSION, LOCAL))
    whole = _file(sysroot).read_bytes()
    _file(sysroot).write_bytes(damage(whole))
    assert _file(sysroot).read_bytes() != whole
    with pytest.raises(CorruptError, match=r"session\.json") as refusal:
        read_bisection(sysroot)
    assert "reset" in refusal.value.hint
    assert _file(sysroot).exists()
