"""Promise: whatever course a bisection takes, its first steps are those that packs are made for."""

from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.delta.bisecting import MAX_STEPS_JOINED, bisection_pairs, first_missing
from hacktree.common.delta.graph import Edge
from hacktree.common.delta.pairs import Build, wanted_pairs
from hacktree.common.objects.ids import ObjectId, hash_bytes


def trees(count: int) -> list[ObjectId]:
    return [hash_bytes(f"tree {number}".encode()) for number in range(count)]


def edge(old: ObjectId | None, new: ObjectId) -> Edge:
    return Edge(old, new, hash_bytes((old or b"") + new), 100, 1000, 1, 1000, 1)


@given(st.integers(2, 200), st.data())
def test_every_step_of_every_course_is_one_of_them(count: int, data: st.DataObject) -> None:
    line = trees(count)
    pairs = set(bisection_pairs(line))
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        assert (line[low], line[middle]) in pairs
        if data.draw(st.booleans()):
            low = middle
        else:
            high = middle


def test_the_first_tests_come_first_and_equal_trees_need_nothing() -> None:
    line = trees(9)
    assert list(bisection_pairs(line))[:3] == [
        (line[0], line[4]), (line[0], line[2]), (line[4], line[6])
    ]  # fmt: skip
    assert list(bisection_pairs([line[0]] * 9)) == []
    assert list(bisection_pairs(line[:2])) == list(bisection_pairs([])) == []


def test_packs_are_made_until_every_first_step_has_a_route() -> None:
    """With none to begin with; each pack that is made may serve steps that come later, too."""
    line = trees(64)
    edges: list[Edge] = []
    while pair := first_missing(line, edges):
        assert pair not in {(one.old, one.new) for one in edges}
        edges.append(edge(*pair))
    assert 0 < len(edges) <= MAX_STEPS_JOINED


def test_what_a_branch_s_packs_join_is_not_made_again() -> None:
    line = trees(64)
    history = [Build(number + 1, tree) for number, tree in reversed(list(enumerate(line)))]
    edges = [edge(old, new) for old, new in wanted_pairs(history)]
    assert first_missing(line, edges) is None
    scratch = [edge(None, tree) for tree in line]
    assert first_missing(line, scratch) == (line[0], line[31]), "no step forward"
    back = [edge(one.new, one.old) for one in edges if one.old in line[32:]]
    assert first_missing(line, back) == (line[0], line[31])


def test_any_range_of_the_last_64_builds_is_joined_already() -> None:
    line = trees(64)
    history = [Build(number + 1, tree) for number, tree in reversed(list(enumerate(line)))]
    edges = [edge(old, new) for old, new in wanted_pairs(history)]
    for low in range(0, 60, 7):
        for high in range(low + 2, 64, 5):
            assert first_missing(line[low : high + 1], edges) is None
