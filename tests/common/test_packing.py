"""Promise: a pack brings exactly what the new tree needs, whatever its encoders do."""

import os
import random
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from hacktree.common.delta.contents import compare_trees
from hacktree.common.delta.pack import decode_entries
from hacktree.common.errors import BusyError, UserError
from hacktree.common.objects.ids import ObjectId, hash_bytes
from hacktree.common.repository import packing
from hacktree.common.repository.deltacache import trim_cache
from hacktree.common.repository.encoders import Limits
from hacktree.common.repository.fsck import fsck
from hacktree.common.repository.layout import Mode, init_repository
from hacktree.common.repository.locks import LockKind, hold_lock
from hacktree.common.repository.objectnames import archive_name
from hacktree.common.repository.packing import Encoders, EncodersFailedError, PackReport, make_pack
from hacktree.common.repository.packreading import verify_pack
from hacktree.common.repository.packs import list_edges, pack_path, read_head
from hacktree.common.repository.prune import prune
from hacktree.common.repository.repository import Repository, open_repository
from hacktree.common.repository.retention import Policy, Rule
from support.trees import Spec, make_commit

ONE = Encoders(1)
TEXT = b"".join(b"line %d of a text that hardly changes\n" % number for number in range(2000))


@pytest.fixture
def archive(tmp_path: Path) -> Repository:
    init_repository(tmp_path / "repo", Mode.ARCHIVE)
    return open_repository(tmp_path / "repo")


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def commit(repository: Repository, tree: Mapping[str, bytes]) -> ObjectId:
    """The tree of a new build."""
    spec: dict[str | bytes, Spec] = dict(tree.items())
    return repository.load_commit(make_commit(repository, spec, branch="builds")).root.id


OLD = {
    "etc/same": b"same",
    "etc/empty": b"",
    "usr/lib/tool-1.0/data": TEXT,
    "usr/lib/noise": noise(1, 200_000),
    "usr/lib/gone": b"gone",
}
NEW = {
    "etc/same": b"same",
    "etc/empty": b"",
    "usr/lib/tool-1.1/data": TEXT.replace(b"1234", b"4321"),
    "usr/lib/noise": noise(1, 200_000)[:150_000] + noise(2, 50_000),
    "usr/lib/new": noise(3, 5000),
    "usr/lib/other": noise(4, 5001),
}


@pytest.fixture
def trees(archive: Repository) -> tuple[ObjectId, ObjectId]:
    return commit(archive, OLD), commit(archive, NEW)


def assert_sound(
    repository: Repository, report: PackReport, entries: int, alternatives: int = 0
) -> None:
    """Every entry decodes to what its name says; the edge counts all but alternatives."""
    result = verify_pack(repository, report.edge, None)
    assert result.problems == []
    assert result.entries == report.edge.entries + alternatives == entries
    assert sum(report.kinds.values()) == entries
    assert list(repository.staging.iterdir()) == []


def test_a_pack_holds_what_the_new_tree_lacks(
    archive: Repository, trees: tuple[ObjectId, ObjectId]
) -> None:
    steps: list[str] = []
    report = make_pack(archive, *trees, Encoders(2), lambda step, done, total: steps.append(step))
    assert_sound(archive, report, 4)
    assert report.kinds == {"delta": 2, "full": 2}
    assert (report.degraded, report.left_out) == ([], [])
    assert report.edge.length < 75_000
    assert list_edges(archive) == [report.edge]
    assert set(steps) == {"encoding", "compressing"}
    path = pack_path(archive, report.edge.pack)
    assert path.stat().st_size == report.edge.length
    assert hash_bytes(path.read_bytes()[: report.edge.head_length]) == report.edge.pack
    head = read_head(archive, report.edge)
    assert (head.old, head.to_tree) == trees


def test_a_pack_from_scratch_holds_everything(
    archive: Repository, trees: tuple[ObjectId, ObjectId]
) -> None:
    report = make_pack(archive, None, trees[0], ONE)
    assert_sound(archive, report, 4)
    assert report.kinds == {"full": 4}


def test_a_pack_of_two_trees_that_differ_in_attributes_brings_trees_only(
    archive: Repository,
) -> None:
    old, new = commit(archive, {"a": b"1", "b": b"1"}), commit(archive, {"a": b"1", "c": b"1"})
    report = make_pack(archive, old, new, ONE)
    assert_sound(archive, report, 0)
    assert report.frames == 0


def test_the_same_pack_twice_is_the_same_pack(
    archive: Repository, trees: tuple[ObjectId, ObjectId]
) -> None:
    first = make_pack(archive, *trees, ONE)
    assert make_pack(archive, *trees, ONE) == first


def test_small_entries_share_frames_and_large_ones_stand_alone(
    archive: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FRAME_ENTRIES", 4)
    monkeypatch.setattr(packing, "ALONE_BYTES", 20_000)
    tree = {f"d/{number:02}": noise(number, 1000) for number in range(10)}
    report = make_pack(archive, None, commit(archive, {**tree, "d/05x": noise(99, 30_000)}), ONE)
    assert_sound(archive, report, 11)
    comparison = compare_trees(archive.load_tree, None, report.edge.new)
    entries = decode_entries(read_head(archive, report.edge), len(comparison.targets), 0)
    assert sorted(entries.counts.tolist()) == [1, 2, 4, 4]


def test_a_small_change_of_a_large_file_is_not_held_back_by_what_stands_beside_it(
    archive: Repository,
) -> None:
    """A client may lack it alone, as it lacks what a package manager keeps of what is installed."""
    beside = {f"d/{number}": noise(number, 3000) for number in range(5)}
    status = TEXT * 4
    old = commit(archive, {"d/status": status, "d/z": TEXT})
    new = commit(archive, {**beside, "d/status": status + b"one more", "d/z": TEXT + b"z"})
    report = make_pack(archive, old, new, ONE)
    assert_sound(archive, report, 7)
    head = read_head(archive, report.edge)
    comparison = compare_trees(archive.load_tree, old, new)
    entries = decode_entries(head, len(comparison.targets), len(comparison.bases))
    assert entries.counts.tolist() == [6, 1]
    assert comparison.sizes[comparison.targets[int(entries.targets[6])]] == len(status) + 8
    assert head.frames[1].length < 200


def test_small_changes_of_large_files_share_a_frame_where_there_is_little_else(
    archive: Repository,
) -> None:
    """A frame costs bytes, too."""
    old = commit(archive, {"status": TEXT * 4, "small": b"a"})
    new = commit(archive, {"status": TEXT * 4 + b"one more", "small": b"b"})
    report = make_pack(archive, old, new, ONE)
    assert_sound(archive, report, 2)
    assert report.frames == 1


def test_a_large_object_that_hardly_shrinks_is_left_to_its_own_file(
    archive: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = commit(archive, {"noise": noise(1, 300_000), "text": TEXT})
    assert_sound(archive, make_pack(archive, None, new, ONE), 2)
    monkeypatch.setattr(packing, "_LARGE_WHOLE", 100_000)
    report = make_pack(archive, None, new, ONE)
    assert_sound(archive, report, 1)
    assert report.left_out == ["/noise: hardly smaller than its file in the archive"]


def test_what_was_encoded_is_not_encoded_again(
    archive: Repository, trees: tuple[ObjectId, ObjectId]
) -> None:
    """An interrupted run continues; other packs use the same deltas."""
    first = make_pack(archive, *trees, ONE)
    there = Encoders(1, command=misbehaving("no_encoding()"))
    assert make_pack(archive, *trees, there) == first
    cached = {path: path.read_bytes() for path in cache_files(archive)}
    for path in cached:
        path.write_bytes(path.read_bytes()[:-1] + b"?")  # what a power cut may leave
    assert make_pack(archive, *trees, ONE) == first
    assert {path: path.read_bytes() for path in cache_files(archive)} == cached


def cache_files(repository: Repository) -> list[Path]:
    return [path for path in (repository.state / "deltas").rglob("*") if path.is_file()]


def many(count: int) -> dict[str, bytes]:
    return {f"{number}": noise(number, 200_000) for number in range(count)}


def test_the_cache_is_bounded(archive: Repository, trees: tuple[ObjectId, ObjectId]) -> None:
    make_pack(archive, *trees, ONE)
    assert trim_cache(archive) == 0
    (archive.path / "config.toml").write_text('delta-cache = "10kB"\n')
    assert trim_cache(open_repository(archive.path)) > 0
    assert sum(path.stat().st_size for path in cache_files(archive)) <= 10_000


# Encoders that crash, hang and run out of memory

WORKER = """
import os, sys, time
from hacktree.common.repository import encoder_process as program
from hacktree.common.repository.encoding import encode_best
from msgspec.structs import replace

real = program.Encoder.execute

def no_encoding():
    def refuse(*args):
        raise AssertionError("nothing is left to encode")
    program.encode_choices = program.encode_frame = refuse

def once(*args):
    program.encode_choices = twice
    return [encode_best(*args)]

def twice(*args):
    # Again, as if the second took so long for each byte that it spares as the file has bytes.
    best = encode_best(*args)
    slow = replace(best.entry, cost=len(args[0]))
    return [best, replace(best, estimate=best.estimate - 10, entry=slow)]

def spin():
    while True:
        pass

def execute(self, job):
    entry = isinstance(job, program.EntryJob)
    size = job.target.size if entry else -1
    {body}
    return real(self, job)

program.Encoder.execute = execute
program.main()
"""


def misbehaving(body: str) -> tuple[str, ...]:
    return (sys.executable, "-c", WORKER.replace("{body}", body))


def broken(body: str, **limits: float) -> Encoders:
    settings = Limits(seconds=limits.get("seconds", 120), memory=1_500_000_000)
    return Encoders(2, settings, misbehaving(body))


@pytest.fixture
def three(archive: Repository) -> tuple[ObjectId, ObjectId]:
    """Two trees of three files each, of 5000, 6000 and 7000 bytes, that change a little."""
    sizes = (5000, 6000, 7000)
    old = {f"f{size}": noise(size, size) for size in sizes}
    new = {name: b"?" + data[1:] for name, data in old.items()}
    return commit(archive, old), commit(archive, new)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("if size == 6000: os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("if size == 6000: os._exit(3)", "ended with status 3"),
        ("if size == 6000: bytearray(8 << 30)", "not enough memory"),
        ("if size == 6000: raise IndexError('a bug')", "IndexError: a bug"),
        ("if size == 6000: os.write(2, b'noise'); print('noise'); os.abort()", "SIGABRT"),
    ],
)
def test_a_failing_encoder_costs_one_entry(
    archive: Repository, three: tuple[ObjectId, ObjectId], body: str, reason: str
) -> None:
    report = make_pack(archive, *three, broken(body))
    assert_sound(archive, report, 3)
    assert report.kinds == {"delta": 2, "full": 1}
    (line,) = report.degraded
    assert line.startswith("/f6000: ")
    assert reason in line


def test_a_hanging_encoder_costs_one_entry(
    archive: Repository, three: tuple[ObjectId, ObjectId]
) -> None:
    """One that computes for ever is stopped by its limit, one that sleeps by the clock."""
    body = "if size == 6000: spin()\n    if size == 7000: time.sleep(3600)"
    report = make_pack(archive, *three, broken(body, seconds=0))
    assert_sound(archive, report, 3)
    assert report.kinds == {"delta": 1, "full": 2}
    assert ["SIGXCPU" in line or "no answer" in line for line in report.degraded] == [True, True]


def test_a_frame_that_fails_comes_apart(
    archive: Repository, three: tuple[ObjectId, ObjectId]
) -> None:
    body = "if not entry and any(i.target.size == 6000 and i.made for i in job.items): os.abort()"
    report = make_pack(archive, *three, broken(body))
    assert_sound(archive, report, 3)
    assert report.kinds == {"delta": 2, "full": 1}
    assert report.frames == 3
    assert [line.partition(":")[0] for line in report.degraded] == ["/f6000"]


def test_what_can_not_even_be_packed_whole_is_left_out(
    archive: Repository, three: tuple[ObjectId, ObjectId]
) -> None:
    body = "if not entry and any(i.target.size == 6000 for i in job.items): os.abort()"
    report = make_pack(archive, *three, broken(body))
    assert_sound(archive, report, 2)
    assert [line.partition(":")[0] for line in report.left_out] == ["/f6000"]


def test_a_damaged_or_missing_object_is_left_out(
    archive: Repository, three: tuple[ObjectId, ObjectId]
) -> None:
    comparison = compare_trees(archive.load_tree, *three)
    (archive.objects / archive_name(comparison.targets[0])).write_bytes(b"damaged")
    report = make_pack(archive, *three, ONE)
    assert report.edge.entries == 2
    assert "is damaged" in report.left_out[0]
    (archive.objects / archive_name(comparison.targets[1])).unlink()
    report = make_pack(archive, *three, ONE)
    assert report.edge.entries == 2  # Its delta is in the cache, and as good as ever.
    shutil.rmtree(archive.state / "deltas")
    report = make_pack(archive, *three, ONE)
    assert report.edge.entries == 1
    assert "is missing" in report.left_out[1]


def test_encoders_that_never_work_are_an_error_and_publish_nothing(archive: Repository) -> None:
    old = commit(archive, many(20))
    new = commit(archive, {name: b"?" + data for name, data in many(20).items()})
    with pytest.raises(EncodersFailedError, match="status 7"):
        make_pack(archive, old, new, Encoders(2, command=(sys.executable, "-c", "exit(7)")))
    assert list_edges(archive) == []
    assert list(archive.staging.iterdir()) == []


def test_workers_die_with_their_parent(tmp_path: Path, archive: Repository) -> None:
    """Also when it is killed while one of them hangs."""
    (tmp_path / "maps").write_bytes(b"")
    script = f"""
import os, signal, threading, time
from hacktree.common.repository.encoder_process import Content, EntryJob
from hacktree.common.repository.encoders import EncoderPool, Limits
pool = EncoderPool(1, {str(archive.path)!r}, {str(tmp_path / "maps")!r}, Limits(),
                   command={misbehaving("print(os.getpid(), file=sys.stderr); time.sleep(3600)")!r})
import subprocess
subprocess.DEVNULL = None  # let the worker's own words through
pool.submit(EntryJob(Content(b"", 1), Content(b"", 1), "", 100))
time.sleep(3600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stderr is not None
    with process.stderr as said:
        worker = os.pidfd_open(int(said.readline()))
        process.kill()
        process.wait()
        ended = select.select([worker], [], [], 60)[0]
        os.close(worker)
    assert ended == [worker]


def test_alternatives_stand_behind_all_else(archive: Repository) -> None:
    """A client that can't decode the one, or not as quickly, takes the other. What has one comes
    first, the dearest for what it spares: so both take a part of the file without a gap.
    """
    old = {f"f{size}": noise(size, size) for size in (5000, 6000, 7000, 8000)}
    three = commit(archive, old), commit(archive, {n: b"?" + d[1:] for n, d in old.items()})
    body = """program.encode_choices = twice
    if size == 7000: program.encode_choices = once"""
    report = make_pack(archive, *three, broken(body))
    assert_sound(archive, report, 7, alternatives=3)
    head = read_head(archive, report.edge)
    entries = decode_entries(head, 4, 4)
    assert entries.targets.tolist() == [3, 1, 0, 2, 3, 1, 0]
    assert entries.counts.tolist() == [3, 1, 3]
    assert report.edge.decoded == 26_000
    assert report.alternatives == head.frames[2].length
    file = pack_path(archive, report.edge.pack)
    assert report.edge.length == file.stat().st_size - report.alternatives


def test_what_takes_long_to_arrive_comes_last(
    archive: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FRAME_BYTES", 4000)
    monkeypatch.setattr(packing, "ALONE_BYTES", 2500)
    sizes = [1000, 6000, 3000, 9000, 1100]
    tree = {f"f{place}": noise(place, size) for place, size in enumerate(sizes)}
    report = make_pack(archive, None, commit(archive, tree), ONE)
    assert_sound(archive, report, 5)
    entries = decode_entries(read_head(archive, report.edge), 5, 0)
    assert entries.targets.tolist() == [0, 4, 2, 3, 1]
    assert entries.counts.tolist() == [2, 1, 1, 1]


def test_a_failing_alternative_costs_only_itself(
    archive: Repository, three: tuple[ObjectId, ObjectId]
) -> None:
    body = """program.encode_choices = twice
    if not entry and any(i.choice == 1 and i.target.size != 5000 for i in job.items): os.abort()"""
    report = make_pack(archive, *three, broken(body))
    assert_sound(archive, report, 4, alternatives=3)
    assert report.degraded == report.left_out == []


def test_a_renamed_file_is_recognised_by_its_content(archive: Repository) -> None:
    old = commit(archive, {"usr/share/alpha": noise(1, 60_000), "usr/share/x": noise(2, 60_000)})
    new = commit(archive, {"opt/beta": b"begin" + noise(1, 60_000)[500:]})
    report = make_pack(archive, old, new, ONE)
    assert_sound(archive, report, 1)
    assert report.kinds == {"delta": 1}
    assert report.edge.length < 2000


def test_modules_that_are_none_teach_nothing(archive: Repository) -> None:
    """Files are called `.ko` for other reasons too; a pack's maps are only a help."""
    names = [f"lib/modules/1/m{number}.ko" for number in range(20)]
    old = commit(archive, {name: name.encode() + noise(5, 3000) for name in names})
    new = commit(archive, {name: b"!" + name.encode() + noise(5, 3000) for name in names})
    report = make_pack(archive, old, new, ONE)
    assert_sound(archive, report, 20)
    assert read_head(archive, report.edge).shared.length == 0


# With the rest of the repository


def test_only_one_process_makes_packs(
    archive: Repository, trees: tuple[ObjectId, ObjectId], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pack(archive, *trees, ONE)
    monkeypatch.setattr(packing, "_LOCK_SECONDS", 0.0)
    with (
        hold_lock(archive.state / "packing.lock", LockKind.EXCLUSIVE),
        pytest.raises(BusyError),
    ):
        make_pack(archive, *trees, ONE)


def test_packs_are_no_business_of_fsck_and_prune(
    archive: Repository, trees: tuple[ObjectId, ObjectId]
) -> None:
    """A pack whose old tree was pruned stays until `delta prune`: it harms nobody."""
    report = make_pack(archive, *trees, ONE)
    assert fsck(archive).intact
    prune(archive, Policy(Rule(depth=0)), now=2e9, grace=0)
    assert not archive.has_meta(trees[0])
    assert fsck(archive).intact
    assert list_edges(archive) == [report.edge]
    assert pack_path(archive, report.edge.pack).exists()


def test_no_packs_in_a_client_s_repository(tmp_path: Path) -> None:
    init_repository(tmp_path / "machine", Mode.BARE_USER)
    machine = open_repository(tmp_path / "machine")
    tree = commit(machine, {"a": b"1"})
    with pytest.raises(UserError):
        make_pack(machine, None, tree, ONE)


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError):  # The thread has ended since.
            assert path.read_text().split() == []
