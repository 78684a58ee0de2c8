"""A fetch plan gives every object needed, by frames that are worth their bytes."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import MemoryTrees, make_file
from hacktree.common.delta.contents import compare_trees
from hacktree.common.delta.entry import EntryKind
from hacktree.common.delta.pack import FrameInfo, PackEntries, PackHead, frame_offsets
from hacktree.common.delta.plan import FetchPlan, RoutePack, join_trees, plan_fetch
from hacktree.common.delta.prefer import Prefer
from hacktree.common.delta.route import CostModel
from hacktree.common.delta.streams import Blob, Method
from hacktree.common.delta.work import Work
from hacktree.common.objects.errors import FormatError
from hacktree.common.objects.ids import ObjectId, hash_bytes

HEAD_LENGTH = 1000
SLOW = CostModel(1.25e6, 0.02)
NOTHING = Blob(Method.STORED, 0, b"")
Row = tuple[str, str | None, EntryKind]
"""An entry: target, base, kind."""
SIZES: dict[ObjectId, int] = {}


def _id(name: str, size: int = 100_000) -> ObjectId:
    found = hash_bytes(name.encode())
    SIZES[found] = size
    return found


def _pack(*frames: tuple[int, list[Row], int], sizes: dict[str, int] | None = None) -> RoutePack:
    """A pack of frames: bytes, entries, microseconds. Objects have 100,000 bytes unless told."""
    rows = [row for _, rows, _ in frames for row in rows]
    size = sizes or {}
    targets = list(dict.fromkeys(row[0] for row in rows))
    bases = list(dict.fromkeys(row[1] for row in rows if row[1] is not None))
    infos = tuple(
        FrameInfo(length, hash_bytes(b""), sum(size.get(t, 100_000) for t, _, _ in rows), cost)
        for length, rows, cost in frames
    )
    head = PackHead(1, b"", hash_bytes(b"to"), 1, b"", NOTHING, infos, NOTHING, NOTHING)
    entries = PackEntries(
        np.array([len(rows) for _, rows, _ in frames], np.int64),
        np.array([targets.index(row[0]) for row in rows], np.int64),
        np.array([-1 if row[1] is None else bases.index(row[1]) for row in rows], np.int64),
        np.array([int(row[2]) for row in rows], np.int64),
    )
    ids = {name: _id(name, size.get(name, 100_000)) for name in targets}
    return RoutePack(
        head,
        frame_offsets(head, HEAD_LENGTH),
        entries,
        [ids[name] for name in targets],
        [hash_bytes(name.encode()) for name in bases],
        {ids[name]: size.get(name, 100_000) for name in targets},
    )


def _delta(target: str, base: str) -> Row:
    return target, base, EntryKind.DELTA


def _whole(name: ObjectId) -> Work:
    return Work(SIZES[name] // 2, 1, SIZES[name] // 300)


def _plan(
    packs: list[RoutePack],
    needed: Iterable[str],
    held: Iterable[str] = (),
    model: CostModel = SLOW,
    limit: int = 1 << 40,
    kinds: frozenset[EntryKind] = frozenset(EntryKind),
) -> FetchPlan:
    wanted = [_id(name, SIZES.get(hash_bytes(name.encode()), 100_000)) for name in needed]
    here = {hash_bytes(name.encode()) for name in held}
    plan = plan_fetch(packs, wanted, here, _whole, model, limit, kinds)
    _execute(packs, plan, set(wanted), here)
    return plan


def _execute(
    packs: list[RoutePack], plan: FetchPlan, needed: set[ObjectId], held: set[ObjectId]
) -> None:
    """Follow the plan as a pull does; every step must find what it needs."""
    assert set(plan.whole) <= needed - held
    assert set(plan.bases) <= held
    have = held | set(plan.whole)
    decoded: list[ObjectId] = []
    for pack, part in zip(packs, plan.packs, strict=True):
        offsets = pack.offsets.tolist()
        starts = pack.entries.starts.tolist()
        fetched = {
            frame
            for frame in part.frames
            if any(a <= offsets[frame] and offsets[frame + 1] <= b for a, b in part.ranges)
        }
        assert fetched == set(part.frames)
        frame_of = [f for f in range(len(starts) - 1) for _ in range(starts[f], starts[f + 1])]
        assert {frame_of[entry] for entry in part.entries} == fetched
        for entry in part.entries:
            base = int(pack.entries.bases[entry])
            assert base < 0 or pack.bases[base] in have
            decoded.append(pack.targets[int(pack.entries.targets[entry])])
        have |= set(decoded)
    assert needed <= have
    assert len(set(decoded)) == len(decoded)
    assert not set(decoded) & (held | set(plan.whole))
    assert set(plan.intermediates) == set(decoded) - needed
    assert plan.intermediate_bytes == sum(SIZES[name] for name in plan.intermediates)


def _names(*names: str) -> tuple[ObjectId, ...]:
    return tuple(hash_bytes(name.encode()) for name in names)


def test_a_frame_that_is_needed_is_fetched() -> None:
    """With the held bases that it refers to."""
    pack = _pack((2000, [_delta("b", "a"), _delta("d", "c")], 100))
    plan = _plan([pack], ["b", "d"], ["a", "c"])
    assert plan.packs[0].frames == (0,)
    assert plan.packs[0].ranges == ((HEAD_LENGTH, HEAD_LENGTH + 2000),)
    assert plan.bases == _names("a", "c")
    assert plan.work == Work(2000, 1, 100)


def test_what_is_held_or_not_needed_drops_its_frame() -> None:
    """Frames apart are ranges apart, where the gap is worth a request."""
    frames = [(100_000, [_delta(f"n{i}", f"o{i}")], 1) for i in range(5)]
    plan = _plan(
        [_pack(*frames, sizes={f"n{i}": 1 << 20 for i in range(5)})],
        ["n0", "n1", "n4", "n2"],
        [*(f"o{i}" for i in range(5)), "n2"],
    )
    assert plan.packs[0].frames == (0, 1, 4)
    assert plan.packs[0].ranges == ((1000, 201_000), (401_000, 501_000))


def test_a_large_frame_for_one_small_object_is_not_fetched() -> None:
    """The object goes whole."""
    rows = [_delta(f"n{i}", f"o{i}") for i in range(60)]
    pack = _pack((900_000, rows, 1))
    plan = _plan([pack], ["n3"], [f"o{i}" for i in range(60)])
    assert plan.packs[0].frames == ()
    assert plan.whole == _names("n3")
    assert plan.work == Work(50_000, 1, 333)


def test_many_of_its_objects_pay_for_a_frame() -> None:
    """And what would by itself be cheaper whole then comes along with it."""
    rows = [_delta(f"n{i}", f"o{i}") for i in range(60)]
    pack = _pack((900_000, rows, 1))
    needed = [f"n{i}" for i in range(40)]
    plan = _plan([pack], needed, [f"o{i}" for i in range(60)])
    assert plan.packs[0].frames == (0,)
    assert not plan.whole


FAST = CostModel(1.25e8, 0.001, cores=2)
MIXED = {"lib": 4_700_000, "large.gz": 250_000, "small.gz": 20_000}


def _mixed(*, lib: bool = True) -> RoutePack:
    """A frame of 250 kB of compressed members, which take most of 0.3 s, beside a library."""
    rows: list[Row] = [
        ("large.gz", "o1", EntryKind.MEMBER),
        ("small.gz", "o2", EntryKind.MEMBER),
        ("text", "o3", EntryKind.DELTA),
    ]
    if lib:
        rows.append(("lib", "o4", EntryKind.ELF))
    return _pack((34_000, rows, 300_000), sizes=MIXED)


def test_a_member_does_not_make_its_neighbours_dear() -> None:
    """What takes long is compressing again: that object alone is fetched whole."""
    held = ["o1", "o2", "o3", "o4"]
    plan = _plan([_mixed()], [*MIXED, "text"], held, FAST)
    assert plan.whole == _names("large.gz")
    assert plan.work.requests == 2
    # The library's share is its own: not nine tenths of 0.3 s.
    assert plan.work.decode_us - SIZES[_id("large.gz", 250_000)] // 300 < 70_000


def test_where_bytes_are_dear_members_are_taken_from_the_pack() -> None:
    held = ["o1", "o2", "o3", "o4"]
    bytes_alone = CostModel(1.25e8, 0.001, prefer=Prefer.BYTES)
    for model in (bytes_alone, CostModel(1e5, 0.02)):
        plan = _plan([_mixed()], [*MIXED, "text"], held, model)
        assert plan.whole == ()
        assert (plan.work.bytes, plan.work.requests) == (34_000, 1)
        assert plan.work.decode_us == pytest.approx(300_000, abs=2)


def test_little_decoding_is_not_worth_a_request() -> None:
    """The small member takes longer than fetching it whole would, but hardly longer than all."""
    plan = _plan([_mixed(lib=False)], ["large.gz", "small.gz", "text"], ["o1", "o2", "o3"], FAST)
    assert plan.whole == _names("large.gz")
    alone = _plan([_mixed(lib=False)], ["small.gz"], ["o2"], FAST)
    assert alone.whole == _names("small.gz")


@pytest.mark.parametrize(
    ("prefer", "cost", "whole"),
    [
        (Prefer.AUTO, 60_000, False),
        (Prefer.TIME, 60_000, False),
        (Prefer.AUTO, 90_000, True),
        (Prefer.TIME, 90_000, True),
        (Prefer.BYTES, 90_000, False),
    ],
)
def test_a_packed_object_is_fetched_whole_only_where_that_takes_clearly_less(
    prefer: Prefer, cost: int, *, whole: bool
) -> None:
    """It takes more bytes, and a request. 5 MB whole: 0.04 s for the bytes, 0.017 to decode it."""
    model = CostModel(1.25e8, 0.001, cores=2, prefer=prefer)
    pack = _pack((4_000_000, [("lib", None, EntryKind.FULL)], cost), sizes={"lib": 10_000_000})
    plan = _plan([pack], ["lib"], model=model)
    assert bool(plan.whole) == whole


def test_a_base_that_is_not_held_is_decoded_first() -> None:
    """Through every pack of the route."""
    packs = [_pack((500, [_delta(f"x{i + 1}", f"x{i}")], 1)) for i in range(4)]
    plan = _plan(packs, ["x4"], ["x0"])
    assert plan.intermediates == _names("x1", "x2", "x3")
    assert plan.intermediate_bytes == 300_000
    assert plan.bases == _names("x0")
    assert [part.entries for part in plan.packs] == [(0,)] * 4


def test_a_chain_that_begins_nowhere_is_not_followed() -> None:
    """A base that is neither held nor made by the route: the object goes whole."""
    packs = [_pack((500, [_delta(f"x{i + 1}", f"x{i}")], 1)) for i in range(4)]
    plan = _plan(packs, ["x4"], [])
    assert plan.whole == _names("x4")
    assert not any(part.frames for part in plan.packs)


def test_a_chain_that_costs_more_than_the_object_is_not_followed() -> None:
    """Its frames are all spared."""
    packs = [_pack((20_000, [_delta(f"x{i + 1}", f"x{i}")], 1)) for i in range(4)]
    plan = _plan(packs, ["x4"], ["x0"])
    assert plan.whole == _names("x4")
    assert plan.work.bytes == 50_000


def test_intermediates_are_bounded() -> None:
    """A route that makes much for little is refused."""
    packs = [_pack((500, [_delta(f"x{i + 1}", f"x{i}")], 1)) for i in range(4)]
    assert _plan(packs, ["x4"], ["x0"], limit=300_000).intermediate_bytes == 300_000
    with pytest.raises(FormatError, match="only as bases"):
        _plan(packs, ["x4"], ["x0"], limit=299_999)


MEMBER: list[tuple[int, list[Row], int]] = [
    (500_000, [("vmlinuz", "old", EntryKind.MEMBER)], 35_000_000),
    (7_000_000, [("vmlinuz", "old", EntryKind.DELTA)], 100_000),
]
KERNEL = {"vmlinuz": 16_000_000}


@pytest.mark.parametrize(
    ("model", "frames"),
    [
        (CostModel(1.25e6, 0.02), (1,)),
        (CostModel(1.25e5, 0.02), (0,)),
        (CostModel(1.25e6, 0.02, prefer=Prefer.BYTES), (0,)),
        # Here even the plain entry saves less than the whole object costs.
        (CostModel(1.25e5, 0.02, prefer=Prefer.TIME), ()),
    ],
)
def test_of_two_entries_for_an_object_the_cheaper_is_taken(
    model: CostModel, frames: tuple[int, ...]
) -> None:
    """35 s of processor time for 6.5 MB: worth it on a slow link, or where bytes are dear."""
    plan = _plan([_pack(*MEMBER, sizes=KERNEL)], ["vmlinuz"], ["old"], model)
    assert plan.packs[0].frames == frames
    assert bool(plan.whole) != bool(frames)


def test_an_entry_that_this_machine_cannot_decode_is_not_considered() -> None:
    """The alternative is."""
    model = CostModel(1.25e6, 0.02, prefer=Prefer.BYTES)
    kinds = frozenset(EntryKind) - {EntryKind.MEMBER}
    plan = _plan([_pack(*MEMBER, sizes=KERNEL)], ["vmlinuz"], ["old"], model, kinds=kinds)
    assert plan.packs[0].frames == (1,)


def test_what_no_pack_has_is_fetched_whole() -> None:
    """In the order in which it was asked for."""
    plan = _plan([_pack((500, [_delta("b", "a")], 1))], ["z", "b", "y"], ["a"])
    assert plan.whole == _names("z", "y")
    assert plan.packs[0].frames == (0,)
    assert _plan([], ["z", "y"]).whole == _names("z", "y")


def test_nothing_needed_is_nothing_to_do() -> None:
    """No requests."""
    plan = _plan([_pack((500, [_delta("b", "a")], 1))], [], ["a"])
    assert plan.work == Work(0, 0, 0)


_objects = st.sampled_from([f"r{i}" for i in range(8)])
_rows = st.tuples(_objects, st.none() | _objects).map(
    lambda pair: (pair[0], pair[1], EntryKind.FULL if pair[1] is None else EntryKind.DELTA)
)
_frames = st.tuples(
    st.sampled_from([10, 5000, 200_000]),
    st.lists(_rows, min_size=1, max_size=4),
    st.sampled_from([0, 1_000_000]),
)


@given(
    st.lists(st.lists(_frames, min_size=1, max_size=4), max_size=4),
    st.sets(_objects),
    st.sets(_objects),
    st.sampled_from(list(Prefer)),
)
def test_any_plan_can_be_executed(
    routes: list[list[tuple[int, list[Row], int]]],
    needed: set[str],
    held: set[str],
    prefer: Prefer,
) -> None:
    """Even where packs contradict one another, bases included: `_plan` follows it to the end."""
    packs = [_pack(*frames) for frames in routes]
    plan = _plan(packs, sorted(needed), held, CostModel(1.25e6, 0.02, prefer=prefer))
    whole_seconds = sum(SLOW.work_seconds(_whole(name)) for name in plan.whole)
    assert whole_seconds <= 8 * SLOW.work_seconds(_whole(_id("r0")))


def test_ordinals_are_resolved_by_the_trees() -> None:
    """And a head whose frames don't fit them is refused."""
    trees = MemoryTrees()
    old = trees.root(make_file(b"a", b"1"), make_file(b"b", b"22"))
    new = trees.root(make_file(b"a", b"1"), make_file(b"b", b"333"))
    found = compare_trees(trees.load, old, new)
    entries = PackEntries(*(np.array([n], np.int64) for n in (1, 0, 1, 1)))
    for decoded in (3, 4):
        info = FrameInfo(10, hash_bytes(b""), decoded, 1)
        head = PackHead(1, old, new, 1, b"", NOTHING, (info,), NOTHING, NOTHING)
        if decoded == 4:
            with pytest.raises(FormatError):
                join_trees(head, HEAD_LENGTH, entries, found)
        else:
            pack = join_trees(head, HEAD_LENGTH, entries, found)
            assert pack.targets[0] == hash_bytes(b"333")
            assert pack.bases[1] == hash_bytes(b"22")
            assert pack.offsets.tolist() == [1000, 1010]
