"""A root under test, booted: whoever logs in is told; systemd goes on with an unattended run."""

import os
import subprocess
from pathlib import Path

from hacktree.client.roots import read_roots
from hacktree.client.sysroot import Sysroot
from hacktree.common.objects.ids import parse_object_id
from hacktree.server.promotion.command import Job
from hacktree.server.promotion.machine.qemu import Size, booted_build
from hacktree.server.promotion.verdicts import Outcome
from support.bisectfarm import add_build, bisect, make_farm, make_tester
from support.bootable import systemd_tree
from support.enterable import hacktree
from support.servers import hacktree_program
from support.trees import File, Spec

UNITS = Path("usr/lib/systemd/system")
TEST = 'echo "100% $HOME"; exit 200'
LOOK = """\
sh -lic true
until grep -q 'exit 200' /run/words 2>/dev/null; do :; done
cat /proc/1/comm /run/words
"""


def build_tree(session: Path) -> dict[str | bytes, Spec]:
    """It reads profile.d as distributions do, wants what an installation wants, and has the
    session of the sysroot. Python is not in it: what is started by hacktree's name tells its words.
    """
    tree = systemd_tree()
    wants = b"[Unit]\nWants=multi-user.target\nAfter=multi-user.target\n"
    tree[str(UNITS / "default.target")] = wants
    tree[str(UNITS / "multi-user.target")] = Path("/", UNITS, "multi-user.target").read_bytes()
    # At the very first start systemd enables every unit by itself.
    tree["etc/machine-id"] = b"5e" * 16 + b"\n"
    tree["etc/profile"] = b'for one in /etc/profile.d/*.sh; do . "$one"; done\n'
    tells = b'#!/bin/sh\nfor word; do echo "$word"; done >/run/words\n'
    tree[hacktree_program().lstrip("/")] = File(tells, 0o755)
    tree[str(session).lstrip("/")] = b"{}"
    return tree


def boot(sysroot: Sysroot, root: str, commit: str, place: Path) -> str:
    """Boot a copy of the root, look around in it; what was seen."""
    place.mkdir()
    subprocess.run(["cp", "-a", sysroot.roots / root, place / "root"], check=True)
    job = Job(("/bin/sh", "-c", LOOK), {"PATH": "/bin"}, place, 120.0)
    build = parse_object_id(commit)
    with booted_build(job, Size(1 << 30, 1), sysroot.repository, build, place / "root", ()) as vm:
        done = subprocess.run(
            vm.command, cwd=vm.directory, env=vm.environment, capture_output=True, text=True,
            check=False, timeout=vm.limit,
        )  # fmt: skip
        assert vm.judge(done.returncode).outcome is Outcome.PASS, done.stdout
    return done.stdout


def test_a_booted_root_under_test_tells_and_goes_on(tmp_path: Path) -> None:
    """The message is what a login shell prints; the unit starts with the words of the run."""
    farm = make_farm(tmp_path / "farm", 0, 0)
    session = tmp_path / "sysroot/.ht/state/bisect/session.json"
    tree = build_tree(session)
    commits = [add_build(farm, n, broken=n == 3, tree=tree).hex() for n in (1, 2, 3)]
    sysroot = make_tester(tmp_path / "sysroot", farm)
    assert hacktree(sysroot, "pull", "fastqa").returncode == 0
    bisect(sysroot, "start", "--good", "fastqa~2", "--bad", "current", "--no-prefetch")
    words = ("run", "--unattended", "--timeout", "600", "--host", "--", "sh", "-c", TEST)
    bisect(sysroot, *words, status=1)
    root = str(read_roots(sysroot).current)
    seen = boot(sysroot, root, commits[1], tmp_path / "vm")
    assert "This is build 47.2 (fastqa 2, " in seen
    assert "How is it? hacktree bisect good, bad or skip; `hacktree bisect status`" in seen
    _, _, told = seen.partition("\nsystemd\n")
    assert told.splitlines()[: len(words) + 3] == [
        "--sysroot",
        os.fspath(sysroot.path),
        "bisect",
        *words,
    ]
