"""Deploy, rollback, retention: what is live is always a complete root, and what is needed stays."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hacktree.client.clientconfig import ClientConfig
from hacktree.client.deploy import (
    ArchitectureError,
    ArchitecturePolicy,
    DeployAction,
    DeployOptions,
    RetentionPolicy,
    plan_deploy,
)
from hacktree.client.keeping import (
    PreviousPolicy,
    RootInUseError,
    clean_up,
    pin_root,
    plan_cleanup,
    undeploy_root,
    unpin_root,
)
from hacktree.client.recovery import find_leftovers
from hacktree.client.rollback import roll_back
from hacktree.client.roots import ForeignLinkError, RootMissingError, read_roots
from hacktree.client.sysroot import (
    Sysroot,
    SysrootOwnerError,
    describe_activity,
    hold_sysroot,
    open_sysroot,
    prepare_sysroot,
)
from hacktree.common.errors import BusyError, CorruptError, UserError
from hacktree.common.repository.layout import Mode, NotARepositoryError
from hacktree.common.repository.repository import ObjectMissingError
from support.sysroots import (
    assert_live_root_is_complete,
    assert_nothing_left_over,
    deploy,
    live_version,
    make_build,
    make_sysroot,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_sysroot(tmp_path / "sysroot")


def test_the_first_deploy_makes_the_link(sysroot: Sysroot) -> None:
    """The link is relative, so that the sysroot can be mounted anywhere."""
    commit = make_build(sysroot, 1)
    result = deploy(sysroot, commit)
    assert result.changed
    assert result.root == f"gnomeos-{commit.hex()[:9]}.1"
    assert os.readlink(sysroot.link) == f".ht/roots/{result.root}"
    assert live_version(sysroot) == "VERSION=1"
    assert assert_live_root_is_complete(sysroot.path) == commit
    assert_nothing_left_over(sysroot.path)


def test_deploying_what_is_live_does_nothing(sysroot: Sysroot) -> None:
    """No root is made and the link's inode stays."""
    commit = make_build(sysroot, 1)
    deploy(sysroot, commit)
    before = sysroot.link.lstat().st_ino
    result = deploy(sysroot, commit)
    assert (result.changed, result.action) == (False, DeployAction.NOTHING)
    assert sysroot.link.lstat().st_ino == before
    assert len(read_roots(sysroot).records) == 1


def test_a_root_that_exists_is_reused(sysroot: Sysroot) -> None:
    """Deploying an older commit again is a swap."""
    first, second = make_build(sysroot, 1), make_build(sysroot, 2)
    one = deploy(sysroot, first)
    deploy(sysroot, second)
    again = deploy(sysroot, first)
    assert (again.action, again.root, again.linked) == (DeployAction.REUSE, one.root, 0)
    assert read_roots(sysroot).previous == f"gnomeos-{second.hex()[:9]}.1"
    assert_nothing_left_over(sysroot.path)


def test_rollback_goes_back_and_forth(sysroot: Sysroot) -> None:
    """Previous is what was live before; a second rollback returns; --to goes anywhere."""
    builds = [make_build(sysroot, number) for number in (1, 2, 3)]
    names = [deploy(sysroot, commit).root for commit in builds]
    assert roll_back(sysroot).record.root == names[1]
    assert live_version(sysroot) == "VERSION=2"
    assert roll_back(sysroot).record.root == names[2]
    assert roll_back(sysroot, names[0]).record.root == names[0]
    assert read_roots(sysroot).previous == names[2]
    assert not roll_back(sysroot, "current").changes
    assert_nothing_left_over(sysroot.path)


def test_rollback_without_a_previous_root_is_refused(sysroot: Sysroot) -> None:
    """One root has nowhere to go back to; no root has none."""
    with pytest.raises(RootMissingError):
        roll_back(sysroot)
    deploy(sysroot, make_build(sysroot, 1))
    with pytest.raises(RootMissingError, match="no root was live before"):
        roll_back(sysroot)
    with pytest.raises(RootMissingError):
        roll_back(sysroot, "gnomeos-000000000.1")


def test_retention_keeps_the_last_and_the_pinned(tmp_path: Path) -> None:
    """`keep-roots` counts deployments; a pinned root stays beside them until it is unpinned."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 2\n")
    names = []
    for number in range(1, 6):
        names.append(deploy(sysroot, make_build(sysroot, number)).root)
        if number == 1:
            assert pin_root(sysroot, "current").pinned
    assert set(read_roots(sysroot).records) == {names[0], names[3], names[4]}
    assert_nothing_left_over(sysroot.path)
    assert not unpin_root(sysroot, names[0]).pinned
    assert plan_cleanup(sysroot).roots == (names[0],)
    assert clean_up(sysroot).roots == [names[0]]
    assert set(os.listdir(sysroot.roots)) == set(names[3:])


def test_retention_never_takes_current_and_previous(tmp_path: Path) -> None:
    """However little the configuration keeps, rollback works."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    names = [deploy(sysroot, make_build(sysroot, number)).root for number in (1, 2, 3)]
    assert set(read_roots(sysroot).records) == set(names[1:])
    assert roll_back(sysroot).record.root == names[1]
    assert clean_up(sysroot).roots == []


def test_no_prune_and_the_plan_agree_with_what_happens(tmp_path: Path) -> None:
    """The plan names what is removed, and planning changes nothing."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    names = [deploy(sysroot, make_build(sysroot, number)).root for number in (1, 2)]
    commit = make_build(sysroot, 3)
    keep = DeployOptions(retention=RetentionPolicy.KEEP_ALL)
    assert plan_deploy(sysroot, commit, keep).removed == ()
    plan = plan_deploy(sysroot, commit, DeployOptions())
    assert (plan.action, plan.removed) == (DeployAction.CHECK_OUT, (names[0],))
    assert sorted(os.listdir(sysroot.roots)) == sorted(names)
    assert deploy(sysroot, commit, keep).removed == []
    assert deploy(sysroot, commit).removed == [names[0]]


def test_undeploy_refuses_what_is_needed(sysroot: Sysroot) -> None:
    """Current never, previous only by force, pinned only once unpinned."""
    names = [deploy(sysroot, make_build(sysroot, number)).root for number in (1, 2, 3)]
    with pytest.raises(RootInUseError, match="is live"):
        undeploy_root(sysroot, "current", PreviousPolicy.REMOVE)
    with pytest.raises(RootInUseError, match="rollback"):
        undeploy_root(sysroot, "previous", PreviousPolicy.REFUSE)
    pin_root(sysroot, names[0])
    with pytest.raises(RootInUseError, match="pinned"):
        undeploy_root(sysroot, names[0], PreviousPolicy.REMOVE)
    unpin_root(sysroot, names[0])
    undeploy_root(sysroot, names[0], PreviousPolicy.REFUSE)
    undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
    assert os.listdir(sysroot.roots) == [names[2]]
    assert_nothing_left_over(sysroot.path)


def test_the_running_root_is_recognised_and_stays(tmp_path: Path) -> None:
    """Whatever is configured, the root that is `/` is neither pruned nor undeployed."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    names = [deploy(sysroot, make_build(sysroot, number)).root for number in (1, 2)]
    program = """
import os, sys
from pathlib import Path
from hacktree.client.keeping import PreviousPolicy, RootInUseError, clean_up, undeploy_root
from hacktree.client.roots import read_roots
from hacktree.client.sysroot import open_sysroot
sysroot = open_sysroot(Path(sys.argv[1]))
real = os.stat
# What a booted root sees: `/` is the root, the sysroot is reached by another way.
os.stat = lambda path, **options: real(sys.argv[2] if path == "/" else path, **options)
print(read_roots(sysroot).running, clean_up(sysroot).roots)
try:
    undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
except RootInUseError as error:
    print(error.message)
"""
    result = subprocess.run(
        [sys.executable, "-c", program, sysroot.path, sysroot.roots / names[0]],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.splitlines() == [f"{names[0]} []", f"{names[0]} is running"]


def test_removing_a_root_leaves_shared_inodes_alone(sysroot: Sysroot) -> None:
    """Attributes, content and times of the repository's inodes are those of before."""
    deploy(sysroot, make_build(sysroot, 1))
    deploy(sysroot, make_build(sysroot, 2))

    def inodes() -> dict[str, tuple[int, int, int, bytes]]:
        return {
            str(path): (s.st_mode, s.st_uid, s.st_mtime_ns, path.read_bytes())
            for path in sysroot.repository.objects.rglob("*.file")
            for s in (path.stat(),)
        }

    before = inodes()
    undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
    assert inodes() == before
    assert_live_root_is_complete(sysroot.path)


def test_another_architecture_is_refused(sysroot: Sysroot) -> None:
    """A mistyped branch must not become a machine that can't run anything."""
    commit = make_build(sysroot, 1, architecture="s390x")
    with pytest.raises(ArchitectureError, match=r"s390x.*x86_64"):
        deploy(sysroot, commit, DeployOptions(machine="x86_64"))
    assert not sysroot.link.is_symlink()
    allowed = DeployOptions(machine="x86_64", architecture=ArchitecturePolicy.ALLOW_OTHER)
    assert deploy(sysroot, commit, allowed).changed
    assert deploy(sysroot, make_build(sysroot, 2, architecture="aarch64"),
                  DeployOptions(machine="aarch64")).changed  # fmt: skip


def test_what_is_not_ours_is_never_replaced(sysroot: Sysroot) -> None:
    """A file, directory or foreign link in the live link's place stays as it is."""
    commit = make_build(sysroot, 1)
    sysroot.link.mkdir()
    with pytest.raises(ForeignLinkError):
        deploy(sysroot, commit)
    sysroot.link.rmdir()
    sysroot.link.symlink_to("/somewhere")
    with pytest.raises(ForeignLinkError):
        deploy(sysroot, commit)
    assert os.readlink(sysroot.link) == "/somewhere"
    assert os.listdir(sysroot.roots) == []


def test_a_root_that_is_live_under_another_name_stays(tmp_path: Path) -> None:
    """Renaming the link in the configuration takes nothing away from the old one."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    old = deploy(sysroot, make_build(sysroot, 1)).root
    (sysroot.path / "etc/hacktree/client.toml").write_text('keep-roots = 1\nname = "other"\n')
    renamed = open_sysroot(sysroot.path)
    for number in (2, 3, 4):
        deploy(renamed, make_build(renamed, number))
    assert old in read_roots(renamed).records
    assert (sysroot.path / "gnomeos/usr/bin/same").read_bytes() == b"unchanged"
    with pytest.raises(RootInUseError):
        undeploy_root(renamed, old, PreviousPolicy.REMOVE)


def test_a_failed_checkout_leaves_what_was_live(sysroot: Sysroot) -> None:
    """A missing object ends the deploy; nothing of the new root stays."""
    deploy(sysroot, make_build(sysroot, 1))
    commit = make_build(sysroot, 2)
    for path in sysroot.repository.objects.rglob("*.file"):
        if path.read_bytes() == b"2":
            path.unlink()
    with pytest.raises(ObjectMissingError):
        deploy(sysroot, commit)
    assert live_version(sysroot) == "VERSION=1"
    assert_nothing_left_over(sysroot.path)


def test_a_second_deploy_is_told_who_holds_the_lock(sysroot: Sysroot) -> None:
    """One change at a time, and the message names the process that is at it."""
    commit = make_build(sysroot, 1)
    with hold_sysroot(sysroot):
        assert f"process {os.getpid()}" in describe_activity(sysroot)
        with pytest.raises(BusyError, match=f"process {os.getpid()} "):
            deploy(sysroot, commit)
    assert describe_activity(sysroot) == ""
    assert deploy(sysroot, commit).changed


def test_a_root_that_somebody_entered_is_not_removed(tmp_path: Path) -> None:
    """Its shared lock makes undeploy fail, and lets a deploy go on with a note."""
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    first, second = (deploy(sysroot, make_build(sysroot, number)).root for number in (1, 2))
    descriptor = os.open(sysroot.roots / first, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with pytest.raises(BusyError, match=f"process {os.getpid()} "):
            undeploy_root(sysroot, first, PreviousPolicy.REMOVE)
        result = deploy(sysroot, make_build(sysroot, 3))
        assert result.changed
        assert result.removed == []
        assert len(result.notes) == 1
        assert first in result.notes[0]
    finally:
        os.close(descriptor)
    assert (sysroot.roots / first / "usr/bin/same").exists()
    assert clean_up(sysroot).roots == [first]
    assert second in os.listdir(sysroot.roots)


def test_interrupted_work_is_shown_and_cleaned_up(sysroot: Sysroot) -> None:
    """Rubbish of every kind is found without a change, then removed; the live root stays."""
    live = deploy(sysroot, make_build(sysroot, 1)).root
    (sysroot.roots / ".tmp-gnomeos-000000000.1/usr").mkdir(parents=True)
    (sysroot.roots / ".removing-gnomeos-000000000.2").mkdir()
    (sysroot.pins / "root-gnomeos-000000000.1").write_text("0" * 64 + "\n")
    (sysroot.path / ".gnomeos.0123abcd.tmp").symlink_to(f".ht/roots/{live}")
    (sysroot.path / ".gnomeos.mine.tmp").write_text("not ours")
    (sysroot.path / ".gnomeos.89abcdef.tmp").symlink_to("/not-ours")
    (sysroot.repository.state / ".deployments.json.0123abcd.tmp").touch()
    (sysroot.repository.state / ".other.json.0123abcd.tmp").touch()
    pending = find_leftovers(sysroot)
    assert len(pending.describe()) == 5
    assert find_leftovers(sysroot) == pending
    clean_up(sysroot)
    assert not find_leftovers(sysroot)
    assert os.listdir(sysroot.roots) == [live]
    assert (sysroot.path / ".gnomeos.mine.tmp").exists()
    assert (sysroot.path / ".gnomeos.89abcdef.tmp").is_symlink()
    assert (sysroot.repository.state / ".other.json.0123abcd.tmp").exists()


@pytest.mark.parametrize("file", ["deployments.json", "roots/{root}.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"root": "../x"}', b"\xff"])
def test_damaged_state_is_named_and_nothing_is_done(
    sysroot: Sysroot, file: str, damage: bytes
) -> None:
    """The message says which file and what deleting it costs; the live link stays."""
    root = deploy(sysroot, make_build(sysroot, 1)).root
    path = sysroot.repository.state / file.format(root=root)
    path.write_bytes(damage)
    with pytest.raises(CorruptError, match=path.name.replace(".", r"\.")) as caught:
        deploy(sysroot, make_build(sysroot, 2))
    assert "Delete it" in caught.value.hint
    assert live_version(sysroot) == "VERSION=1"
    assert os.listdir(sysroot.roots) == [root]


@pytest.mark.parametrize(
    "text", ['nmae = "x"', "keep-roots = 0", 'name = "../x"', 'name = ""', "keep-roots = ["]
)
def test_a_configuration_with_a_mistake_is_refused(tmp_path: Path, text: str) -> None:
    """An unknown key or a senseless value is named, not ignored."""
    with pytest.raises(UserError, match=r"client\.toml"):
        make_sysroot(tmp_path / "sysroot", text)


def test_a_branch_prefix_is_put_before_a_branch_once(tmp_path: Path) -> None:
    """`hacktree-pull fastqa` may mean a longer name, which may also be written out."""
    config = make_sysroot(tmp_path / "sysroot", 'branch-prefix = "gnomeos/x86_64"\n').config
    assert config.full_branch("fastqa") == "gnomeos/x86_64/fastqa"
    assert config.full_branch("gnomeos/x86_64/fastqa") == "gnomeos/x86_64/fastqa"
    assert ClientConfig().full_branch("fastqa") == "fastqa"


def test_a_directory_without_roots_says_so(tmp_path: Path) -> None:
    """Looking creates nothing."""
    with pytest.raises(NotARepositoryError):
        open_sysroot(tmp_path)
    with pytest.raises(UserError):
        prepare_sysroot(tmp_path / "absent")
    assert os.listdir(tmp_path) == []


def test_roots_are_reachable_by_their_owner_alone(sysroot: Sysroot) -> None:
    """Old setuid programs must not be reachable by the host's users."""
    assert sysroot.repository.path.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_sysroot_of_somebody_else_is_not_touched(sysroot: Sysroot) -> None:
    """Root would leave files there that the owner can't remove."""
    os.chown(sysroot.repository.path, 1234, 1234)
    with pytest.raises(SysrootOwnerError, match="1234"):
        prepare_sysroot(sysroot.path)
    with pytest.raises(SysrootOwnerError), hold_sysroot(sysroot):
        raise AssertionError("held")


_WITHOUT_ROOT = """
import os, sys
from pathlib import Path
os.setgroups([]); os.setgid(1234); os.setuid(1234)
from hacktree.client.keeping import PreviousPolicy, undeploy_root
from hacktree.client.rollback import roll_back
from hacktree.client.sysroot import prepare_sysroot
from support.sysroots import deploy, live_version, make_build
from support.trees import Directory, File, make_commit
sysroot = prepare_sysroot(Path(sys.argv[1]))
deploy(sysroot, make_build(sysroot, 1))
closed = {
    "closed": Directory(0o000),
    "closed/in": Directory(0o500),
    "closed/in/file": File(b"x", 0o4000, 5, 6),
}
deploy(sysroot, make_commit(sysroot.repository, closed))
roll_back(sysroot)
undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
print(sysroot.repository.mode.value, live_version(sysroot), *os.listdir(sysroot.roots))
"""


@as_root
def test_without_root_everything_works_in_ones_own_directory(tmp_path: Path) -> None:
    """Deploy, rollback and removal, of directories, too, that their mode closes to the owner."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 1234, 1234)
    for directory in (tmp_path, *tmp_path.parents[:3]):
        if directory != Path("/tmp"):
            directory.chmod(0o755)
    tests = Path(__file__).parents[1]
    # The interpreter may live in a home directory that is closed to others: root imports first.
    program = "import hacktree.client.deploy, hacktree.common.repository.committing, msgspec\n"
    program += "import hacktree.client.keeping, hacktree.client.rollback, hacktree.client.sysroot\n"
    program += "import support.trees, support.sysroots\n" + _WITHOUT_ROOT
    result = subprocess.run(
        [sys.executable, "-c", program, home],
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    words = result.stdout.split()
    assert words[:2] == [Mode.BARE_USER.value, "VERSION=1"]
    assert len(words) == 3
