"""The commands of the build farm."""

from hacktree.common.cli.catalog import CommandInfo

CATALOG: tuple[CommandInfo, ...] = (
    CommandInfo(
        name="serve",
        group="farm",
        summary="Serve a repository over HTTP",
        module="hacktree.server.commands.serve",
    ),
    CommandInfo(
        name="token",
        group="farm",
        summary="Make, list and revoke what lets peers push and promote",
        module="hacktree.server.commands.token",
    ),
)
