"""Promise: what is new is encoded against the old content that it came from."""

import random

from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.delta.pairing import (
    Place,
    pair_by_sketches,
    pair_contents,
    sketch_content,
)


def places(*paths: tuple[str, int]) -> list[Place]:
    return [Place(path.encode(), number, size) for number, (path, size) in enumerate(paths)]


def base_of(old: list[Place], path: str, size: int = 1000) -> str | None:
    """The path that the new file `path` is paired with."""
    found = pair_contents(old, [Place(path.encode(), 0, size)])
    return old[found[0]].path.decode() if found else None


def test_the_same_path_is_the_base_whatever_its_size() -> None:
    old = places(("usr/bin/tool", 10), ("usr/lib/tool", 1000))
    assert base_of(old, "usr/bin/tool", 5_000_000) == "usr/bin/tool"


def test_a_kernel_s_modules_are_found_in_the_directory_of_the_last_release() -> None:
    old = places(
        ("lib/modules/6.1.0-9-amd64/kernel/fs/xfs/xfs.ko", 1000),
        ("lib/modules/6.1.0-55-amd64/kernel/fs/xfs/xfs.ko", 1000),
        ("lib/modules/6.1.0-55-amd64/kernel/fs/ext4/ext4.ko", 1000),
    )
    new = "lib/modules/6.1.0-56-amd64/kernel/fs/xfs/xfs.ko"
    assert base_of(old, new) == "lib/modules/6.1.0-55-amd64/kernel/fs/xfs/xfs.ko"


def test_numbers_of_a_library_s_name_may_change() -> None:
    old = places(("usr/lib/libfoo.so.0.4706", 1000), ("usr/lib/libbar.so.0.4706", 1000))
    assert base_of(old, "usr/lib/libfoo.so.0.4710.1") == "usr/lib/libfoo.so.0.4706"


def test_of_several_the_most_similar_is_chosen() -> None:
    """By size first: the icon of 16 pixels is no base for that of 256."""
    old = places(("i/16/app.png", 700), ("i/48/app.png", 3000), ("i/512/app.png", 90_000))
    assert base_of(old, "i/256/app.png", 80_000) == "i/512/app.png"
    many = places(*((f"usr/lib/f{number}-1.0", 3000) for number in range(500)))
    assert base_of(many, "usr/lib/f123-1.1", 3000) == "usr/lib/f123-1.0"


def test_a_renamed_directory_is_recognised_by_the_names_in_it() -> None:
    old = places(
        ("opt/alpha/main.py", 900),
        ("opt/alpha/reader.py", 900),
        ("opt/alpha/__init__.py", 900),
        ("opt/other/__init__.py", 900),
    )
    new = [
        Place(b"opt/beta/main.py", 0, 900),
        Place(b"opt/beta/reader.py", 1, 900),
        Place(b"opt/beta/__init__.py", 2, 900),
    ]
    assert pair_contents(old, new) == {0: 0, 1: 1, 2: 2}


def test_the_same_name_elsewhere_is_the_last_resort() -> None:
    old = places(("usr/share/doc/x/changelog", 900), ("usr/bin/unique-tool", 900))
    assert base_of(old, "usr/local/sbin/unique-tool") == "usr/bin/unique-tool"
    assert base_of(old, "usr/bin/unheard-of") is None


def test_a_base_of_another_path_must_not_be_of_another_magnitude() -> None:
    old = places(("a/tool", 500_000_000), ("b/tool", 1))
    assert base_of(old, "c/tool", 5000) is None


def test_any_place_of_a_content_will_do() -> None:
    old = places(("etc/hosts", 100))
    new = [Place(b"strange/name", 7, 100), Place(b"etc/hosts", 7, 100)]
    assert pair_contents(old, new) == {7: 0}


_PLACES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["a", "b1", "b2", "c"]), min_size=1, max_size=4).map("/".join),
        st.integers(1, 1 << 40),
    ),
    unique_by=lambda pair: pair[0],
    max_size=12,
)


@given(_PLACES, _PLACES)
def test_every_base_exists_and_every_pair_is_of_a_new_content(
    old: list[tuple[str, int]], new: list[tuple[str, int]]
) -> None:
    before, after = places(*old), places(*new)
    pairs = pair_contents(before, after)
    assert pairs.keys() <= set(range(len(after)))
    assert set(pairs.values()) <= set(range(len(before)))
    assert pairs == pair_contents(before, after)


def test_contents_without_a_name_in_common_are_paired_by_what_they_share() -> None:
    source = random.Random(1)
    contents = [source.randbytes(60_000) for _ in range(20)]
    changed = contents[7][:20_000] + source.randbytes(500) + contents[7][19_000:]
    old = {number: sketch_content(data) for number, data in enumerate(contents)}
    new = {0: sketch_content(changed), 1: sketch_content(source.randbytes(60_000))}
    assert pair_by_sketches(old, new) == {0: 7}


def test_tiny_and_uniform_contents_have_nothing_to_share() -> None:
    sketches = {0: sketch_content(b""), 1: sketch_content(b"x"), 2: sketch_content(bytes(10_000))}
    assert pair_by_sketches(sketches, sketches) == {}
