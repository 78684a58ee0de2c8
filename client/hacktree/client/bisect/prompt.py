"""What a person may say of the build under test, with a single letter or a word. Pure."""

import enum

import msgspec

from hacktree.client.bisect.core.model import Terms, Verdict


class Choice(enum.Enum):
    """What a person wants done beside answering."""

    UNDO = "undo"
    ENTER = "enter"
    STATUS = "status"
    HELP = "help"
    QUIT = "quit"


class Reply(msgspec.Struct, frozen=True):
    """A verdict with what else was said, or something else to do."""

    verdict: Verdict | None = None
    note: str = ""
    choice: Choice | None = None


_LETTERS = {
    "u": Choice.UNDO,
    "e": Choice.ENTER,
    "t": Choice.STATUS,
    "h": Choice.HELP,
    "?": Choice.HELP,
    "q": Choice.QUIT,
}
_VERDICTS = {"g": Verdict.GOOD, "b": Verdict.BAD, "s": Verdict.SKIP}


def parse_reply(line: str, terms: Terms) -> Reply | None:
    """`g`, `bad the screen stays black`, `u`, `q` and so on; None for what is none of them."""
    word, _, note = line.strip().partition(" ")
    note = note.strip() if note.isprintable() else ""
    verdict = _VERDICTS.get(word) or terms.parse(word)
    if verdict is not None:
        return Reply(verdict, note)
    choice = _LETTERS.get(word)
    if choice is None and word in [choice.value for choice in Choice]:
        choice = Choice(word)
    return None if choice is None or note else Reply(choice=choice)


def question(terms: Terms) -> str:
    """What is asked for each build."""
    return f"{_shown('g', terms.good)}, {_shown('b', terms.bad)}, [s]kip, [u]ndo, [e]nter, [?] > "


def explanation(terms: Terms) -> str:
    """What the letters mean."""
    return "\n".join(
        [
            f"  g  {terms.good}: the build is as it was before; a note may follow: g boots in 4 s",
            f"  b  {terms.bad}: it has what is looked for",
            "  s  skip: this build can't be tested; another one is taken",
            "  u  undo: take the last answer back",
            "  e  enter: a shell in the build's root",
            "  t  status: how far the search is",
            "  q  quit: the bisection stays as it is; `hacktree bisect prompt` goes on",
        ]
    )


def _shown(letter: str, word: str) -> str:
    return f"[{letter}]{word[1:]}" if word.startswith(letter) else f"[{letter}] {word}"
