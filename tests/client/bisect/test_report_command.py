"""`hacktree bisect report`, `visualize`, `export` and `import`, as people and programs use them."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hacktree.client.bisect.sharing import import_session
from hacktree.client.bisect.store import hold_bisection, read_bisection, write_bisection
from hacktree.client.remote import Remote, add_remote
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.repository import Repository, open_repository
from support.bisectfarm import add_build, make_farm, make_tester
from support.bisections import STEERS
from support.pulling import make_repository
from support.trees import Spec

NEVER = ("--no-deploy", "--no-prefetch", "--verify", "never")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Eight builds with dpkg's lists; bad from the fifth on."""
    farm = make_repository(tmp_path_factory.mktemp("bisect") / "farm")
    owned: dict[str | bytes, Spec] = {
        "var/lib/dpkg/status": (
            b"Package: state\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"
        ),
        "var/lib/dpkg/info/state.list": b"/.\n/usr\n/usr/share\n/usr/share/state\n",
    }
    for number in range(1, 9):
        add_build(farm, number, broken=number >= 5, tree=owned)
    return farm


def make_machine(path: Path, farm: Repository, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    sysroot = make_tester(path, farm)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    return sysroot


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, farm: Repository) -> Path:
    """The sysroot of a machine whose search found build 5."""
    with pytest.MonkeyPatch.context() as patch:
        sysroot = make_machine(tmp_path_factory.mktemp("searched") / "sysroot", farm, patch)
        assert main(["bisect", "start", "fastqa", "--good", "47.1", *NEVER]) == 0
        for verdict in ("good", "bad", "bad"):
            assert main(["bisect", verdict, "--note", "seen <here>"]) == 0
    return sysroot.path


@pytest.fixture
def found(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    """A copy of it."""
    path = shutil.copytree(searched, tmp_path / "sysroot", symlinks=True)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(path))
    return open_sysroot(path)


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["bisect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def told(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    capsys.readouterr()
    assert main(["bisect", *words]) == status
    printed = capsys.readouterr()
    return printed.err if status else printed.out


def test_the_report_says_what_changed(
    found: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text, JSON, Markdown and HTML of the same search, narrowed when asked."""
    document = ask(capsys, "report")
    assert document["outcome"] == "found"
    assert document["first-bad"]["sequence"] == 5
    changed = {one["path"]: one["packages"] for one in document["difference"]["files"]}
    assert changed == {"/usr/lib/os-release": [], "/usr/share/state": ["state"]}
    narrowed = ask(capsys, "report", "--paths", "usr/share/**")["difference"]
    assert [one["path"] for one in narrowed["files"]] == ["/usr/share/state"]
    assert narrowed["other-files"] == 1
    text = told(capsys, "report")
    assert "fastqa 5 (" in text.splitlines()[0]
    assert "state (the same version):\n    M /usr/share/state" in text
    bug = told(capsys, "report", "--bug-report")
    assert bug.startswith("# fastqa 5 is bad")
    assert "seen <here>" in bug
    page = tmp_path / "report.html"
    told(capsys, "report", "--html", str(page))
    assert b"/usr/share/state" in page.read_bytes()
    assert b"seen &lt;here&gt;" in page.read_bytes()


def test_builds_that_are_not_here_are_brought_when_asked(
    tmp_path: Path,
    farm: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """During a search, whose ends nobody has tested; the report says how they come."""
    sysroot = make_machine(tmp_path / "sysroot", farm, monkeypatch)
    assert main(["bisect", "start", "fastqa", "--good", "47.1", *NEVER]) == 0
    assert "report --fetch" in told(capsys, "report")
    assert ask(capsys, "report", "--fetch")["difference"]["files"] != []
    assert ask(capsys, "report")["difference"]["files"] != []
    pinned = {
        pin.read_text().strip() for pin in (sysroot.repository.state / "pins").glob("bisect-*")
    }
    assert ask(capsys, "report")["suspects"][-1] in pinned, "the newest suspect"


def test_a_damaged_package_database_costs_only_the_owners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report says so, and all else is there."""
    farm = make_repository(tmp_path / "farm")
    for number in (1, 2):
        damaged: dict[str | bytes, Spec] = {
            "var/lib/rpm/rpmdb.sqlite": b"SQLite format 3\0" + bytes(99)
        }
        add_build(farm, number, broken=number == 2, tree=damaged)
    make_machine(tmp_path / "sysroot", farm, monkeypatch)
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 0
    for number, verdict in ((1, "good"), (2, "bad")):
        assert main(["bisect", verdict, f"47.{number}"]) == 0
    capsys.readouterr()
    assert main(["bisect", "report", "--json"]) == 0
    printed = capsys.readouterr()
    assert "whose the files are is not known" in printed.err
    assert json.loads(printed.out)["difference"]["owners-known"] is False


def test_the_line_is_drawn(
    found: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the terminal, as JSON, and as a page."""
    assert told(capsys, "visualize").splitlines()[1] == "  o--oNN=N"
    (line,) = ask(capsys, "visualize")
    assert [one["builds"] for one in line["stretches"]] == [1, 2, 1, 1, 1, 1, 1]
    page = tmp_path / "line.html"
    told(capsys, "visualize", "--html", str(page))
    assert b"<svg" in page.read_bytes()


def test_the_farms_verdicts_are_shown_when_asked(
    found: Sysroot, farm: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the farm publishes them; what is damaged there costs only the hints."""
    commit = ask(capsys, "report")["first-bad"]["commit"]
    published = farm.path / "dashboard/verdicts.json"
    published.parent.mkdir()
    verdict = {"suite": "smoke", "outcome": "fail", "reason": "no login", "time": 5}
    published.write_text(json.dumps({"format": "verdicts-1", "builds": {commit: [verdict]}}))
    assert "smoke: fail (no login)" in told(capsys, "report", "--qa")
    assert "smoke: fail (no login)" in told(capsys, "visualize", "--qa")
    assert "smoke" not in told(capsys, "report")
    published.write_text("{")
    capsys.readouterr()
    assert main(["bisect", "visualize", "--qa"]) == 0
    assert "suites said is not known" in capsys.readouterr().err
    shutil.rmtree(published.parent)


def test_a_colleague_goes_on(
    tmp_path: Path,
    farm: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What one machine exported another imports, in the same state, and finds the build."""
    make_machine(tmp_path / "one", farm, monkeypatch)
    assert main(["bisect", "start", "fastqa", "--good", "47.1", *NEVER]) == 0
    assert main(["bisect", "good", "47.4", "--note", "fine"]) == 0
    file = str(tmp_path / "session.json")
    assert "bisect import session.json" in told(capsys, "export", file)
    assert "--force" in told(capsys, "export", file, status=2)
    told(capsys, "export", file, "--force")
    text = told(capsys, "export", "-")
    assert text == Path(file).read_text()
    before = ask(capsys, "visualize")

    other = make_machine(tmp_path / "two", farm, monkeypatch)
    shown = told(capsys, "import", file, "--dry-run")
    assert "4 suspects after 1 tests" in shown
    assert "These tests may be another machine's: with which scripts" in shown
    assert "no bisection is under way" in told(capsys, "status", status=2)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert ask(capsys, "import", "-")["suspects"] == 4
    assert list((other.repository.state / "pins").glob("bisect-*")) == []
    assert ask(capsys, "visualize") == before
    assert "missing" in ask(capsys, "report")
    assert "under way already" in told(capsys, "import", file, status=2)
    assert ask(capsys, "next")["under-test"] is not None
    assert ask(capsys, "bad", "47.5")["outcome"]["first"]["sequence"] == 5
    assert any("perhaps from another machine" in doubt for doubt in ask(capsys, "report")["doubts"])


def test_a_session_of_another_farm_is_refused_unless_told(
    tmp_path: Path,
    farm: Repository,
    found: Sysroot,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The URL decides, not the name that a remote has."""
    file = str(tmp_path / "session.json")
    told(capsys, "export", file)
    mirror = shutil.copytree(farm.path, tmp_path / "mirror")
    sysroot = make_machine(tmp_path / "two", open_repository(mirror), monkeypatch)
    empty = make_farm(tmp_path / "empty", 1, 1)
    add_remote(sysroot.repository, Remote("empty", f"file://{empty.path}", "unsigned"))
    assert "no remote here" in told(capsys, "import", file, status=2)
    assert "no bisection is under way" in told(capsys, "status", status=2)
    assert "has no build" in told(capsys, "import", file, "--remote", "empty", status=2)
    assert ask(capsys, "import", file, "--remote", "farm", "-n")["remote"] == "farm"
    add_remote(sysroot.repository, Remote("same", f"file://{farm.path}/", "unsigned"))
    assert ask(capsys, "import", file, "-n")["remote"] == "same"


def test_nothing_that_a_farm_chose_steers_the_terminal(
    found: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is escaped, and the same session."""
    saved = read_bisection(found)
    first, *others = saved.session.line
    line = (msgspec.structs.replace(first, version=STEERS), *others)
    session = msgspec.structs.replace(saved.session, line=line)
    with hold_bisection(found):
        write_bisection(found, msgspec.structs.replace(saved, session=session))
    printed = told(capsys, "export", "-")
    assert printed.replace("\n", "").isprintable()
    assert import_session(printed.encode()).session.line == line
    told(capsys, "export", str(tmp_path / "session.json"))
    assert import_session((tmp_path / "session.json").read_bytes()).session.line == line


def test_a_file_that_is_no_session_is_refused(
    found: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever it holds: one error, and nothing changes."""
    file = tmp_path / "session.json"
    before = ask(capsys, "status")
    for data in (b"", b"{}", b"\xff", b"[" * 100_000, b"x" * ((16 << 20) + 1)):
        file.write_bytes(data)
        error = told(capsys, "import", str(file), status=5)
        assert error.startswith("hacktree: ")
        assert len(error) < 1000
    assert ask(capsys, "status") == before


def test_an_altered_session_is_refused(
    found: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers that can't be, builds out of order, words that steer a terminal."""
    file = tmp_path / "session.json"
    told(capsys, "export", str(file))
    sound = json.loads(file.read_bytes())
    for path, value in (
        (("session", "events", 0, "verdict"), "bad"),
        (("session", "events", 0, "note"), "\x1b[2J"),
        (("session", "line", 0, "sequence"), 99),
        (("session", "options", "votes"), 2),
        (("session", "options", "terms", "good"), "\x1b"),
        (("format",), "hacktree bisection 2"),
    ):
        altered = json.loads(file.read_bytes())
        place = altered
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert altered != sound
        bad = tmp_path / "altered.json"
        bad.write_text(json.dumps(altered))
        assert "\x1b" not in told(capsys, "import", str(bad), status=5)


def test_builds_that_the_remote_does_not_have_are_refused(
    found: Sysroot, farm: Repository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file makes nobody test what no branch's history has: each build is looked up there."""
    other = add_build(farm, 1, broken=False, branch="other")
    file = tmp_path / "session.json"
    told(capsys, "export", str(file))
    told(capsys, "reset")
    for path, value in (("commit", other.hex()), ("version", "48.1"), ("time", 5)):
        altered = json.loads(file.read_bytes())
        altered["session"]["line"][5][path] = value
        altered["session"]["events"] = []
        bad = tmp_path / "altered.json"
        bad.write_text(json.dumps(altered))
        assert "not those of the remote" in told(capsys, "import", str(bad), status=2)
        assert "no bisection is under way" in told(capsys, "status", status=2)
    assert ask(capsys, "import", str(file))["tests"] == 3
