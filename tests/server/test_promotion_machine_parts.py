"""Promises: a hostile tree reaches nothing of the host while its machine is made, and an answer
from inside counts only as what it is."""

import gzip
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hacktree.common.errors import SpaceError, UserError
from hacktree.common.objects.ids import ObjectId
from hacktree.common.objects.zstandard import zstd
from hacktree.common.repository.layout import Mode
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.command import CommandMissingError
from hacktree.server.promotion.machine import guest, kernel
from hacktree.server.promotion.machine.guest import fill_suite_disk, find_program
from hacktree.server.promotion.machine.image import ImageFailedError, make_image, restore_attributes
from hacktree.server.promotion.machine.initramfs import make_initramfs, read_busybox
from hacktree.server.promotion.machine.kernel import Kernel, UnfitBuildError, find_kernel
from hacktree.server.promotion.machine.qemu import judge_machine, open_answer
from hacktree.server.promotion.scratch import scratch_root
from hacktree.server.promotion.verdicts import Finding, Outcome
from support.pulling import make_repository
from support.trees import Directory, File, Spec, Symlink, make_commit

DRIVERS = ("virtio_pci", "virtio_blk", "virtio_console", "ext4")


def place(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def module(name: str, *needs: str) -> bytes:
    return f"\x7fELF{name}\0license=GPL\0depends={','.join(needs)}\0name={name}\0".encode()


def with_modules(**modules: bytes) -> dict[str, bytes]:
    """A kernel, the drivers it must have built in, and these modules."""
    directory = "usr/lib/modules/6.1.0"
    files = {f"{directory}/vmlinuz": b"kernel"}
    built_in = [name for name in DRIVERS if name not in modules]
    listed = "".join(f"kernel/drivers/{name.replace('_', '-')}.ko\n" for name in built_in)
    files[f"{directory}/modules.builtin"] = listed.encode()
    return files | {f"{directory}/kernel/{name}.ko": data for name, data in modules.items()}


@pytest.mark.parametrize(
    ("releases", "newest"),
    [
        (["6.9.0", "6.10.0"], "6.10.0"),
        (["6.1.0-9-amd64", "6.1.0-56-amd64"], "6.1.0-56-amd64"),
        (["6.10.0", "6.10.0-rc7"], "6.10.0"),
        (["6.10.0", "6.10.0.fc40"], "6.10.0.fc40"),
    ],
)
def test_the_newest_kernel_is_booted(tmp_path: Path, releases: list[str], newest: str) -> None:
    for ordered in (releases, releases[::-1]):
        place(tmp_path, {f"boot/vmlinuz-{release}": release.encode() for release in ordered})
        assert find_kernel(tmp_path) == Kernel(newest, newest.encode(), ())


def test_a_kernel_with_modules_comes_before_one_without(tmp_path: Path) -> None:
    place(tmp_path, {"boot/vmlinuz-linux": b"unversioned", "boot/vmlinuz-9.9.9": b"left over"})
    place(tmp_path, with_modules())
    assert find_kernel(tmp_path).release == "6.1.0"


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    """Names are written with - or _, and a circle ends."""
    pci = module("virtio_pci", "virtio-ring", "virtio")
    ring = module("virtio_ring", "virtio")
    virtio = module("virtio", "virtio_pci")
    files = with_modules(virtio_pci=pci, virtio=virtio, other=module("other"))
    files["usr/lib/modules/6.1.0/kernel/a/virtio-ring.ko"] = ring
    assert find_kernel(place(tmp_path, files)).modules == (virtio, ring, pci)


@pytest.mark.parametrize(
    ("suffix", "compress"), [("xz", lzma.compress), ("gz", gzip.compress), ("zst", zstd.compress)]
)
def test_compressed_modules_are_unpacked_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    plain = module("ext4") + bytes(10_000)
    files = with_modules()
    files["usr/lib/modules/6.1.0/modules.builtin"] = b"virtio_pci\nvirtio_blk\nvirtio_console\n"
    path = f"usr/lib/modules/6.1.0/kernel/fs/ext4.ko.{suffix}"
    root = place(tmp_path, files | {path: compress(plain)})
    assert find_kernel(root).modules == (plain,)
    for broken in (compress(plain)[:-9], b"nonsense"):
        (root / path).write_bytes(broken)
        assert unfit(root).outcome is Outcome.FAIL
    (root / path).write_bytes(compress(plain))
    monkeypatch.setattr(kernel, "MAX_MODULE", 9_000)
    assert "can't be decompressed" in unfit(root).reason


def unfit(root: Path) -> Finding:
    with pytest.raises(UnfitBuildError) as told:
        find_kernel(root)
    return told.value.finding


def test_more_modules_than_any_kernel_needs_are_not_loaded(tmp_path: Path) -> None:
    chain = {f"m{n}": module(f"m{n}", f"m{n + 1}") for n in range(1500)}
    root = place(tmp_path, with_modules(ext4=module("ext4", "m0"), **chain))
    assert "more than 64 modules" in unfit(root).reason


def test_a_kernel_beyond_all_sizes_is_not_read(tmp_path: Path) -> None:
    image = tmp_path / "boot/vmlinuz-6.1.0"
    image.parent.mkdir()
    with image.open("wb") as stream:
        stream.truncate(kernel.MAX_KERNEL + 1)
    assert "exceeds" in unfit(tmp_path).reason


@pytest.mark.parametrize("link", ["boot", "boot/vmlinuz-9", "usr/lib", "usr/lib/modules/6.1.0"])
def test_no_link_leads_out_of_the_tree(tmp_path: Path, link: str) -> None:
    """The runner reads as itself: what it finds goes into a machine that the build commands."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    place(secret, {"vmlinuz-9": b"secret", "vmlinuz": b"secret"})
    place(secret, {"modules/9/vmlinuz": b"secret", "6.1.0/vmlinuz": b"secret"})
    path = root / link
    path.parent.mkdir(parents=True)
    path.symlink_to(secret / "vmlinuz-9" if link.endswith("-9") else secret)
    assert "no kernel" in unfit(root).reason


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    place(tmp_path, with_modules())
    builtin = tmp_path / "usr/lib/modules/6.1.0/modules.builtin"
    builtin.unlink()
    os.mkfifo(builtin)
    assert unfit(tmp_path).outcome is Outcome.INCONCLUSIVE
    (tmp_path / "usr/lib/modules/6.1.0/vmlinuz").unlink()
    os.mkfifo(tmp_path / "usr/lib/modules/6.1.0/vmlinuz")
    assert unfit(tmp_path).outcome is Outcome.FAIL


def test_the_initramfs_is_an_archive_that_others_read(tmp_path: Path) -> None:
    busybox = read_busybox()
    archive = make_initramfs(Kernel("6.1.0", b"", (b"first", b"second")), busybox)
    subprocess.run(["/bin/busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "modules/000.ko").read_bytes() == b"first"
    assert (tmp_path / "modules/001.ko").read_bytes() == b"second"
    assert (tmp_path / "bin/busybox").read_bytes() == busybox
    subprocess.run(["/bin/busybox", "sh", "-n", tmp_path / "init"], check=True)


def imaged(tmp_path: Path, tree: dict[str | bytes, Spec]) -> Path:
    """The disk image of a build that a runner pulled: its repository keeps no owners."""
    repository = make_repository(tmp_path / "runner", Mode.BARE_USER)
    return image_of(repository, make_commit(repository, tree), tmp_path / "disk.img")


def image_of(repository: Repository, build: ObjectId, image: Path) -> Path:
    with scratch_root(repository, build) as (root, _):
        make_image(root, image, 1 << 20)
        restore_attributes(repository, repository.load_commit(build), root, image)
    return image


def debugfs(image: Path, *requests: str) -> str:
    lines = "\n".join(requests)
    done = subprocess.run(
        ["debugfs", "-f", "-", image], input=lines, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_disk_has_the_owners_modes_and_attributes_of_the_commit(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    image = imaged(
        tmp_path,
        {
            "": Directory(0o751, 0, 3),
            "usr/bin/su": File(b"x", 0o4755, 0, 70_000),
            "usr/bin/ping": File(b"x", 0o755, xattrs=(("security.capability", capability),)),
            "srv/a dir": Directory(0o2770, 33, 34),
            "srv/a dir/<5>": Symlink(b"/etc/passwd", 12, 13),
            "srv/*": File(b"", 0o600, 1, 1),
        },
    )
    text = debugfs(image, 'stat "/usr/bin/su"', "stat <2>", 'stat "/srv/a dir"')
    assert text.count("Mode:  04755") == text.count("Mode:  02770") == 1
    assert text.count("Mode:  0751") == 1
    owners = [line.split()[:4] for line in text.splitlines() if line.startswith("User:")]
    assert owners == [
        ["User:", "0", "Group:", "70000"],
        ["User:", "0", "Group:", "3"],
        ["User:", "33", "Group:", "34"],
    ]
    assert "User:    12   Group:    13" in debugfs(image, 'stat "/srv/a dir/<5>"')
    assert "User:     1   Group:     1" in debugfs(image, 'stat "/srv/*"')
    got = tmp_path / "value"
    debugfs(image, f"ea_get -f {got} /usr/bin/ping security.capability")
    assert got.read_bytes() == capability
    subprocess.run(["e2fsck", "-fn", image], check=True, capture_output=True)


@pytest.mark.parametrize("name", [b'a" "b', b"a\nwrite /etc/passwd x", b"a\rb", b"a\tb", b'\xff"'])
def test_no_name_is_a_command_to_debugfs(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(UnfitBuildError) as told:
        imaged(tmp_path, {name: File(b"", 0o4755)})
    assert told.value.finding.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("name", ['user.a" "b', "user.a\nwrite /etc/passwd x", "user.a\rb"])
def test_no_attribute_is_a_command_to_debugfs(tmp_path: Path, name: str) -> None:
    """Those of the top are set whatever the checkout has."""
    with pytest.raises(UnfitBuildError) as told:
        imaged(tmp_path, {"": Directory(xattrs=((name, b"value"),))})
    assert told.value.finding.outcome is Outcome.INCONCLUSIVE


def test_an_attribute_of_several_words_is_one(tmp_path: Path) -> None:
    image = imaged(tmp_path, {"": Directory(xattrs=(("user.a b", b"value"),))})
    got = tmp_path / "value"
    debugfs(image, f'ea_get -f {got} / "user.a b"')
    assert got.read_bytes() == b"value"


def test_such_names_are_no_obstacle_where_nothing_is_to_be_changed(tmp_path: Path) -> None:
    imaged(tmp_path, {b'a"\nb': File(b"", 0o644, os.getuid(), os.getgid())})


def test_a_disk_that_could_not_be_made_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """debugfs exits with 0 whatever it met."""
    repository = make_repository(tmp_path / "runner", Mode.BARE_USER)
    commit = repository.load_commit(build := make_commit(repository, {"a": File(b"", 0o4755, 5)}))
    (tmp_path / "nothing").mkdir()
    for name in ("no-disk", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "no-disk/disk.img").write_bytes(b"x" * 8192)
    make_image(tmp_path / "nothing", tmp_path / "empty/disk.img", 0)
    with scratch_root(repository, build) as (root, _):
        for name in ("no-disk", "empty"):
            with pytest.raises(ImageFailedError):
                restore_attributes(repository, commit, root, tmp_path / name / "disk.img")
    monkeypatch.setattr("hacktree.server.promotion.machine.image.SEARCH_PATH", "/nowhere")
    with pytest.raises(ImageFailedError) as told:
        make_image(tmp_path, tmp_path / "disk.img", 0)
    assert "e2fsprogs" in told.value.hint


def test_a_disk_that_may_not_fit_is_not_begun(tmp_path: Path) -> None:
    """A machine that meets a full disk would blame its build."""
    (tmp_path / "root").mkdir()
    with pytest.raises(SpaceError):
        make_image(tmp_path / "root", tmp_path / "disk.img", 1 << 60)
    assert not (tmp_path / "disk.img").exists()


def test_programs_of_the_system_are_the_builds_own(tmp_path: Path) -> None:
    for command in ("/bin/sh", "/usr/bin/env", "sh", "no-such-program", "/usr/sbin/nothing"):
        assert find_program([command, "-c"], ()).files is None


def test_a_suites_directory_comes_along(tmp_path: Path) -> None:
    suite = place(tmp_path, {"qa/run": b"#!/bin/sh\n", "qa/data/x": b"x"}) / "qa/run"
    suite.chmod(0o755)
    program = find_program([str(suite), "a b"], [tmp_path / "farm"])
    assert (program.command, program.files) == ((str(suite), "a b"), suite.parent)
    disk = tmp_path / "disk"
    disk.mkdir()
    fill_suite_disk(disk, program, {"HACKTREE_ROOT": "/host", "PATH": "/bin"}, b"busybox")
    assert (disk / "files/data/x").read_bytes() == b"x"
    assert "HACKTREE_ROOT=/ " in (disk / "run").read_text()
    for script in ("start", "run"):
        subprocess.run(["/bin/sh", "-n", disk / script], check=True)


def test_what_can_not_come_along_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = place(tmp_path, {"qa/run": b"#!/bin/sh\n", "qa/token": b"secret"}) / "qa/run"
    suite.chmod(0o755)
    for hidden in (tmp_path, tmp_path / "qa", tmp_path / "qa/token"):
        with pytest.raises(UserError, match="come along"):
            find_program([str(suite)], [hidden])
    for missing in (str(tmp_path / "qa/none"), "qa/run", str(tmp_path / "qa/token")):
        with pytest.raises(CommandMissingError):
            find_program([missing], ())
    disk = tmp_path / "disk"
    disk.mkdir()
    program = find_program([str(suite)], ())
    monkeypatch.setattr(guest, "MAX_FILES", 10)
    with pytest.raises(UserError, match="too much"):
        fill_suite_disk(disk, program, {}, b"")
    os.mkfifo(suite.parent / "a pipe")
    (suite.parent / "run").write_bytes(b"")
    (suite.parent / "token").unlink()
    shutil.rmtree(disk)
    disk.mkdir()
    with pytest.raises(UserError, match="neither a file nor a link"):
        fill_suite_disk(disk, program, {}, b"")


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (b"0\n", Outcome.PASS, ""),
        (b"125\n", Outcome.INCONCLUSIVE, "exit status 125"),
        (b"3\n", Outcome.FAIL, "exit status 3"),
        (b"", Outcome.FAIL, "ended before"),
        (b"0", Outcome.FAIL, "garbled"),
        (b"0\n0\n", Outcome.FAIL, "garbled"),
        (b"-1\n", Outcome.FAIL, "garbled"),
        (b"0 \n", Outcome.FAIL, "garbled"),
        (b"000000\n", Outcome.FAIL, "garbled"),
        ("\N{ARABIC-INDIC DIGIT ZERO}\n".encode(), Outcome.FAIL, "garbled"),
        (b"\xff\n", Outcome.FAIL, "garbled"),
    ],
)
def test_only_a_plain_zero_passes(answer: bytes, outcome: Outcome, reason: str) -> None:
    finding = judge_machine(0, answer)
    assert finding.outcome is outcome
    assert reason in finding.reason


@pytest.mark.parametrize("status", [1, -9, -11])
def test_a_machine_that_breaks_says_nothing_about_its_build(status: int) -> None:
    """Not even if it said something before."""
    for answer in (b"", b"0\n", b"3\n"):
        assert judge_machine(status, answer).outcome is Outcome.INCONCLUSIVE


def test_an_answer_without_end_is_bounded(tmp_path: Path) -> None:
    """Whoever writes it stops; nothing of it is kept on disk."""
    with open_answer(tmp_path / "answer") as answer:
        flood = subprocess.Popen(["/bin/cp", "/dev/zero", tmp_path / "answer"])
        with open(tmp_path / "answer", "rb", buffering=0) as stream:
            assert stream.read(1) == b"\0"
        got = answer()
        flood.kill()
        flood.wait()
        assert 0 < len(got) <= 64
        assert (tmp_path / "answer").stat().st_size == 0
    assert judge_machine(0, got).outcome is Outcome.FAIL
