"""The `hacktree` command driver: finds subcommands, reads global options, reports errors."""
