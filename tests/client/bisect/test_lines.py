"""Promise: a word names the build that a person means, or none."""

import pytest

from hacktree.client.bisect.core.model import Candidate
from hacktree.client.bisect.farm.lines import (
    NoSuchBuildError,
    find_candidate,
    find_range,
    parse_name,
)
from support.trusting import BUILDS

LINE = [Candidate(f"{number:064x}", "builds", number, 0) for number in (1, 2)]
"""Builds without a version."""


@pytest.mark.parametrize("text", ["", "builds@", "@"])
def test_an_empty_word_is_no_end(text: str) -> None:
    """Of a shell's unset variable: it must not be the newest build without a version."""
    with pytest.raises(NoSuchBuildError, match="names no build"):
        parse_name(text, BUILDS, None)


def test_an_empty_word_is_no_build_of_the_line() -> None:
    with pytest.raises(NoSuchBuildError, match="names no build"):
        find_candidate(LINE[:1], "")
    for text in ("", "..", f"{LINE[0].commit}..", f"..{LINE[1].commit}"):
        with pytest.raises(NoSuchBuildError, match="names no build"):
            find_range(LINE, text)
