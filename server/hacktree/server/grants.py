"""What a token may do: actions on branches. Pure.

A grant is written `ACTION:BRANCH-PATTERN`. A pattern is a branch name in which `*` stands for any
characters within one component, also none, and a component `**` for any number of components, also
none: `push:builds`, `verdict:*`, `promote:gnomeos/*/fastqa`, `admin:**`.
"""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from operator import eq
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.names import MAX_BRANCH_LENGTH, BranchName, parse_branch_name

_ANY_TEXT: Final = "*"
_ANY_COMPONENTS: Final = "**"
_WILD_COMPONENT: Final = re.compile(r"[a-z0-9*][a-z0-9._*-]*")


class GrantInvalidError(UserError):
    """A grant that a person gave is malformed."""


class Action(StrEnum):
    """What a peer may be allowed to do; none implies another."""

    PUSH = "push"
    VERDICT = "verdict"
    PROMOTE = "promote"
    LEASE = "lease"
    ADMIN = "admin"


class Grant(msgspec.Struct, frozen=True, order=True):
    """`action` on every branch that `pattern` matches; raises `GrantInvalidError`."""

    action: Action
    pattern: str

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)

    def __str__(self) -> str:
        return f"{self.action.value}:{self.pattern}"

    def allows(self, action: Action, branch: BranchName) -> bool:
        """Whether this grant covers `action` on `branch`."""
        return action is self.action and pattern_matches(self.pattern, branch)


def parse_grant(text: str) -> Grant:
    """The grant that `text` writes; raises `GrantInvalidError` with the rule that it breaks."""
    action, colon, pattern = text.partition(":")
    if not colon or action not in list(Action):
        raise GrantInvalidError(
            f"not a grant: {text!r}",
            hint=f"ACTION:BRANCH-PATTERN, where ACTION is one of {', '.join(Action)}.",
        )
    return Grant(Action(action), pattern)


def pattern_matches(pattern: str, branch: BranchName) -> bool:
    """Whether a valid pattern matches a branch; takes at most the product of their lengths."""
    return _match_components(pattern.split("/"), branch.split("/"))


def _check_pattern(pattern: str) -> None:
    if not 0 < len(pattern) <= MAX_BRANCH_LENGTH:
        raise GrantInvalidError(f"a branch pattern has 1 to {MAX_BRANCH_LENGTH} characters")
    before = ""
    for component in pattern.split("/"):
        if component == before == _ANY_COMPONENTS:
            raise GrantInvalidError(f"branch pattern {pattern!r}: one {_ANY_COMPONENTS} is enough")
        _check_component(pattern, component)
        before = component


def _check_component(pattern: str, component: str) -> None:
    if component == _ANY_COMPONENTS:
        return
    if _ANY_COMPONENTS in component:
        raise GrantInvalidError(
            f"branch pattern {pattern!r}: {_ANY_COMPONENTS} stands alone between slashes"
        )
    if _ANY_TEXT not in component:
        # What can't be part of a branch name would never match: a mistake that nobody would see.
        try:
            parse_branch_name(component)
        except NameInvalidError as error:
            raise GrantInvalidError(
                f"branch pattern {pattern!r}: {error.message}", hint=error.hint
            ) from None
    elif not _WILD_COMPONENT.fullmatch(component):
        raise GrantInvalidError(
            f"not a branch pattern: {pattern!r}",
            hint="A branch name in which * stands for any characters but '/', and a component ** "
            "for any number of components.",
        )


def _match_components(pattern: Sequence[str], components: Sequence[str]) -> bool:
    return _match(pattern, components, _ANY_COMPONENTS, _match_text)


def _match_text(pattern: str, text: str) -> bool:
    return _match(pattern, text, _ANY_TEXT, eq)


def _match(
    pattern: Sequence[str],
    items: Sequence[str],
    wildcard: str,
    matches: Callable[[str, str], bool],
) -> bool:
    """Whether `pattern` covers all of `items`, with `wildcard` standing for any run of them.

    Only the last wildcard is ever retried: an earlier one that took more could leave only less. A
    regular expression would try them all, with 50 of them for longer than anybody waits.
    """
    at = index = resume = 0
    retry = -1
    while index < len(items):
        if at < len(pattern) and pattern[at] == wildcard:
            at += 1
            retry, resume = at, index
        elif at < len(pattern) and matches(pattern[at], items[index]):
            at += 1
            index += 1
        elif retry >= 0:
            resume += 1
            at, index = retry, resume
        else:
            return False
    return all(rest == wildcard for rest in pattern[at:])
