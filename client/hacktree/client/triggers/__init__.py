"""Triggers: what brings a root's caches up to date with what layers and extensions put there."""
