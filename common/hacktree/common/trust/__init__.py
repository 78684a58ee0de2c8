"""Signed refs: TUF metadata in which each branch's head is a target. docs/format.md, "Trust"."""
