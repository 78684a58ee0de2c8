"""A session from a file names only builds that the remote's history names, or it is refused."""

from pathlib import Path

import msgspec
import pytest

from hacktree.client.bisect.core.model import Candidate, Descended, Options, Session, Verify
from hacktree.client.bisect.core.state import Found, current_state, record
from hacktree.client.bisect.farm.lines import Name, NoSuchBuildError
from hacktree.client.bisect.farm.reading import read_ends, read_finer
from hacktree.client.bisect.farm.verifying import ForgedSessionError, verify_lines
from hacktree.client.remote import Remote, load_remote
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.layout import NotARepositoryError
from hacktree.common.repository.repository import Repository
from support.bisectfarm import add_build, make_farm, make_tester
from support.bisecting import make_session, search, truthful

COARSE = BranchName("dailyqa")


class Farm(msgspec.Struct):
    """A farm with 12 builds of fastqa, of which every third was promoted; who pulls; a session."""

    farm: Repository
    tester: Repository
    remote: Remote
    session: Session


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Farm:
    path = tmp_path_factory.mktemp("verifying")
    farm = make_farm(path / "farm", 0, 0)
    ids: list[ObjectId] = []
    for number in range(1, 13):
        ids.append(add_build(farm, number, broken=number >= 8))
        if number % 3 == 0:
            add_build(farm, number, broken=number >= 8, branch=COARSE, promoted_from=ids[-1].hex())
    tester = make_tester(path / "tester", farm).repository
    remote = load_remote(tester, "farm")
    line = read_ends(tester, remote, COARSE, Name("~3", steps=3), Name("~0", steps=0))
    session = make_session(line.value.builds, Options(verify=Verify.NEVER))
    session = search(session, truthful(2))
    state = current_state(session)
    assert isinstance(state.outcome, Found)
    finer = read_finer(tester, remote, state.outcome.before, state.outcome.first)
    session = record(session, Descended(finer.value.builds))
    assert [build.version for build in current_state(session).line] == [
        "47.6",
        "47.7",
        "47.8",
        "47.9",
    ]
    return Farm(farm, tester, remote, session)


def _verify(farm: Farm, session: Session) -> None:
    verify_lines(farm.tester, farm.remote, session)


def test_what_was_exported_elsewhere_is_taken(farm: Farm) -> None:
    """Also half way in the finer branch."""
    _verify(farm, farm.session)
    fine = search(farm.session, truthful(2))
    assert current_state(fine).outcome is not None
    _verify(farm, fine)


def _swap(line: tuple[Candidate, ...], index: int, **changes: object) -> tuple[Candidate, ...]:
    changed = msgspec.structs.replace(line[index], **changes)
    return (*line[:index], changed, *line[index + 1 :])


def test_a_build_of_somebody_elses_is_refused(farm: Farm) -> None:
    """It is on the farm and of the branch, but no history names it: it would be deployed."""
    planted = add_build(farm.farm, 99, broken=True, branch="stray").hex()
    line = _swap(farm.session.line, 1, commit=planted)
    with pytest.raises(ForgedSessionError, match="not what farm has as dailyqa 2") as refusal:
        _verify(farm, make_session(line))
    assert refusal.value.hint


def test_another_branch_behind_a_promoted_build_is_refused(farm: Farm) -> None:
    """A false `promoted_from` would lead the descent wherever the file wants."""
    line = _swap(farm.session.line, 2, promoted_from=farm.session.line[1].commit)
    with pytest.raises(ForgedSessionError):
        _verify(farm, make_session(line))


def test_a_line_with_a_build_left_out_is_refused(farm: Farm) -> None:
    """The culprit would be hidden, and another blamed."""
    with pytest.raises(ForgedSessionError, match="are 4 builds of farm, not 3"):
        _verify(farm, make_session(farm.session.line[:2] + farm.session.line[3:]))


def test_a_planted_build_in_a_finer_line_is_refused(farm: Farm) -> None:
    """Each line that stands is compared, those of other branches, too."""
    descent = farm.session.events[-1]
    assert isinstance(descent, Descended)
    planted = Descended(_swap(descent.line, 1, version="47.7-evil"))
    events = (*farm.session.events[:-1], planted)
    with pytest.raises(ForgedSessionError, match="fastqa 7"):
        _verify(farm, msgspec.structs.replace(farm.session, events=events))


def test_ends_that_the_remote_lacks_are_named(farm: Farm) -> None:
    """Pruned, or never there: either way nothing is believed."""
    line = _swap(farm.session.line, 0, commit="ab" * 32)
    with pytest.raises(NoSuchBuildError, match="dailyqa@abababababab"):
        _verify(farm, make_session(line))


def test_an_unreachable_remote_verifies_nothing(farm: Farm, tmp_path: Path) -> None:
    """There is no taking it on trust meanwhile."""
    gone = Remote("farm", f"file://{tmp_path}/nowhere", "unsigned")
    with pytest.raises(NotARepositoryError):
        verify_lines(farm.tester, gone, farm.session)
