"""A tester's clock that jumps by days between the steps of a search."""

from itertools import cycle, pairwise
from pathlib import Path

from hacktree.client.bisect.core.model import Answered
from hacktree.client.bisect.core.sessionlog import parse_log
from hacktree.client.bisect.driver import Finished, Machine
from hacktree.client.bisect.farm.transfers import Transfers
from hacktree.client.bisect.loop import Check, check_all
from hacktree.client.bisect.store import hold_bisection, read_bisection
from support.bisectfarm import DAY, bisect, make_farm, make_tester
from support.qa import START, Clock

JUMPS = (-START, 3000 * DAY, -7 * DAY, 100 * 365 * DAY)


def test_a_search_goes_on_under_a_clock_that_jumps(tmp_path: Path) -> None:
    """The order of events is that of the session, whatever time they have; 1970 and 2123 too."""
    sysroot = make_tester(tmp_path / "sysroot", make_farm(tmp_path / "farm", 20, 13))
    bisect(sysroot, "start", "fastqa", "--good", "47.1", "--no-deploy")
    jumps, clock = cycle(JUMPS), Clock()
    machine = Machine(sysroot, Transfers(sysroot.repository), clock=clock)

    def tested(*_: object) -> None:
        clock.now = START + next(jumps)

    check = Check(("sh", "-c", 'grep -q fine "$HACKTREE_ROOT/usr/share/state"'))
    with hold_bisection(sysroot):
        done = check_all(machine, read_bisection(sysroot), check, tested)
    assert isinstance(done, Finished)
    events = read_bisection(sysroot).session.events
    times = [event.time for event in events if isinstance(event, Answered)]
    assert any(after < before for before, after in pairwise(times))
    assert "First bad build: fastqa 13 47.13 (" in bisect(sysroot, "status").stdout
    log = bisect(sysroot, "log").stdout
    assert len(parse_log(log).entries) == len(events)
    (tmp_path / "log").write_text(log)
    bisect(sysroot, "export", str(tmp_path / "session"))
    for words in (("replay", str(tmp_path / "log")), ("import", str(tmp_path / "session"))):
        bisect(sysroot, "reset")
        bisect(sysroot, *words, "--no-deploy")
        assert bisect(sysroot, "log").stdout == log
