"""What is typed at the prompt of a bisection means one thing."""

import pytest

from hacktree.client.bisect.core.model import TermInvalidError, Terms
from hacktree.client.bisect.prompt import Choice, parse_reply


def test_no_word_of_ones_own_means_something_else_at_the_prompt() -> None:
    """Whatever the prompt understands beside good and bad can be neither."""
    typed = [*"abcdefghijklmnopqrstuvwxyz", "skip", *Choice]
    for word in typed:
        for other in ("plain", "good"):
            with pytest.raises(TermInvalidError):
                Terms(other, str(word.value if isinstance(word, Choice) else word))
    reply = parse_reply("slow since noon", Terms("fast", "slow"))
    assert reply == parse_reply("b since noon", Terms("fast", "slow"))
