"""Reading `server.toml` of a repository."""

from hacktree.common.errors import SystemFault, UserError
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.config import parse_size
from hacktree.common.repository.repository import Repository
from hacktree.common.repository.retention import parse_duration
from hacktree.server.promotion.logs import LogLimits
from hacktree.server.promotion.suites import (
    MAX_SETTINGS_SIZE,
    Suite,
    SuiteInvalidError,
    parse_log_table,
    parse_suites,
)


def read_suites(repository: Repository) -> dict[BranchName, Suite]:
    """The suites of a farm, none without a file; raises `SuiteInvalidError`, `SystemFault`."""
    return parse_suites(_read(repository))


def read_log_limits(repository: Repository) -> LogLimits:
    """How long a farm keeps logs; raises as `read_suites` does."""
    table = parse_log_table(_read(repository))
    try:
        return LogLimits(parse_duration(table.keep), parse_size(table.max_size))
    except UserError as error:
        raise SuiteInvalidError(f"server.toml: [logs]: {error.message}", hint=error.hint) from error


def _read(repository: Repository) -> str:
    """`server.toml`, empty without one."""
    path = repository.path / "server.toml"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SETTINGS_SIZE + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SystemFault(f"{path}: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_SIZE:
        raise SuiteInvalidError(f"{path} is larger than {MAX_SETTINGS_SIZE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise SuiteInvalidError(f"{path} is not UTF-8: {error}") from error
