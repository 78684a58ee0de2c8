"""The build farm: serving a repository."""
