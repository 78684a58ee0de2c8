"""What a farm, a package or a file's name says never steers the terminal of whoever reads it."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hacktree.common.cli.main import main
from hacktree.common.cli.output import format_time, json_text
from hacktree.common.objects.names import display_text

_HOSTILE = "v1\x1b[2J\x9b31m\u202eevil\x7f"
_SHOWN = r"v1\x1b[2J\x9b31m\u202eevil\x7f"


@given(st.text())
def test_shown_text_steers_nothing(text: str) -> None:
    """All is printable but what was asked for, and what was printable is as it was."""
    shown = display_text(text, keep="\n")
    assert shown.replace("\n", "").isprintable()
    assert display_text(shown, keep="\n") == shown
    if text.isprintable():
        assert shown == text


@given(
    st.dictionaries(
        st.text(), st.lists(st.text() | st.none() | st.integers(), max_size=3), max_size=3
    ),
    st.sampled_from([None, 2]),
)
def test_json_is_read_as_it_was_and_steers_nothing(value: object, indent: int | None) -> None:
    """A program gets the value, a terminal nothing but printable characters."""
    text = json_text(value, indent)
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()


def test_a_hostile_commit_is_shown_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Version, subject and metadata come from whoever made the build."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"")
    repo = ["--repo", str(tmp_path / "repo")]
    assert main([*repo, "init"]) == 0
    words = ["--version", _HOSTILE, "--subject", _HOSTILE, "--body", "a\ncommit: b"]
    assert (
        main([*repo, "commit", "builds", str(tree), *words, "--metadata", f"n\nx={_HOSTILE}"]) == 0
    )
    capsys.readouterr()
    for command in (["log"], ["log", "--oneline"], ["show"]):
        assert main([*repo, *command, "builds"]) == 0
        out = capsys.readouterr().out
        assert _SHOWN in out
        assert out.replace("\n", "").isprintable()
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("commit:")] == lines[:1]
    assert any(line.startswith(r"n\nx:") for line in lines)
    assert main([*repo, "show", "builds", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert json.loads(out)["version"] == _HOSTILE


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_error_is_shown_escaped(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error quotes what was wrong: the terminal gets its escapes, and no line that poses as
    another; a name that is not UTF-8 is no traceback.
    """
    name = f"no\nhacktree: all is well{_HOSTILE}\udcff"
    assert main(["--repo", str(tmp_path / name), *options, "log", "builds"]) == 2
    err = capsys.readouterr().err
    assert err.replace("\n", "").isprintable()
    assert "\nhacktree: all" not in err
    assert r"\udcff" in err
    assert main([f"lo{_HOSTILE}"]) == 2
    assert _SHOWN in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "1970-01-01 00:00 UTC"),
        (253_402_300_799, "9999-12-31 23:59 UTC"),
        (1 << 40, "1099511627776 s after 1970"),
        (-1, "-1 s after 1970"),
    ],
)
def test_any_time_that_a_commit_may_have_is_shown(seconds: int, shown: str) -> None:
    """A format's limit is not a calendar's: a commit of the year 30000 is no traceback."""
    assert format_time(seconds) == shown
