"""Suites: which command judges the builds of one branch for another. Pure.

A suite is named by the branch that it promotes to: `[suites.fastqa]` in `server.toml`.
"""

import tomllib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from hacktree.common.errors import UserError
from hacktree.common.objects.errors import NameInvalidError
from hacktree.common.objects.names import BranchName, branch_conflict, parse_branch_name
from hacktree.common.repository.retention import parse_duration

MAX_LIMIT: Final = 7 * 86_400
"""Seconds that a suite's command may take at most."""

MAX_SETTINGS_SIZE: Final = 1 << 20
"""Bytes of `server.toml`."""


class SuiteInvalidError(UserError):
    """`server.toml` defines something that no suite can be."""


class SuiteMissingError(UserError):
    """There is no suite of this name."""


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Builds of `source` that pass `command` are promoted to `target`; raises `SuiteInvalidError`.

    `command`: program and arguments, for no shell. `limit`: seconds after which it is killed and
    the build has failed. `every`: seconds between promotions at least, None for none.
    """

    target: BranchName
    source: BranchName
    command: tuple[str, ...]
    limit: float
    every: float | None = None

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise SuiteInvalidError(f"the suite {self.target} promotes its own branch")
        if not self.command or not self.command[0] or any("\0" in word for word in self.command):
            raise SuiteInvalidError(
                f"the suite {self.target} has no command that could be run",
                hint='command = ["PROGRAM", "ARGUMENT"]',
            )
        if not 1 <= self.limit <= MAX_LIMIT:
            raise SuiteInvalidError(f"the limit of the suite {self.target} is not within 1s to 7d")
        if self.every is not None and self.every < 1:
            raise SuiteInvalidError(f"the suite {self.target} can't promote every {self.every}s")


Suites = Mapping[BranchName, Suite]
"""Every suite by name."""


class _SuiteTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    source: str
    command: tuple[str, ...]
    limit: str
    every: str | None = None


class LogTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """How long logs of verdicts are kept, and how large they may be together, as written."""

    keep: str = "90d"
    max_size: str = "1GiB"


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    suites: dict[str, _SuiteTable] = {}
    logs: LogTable = LogTable()


def parse_suites(text: str) -> dict[BranchName, Suite]:
    """The suites that the text of a `server.toml` defines; raises `SuiteInvalidError`."""
    suites = {}
    for name, table in _settings(text).suites.items():
        suite = _suite(name, table)
        suites[suite.target] = suite
    for suite in suites.values():
        _check_route(suite, suites)
    return suites


def _settings(text: str) -> _Settings:
    try:
        return msgspec.convert(tomllib.loads(text), _Settings)
    except ValueError as error:  # TOMLDecodeError and ValidationError are
        raise SuiteInvalidError(f"server.toml: {error}") from error


def parse_log_table(text: str) -> LogTable:
    """`[logs]` in the text of a `server.toml`; raises `SuiteInvalidError`."""
    return _settings(text).logs


def find_suite(suites: Suites, name: str) -> Suite:
    """The suite of this name; raises `SuiteMissingError`, which names those that there are."""
    try:
        return suites[BranchName(name)]
    except KeyError:
        known = ", ".join(sorted(suites)) or "none"
        raise SuiteMissingError(
            f"there is no suite {name!r}: defined are {known}",
            hint=f"Define [suites.{name}] in server.toml of the repository.",
        ) from None


def as_json(suite: Suite) -> dict[str, Any]:
    """For --json and the API."""
    return {
        "name": suite.target,
        "source": suite.source,
        "command": list(suite.command),
        "limit-seconds": suite.limit,
        "every-seconds": suite.every,
    }


def _suite(name: str, table: _SuiteTable) -> Suite:
    try:
        target, source = parse_branch_name(name), parse_branch_name(table.source)
        every = None if table.every is None else parse_duration(table.every)
        return Suite(target, source, table.command, parse_duration(table.limit), every)
    except NameInvalidError as error:
        raise SuiteInvalidError(
            f"server.toml: [suites.{name}]: {error.message}", hint=error.hint
        ) from None
    except UserError as error:
        raise SuiteInvalidError(
            f"server.toml: [suites.{name}]: {error.message}", hint=error.hint
        ) from error


def _check_route(suite: Suite, suites: Suites) -> None:
    """Refuse a circle, in which builds would be promoted for ever."""
    conflict = branch_conflict(suite.target, [*suites, suite.source])
    if conflict is not None:
        raise SuiteInvalidError(
            f"server.toml: the branch {suite.target} can't stand beside {conflict}"
        )
    seen = {suite.target}
    source = suite.source
    while source in suites:
        if source in seen:
            raise SuiteInvalidError(f"server.toml: {suite.target} is promoted from itself")
        seen.add(source)
        source = suites[source].source
