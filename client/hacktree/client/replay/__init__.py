"""Replaying the machine's own changes on every new root."""
