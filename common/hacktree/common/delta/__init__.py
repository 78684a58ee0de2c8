"""Deltas, packs and the pack graph: pure formats and the codec. docs/format.md, "Packs"."""
