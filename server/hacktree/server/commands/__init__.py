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
        name="jobs",
        group="farm",
        summary="List and do the work that follows publications",
        module="hacktree.server.commands.jobs",
    ),
    CommandInfo(
        name="token",
        group="farm",
        summary="Make, list and revoke what lets peers push and promote",
        module="hacktree.server.commands.token",
    ),
    CommandInfo(
        name="lease",
        group="farm",
        summary="List and end what keeps builds for bisections",
        module="hacktree.server.commands.lease",
    ),
    CommandInfo(
        name="qa",
        group="farm",
        summary="Test builds by suites, promote what passed",
        module="hacktree.server.commands.qa",
    ),
    CommandInfo(
        name="promote",
        group="farm",
        summary="Move a branch to a build by hand",
        module="hacktree.server.commands.promote",
    ),
    CommandInfo(
        name="hold",
        group="farm",
        summary="Stop a branch, or a build on its way",
        module="hacktree.server.commands.holds",
    ),
    CommandInfo(
        name="release",
        group="farm",
        summary="End a hold",
        module="hacktree.server.commands.holds",
    ),
    CommandInfo(
        name="branch",
        group="farm",
        summary="Say where a branch is and why it does not move",
        module="hacktree.server.commands.branch",
    ),
    CommandInfo(
        name="dashboard",
        group="farm",
        summary="Write the page that shows how the farm is",
        module="hacktree.server.commands.dashboard",
    ),
    CommandInfo(
        name="backup",
        group="farm",
        summary="Copy the repository while it runs",
        module="hacktree.server.commands.backup",
    ),
)
