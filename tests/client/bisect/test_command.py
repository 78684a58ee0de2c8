"""`hacktree bisect` as a person and as a program use it: from start to reset."""

import io
import json
import os
import select
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pexpect
import pytest

from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.repository.objectnames import meta_name
from hacktree.common.repository.refs import list_refs
from hacktree.common.repository.repository import Repository
from support.bisectfarm import add_build, bisect, make_farm, make_tester, versions
from support.documents import commands_in
from support.enterable import hacktree_command, shell_tree
from support.sysroots import make_sysroot
from support.trees import File, Spec
from support.trusting import FASTQA, SignedFarm, trusting_remote

NEVER = ("--no-deploy", "--verify", "never")
HOST = ("--host", "--", "sh", "-c")
HOST_TEST = (*HOST, 'grep -q fine "$HACKTREE_ROOT/usr/share/state"')


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """20 builds, bad from the 14th on."""
    return make_farm(tmp_path_factory.mktemp("bisect") / "farm", 20, 14)


@pytest.fixture
def sysroot(tmp_path: Path, farm: Repository, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    return sysroot


class Printed(NamedTuple):
    """What an action printed."""

    out: str
    err: str


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """One action in this process, as JSON."""
    capsys.readouterr()
    assert main(["bisect", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def call(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> Printed:
    """One action in this process, which must end with this status; what it printed."""
    capsys.readouterr()
    assert main(["bisect", *words]) == status
    return Printed(*capsys.readouterr())


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that was killed gets time to be reaped."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with open(descriptor, "rb"):
        return bool(select.select([descriptor], [], [], 60)[0])


def is_fine(sysroot: Sysroot, root: str) -> bool:
    return (sysroot.roots / root / "usr/share/state").read_text() == "fine\n"


def test_a_person_finds_the_build(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """Each build becomes the live root; at most ⌈log2 19⌉ answers; reset goes back."""
    assert main(["pull", "fastqa~15"]) == 0
    started = read_roots(sysroot).current
    before = sorted(os.listdir(sysroot.repository.path / "refs/remotes/farm"))
    capsys.readouterr()
    asked = ask(capsys, "start", "fastqa", "--good", "47.1")
    assert read_roots(sysroot).records[started or ""].pinned
    answers = 0
    while asked["outcome"] is None:
        test = asked["under-test"]
        assert read_roots(sysroot).current == test["root"]
        verdict = "good" if is_fine(sysroot, test["root"]) else "bad"
        asked = ask(capsys, verdict)
        answers += 1
    assert (asked["outcome"]["kind"], asked["outcome"]["first"]["version"]) == ("found", "47.14")
    assert asked["outcome"]["before"]["version"] == "47.13"
    assert answers == asked["tests"] <= 5
    # At most the build under test, the one before it and the root of the start.
    assert len(read_roots(sysroot).records) <= 3
    assert ask(capsys, "reset") == {"id": asked["id"], "swapped": True, "root": started}
    roots = read_roots(sysroot)
    assert (roots.current, set(roots.records)) == (started, {started})
    assert not roots.records[started or ""].pinned
    assert [pin for pin in os.listdir(sysroot.pins) if pin.startswith("bisect-")] == []
    assert sorted(os.listdir(sysroot.repository.path / "refs/remotes/farm")) == before
    assert main(["bisect", "status"]) == 2
    assert "bisect start" in capsys.readouterr().err


def test_what_a_person_reads(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """How many builds and tests are left, what is held constant, what to type next."""
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 0
    out = capsys.readouterr().out
    assert "good  fastqa 1 47.1 (" in out
    assert "Searching 19 builds: up to 6 tests, about " in out
    assert "Held constant: no scripts, extensions or layers" in out
    assert "is ready: fastqa 10 47.10 (" in out
    assert "hacktree bisect good, bad or skip" in out
    assert read_roots(sysroot).current is None, "--no-deploy swaps nothing"
    assert main(["bisect", "good"]) == 0
    assert "Narrowed to 10 builds (~4 tests left)" in capsys.readouterr().out
    assert main(["bisect", "status", "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "Under test: fastqa 15 47.15 (" in out
    assert "  good     fastqa 3 47.3 (" in out
    assert "  ?        fastqa 16 47.16 (" in out
    assert main(["bisect", "undo"]) == 0
    assert "Narrowed to 19 builds (~5 tests left)" in capsys.readouterr().out
    assert main(["bisect", "reset"]) == 0
    assert read_roots(sysroot).records == {}


def test_a_command_finds_it_on_the_host(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run --host` looks at each root from outside; the live root stays; a program reads JSON."""
    call(capsys, "start", "fastqa", "--good", "2023-11-15", "--bad", "fastqa~1", "--no-deploy")
    document = json.loads(call(capsys, "run", "--json", *HOST_TEST).out)
    assert document["outcome"]["first"]["version"] == "47.14"
    assert document["tests"] <= 5
    assert "First bad build: fastqa 14 47.14 (" in call(capsys, "run", *HOST_TEST).out


def test_a_command_finds_it_in_the_root(tmp_path: Path) -> None:
    """Without --host it runs in the root; what it writes there is gone; variables say which."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    for number in range(1, 5):
        add_build(farm, number, broken=number >= 3, tree=shell_tree(number))
    sysroot = make_tester(tmp_path / "sysroot", farm)
    script = (
        'echo "in $HACKTREE_ROOT of $HACKTREE_BRANCH, before: $HACKTREE_PREVIOUS_VERDICT"; '
        "test ! -e /usr/touched && touch /usr/touched && grep -q fine /usr/share/state"
    )
    bisect(sysroot, "start", "fastqa", "--good", "~3", *NEVER)
    done = bisect(sysroot, "run", "--", "sh", "-c", script)
    assert "First bad build: fastqa 3 47.3 (" in done.stdout
    printed = [line for line in done.stdout.splitlines() if line.startswith("in ")]
    assert printed == ["in / of fastqa, before: ", "in / of fastqa, before: good"]


def test_exit_statuses_of_a_run(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """125 skips; 128 and above, a signal and a command that isn't there change nothing."""
    call(capsys, "start", "fastqa", "--good", "47.12", "--bad", "47.15", *NEVER)
    for command in ("exit 200", "kill -TERM $$"):
        assert "aborted" in call(capsys, "run", *HOST, command, status=1).err
    missing = call(capsys, "run", "--host", "--", "no-such-program", status=2)
    assert "no-such-program" in missing.err
    assert ask(capsys, "status")["tests"] == 0
    done = call(capsys, "run", *HOST, "exit 125", status=1)
    assert "only skipped builds are left" in done.out
    outcome = ask(capsys, "status")["outcome"]
    assert outcome["kind"] == "inconclusive"
    assert versions(outcome["suspects"]) == ["47.13", "47.14", "47.15"]


def test_a_limit_ends_all_that_the_command_started(
    sysroot: Sysroot, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past its limit a build is bad, and no process of the group is left."""
    call(capsys, "start", "fastqa", "--good", "47.1", "--bad", "47.3", *NEVER)
    pids = tmp_path / "pids"
    hang = f"sleep 1000 & echo $! $$ >> {pids}; wait"
    assert "ended at its limit" in call(capsys, "run", "--timeout", "0.5", *HOST, hang).out
    for pid in pids.read_text().split():
        assert is_gone(int(pid))


@pytest.mark.parametrize("action", ["run", "packages"])
def test_a_limit_that_is_none_is_refused(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    for limit in ("0", "nan", "soon"):
        error = call(capsys, action, "--timeout", limit, status=2).err
        assert f"not a time: '{limit}'" in error
        assert "Seconds, such as 90" in error


def test_the_examples_of_packages_stand_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["bisect", "packages", "--help"])
    assert "\n  sudo hacktree bisect packages --forget\n" in capsys.readouterr().out


def test_words_of_ones_own_and_the_fix(
    sysroot: Sysroot, farm: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """--find-fix looks for the first good build; --term-* words are said and read."""
    words = ["--term-good", "fast", "--term-bad", "slow"]
    assert main(["bisect", "start", "fastqa", "--bad", "47.1", "--find-fix", *words]) == 0
    assert "hacktree bisect answer fast, slow or skip" in capsys.readouterr().out
    assert main(["bisect", "answer", "quick"]) == 2
    assert main(["bisect", "answer", "slow", "47.16"]) == 0
    assert main(["bisect", "answer", "fast", "47.18"]) == 0
    assert main(["bisect", "answer", "slow"]) == 0
    assert "First fast build: fastqa 18 47.18" in capsys.readouterr().out
    assert "the search has ended" in call(capsys, "answer", "fast", status=2).err


def test_skipping_a_range(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """None of a skipped range is tested."""
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--bad", "47.8"]) == 0
    assert main(["bisect", "skip", "47.2..47.6"]) == 0
    capsys.readouterr()
    document = ask(capsys, "status")
    assert document["under-test"]["version"] == "47.7"
    assert ask(capsys, "bad")["under-test"]["version"] == "47.1", "the end that nobody has tested"
    assert ask(capsys, "good")["outcome"]["kind"] == "inconclusive"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["fastqa"], "--good is missing"),
        (["fastqa", "--good", "47.99"], "no build 47.99"),
        (["fastqa", "--good", ""], "names no build"),
        (["fastqa", "--good", "47.5", "--bad", ""], "names no build"),
        (["fastqa", "--good", "47.5", "--bad", "47.3"], "no build 47.3 that is newer than 47.5"),
        (["fastqa", "--good", "47.5", "--bad", "47.5"], "the same build"),
        (["nosuch", "--good", "47.5"], "nosuch"),
        (["--good", "47.5"], "which branch?"),
        (["fastqa", "--good", "builds~3"], "builds~3 is not of branch fastqa"),
        (["fastqa", "--good", "47.5", "--votes", "2"], "tie"),
        (["fastqa", "--good", "47.5", "--votes", "0"], "not a number of votes: '0'"),
        (["fastqa", "--good", "47.5", "--prefetch-space", "0"], "not a size: '0'"),
        (["fastqa", "--good", "47.5", "--term-good", "reset"], "can't stand for good"),
        (["fastqa", "--good", "previous"], "no previous root"),
    ],
)
def test_a_start_that_makes_no_sense(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    """It says what is wrong; nothing is begun."""
    assert main(["bisect", "start", *words]) in (2, 4)
    assert problem in capsys.readouterr().err
    assert main(["bisect", "status"]) == 2


def test_more_builds_than_a_line_may_have_are_refused(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are the person's to choose, no damage of anything."""
    monkeypatch.setattr("hacktree.client.bisect.farm.lines.MAX_LINE", 12)
    told = call(capsys, "start", "fastqa", "--good", "47.1", status=2).err
    assert "more than 12 builds from 47.1 to fastqa" in told
    assert "nearer" in told
    call(capsys, "start", "fastqa", "--good", "47.9", "--dry-run")


def test_one_bisection_at_a_time(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """A second start is refused; a dry run begins nothing."""
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--dry-run"]) == 0
    assert main(["bisect", "good"]) == 2
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 0
    assert main(["bisect", "start", "fastqa", "--good", "47.1"]) == 2
    assert "reset" in capsys.readouterr().err


def test_an_answer_is_about_the_root_that_is_live(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who went to another root meanwhile has not tested the build; `next` deploys it again."""
    assert main(["pull", "fastqa~19"]) == 0
    assert main(["bisect", "start", "fastqa", "--good", "current"]) == 0
    root = read_roots(sysroot).current
    assert main(["rollback"]) == 0
    assert main(["bisect", "bad"]) == 2
    assert "not" in capsys.readouterr().err
    assert main(["bisect", "status"]) == 0
    assert "NOT live" in capsys.readouterr().out
    sysroot.link.unlink()
    assert main(["bisect", "bad"]) == 2
    assert "no root is live" in capsys.readouterr().err
    assert main(["bisect", "next"]) == 0
    assert read_roots(sysroot).current == root
    assert main(["bisect", "bad"]) == 0


def test_what_changed_meanwhile_is_refused(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another config script than at the start stops the next deploy; the answer is kept."""
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 0
    script = sysroot.path / "etc/hacktree/config.d/10-new"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    assert main(["bisect", "bad"]) == 2
    error = capsys.readouterr().err
    assert "script 10-new is new" in error
    assert "--accept-changes" in error
    assert ask(capsys, "status")["tests"] == 1
    script.unlink()
    assert main(["bisect", "next"]) == 0


def test_a_result_from_unlike_tests_is_doubted(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever accepts a change after an answer finds it in the report, before none."""
    script = sysroot.path / "etc/hacktree/config.d/10-new"
    script.parent.mkdir()
    for doubted in (False, True):
        script.write_text("#!/bin/sh\nexit 1\n")
        script.chmod(0o755)
        call(capsys, "start", "fastqa", "--good", "47.12", "--bad", "47.15", *NEVER, status=1)
        if doubted:
            call(capsys, "good", "47.13", status=1)
        script.unlink()
        call(capsys, "next", "--accept-changes")
        call(capsys, "run", *HOST_TEST)
        assert ("different scripts" in call(capsys, "report").out) is doubted
        call(capsys, "reset")


def test_a_build_that_cannot_be_deployed_is_skipped(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], farm: Repository
) -> None:
    """A person is offered to skip it; a run skips it by itself."""
    script = sysroot.path / "etc/hacktree/config.d/10-refuse"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    ends = ("--good", "47.1", "--bad", "47.3", "--verify", "never")
    assert main(["bisect", "start", "fastqa", *ends, "--no-deploy"]) == 1
    error = capsys.readouterr().err
    assert "can't be tested" in error
    assert "hacktree bisect skip" in error
    assert main(["bisect", "good"]) == 2
    assert "not deployed yet" in capsys.readouterr().err
    done = call(capsys, "run", *HOST_TEST, status=1)
    assert "only skipped builds are left" in done.out


def test_a_run_that_can_deploy_nothing_stops(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the third build: what is wrong is hardly theirs. Mended, the run goes on."""
    script = sysroot.path / "etc/hacktree/config.d/10-refuse"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 1
    done = call(capsys, "run", *HOST_TEST, status=1)
    assert "3 builds one after another can't be deployed" in done.err
    assert ask(capsys, "status")["tests"] == 2, "which were skipped"
    script.unlink()
    for _ in range(2):
        call(capsys, "undo", status=2)  # Without the script it is not what it was.
    call(capsys, "next", "--accept-changes")
    assert "First bad build" in call(capsys, "run", *HOST_TEST).out


def test_a_run_skips_all_that_the_farm_has_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five builds in a row are gone: the suspects are they, and the run says so."""
    farm = make_farm(tmp_path / "farm", 10, 5)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(make_tester(tmp_path / "sysroot", farm).path))
    gone = [f"47.{number}" for number in range(3, 8)]
    commit_id = list_refs(farm)["fastqa"]
    while parents := farm.load_commit(commit_id).parents:
        commit = farm.load_commit(commit_id)
        if commit.version in gone:
            for pruned in (commit_id, commit.root.id):
                (farm.objects / meta_name(pruned)).unlink()
        commit_id = parents[0]
    assert main(["bisect", "start", "fastqa", "--good", "47.1", *NEVER]) == 1
    done = call(capsys, "run", *HOST_TEST, status=1)
    assert "only skipped builds are left" in done.out
    skipped = ask(capsys, "status")["outcome"]["suspects"]
    assert [build["version"] for build in skipped] == [*gone, "47.8"]


def test_a_pack_graph_that_cannot_be_read_is_noted_once_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search goes on without it, and does not say so at each of its steps."""
    farm = make_farm(tmp_path / "farm", 12, 7)
    (farm.path / "graph").mkdir(exist_ok=True)
    (farm.path / "graph/tail").write_bytes(b"nonsense")
    monkeypatch.delenv("HACKTREE_REPO", raising=False)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(make_tester(tmp_path / "sysroot", farm).path))
    begun = call(capsys, "start", "fastqa", "--good", "47.1", *NEVER)
    found = call(capsys, "run", *HOST_TEST)
    assert found.out.count("Next: ") > 1
    assert [printed.out.count("note: ") for printed in (begun, found)] == [1, 1]


def test_from_coarse_to_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """dailyqa's neighbours lead into fastqa, and those into builds, to the very build."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    builds = {n: add_build(farm, n, broken=n >= 11, branch="builds") for n in range(1, 17)}
    fast = {
        n: add_build(farm, n, broken=n >= 11, branch="fastqa", promoted_from=builds[n].hex())
        for n in range(2, 17, 2)
    }
    for n in range(4, 17, 4):
        add_build(farm, n, broken=n >= 11, branch="dailyqa", promoted_from=fast[n].hex())
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    call(capsys, "start", "dailyqa", "--good", "47.4", *NEVER)
    done = call(capsys, "run", *HOST_TEST)
    assert "going on in fastqa" in done.out
    assert "going on in builds" in done.out
    assert "First bad build: builds 11 47.11 (" in done.out
    status = ask(capsys, "status")
    assert status["tests"] == 4
    levels = [(above["branch"], above["before"]["version"]) for above in status["coarser"]]
    assert levels == [("fastqa", "47.10"), ("dailyqa", "47.8")]
    assert "dailyqa" in call(capsys, "status").out


def test_a_damaged_session_is_named(sysroot: Sysroot, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is guessed; reset --force drops it, and all that is beside it but the lock."""
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--no-deploy"]) == 0
    path = sysroot.repository.state / "bisect/session.json"
    path.write_bytes(path.read_bytes()[:-100])
    path.with_name("prefetch.log").write_text("what came ahead\n")
    assert main(["bisect", "status"]) == 5
    assert main(["bisect", "reset"]) == 5
    assert main(["bisect", "reset", "--force"]) == 0
    assert os.listdir(path.parent) == ["lock"]
    assert main(["bisect", "reset"]) == 0
    assert open_sysroot(sysroot.path)


def test_a_person_is_asked(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single letters answer, take back and leave; a note may follow; nothing else is taken."""
    said = "what?\nb black screen\nu\ns\nt\ng\nq\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    out = call(capsys, "start", "fastqa", "--good", "47.1", "--bad", "47.5", *NEVER, "--prompt").out
    assert "  s  skip: this build can't be tested" in out, "what letters mean"
    assert "Bisecting fastqa of farm" in out
    assert "`hacktree bisect prompt` goes on" in out
    monkeypatch.setattr("sys.stdin", io.StringIO("bad\n"))
    # 3 was bad, which was taken back, and skipped; then 2 was good, and 4 bad.
    assert "only skipped builds" in call(capsys, "prompt").out
    outcome = ask(capsys, "status")["outcome"]
    assert versions(outcome["suspects"]) == ["47.3", "47.4"]


def test_roots_name_builds_of_other_branches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`current` on the promoted branch means the build with the same tree; BRANCH~N tells it."""
    farm = make_farm(tmp_path / "farm", 5, 4, branch="builds")
    add_build(farm, 5, broken=True, branch="fastqa")
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    assert main(["pull", "fastqa"]) == 0
    plan = ask(capsys, "start", "builds", "--good", "builds@2023-11-16", "--bad", "current", "-n")
    assert (plan["old"]["version"], plan["new"]["version"]) == ("47.2", "47.5")
    plan = ask(capsys, "start", "--good", "builds~3", "-n")
    assert (plan["branch"], plan["old"]["version"], plan["new"]["version"]) == (
        "builds",
        "47.2",
        "47.5",
    )


def test_what_operations_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of the chapter works, one after the other."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    for number in range(1, 8):
        program: dict[str | bytes, Spec] = {"usr/bin/eog": File(b"#!", 0o755)}
        add_build(farm, number, broken=False, tree=program if number < 5 else {})
    sysroot = make_tester(tmp_path / "sysroot", farm)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    assert main(["pull", "fastqa~6"]) == 0
    assert main(["pull", "fastqa"]) == 0
    for command in commands_in("Bisection") + commands_in("By a command"):
        program_name, *words = shlex.split(command)
        assert (program_name, main(words)) == ("hacktree", 0), command
        if words[1] == "run":
            assert "First bad build: fastqa 5 47.5 (" in capsys.readouterr().out


def test_a_person_looks_around_in_each_root(tmp_path: Path) -> None:
    """`e` gives a shell in the build's root, as often as wanted; then the question comes again."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    for number in range(1, 5):
        add_build(farm, number, broken=number >= 3, tree=shell_tree(number))
    sysroot = make_tester(tmp_path / "sysroot", farm)
    words = hacktree_command(sysroot, "bisect", "start", "fastqa", "--good", "~3", *NEVER)
    person = pexpect.spawn(words[0], [*words[1:], "--prompt"], encoding="utf-8", timeout=120)
    for state, letter in (("fine", "g"), ("broken", "b")):
        person.expect_exact("[?] > ")
        person.sendline("e")
        person.expect("[#$] ")
        person.sendline("cat /usr/share/state; exit")
        person.expect(f"\n{state}\r\n")
        person.expect_exact("[?] > ")
        person.sendline(letter)
    person.expect(pexpect.EOF)
    assert "First bad build: fastqa 3 47.3 (" in (person.before or "")
    person.close()


def test_programs_learn_what_a_person_reads(
    sysroot: Sysroot, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it takes, how it is tested, whether the build is live; and one document each time."""
    assert main(["pull", "fastqa~19"]) == 0
    begun = ask(capsys, "start", "fastqa", "--good", "current", "--votes", "3")
    assert begun["tests-left"] == 10, "two for each build"
    assert begun["forecast"]["tests"] in (10, 12), "the same, and perhaps an end"
    assert 0 < begun["forecast"]["bytes"] <= begun["forecast"]["most-bytes"]
    assert (begun["votes"], begun["verify"], begun["deploy"]) == (3, "last", True)
    assert (begun["under-test"]["live"], begun["under-test"]["booted"]) == (True, False)
    assert ask(capsys, "report")["tests-left"] == 10
    assert main(["rollback"]) == 0
    assert ask(capsys, "status")["under-test"]["live"] is False
    assert ask(capsys, "reset")["id"] == begun["id"]
    assert ask(capsys, "reset") == {"id": None, "swapped": False, "root": None}


def test_only_signed_builds_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line ends at the head that the remote's keys sign, whatever else the server has."""
    farm = SignedFarm(make_farm(tmp_path / "farm", 0, 0))
    for number in range(1, 5):
        farm.sign(add_build(farm.repository, number, broken=number >= 3), FASTQA)
    add_build(farm.repository, 5, broken=True)
    sysroot = make_sysroot(tmp_path / "sysroot")
    (sysroot.repository.path / "config.toml").write_text('min-free-space = "0"\n')
    trusting_remote(sysroot.repository, farm)
    monkeypatch.setenv("HACKTREE_SYSROOT", str(sysroot.path))
    assert ask(capsys, "start", "fastqa", "--good", "~3", "-n")["new"]["version"] == "47.4"
    assert main(["bisect", "start", "fastqa", "--good", "47.1", "--bad", "47.5"]) == 2
    call(capsys, "start", "fastqa", "--good", "47.1", *NEVER)
    assert "First bad build: fastqa 3 47.3 (" in call(capsys, "run", *HOST_TEST).out
