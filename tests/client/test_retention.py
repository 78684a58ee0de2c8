"""What retention may take, decided without a disk."""

import pytest

from hacktree.client.retention import roots_beyond
from hacktree.client.roots import RootMissingError, RootRecord, Roots


def name(number: int) -> str:
    return f"gnomeos-{number:09x}.1"


def roots_at(
    order: list[int],
    *,
    current: int,
    pinned: tuple[int, ...] = (),
    running: int | None = None,
    never_live: tuple[int, ...] = (),
) -> Roots:
    records = {
        name(n): RootRecord(name(n), f"{n:064x}", f"{n:064x}", "fastqa", "", 0, "", n in pinned)
        for n in (*order, *never_live)
    }
    return Roots(
        records,
        tuple(map(name, order)),
        name(current),
        frozenset({name(current)}),
        None if running is None else name(running),
    )


@pytest.mark.parametrize(
    ("roots", "keep", "gone"),
    [
        pytest.param(roots_at([1, 2, 3, 4], current=4), 3, [1], id="the oldest goes"),
        pytest.param(roots_at([1, 2, 3, 4], current=4), 9, [], id="fewer than are kept"),
        pytest.param(roots_at([1, 2, 3], current=3), 1, [1], id="previous stays"),
        pytest.param(roots_at([2, 3, 1], current=1), 1, [2], id="after a rollback"),
        pytest.param(roots_at([1, 2, 3, 4], current=4, running=1), 1, [2], id="running stays"),
        pytest.param(roots_at([1, 2, 3, 4], current=4, pinned=(2,)), 1, [1], id="pinned stays"),
        pytest.param(roots_at([1, 2], current=2, never_live=(9,)), 3, [9], id="never live goes"),
    ],
)
def test_what_goes(roots: Roots, keep: int, gone: list[int]) -> None:
    """Only what is neither protected nor among the last `keep` that went live."""
    assert roots_beyond(roots, keep) == [name(n) for n in gone]


def test_a_root_is_found_by_name_beginning_or_part() -> None:
    """An ambiguous or unknown name is refused, never guessed."""
    roots = roots_at([1, 2, 0x20], current=2)
    assert roots.find("current").root == name(2)
    assert roots.find("previous").root == name(0x20)
    assert roots.find(name(1)).root == name(1)
    assert roots.find("gnomeos-000000001").root == name(1)
    for text in ("gnomeos-", "", "other"):
        with pytest.raises(RootMissingError):
            roots.find(text)
