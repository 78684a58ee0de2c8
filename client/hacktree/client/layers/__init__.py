"""Layers: what a person built, laid over every new root."""
