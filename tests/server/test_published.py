"""The whitelist of URL paths. test_contract.py compares it with nginx's."""

from hypothesis import given
from hypothesis import strategies as st

from hacktree.server.published import Lifetime, PublishedFile, find_published

PUBLIC = ("refs", "objects", "branches", "packs", "graph", "trust", "dashboard")
HEX62, HEX64 = "0f" * 31, "0f" * 32


def test_a_path_becomes_components_below_the_repository() -> None:
    assert find_published(f"/objects/ab/{HEX62}.meta") == PublishedFile(
        ("objects", "ab", f"{HEX62}.meta"), Lifetime.IMMUTABLE
    )
    assert find_published("/refs/os/builds") == PublishedFile(
        ("refs", "os", "builds"), Lifetime.MUTABLE
    )
    assert find_published("/branches/os/builds/history/tail") == PublishedFile(
        ("branches", "os", "builds", "history", "tail"), Lifetime.MUTABLE
    )
    assert find_published(f"/branches/os/builds/history/{HEX64}") == PublishedFile(
        ("branches", "os", "builds", "history", HEX64), Lifetime.IMMUTABLE
    )
    assert find_published(f"/packs/{HEX64}") == PublishedFile(("packs", HEX64), Lifetime.IMMUTABLE)
    assert find_published(f"/graph/{HEX64}") == PublishedFile(("graph", HEX64), Lifetime.IMMUTABLE)
    assert find_published("/graph/tail") == PublishedFile(("graph", "tail"), Lifetime.MUTABLE)
    for name in (
        "timestamp.json",
        "3.root.json",
        "12.snapshot.json",
        f"1.branch-{HEX62[:32]}.json",
    ):
        found = PublishedFile(("trust", name), Lifetime.MUTABLE)
        assert find_published(f"/trust/{name}") == found
    for name in ("root.json", "0.root.json", "online.pem", "1.branch-xyz.json", "timestampXjson"):
        assert find_published(f"/trust/{name}") is None


def test_a_line_end_is_not_the_end_of_a_path() -> None:
    """`$` in a regex would let it pass."""
    for path in (
        "/refs/builds",
        f"/objects/ab/{HEX62}.meta",
        "/branches/b/history/tail",
        "/graph/tail",
    ):
        assert find_published(path) is not None
        assert find_published(path + "\n") is None


def test_digits_of_other_scripts_are_no_digits() -> None:
    assert find_published(f"/objects/٣٤/{HEX62}.meta") is None
    assert find_published("/refs/b٣") is None


@given(
    st.lists(
        st.sampled_from(
            (
                *("/", ".", "..", "-", "\\", "%2e", "\0", "\n", "é", "A", "state", "builds"),
                *("refs", "objects", "ab", HEX62, ".meta", ".file.zst"),
                *("branches", "history", "tail", HEX64, "packs", "graph", "trust", "1.root.json"),
                *("dashboard", "index.html", "dashboard.json", "verdicts.json"),
            )
        ),
        max_size=9,
    ).map("".join)
)
def test_no_component_can_leave_the_published_directories(path: str) -> None:
    """Whatever is put together: components are plain names below one of seven directories."""
    found = find_published("/" + path)
    if found is not None:
        assert found.components[0] in PUBLIC
        assert "/" + path == "/" + "/".join(found.components)
        for component in found.components:
            assert component.isascii()
            assert component[0].isalnum()
            assert not set(component) & set("/\\%\0\n")
