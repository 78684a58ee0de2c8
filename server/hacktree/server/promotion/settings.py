"""Reading `server.toml` of a repository."""

from hacktree.common.errors import SystemFault
from hacktree.common.objects.names import BranchName
from hacktree.common.repository.repository import Repository
from hacktree.server.promotion.suites import (
    MAX_SETTINGS_SIZE,
    Suite,
    SuiteInvalidError,
    parse_suites,
)


def read_suites(repository: Repository) -> dict[BranchName, Suite]:
    """The suites of a farm, none without a file; raises `SuiteInvalidError`, `SystemFault`."""
    path = repository.path / "server.toml"
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SETTINGS_SIZE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SystemFault(f"{path}: {error.strerror}") from error
    if len(data) > MAX_SETTINGS_SIZE:
        raise SuiteInvalidError(f"{path} is larger than {MAX_SETTINGS_SIZE} bytes")
    try:
        return parse_suites(data.decode())
    except UnicodeDecodeError as error:
        raise SuiteInvalidError(f"{path} is not UTF-8: {error}") from error
