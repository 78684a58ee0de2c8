"""Sending a build to a server: which objects, in which batches, and going on after a failure."""
