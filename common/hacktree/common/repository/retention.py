"""Which commits of a branch are kept: pure planning.

A rule keeps the head, so many commits behind it, and those younger than so much; whatever either
clause keeps, stays. A branch's history is kept in one piece: clocks of build machines disagree, and
a hole would hide everything behind it. Without clauses everything the branch reaches is kept.

Branches below `local/layers/` are a machine's own, and only their head is ever used: of those a few
versions are kept, unless a rule for branches matches.
"""

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.ids import ObjectId

LAYERS: Final = "local/layers/"
"""What the names of branches with a machine's layers begin with."""

LAYER_VERSIONS: Final = 4
"""Versions of a layer that are kept, the newest included."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Ancestor(msgspec.Struct, frozen=True):
    """A commit of a branch: generations behind the head, and its age in seconds."""

    id: ObjectId
    depth: int
    age: float


class Rule(msgspec.Struct, frozen=True):
    """Keep `depth` commits besides the head, and those younger than `younger` seconds."""

    depth: int | None = None
    younger: float | None = None


class Policy(msgspec.Struct, frozen=True):
    """The rule of each branch: the first whose glob matches, else `layers` or `default`."""

    default: Rule = Rule()
    branches: tuple[tuple[str, Rule], ...] = ()
    layers: Rule = Rule(depth=LAYER_VERSIONS - 1)

    def rule_for(self, ref: str) -> Rule:
        """The rule for a ref; of `remotes/origin/fastqa` a glob may match the whole or `fastqa`."""
        names = [ref]
        if ref.startswith("remotes/"):
            names.append(ref.split("/", 2)[2])
        for glob, rule in self.branches:
            if any(fnmatch.fnmatchcase(name, glob) for name in names):
                return rule
        return self.layers if ref.startswith(LAYERS) else self.default


def kept_commits(ancestors: Sequence[Ancestor], rule: Rule) -> list[ObjectId]:
    """The commits of one branch to keep; `ancestors` begins with the head, at depth 0."""
    if rule.depth is None and rule.younger is None:
        return [ancestor.id for ancestor in ancestors]
    deepest = rule.depth or 0
    if rule.younger is not None:
        young = (ancestor.depth for ancestor in ancestors if ancestor.age <= rule.younger)
        deepest = max(deepest, max(young, default=0))
    return [ancestor.id for ancestor in ancestors if ancestor.depth <= deepest]


def parse_duration(text: str) -> float:
    """Seconds written as a number with a unit: 90m, 36h, 30d, 2w."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UserError(f"not a duration: {text!r}", hint="Examples: 12h, 30d, 2w.")
    return float(match[1]) * _SECONDS[match[2]]


def parse_depth(text: str) -> int:
    """A number of commits, 0 or more."""
    if not text.isascii() or not text.isdigit():
        raise UserError(f"not a number of commits: {text!r}", hint="0 keeps the head alone.")
    return int(text)


def parse_branch_rule(text: str) -> tuple[str, Rule]:
    """`GLOB=depth:20,younger:30d` or `GLOB=all`."""
    glob, equals, clauses = text.rpartition("=")
    if not glob or not equals or not clauses:
        raise UserError(
            f"not a rule for branches: {text!r}", hint="Example: --branch 'qa/*=depth:20'"
        )
    if clauses == "all":
        return glob, Rule()
    depth: int | None = None
    younger: float | None = None
    for clause in clauses.split(","):
        key, _, value = clause.partition(":")
        if key == "depth":
            depth = parse_depth(value)
        elif key == "younger":
            younger = parse_duration(value)
        else:
            raise UserError(
                f"{text!r}: unknown clause {clause!r}", hint="depth:N, younger:30d, or all."
            )
    return glob, Rule(depth, younger)
