"""A bisection without a person: the unit that goes on after a reboot, and what roots tell."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hacktree.client.bisect.candidate import MESSAGE_PATH, message_script
from hacktree.client.bisect.core.model import Candidate, Terms
from hacktree.client.bisect.unattended import (
    DIRECTORY,
    UNIT,
    WANTS,
    UnitWordError,
    quote,
    read_unit,
    render_unit,
)
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.cli.main import main
from support.bisectfarm import bisect, make_farm, make_tester
from support.sysroots import make_sysroot

TEST = 'grep -q fine "$HACKTREE_ROOT/usr/share/state" # 100% \\ "sure"'


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    """Four builds, bad from the third on; the newest is live."""
    sysroot = make_tester(tmp_path / "sysroot", make_farm(tmp_path / "farm", 4, 3))
    assert main(["--sysroot", str(sysroot.path), "pull", "fastqa"]) == 0
    return sysroot


def words_of(unit: str) -> list[str]:
    """The words that systemd starts (systemd.service(5), "Command lines")."""
    line = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    return shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))


def test_a_run_that_was_cut_off_goes_on_by_the_unit(sysroot: Sysroot, tmp_path: Path) -> None:
    """The unit outlives an abort, is in the roots under test, and does what the run did."""
    bisect(sysroot, "start", "--good", "fastqa~3", "--bad", "current", "--verify", "never")
    stop = ("sh", "-c", f"test -e {tmp_path}/go || exit 200; {TEST}")
    done = bisect(sysroot, "run", "--unattended", "--host", "--", *stop, status=1)
    assert "aborted" in done.stderr
    assert f"goes on after a reboot of the machine whose / is {sysroot.path}\n" in done.stdout
    directory = sysroot.path / DIRECTORY
    unit = read_unit(sysroot)
    assert (directory / WANTS / UNIT).resolve() == directory / UNIT
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", directory / UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    (tmp_path / "go").touch()
    again = subprocess.run(words_of(unit), capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "First bad build: fastqa 3 47.3 (" in again.stdout
    root = sysroot.roots / str(read_roots(sysroot).current)
    assert (root / DIRECTORY / UNIT).read_text() == unit
    assert (root / DIRECTORY / WANTS / UNIT).readlink() == Path(f"../{UNIT}")
    assert not (directory / UNIT).exists()
    assert not (directory / WANTS / UNIT).is_symlink()


def test_whoever_logs_in_is_told(sysroot: Sysroot) -> None:
    """A root under test has the message; the root of the start and --no-deploy's roots don't."""
    bisect(sysroot, "start", "--good", "fastqa~3", "--bad", "current")
    roots = read_roots(sysroot)
    message = sysroot.roots / str(roots.current) / MESSAGE_PATH
    shell = ["sh", "-i", "-c", f". {message}"]
    told = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    assert "This is build 47.2 (fastqa 2, " in told
    assert "hacktree bisect good, bad or skip" in told
    quiet = subprocess.run(["sh", "-c", f". {message}"], capture_output=True, check=True)
    assert quiet.stdout == b""
    assert not (sysroot.roots / str(roots.previous) / MESSAGE_PATH).exists()


@settings(max_examples=40)
@given(st.text(max_size=120))
def test_a_version_runs_nothing(version: str) -> None:
    """Whatever a farm calls its build, the message is printed as text, in two lines."""
    build = Candidate(commit="5" * 64, branch="fastqa", sequence=7, time=0, version=version)
    script = message_script(build, Terms())
    told = subprocess.run(
        ["sh", "-c", f"set -- ; {script}".replace('"$-"', "i")], capture_output=True
    )
    assert told.returncode == 0
    assert told.stderr == b""
    lines = told.stdout.decode("ascii").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("This is build ")


@given(st.text(st.characters(categories=["L", "P", "S", "N"], include_characters=" "), max_size=40))
def test_words_come_through_a_unit(word: str) -> None:
    """A quoted word is one word, and the same; ends of lines are escaped, as C has them."""
    assert words_of(f"ExecStart={quote(word)}") == [word]
    assert quote(f"{word}\n") == f'{quote(word + " ")[:-2]}\\n"'


def test_what_a_unit_cannot_hold_is_refused(tmp_path: Path) -> None:
    """No unit is written that would start something else."""
    sysroot = make_sysroot(tmp_path / "sysroot")
    with pytest.raises(UnitWordError):
        render_unit(sysroot, ["/bin/echo", "bell\a"], "/")
    with pytest.raises(UnitWordError):
        render_unit(sysroot, ["/bin/echo"], "/two\nlines")
