"""The commands of a tester's machine; one module each."""

from hacktree.common.cli.catalog import CommandInfo

_PACKAGE = "hacktree.client.commands"

CATALOG: tuple[CommandInfo, ...] = (
    CommandInfo("pull", "tester", "Fetch a build, and deploy it", f"{_PACKAGE}.pull"),
    CommandInfo("remote", "tester", "Add, list or remove remotes", f"{_PACKAGE}.remote"),
    CommandInfo("deploy", "tester", "Make a build the live root", f"{_PACKAGE}.deploy"),
    CommandInfo("status", "tester", "Show the roots of this machine", f"{_PACKAGE}.status"),
    CommandInfo("rollback", "tester", "Go back to an earlier root", f"{_PACKAGE}.rollback"),
    CommandInfo("pin", "tester", "Keep a root for good", f"{_PACKAGE}.pin"),
    CommandInfo("unpin", "tester", "Let a pinned root go", f"{_PACKAGE}.unpin"),
    CommandInfo("undeploy", "tester", "Delete a root", f"{_PACKAGE}.undeploy"),
    CommandInfo("cleanup", "tester", "Delete what is left over", f"{_PACKAGE}.cleanup"),
)
