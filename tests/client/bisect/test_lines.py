"""Promise: a word names the build that a person means, or none."""

import pytest

from hacktree.client.bisect.core.model import Candidate
from hacktree.client.bisect.farm.lines import (
    NoSuchBuildError,
    find_candidate,
    find_range,
    parse_name,
)
from hacktree.client.commands.bisect_output import describe_build
from support.trusting import BUILDS


@pytest.mark.parametrize(
    ("time", "day"), [(1_700_000_000, "2023-11-14"), (1 << 40, "1099511627776 s after 1970")]
)
def test_a_build_is_described_whenever_it_claims_to_be_from(time: int, day: str) -> None:
    build = Candidate("a" * 64, "builds", 12, time, "47.3")
    assert describe_build(build) == f"builds 12 47.3 (aaaaaaaaa, {day})"


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
