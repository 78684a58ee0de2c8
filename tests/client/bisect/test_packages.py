"""Which package broke it: systems of real debs, mixed package by package, tested in real roots."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from zlib import crc32

import pytest

from hacktree.client.bisect.components.composing import Ends, compose, store, take_apart
from hacktree.client.bisect.components.database import NoPackagesError
from hacktree.client.bisect.components.minimising import Outcome
from hacktree.client.bisect.components.planning import REST
from hacktree.client.bisect.components.saved import (
    Question,
    Saved,
    find_search,
    hold_search,
    write_search,
)
from hacktree.client.bisect.components.searching import EndpointWrongError, Found, Search
from hacktree.client.bisect.components.testing import RootTester
from hacktree.client.deploy import DeployOptions
from hacktree.client.entering.person import named_person
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot, open_sysroot
from hacktree.common.cli.main import main
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.packages import METADATA_KEY, packages_from_metadata
from hacktree.common.repository.fsck import fsck
from support.debsystem import Deb, base_system, commit_tree, install
from support.documents import commands_in
from support.enterable import hacktree, require_root
from support.pulling import make_repository
from support.sysroots import assert_nothing_left_over, deploy, make_build, make_sysroot

APP = """#!/bin/sh
one=$(cat /usr/share/one) two=$(cat /usr/share/two)
"""
FILLERS = [Deb(f"filler-{number}", files={f"usr/share/f{number}": "1"}) for number in range(1)]
ONE = Deb("one", files={"usr/share/one": "1"})
TWO = Deb("two", files={"usr/share/two": "1"})
LIBRARIES = ("libutil.so.1", "librt.so.1")
NEWER = [
    ONE.at("2", usr_share_one="2"),
    TWO.at("2", usr_share_two="2"),
    *(filler.at("2") for filler in FILLERS),
]


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    require_root()
    (tmp_path / "sysroot").mkdir()
    return make_sysroot(tmp_path / "sysroot")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("debs")


def make_ends(sysroot: Sysroot, shelf: Path, old: Iterable[Deb], new: Iterable[Deb]) -> Ends:
    """Builds of both lists of packages, over the same base, taken apart."""
    commits = []
    for name, debs in (("old", old), ("new", new)):
        tree = sysroot.path.with_name(name)
        install([*base_system(), *debs], tree, shelf)
        commits.append(commit_tree(sysroot.repository, tree))
    return take_apart(sysroot.repository, *commits)


def app(test: str) -> Deb:
    """A program that ends with what `test` says of the versions of `one` and `two`."""
    name = f"app-{crc32(test.encode())}"
    return Deb(name, files={"usr/bin/app": f"{APP}{test}\n"})


def make_search(sysroot: Sysroot, ends: Ends, *command: str) -> Search:
    """A search whose command runs as root; what an earlier one found counts."""
    question = Question(ends.good.hex(), ends.bad.hex(), command, person="root")
    root, options = named_person("root"), DeployOptions()
    tester = RootTester(sysroot, command, root, None, options, lambda line: None)
    return Search(ends, tester, find_search(sysroot) or Saved(question), lambda line: None)


def search(sysroot: Sysroot, ends: Ends, *command: str) -> Found:
    with hold_search(sysroot):
        return make_search(sysroot, ends, *command).run()


def names(found: Found) -> list[str]:
    return sorted(name for one in found.culprits for name in one.names)


def assert_nothing_left(sysroot: Sysroot) -> None:
    assert_nothing_left_over(sysroot.path)
    assert not read_roots(sysroot).records
    assert not list(sysroot.replay.glob("*"))
    assert fsck(sysroot.repository, jobs=1).intact


def test_the_package_that_breaks_a_program_is_found(sysroot: Sysroot, shelf: Path) -> None:
    program = app('[ "$one" = 1 ]')
    ends = make_ends(sysroot, shelf, [program, ONE, TWO, *FILLERS], [program.at("2"), *NEWER])
    found = search(sysroot, ends, "/usr/bin/app")
    assert [one.packages for one in found.culprits] == [(("one", "1", "2"),)]
    assert not found.brought
    # Both ends, the cuts of 4 packages, and the culprit alone.
    assert len(found.answers) <= 2 + 2 + 1
    assert_nothing_left(sysroot)


def test_two_packages_that_only_break_it_together_are_found(sysroot: Sysroot, shelf: Path) -> None:
    program = app('[ "$one$two" != 22 ]')
    ends = make_ends(sysroot, shelf, [program, ONE, TWO, *FILLERS], [program.at("2"), *NEWER])
    found = search(sysroot, ends, "/usr/bin/app")
    assert names(found) == ["one", "two"]
    assert not found.doubtful
    assert_nothing_left(sysroot)


def test_what_the_culprit_needs_comes_with_it(sysroot: Sysroot, shelf: Path) -> None:
    old = Deb("user", files={"usr/bin/app": "#!/bin/sh\n"})
    new = Deb(
        "user",
        "2",
        {"usr/bin/app": f"{APP}[ $one = 2 ] || exit 125\nexit 1\n"},
        control={"Depends": "one (>= 2)"},
    )
    ends = make_ends(sysroot, shelf, [ONE, TWO, old], [*NEWER[:2], new])
    found = search(sysroot, ends, "/usr/bin/app")
    assert names(found) == ["user"]
    assert [one.names for one in found.brought] == [{"one"}]
    # Never without what it needs: the program would have said that it can't be tested.
    assert Outcome.UNRESOLVED not in {answer.outcome for answer in found.answers}


def test_where_a_package_cannot_be_tested_alone_it_says_so(sysroot: Sysroot, shelf: Path) -> None:
    """`two` breaks it; but with `two` only, the program can't tell."""
    program = app('[ "$one$two" = 12 ] && exit 125\n[ "$two" = 1 ]')
    ends = make_ends(sysroot, shelf, [program, ONE, TWO], [program.at("2"), *NEWER[:2]])
    found = search(sysroot, ends, "/usr/bin/app")
    assert names(found) == ["one", "two"]
    assert [one.names for one in found.doubtful] == [{"one"}]


def test_a_build_in_which_nothing_starts_cannot_be_tested(sysroot: Sysroot, shelf: Path) -> None:
    program, shell = app("exit 0"), base_system()[1]
    broken = shell.at("2", usr_bin_busybox="#!/nowhere\n")
    ends = make_ends(sysroot, shelf, [program, ONE], [program, NEWER[0], broken])
    with pytest.raises(EndpointWrongError, match=r"bad build \w+ can't be tested"):
        search(sysroot, ends, "/usr/bin/app")
    assert_nothing_left(sysroot)


def test_a_good_build_that_fails_ends_the_search(sysroot: Sysroot, shelf: Path) -> None:
    program = app("exit 3")
    ends = make_ends(sysroot, shelf, [program, ONE, TWO], [program.at("2"), *NEWER[:2]])
    with pytest.raises(EndpointWrongError, match=r"good build \w+ fails") as caught:
        search(sysroot, ends, "/usr/bin/app")
    assert "0 where it works" in caught.value.hint


def test_a_mixture_says_what_is_in_it_and_has_its_own_caches(sysroot: Sysroot, shelf: Path) -> None:
    """Wherever a library is, and nowhere else, ld.so's cache names it; so does dpkg's status."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin")
    assert ldconfig is not None, "ldconfig is missing: install the package libc-bin"
    libraries = [next(Path("/usr/lib").glob(f"*-linux-gnu/{name}")) for name in LIBRARIES]
    base = Deb("ldconfig", files={"usr/sbin/ldconfig": Path(ldconfig).read_bytes()})
    check = f"""#!/bin/sh
for name in {" ".join(LIBRARIES)}; do
  if test -e /usr/lib/$name; then
    grep -q $name /etc/ld.so.cache && grep -q $name /var/lib/dpkg/info/math.list || kill -9 $$
  else
    grep -q $name /etc/ld.so.cache && kill -9 $$
  fi
done
[ $(cat /usr/share/one) = 1 ]
"""
    program = Deb("check", files={"usr/bin/app": check})
    math = [
        Deb("math", f"{at}", {f"usr/lib/{path.name}": path.read_bytes()})
        for at, path in enumerate(libraries, 1)
    ]
    both = []
    for at, debs in enumerate(([program, ONE, TWO], [program.at("2"), *NEWER[:2]])):
        tree = sysroot.path.with_name(f"tree-{at}")
        install([*base_system(), base, math[at], *debs], tree, shelf)
        subprocess.run([ldconfig, "-r", str(tree)], check=True)
        both.append(commit_tree(sysroot.repository, tree))
    ends = take_apart(sysroot.repository, *both)
    assert REST in ends.plan.components[0].names
    found = search(sysroot, ends, "/usr/bin/app")
    assert names(found) == ["one"]
    (number,) = (at for at, one in enumerate(ends.plan.components) if "one" in one.names)
    commit = sysroot.repository.load_commit(
        store(ends, compose(ends, ends.plan.close([number])), lambda commit: None)
    )
    listed = packages_from_metadata(commit.metadata[METADATA_KEY])
    packages = {(package.name, package.version) for package in listed}
    assert {("one", "2"), ("two", "1"), ("math", "1")} <= packages


def test_builds_without_packages_are_refused(sysroot: Sysroot) -> None:
    commits = [make_build(sysroot, number) for number in (1, 2)]
    with pytest.raises(NoPackagesError, match="no packages in a database") as caught:
        take_apart(sysroot.repository, *commits)
    assert "hacktree diff GOOD BAD" in caught.value.hint


EVENTS = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.symlink", "os.fork")


def search_killed(path: Path, ends: tuple[ObjectId, ObjectId], number: int) -> int:
    """Search in a fork that kills itself at its `number`th call; returns its exit status."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in EVENTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            sysroot = open_sysroot(path)
            taken = take_apart(sysroot.repository, *ends)
            sys.addaudithook(hook)
            with hold_search(sysroot):
                again = make_search(sysroot, taken, "/usr/bin/app")
                write_search(sysroot, again.saved)
                again.clear()
                again.run()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_search_that_is_killed_goes_on_to_the_same_end(sysroot: Sysroot, shelf: Path) -> None:
    program = app('[ "$one" = 1 ]')
    ends = make_ends(sysroot, shelf, [program, ONE, TWO], [program.at("2"), *NEWER[:2]])
    kills = 0
    for number in range(11, 2000, 31):
        known = find_search(sysroot)
        status = search_killed(sysroot.path, (ends.good, ends.bad), number)
        saved = find_search(sysroot)
        if known is not None and saved is not None:
            assert saved.answers[: len(known.answers)] == known.answers
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert kills > 5
    found = search(sysroot, ends, "/usr/bin/app")
    assert names(found) == ["one"]
    trees = [answer.tree for answer in found.answers]
    assert len(set(trees)) == len(trees) <= 2 + 2 + 1
    assert_nothing_left(sysroot)


def test_what_was_being_written_at_a_kill_is_cleared(sysroot: Sysroot) -> None:
    with hold_search(sysroot):
        pass
    state = sysroot.repository.state / "bisect/.packages.json.0123abcd.tmp"
    pin = sysroot.pins / ".bisect-packages-mixture.0123abcd.tmp"
    state.touch()
    pin.touch()
    with hold_search(sysroot):
        assert not state.exists()
        assert not pin.exists()


def test_the_command_shows_the_plan_finds_the_package_and_remembers(
    sysroot: Sysroot, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = app('[ "$one" = 1 ]')
    make_ends(sysroot, shelf, [program, ONE, TWO], [program.at("2"), *NEWER[:2]])
    packages = ("bisect", "packages", "fastqa~1", "fastqa")
    here = ["--sysroot", str(sysroot.path), *packages]
    assert main([*here, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "3 packages differ" in shown
    assert "one 1 -> 2: 2 paths" in shown
    assert find_search(sysroot) is None

    assert main([*here, "--run", "/usr/bin/no-such-program"]) == 2
    assert "no-such-program" in capsys.readouterr().err
    # On this machine, which looks into the root.
    looking = 'grep -q 1 "$HACKTREE_ROOT/usr/share/one" && exit 129'
    aborted = hacktree(sysroot, *packages, "--host", "--run", "sh", "-c", looking)
    assert aborted.returncode == 1
    assert "aborted: signal 1" in aborted.stderr
    found = hacktree(sysroot, *packages, "--run", "/usr/bin/app")
    assert found.returncode == 0, found.stderr
    assert "this breaks it:\n  one 1 -> 2\n" in found.stdout
    assert_nothing_left(sysroot)


def test_what_the_bisection_found_is_brought_and_searched(
    sysroot: Sysroot, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str, status: int = 0) -> str:
        assert main(["--sysroot", str(sysroot.path), *words]) == status
        return "".join(capsys.readouterr())

    farm = make_repository(sysroot.path.with_name("farm"))
    shown, searched = commands_in("In which package")
    program = Deb("app", files={"usr/bin/check-login": f'{APP}[ "$one" = 1 ]\n'})
    for at, debs in enumerate(([program, ONE, TWO], [program.at("2"), *NEWER[:2]])):
        tree = sysroot.path.with_name(f"tree-{at}")
        install([*base_system(), *debs], tree, shelf)
        commit_tree(farm, tree)
    told("remote", "add", "--unsigned", "farm", farm.path.as_uri())
    assert "no bisection has found them" in told(*shown.split()[1:], status=2)
    named = told("bisect", "packages", "fastqa~1", "fastqa~0", "--dry-run")
    assert "3 packages differ" in named
    assert not os.listdir(sysroot.pins)

    told("bisect", "start", "fastqa", "--good", "fastqa~1", "--no-deploy", "--verify", "never")
    assert "3 packages differ" in told(*shown.split()[1:])
    # As people run it: a process of its own, which has read nothing yet.
    found = hacktree(sysroot, "--json", *searched.split()[1:])
    assert json.loads(found.stdout)["culprits"] == [
        {"packages": [{"name": "one", "old": "1", "new": "2"}]}
    ]
    told("bisect", "reset")
    assert_nothing_left(sysroot)


def test_another_question_waits_until_the_first_is_answered_or_forgotten(
    sysroot: Sysroot, shelf: Path
) -> None:
    program = app("exit 0")
    ends = make_ends(sysroot, shelf, [program, ONE, TWO], [program.at("2"), *NEWER[:2]])
    deployed = deploy(sysroot, ends.bad).root
    kept = deploy(sysroot, ends.good).root
    with hold_search(sysroot):
        make_search(sysroot, ends, "/usr/bin/app").ask(frozenset())
    # A root that was there is used, and stays.
    assert set(read_roots(sysroot).records) == {deployed, kept}
    packages = ("bisect", "packages", "fastqa~1", "fastqa", "--run", "true")
    refused = hacktree(sysroot, *packages)
    assert refused.returncode == 2
    assert "1 test of /usr/bin/app" in refused.stderr
    assert "--forget" in refused.stderr
    assert hacktree(sysroot, "bisect", "packages", "--forget").returncode == 0
    assert find_search(sysroot) is None
    assert_nothing_left_over(sysroot.path)
