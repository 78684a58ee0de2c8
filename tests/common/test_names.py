"""Branch names, names in trees, and paths shown to a person."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategies import branches, names
from hacktree.common.objects.errors import FormatError, NameInvalidError
from hacktree.common.objects.names import (
    MAX_BRANCH_LENGTH,
    RESERVED_COMPONENTS,
    BranchName,
    branch_conflict,
    check_entry_names,
    display_path,
    parse_branch_name,
)


@given(branches)
def test_a_branch_name_is_taken_as_it_is(name: str) -> None:
    """Nothing is normalised: one branch has one name."""
    assert parse_branch_name(name) == name


@pytest.mark.parametrize("name", ["builds", "gnomeos/x86_64/builds", "0", "a..b", "a" * 200])
def test_examples_of_branch_names(name: str) -> None:
    """The documented forms, and the longest."""
    assert parse_branch_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        ".",
        "..",
        "a/../b",
        ".hidden",
        "a/.b",
        "-a",
        "_a",
        "A",
        "a b",
        "a\n",
        "a\0",
        "a\\b",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "a%2fb",
        "a" * (MAX_BRANCH_LENGTH + 1),
        "ref.lock",
        "a.tmp/b",
    ],
)
def test_nothing_else_is_a_branch_name(name: str) -> None:
    """A branch name becomes a path on the server and on disk."""
    with pytest.raises(NameInvalidError):
        parse_branch_name(name)


@pytest.mark.parametrize("component", sorted(RESERVED_COMPONENTS))
@pytest.mark.parametrize("pattern", ["{}", "a/{}", "{}/a"])
def test_reserved_components_stand_nowhere(component: str, pattern: str) -> None:
    """A branch can't shadow a file of the published layout."""
    with pytest.raises(NameInvalidError, match="reserved"):
        parse_branch_name(pattern.format(component))
    assert parse_branch_name(f"{component}s") == f"{component}s"


@pytest.mark.parametrize(
    ("name", "conflict"),
    [("a", "a/b"), ("a/b/c", "a/b"), ("a/b", None), ("a/bc", None), ("ab", None)],
)
def test_no_branch_is_the_directory_of_another(name: str, conflict: str | None) -> None:
    """`a` as a file and `a/b` below it can't both exist; siblings and itself can."""
    existing = ["x", "a/b"]
    assert branch_conflict(BranchName(name), existing) == conflict


@given(st.lists(names, unique=True).map(sorted))
def test_any_other_bytes_are_names(entry_names: list[bytes]) -> None:
    """Names need not be UTF-8, nor printable."""
    check_entry_names(entry_names)


BAD_NAMES = [
    ([b""], "empty"),
    ([b"."], r"'\.'"),
    ([b".."], r"'\.\.'"),
    ([b"a", b"b/c"], "'/'"),
    ([b"/"], "'/'"),
    ([b"a\0"], "NUL"),
    ([b"\0"], "NUL"),
    ([b"a", b"a"], "ascending"),
    ([b"b", b"a"], "ascending"),
    ([b"a", b"a\x80", b"a\x7f"], "ascending"),
    ([b"a" * 256], "longer"),
    ([b"-", b".", b"a"], r"'\.'"),
    ([b"", b"a"], "empty"),
]


@pytest.mark.parametrize(("bad", "rule"), BAD_NAMES)
def test_names_no_directory_may_hold(bad: list[bytes], rule: str) -> None:
    """Refused with the rule that it breaks, wherever in the tree it stands."""
    with pytest.raises(FormatError, match=rule):
        check_entry_names(bad)


@given(st.binary())
def test_a_shown_path_can_not_drive_the_terminal(path: bytes) -> None:
    """No escape sequence, line break or direction mark of a hostile name reaches a terminal."""
    assert display_path(path).isprintable()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"usr/bin/ls", "usr/bin/ls"),
        (b"caf\xc3\xa9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
        (b"caf\xe9", r"caf\xe9"),
        (b"a\x1b[2Jb", r"a\x1b[2Jb"),
        (b"a\nb", r"a\nb"),
        ("\N{RIGHT-TO-LEFT OVERRIDE}x".encode(), r"\u202ex"),
    ],
)
def test_examples_of_shown_paths(path: bytes, shown: str) -> None:
    """UTF-8 stays readable; the rest is spelled out."""
    assert display_path(path) == shown
