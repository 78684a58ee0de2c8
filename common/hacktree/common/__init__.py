"""The versioning filesystem: objects, repository and the `hacktree` command driver."""
