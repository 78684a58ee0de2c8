"""Config scripts: executables of the machine's owner that are replayed on every new root."""
