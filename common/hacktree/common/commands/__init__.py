"""The commands that work on a repository; one module each."""

from hacktree.common.cli.catalog import CommandInfo

_PACKAGE = "hacktree.common.commands"

CATALOG: tuple[CommandInfo, ...] = (
    CommandInfo("init", "repository", "Create a repository", f"{_PACKAGE}.init"),
    CommandInfo("commit", "repository", "Commit a tree to a branch", f"{_PACKAGE}.commit"),
    CommandInfo("log", "repository", "List the builds of a branch", f"{_PACKAGE}.log"),
    CommandInfo("show", "repository", "Show one commit", f"{_PACKAGE}.show"),
    CommandInfo("ls", "repository", "List a directory of a commit", f"{_PACKAGE}.ls"),
    CommandInfo("cat", "repository", "Print a file of a commit", f"{_PACKAGE}.cat"),
    CommandInfo("diff", "repository", "Compare two commits", f"{_PACKAGE}.diff"),
    CommandInfo("rev-parse", "repository", "Print the id of a commit", f"{_PACKAGE}.rev_parse"),
    CommandInfo("refs", "repository", "List, or delete, branches", f"{_PACKAGE}.refs"),
    CommandInfo("checkout", "repository", "Check a commit out", f"{_PACKAGE}.checkout"),
    CommandInfo("fsck", "repository", "Verify every object and commit", f"{_PACKAGE}.fsck"),
    CommandInfo("history", "repository", "Mend a published history", f"{_PACKAGE}.history"),
    CommandInfo("prune", "repository", "Delete old builds", f"{_PACKAGE}.prune"),
    CommandInfo("delta", "repository", "Make and inspect packs of deltas", f"{_PACKAGE}.delta"),
    CommandInfo("trust", "farm", "Sign branches, and say whose keys count", f"{_PACKAGE}.trust"),
    CommandInfo(
        "completion", "repository", "Print a shell's completion script", f"{_PACKAGE}.completion"
    ),
)
