"""Receiving a build: sessions, batches, the check that it is whole, publication."""
