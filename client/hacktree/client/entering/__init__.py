"""Entering a root: a shell or program inside it, in mount and process namespaces of its own."""
