"""The commands of the build farm."""

from hacktree.common.cli.catalog import CommandInfo

CATALOG: tuple[CommandInfo, ...] = (
    CommandInfo(
        name="serve",
        group="farm",
        summary="Serve a repository over HTTP",
        module="hacktree.server.commands.serve",
    ),
)
