"""The steps for users, carried files, ids and homes, on real roots that real programs read."""

import json
import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from hacktree.client.replay.step import Build, Step, StepFailedError
from hacktree.client.sysroot import Sysroot
from hacktree.client.users.identities import learn
from hacktree.client.users.registry import read_registry, registry_path
from hacktree.client.users.steps import CarrySource, LastSource, UsersSource
from hacktree.common.errors import CorruptError, UserError
from hacktree.common.repository.fsck import fsck
from support.machines import HASH, MACHINE, make_machine, make_root
from support.plain_root import PlainRoot
from support.programs import copy_programs
from support.trees import Directory, File, Spec, Symlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")

SHADOW_TOOLS = ("/usr/sbin/useradd", "/usr/sbin/groupadd", "/usr/bin/id", "/usr/bin/getent")
CHECKERS = ("/usr/sbin/pwck", "/usr/sbin/grpck")
STEPS = (UsersSource(), CarrySource(), LastSource())


@pytest.fixture
def sysroot(tmp_path: Path) -> Sysroot:
    return make_machine(tmp_path / "machine")


def steps(build: Build) -> list[Step]:
    return [step for source in STEPS for step in source.steps(build)]


def apply(root: PlainRoot, *sources: UsersSource | CarrySource | LastSource) -> PlainRoot:
    for source in sources:
        for step in source.steps(root.build):
            step.apply(root)
    return root


def digests(build: Build) -> list[bytes]:
    return [step.digest for step in steps(build)]


def in_root(root: PlainRoot, *command: str) -> str:
    done = subprocess.run(
        ["chroot", root.path, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def with_tools(root: PlainRoot, commands: Sequence[str] = SHADOW_TOOLS) -> PlainRoot:
    copy_programs(root.path, *commands)
    (root.path / "etc/login.defs").write_text(
        "SYS_UID_MIN 100\nSYS_GID_MIN 100\nUSERGROUPS_ENAB yes\n"
    )
    (root.path / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\n")
    return root


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_real_programs_agree_with_the_merged_files(sysroot: Sysroot) -> None:
    """pwck and grpck find nothing; id and getent in the root know the people."""
    root = with_tools(apply(make_root(sysroot), UsersSource()), (*SHADOW_TOOLS, *CHECKERS))
    for checker in CHECKERS:
        assert in_root(root, checker, "-r", "-q") == ""
    assert in_root(root, "/usr/bin/id", "jane") == (
        "uid=1000(jane) gid=1000(jane) groups=1000(jane),10(wheel),39(video),1500(lab)"
    )
    assert in_root(root, "/usr/bin/getent", "shadow", "jane") == f"jane:{HASH}:19500:0:99999:7:::"
    assert in_root(root, "/usr/bin/getent", "passwd", "bob").endswith(":/home/bob:/bin/bash")
    assert in_root(root, "/usr/bin/getent", "passwd", "81").startswith("messagebus:")
    assert any("jane gets /bin/bash" in line for line in root.said)


def test_owners_and_modes_stay_the_roots(sysroot: Sysroot) -> None:
    """shadow is 0640 of the root's own group 42; the repository's files are as they were."""
    root = apply(make_root(sysroot), UsersSource(), CarrySource(), LastSource())
    for name, mode, group in (("passwd", 0o644, 0), ("shadow", 0o640, 42), ("gshadow", 0o640, 42)):
        status = (root.path / "etc" / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, group)
        assert status.st_nlink == 1
    assert not list((root.path / "etc").glob(".*"))
    assert fsck(sysroot.repository).findings == []


def test_a_root_without_shadow_gets_one(sysroot: Sysroot) -> None:
    """Of the root's shadow group, and unreadable for others."""
    root = make_root(sysroot)
    (root.path / "etc/shadow").unlink()
    (root.path / "etc/gshadow").unlink()
    apply(root, UsersSource())
    status = (root.path / "etc/shadow").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, 42)
    assert not (root.path / "etc/gshadow").exists()


def test_links_lead_nowhere(sysroot: Sysroot, tmp_path: Path) -> None:
    """A build whose /etc, or an account file in it, is a link reads and writes nothing outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("root:x:0:0::/:\n")
    root = make_root(sysroot)
    (root.path / "etc/passwd").unlink()
    (root.path / "etc/passwd").symlink_to(outside / "passwd")
    with pytest.raises(StepFailedError, match="/etc/passwd can't be read"):
        apply(root, UsersSource())
    (root.path / "etc").rename(root.path / "old")
    (root.path / "etc").symlink_to(outside)
    with pytest.raises(StepFailedError, match="etc is not a directory"):
        apply(root, UsersSource())
    assert os.listdir(outside) == ["passwd"]
    assert (outside / "passwd").read_text() == "root:x:0:0::/:\n"


def test_digests_follow_what_matters(sysroot: Sysroot) -> None:
    """People, passwords, carried contents and the configuration count; system users don't."""
    build = make_root(sysroot).build
    seen = [digests(build)]
    assert digests(build) == seen[0]
    etc = sysroot.path / "etc"
    (etc / "passwd").write_text("polkitd:x:996:996::/:/sbin/nologin\n" + MACHINE["passwd"])
    assert digests(build) == seen[0]
    (etc / "hostname").write_text("bench\n")
    seen.append(digests(build))
    (etc / "shadow").write_text(MACHINE["shadow"].replace(HASH, "$6$salt$new"))
    seen.append(digests(build))
    (etc / "group").write_text(MACHINE["group"].replace("video:x:44:jane,", "video:x:44:"))
    seen.append(digests(build))
    assert len({tuple(found) for found in seen}) == 4


def test_a_directory_that_is_no_machine_adds_nobody(sysroot: Sysroot, tmp_path: Path) -> None:
    """A sysroot elsewhere has roots that are their builds; `host` in client.toml makes it one."""
    bare = make_machine(tmp_path / "bare", files={})
    assert steps(make_root(bare, name="bare root").build) == []
    other = make_machine(tmp_path / "other", f'host = "{sysroot.path}"\n', files={})
    root = apply(make_root(other, name="other root"), UsersSource())
    assert "jane:" in (root.path / "etc/passwd").read_text()
    wrong = make_machine(tmp_path / "wrong", f'host = "{tmp_path}"\n', files={})
    with pytest.raises(UserError, match="no machine's root"):
        steps(make_root(wrong, name="wrong root").build)


def test_carried_files(sysroot: Sysroot) -> None:
    """Contents, modes, links that lead inside, keys, and what a link names where it doesn't."""
    etc = sysroot.path / "etc"
    (etc / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (etc / "machine-id").chmod(0o444)
    (etc / "hostname").write_text("bench\n")
    (etc / "hostname").chmod(0o664)
    os.chown(etc / "hostname", 0, 4242)
    (etc / "localtime").symlink_to("../usr/share/zoneinfo/Europe/Berlin")
    (etc / "timezone").symlink_to("/usr/share/zone")
    (sysroot.path / "usr/share").mkdir(parents=True)
    (sysroot.path / "usr/share/zone").write_text("Europe/Berlin\n")
    (sysroot.path / "run").mkdir()
    (sysroot.path / "run/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (etc / "resolv.conf").symlink_to("/run/resolv.conf")
    (etc / "ssh").mkdir()
    for name, mode, group in (("rsa_key", 0o640, 27), ("ecdsa_key", 0o640, 999)):
        key = etc / f"ssh/ssh_host_{name}"
        key.write_text(name)
        key.chmod(mode)
        os.chown(key, 0, group)
    (etc / "ssh/ssh_host_ed25519_key").write_text("secret")
    (etc / "ssh/ssh_host_ed25519_key").chmod(0o600)
    (etc / "adjtime").symlink_to("nowhere")
    zone = {"usr/share/zoneinfo/Europe/Berlin": b"TZif", "etc/hostname": b"localhost\n"}
    root = apply(make_root(sysroot, zone), CarrySource())
    made = root.path / "etc"
    assert (made / "hostname").read_text() == "bench\n"
    assert stat.S_IMODE((made / "hostname").stat().st_mode) == 0o644
    assert stat.S_IMODE((made / "machine-id").stat().st_mode) == 0o444
    assert os.readlink(made / "localtime") == "../usr/share/zoneinfo/Europe/Berlin"
    assert not (made / "timezone").is_symlink()
    assert (made / "timezone").read_text() == "Europe/Berlin\n"
    assert not (made / "resolv.conf").is_symlink()
    assert (made / "resolv.conf").read_text() == "nameserver 192.0.2.1\n"
    assert stat.S_IMODE((made / "ssh/ssh_host_ed25519_key").stat().st_mode) == 0o600
    # wheel is 27 on the machine and 10 in the build; docker is nothing there.
    rsa, ecdsa = made / "ssh/ssh_host_rsa_key", made / "ssh/ssh_host_ecdsa_key"
    assert (owner(rsa), stat.S_IMODE(rsa.stat().st_mode)) == ((0, 10), 0o640)
    assert (owner(ecdsa), stat.S_IMODE(ecdsa.stat().st_mode)) == ((0, 0), 0o600)
    assert not (made / "adjtime").is_symlink()
    assert any("/etc/adjtime is not carried: it links to nowhere" in line for line in root.said)
    assert not (made / "locale.conf").exists()
    assert fsck(sysroot.repository).findings == []


def test_a_resolver_of_the_build_keeps_its_link(sysroot: Sysroot) -> None:
    """A link into /run is filled by what runs there: a copy would stay for ever."""
    (sysroot.path / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    link = {"etc/resolv.conf": Symlink(b"../run/systemd/resolve/stub-resolv.conf")}
    root = apply(make_root(sysroot, link), CarrySource())
    assert os.readlink(root.path / "etc/resolv.conf") == "../run/systemd/resolve/stub-resolv.conf"
    assert any("/etc/resolv.conf stays" in line for line in root.said)


def test_a_carry_list_of_ones_own(tmp_path: Path) -> None:
    """Directories come whole; the defaults only where "default" is in the list."""
    sysroot = make_machine(tmp_path / "machine", 'carry = ["/etc/NetworkManager"]\n')
    etc = sysroot.path / "etc"
    (etc / "hostname").write_text("bench\n")
    (etc / "NetworkManager/connections").mkdir(parents=True)
    (etc / "NetworkManager/connections/lab").write_text("psk")
    (etc / "NetworkManager/connections/lab").chmod(0o600)
    (etc / "NetworkManager/state").symlink_to("connections")
    (etc / os.fsdecode(b"NetworkManager/caf\xe9")).touch()
    (etc / "NetworkManager/other").symlink_to(os.fsdecode(b"caf\xe9"))
    root = apply(make_root(sysroot), CarrySource())
    assert sorted(os.listdir(root.path / "etc/NetworkManager")) == ["connections", "state"]
    assert sum("is not UTF-8" in line for line in root.said) == 2
    lab = root.path / "etc/NetworkManager/connections/lab"
    assert (lab.read_text(), stat.S_IMODE(lab.stat().st_mode)) == ("psk", 0o600)
    assert os.readlink(root.path / "etc/NetworkManager/state") == "connections"
    assert not (root.path / "etc/hostname").exists()


@pytest.mark.parametrize(
    "path", ["etc/x", "/usr/bin", "/etc/../x", "/etc/./x", "/etc/*/x", "/etc/", "/etc/pass*", "/"]
)
def test_carry_is_validated(tmp_path: Path, path: str) -> None:
    """Below /etc, literally, and never the account files."""
    sysroot = make_machine(tmp_path / "machine", f'carry = ["{path}"]\n')
    with pytest.raises(UserError, match=r"carry in client\.toml"):
        CarrySource().steps(make_root(sysroot).build)


def run_useradd(root: PlainRoot, *names: str) -> None:
    """What a config script does: plain useradd, then a file and a set-id program of that user."""
    for name in names:
        in_root(root, "/usr/sbin/useradd", "-r", name)
        data = root.path / f"var/{name}"
        data.parent.mkdir(exist_ok=True)
        data.write_text(name)
        uid, gid = in_root(root, "/usr/bin/getent", "passwd", name).split(":")[2:4]
        os.chown(data, int(uid), int(gid))
        data.chmod(0o4750)
        os.setxattr(data, "security.capability", b"\1\0\0\2\0\4\0\0" + bytes(12))
        (root.path / f"var/link-{name}").symlink_to("/")
        os.lchown(root.path / f"var/link-{name}", int(uid), int(gid))


def test_local_users_keep_their_ids(sysroot: Sysroot) -> None:
    """useradd -r gives another number once another user comes first; files move with the user."""
    first = with_tools(apply(make_root(sysroot, name="first"), UsersSource()))
    run_useradd(first, "svc")
    apply(first, LastSource())
    learn(first.build, first.path)
    uid, gid = owner(first.path / "var/svc")
    registry = json.loads(registry_path(sysroot).read_text())
    assert registry["users"] == {"svc": [uid]}
    assert registry["groups"] == {"svc": [gid]}
    before = digests(first.build)

    second = with_tools(apply(make_root(sysroot, name="second"), UsersSource()))
    run_useradd(second, "new", "svc")
    assert owner(second.path / "var/new") == (uid, gid), "the number is moved by who comes first"
    apply(second, LastSource())
    learn(second.build, second.path)
    assert owner(second.path / "var/svc") == owner(second.path / "var/link-svc") == (uid, gid)
    assert (
        in_root(second, "/usr/bin/id", "svc") == f"uid={uid}(svc) gid={gid}(svc) groups={gid}(svc)"
    )
    new = in_root(second, "/usr/bin/id", "-u", "new")
    assert owner(second.path / "var/new")[0] == int(new) != uid
    moved = second.path / "var/svc"
    assert stat.S_IMODE(moved.stat().st_mode) == 0o4750
    assert os.getxattr(moved, "security.capability").startswith(b"\1\0\0\2")
    assert any("--forget svc" in line for line in second.said)
    assert digests(second.build) == before, "what is learnt asks for no new root"


def test_a_build_that_takes_an_id_wins(sysroot: Sysroot) -> None:
    """The local user moves to the next id, the same one ever after, and it is said."""
    first = with_tools(apply(make_root(sysroot, name="first"), UsersSource()))
    run_useradd(first, "svc")
    apply(first, LastSource())
    learn(first.build, first.path)
    uid = owner(first.path / "var/svc")[0]
    taken = {
        "etc/passwd": f"root:x:0:0::/:\ntheirs:x:{uid}:{uid}::/:/bin/sh\n".encode(),
        "etc/group": f"root:x:0:\ntheirs:x:{uid}:\n".encode(),
    }
    second = with_tools(make_root(sysroot, taken, name="second"))
    run_useradd(second, "svc")
    apply(second, LastSource())
    learn(second.build, second.path)
    moved = owner(second.path / "var/svc")[0]
    assert moved != uid
    assert any(f"theirs has {uid}" in line and "needs chown" in line for line in second.said)
    assert read_registry(sysroot).users["svc"] == (uid, moved)
    third = with_tools(make_root(sysroot, taken, name="third"))
    run_useradd(third, "other", "svc")
    apply(third, LastSource())
    assert owner(third.path / "var/svc")[0] == moved
    own = {"etc/passwd": b"root:x:0:0::/:\nsvc:x:77:77::/:/bin/sh\n"}
    fourth = apply(make_root(sysroot, own, name="fourth"), LastSource())
    assert any("svc is the build's own now, with id 77" in line for line in fourth.said)
    learn(fourth.build, fourth.path)
    assert read_registry(sysroot).users["svc"] == (uid, moved)


def test_a_registry_that_is_damaged_is_refused(sysroot: Sysroot) -> None:
    """Nothing is guessed: the error says what deleting it would mean."""
    build = make_root(sysroot).build
    for text in ("{", '{"version": 2}', '{"users": {"a:b": [1]}}', '{"users": {"a": [0]}}', "[]"):
        registry_path(sysroot).write_text(text)
        with pytest.raises(CorruptError, match=r"users\.json is damaged"):
            LastSource().steps(build)


def test_home_is_empty_in_every_root(sysroot: Sysroot) -> None:
    """What the build or a step puts there is left out and named; the machine's is not touched."""
    root = make_root(sysroot, {"home/live/.profile": b"x", "home/note": b""})
    apply(root, LastSource())
    assert os.listdir(root.path / "home") == []
    assert any("left out of this root's /home: live, note." in line for line in root.said)
    assert os.listdir(sysroot.path / "home") == ["jane"]
    assert fsck(sysroot.repository).findings == []


def test_home_may_be_a_link(sysroot: Sysroot) -> None:
    """As in trees made for ostree."""
    root = apply(make_root(sysroot, {"home": Symlink(b"var/home")}), LastSource())
    assert os.readlink(root.path / "home") == "var/home"


def test_mount_points_are_made(tmp_path: Path) -> None:
    """A root is read-only later: what will be bound needs its empty directory now."""
    sysroot = make_machine(tmp_path / "machine", 'bind = ["/srv/data", "/opt/lab"]\n')
    root = make_root(sysroot, {"opt/lab/tool": File(b"", 0o755), "srv": Directory(0o750)})
    apply(root, LastSource())
    assert (root.path / "srv/data").is_dir()
    assert (root.path / "home").is_dir()
    assert any("/opt/lab of this build is hidden" in line for line in root.said)


def test_mount_points_behind_links(tmp_path: Path) -> None:
    """As in trees made for ostree; a link that leads out of the root is not followed."""
    config = 'bind = ["/srv/data", "/mnt/a/b"]\nshare-root = true\n'
    sysroot = make_machine(tmp_path / "machine", config)
    outside = tmp_path / "outside"
    outside.mkdir()
    links: dict[str, Spec] = {
        "srv": Symlink(b"var/srv"),
        "var/srv/.keep": b"",
        "root": Symlink(b"var/roothome"),
        "var/roothome/.profile": b"",
        "mnt": Symlink(os.fsencode(outside)),
    }
    root = make_root(sysroot, links)
    with pytest.raises(StepFailedError, match="mnt is not a directory in this root"):
        apply(root, LastSource())
    assert (root.path / "var/srv/data").is_dir()
    assert os.listdir(outside) == []
    assert not any("/root of this build" in line for line in root.said)
