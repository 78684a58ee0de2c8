"""A root in which something is mounted is never deleted, nor is what is mounted there."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hacktree.client.keeping import PreviousPolicy, undeploy_root
from hacktree.client.sysroot import Sysroot
from support.sysroots import deploy, make_build, make_sysroot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def in_private_namespace(program: str, *arguments: object) -> str:
    """Run a program that may mount whatever it likes; returns what it prints."""
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    return result.stdout


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    sysroot = make_sysroot(tmp_path / "sysroot", "keep-roots = 1\n")
    for number in (1, 2):
        deploy(sysroot, make_build(sysroot, number))
    return sysroot


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """On the same file system as the roots: st_dev can't tell it from them."""
    home = tmp_path / "real home"
    home.mkdir()
    (home / "thesis").write_text("years of work")
    return home


UNDEPLOY = """
    import subprocess, sys
    from pathlib import Path
    from hacktree.client import removal
    from hacktree.client.keeping import PreviousPolicy, undeploy_root
    from hacktree.client.roots import read_roots
    from hacktree.client.sysroot import open_sysroot
    sysroot = open_sysroot(Path(sys.argv[1]))
    root = sysroot.roots / read_roots(sysroot).previous
    place = root / sys.argv[3]
    subprocess.run(["mount", "--bind", sys.argv[2], place], check=True)
    if sys.argv[4] == "unlisted":
        removal.refuse_mounts = lambda directory: None
    try:
        undeploy_root(sysroot, "previous", PreviousPolicy.REMOVE)
    except removal.MountedError as error:
        print(error.message)
    """


@pytest.mark.parametrize("place", ["usr/share", "."])
def test_a_mount_below_or_on_a_root_refuses_its_removal(
    sysroot: Sysroot, home: Path, place: str
) -> None:
    """Nothing is changed: the root stays whole, and so does what is mounted."""
    before = sorted(os.walk(sysroot.roots))
    printed = in_private_namespace(UNDEPLOY, sysroot.path, home, place, "listed")
    assert "is a mount point" in printed
    assert sorted(os.walk(sysroot.roots)) == before
    assert (home / "thesis").read_text() == "years of work"


def test_a_mount_that_appears_meanwhile_is_never_entered(sysroot: Sysroot, home: Path) -> None:
    """The descent compares mount ids: a bind mount of the same file system is noticed."""
    printed = in_private_namespace(UNDEPLOY, sysroot.path, home, "usr/share", "unlisted")
    assert "something is mounted on" in printed
    assert (home / "thesis").read_text() == "years of work"


def test_a_mount_keeps_no_deploy_from_going_live(sysroot: Sysroot, home: Path) -> None:
    """Retention notes it and leaves that root alone."""
    commit = make_build(sysroot, 3)
    program = """
        import subprocess, sys
        from pathlib import Path
        from hacktree.client.deploy import DeployOptions, deploy_commit
        from hacktree.client.roots import read_roots
        from hacktree.client.sysroot import open_sysroot
        from hacktree.common.objects.ids import parse_object_id
        sysroot = open_sysroot(Path(sys.argv[1]))
        place = sysroot.roots / read_roots(sysroot).previous / "usr"
        subprocess.run(["mount", "--bind", sys.argv[2], place], check=True)
        result = deploy_commit(
            sysroot, parse_object_id(sys.argv[3]), DeployOptions(), lambda line: None
        )
        print(result.changed, *result.notes)
    """
    printed = in_private_namespace(program, sysroot.path, home, commit.hex())
    assert printed.startswith("True ")
    assert "is a mount point" in printed
    assert (home / "thesis").exists()


def test_links_in_a_root_are_not_followed(sysroot: Sysroot, home: Path) -> None:
    """Deleting a root deletes the link, not what it points to."""
    first = next(path for path in sysroot.roots.iterdir() if path != sysroot.link.resolve())
    (first / "usr/home").symlink_to(home)
    undeploy_root(sysroot, first.name, PreviousPolicy.REMOVE)
    assert not first.exists()
    assert (home / "thesis").exists()


def test_a_name_like_the_roots_is_not_below_it(sysroot: Sysroot, home: Path) -> None:
    """A mount on `root.10` is none on `root.1`."""
    other = home.parent / "place"
    other.mkdir()
    longer = home.parent / "place2"
    longer.mkdir()
    program = """
        import subprocess, sys
        from pathlib import Path
        from hacktree.client.removal import refuse_mounts
        subprocess.run(["mount", "--bind", sys.argv[2], sys.argv[2]], check=True)
        refuse_mounts(Path(sys.argv[1]))
        print("free")
    """
    assert in_private_namespace(program, other, longer) == "free\n"
