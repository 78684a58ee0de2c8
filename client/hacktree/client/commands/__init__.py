"""The commands of a tester's machine; one module each."""

from hacktree.common.cli.catalog import CommandInfo

_PACKAGE = "hacktree.client.commands"

CATALOG: tuple[CommandInfo, ...] = (
    CommandInfo("pull", "tester", "Pull a build and deploy it", f"{_PACKAGE}.pull"),
    CommandInfo("remote", "tester", "Say where builds come from", f"{_PACKAGE}.remote"),
    CommandInfo("deploy", "tester", "Deploy a build that is here", f"{_PACKAGE}.deploy"),
    CommandInfo("config", "tester", "Manage scripts that change new roots", f"{_PACKAGE}.config"),
    CommandInfo("status", "tester", "List the deployed roots", f"{_PACKAGE}.status"),
    CommandInfo("rollback", "tester", "Go back to the previous root", f"{_PACKAGE}.rollback"),
    CommandInfo("pin", "tester", "Keep a root for good", f"{_PACKAGE}.pin"),
    CommandInfo("unpin", "tester", "Let a pinned root be cleaned up", f"{_PACKAGE}.unpin"),
    CommandInfo("undeploy", "tester", "Delete a deployed root", f"{_PACKAGE}.undeploy"),
    CommandInfo("extension", "tester", "Install packages on every root", f"{_PACKAGE}.extension"),
    CommandInfo("users", "tester", "Show who will be in the next root", f"{_PACKAGE}.users"),
    CommandInfo("layer", "tester", "Lay what you built over new roots", f"{_PACKAGE}.layer", True),
    CommandInfo("try", "tester", "Try what you built, on the live root", f"{_PACKAGE}.trial", True),
    CommandInfo("enter", "tester", "Run a shell or program in a root", f"{_PACKAGE}.enter", True),
    CommandInfo("bisect", "tester", "Find the build that broke it", f"{_PACKAGE}.bisect", True),
    CommandInfo("push", "farm", "Send a build to a server", f"{_PACKAGE}.push"),
    CommandInfo("cleanup", "tester", "Delete what no root needs", f"{_PACKAGE}.cleanup"),
)
