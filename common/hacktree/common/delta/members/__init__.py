"""Compressed members of files, delta'd by their content. docs/format.md, "Members".

A `Layout` says which stretches of a file are compressed and how (`layout`), the encoder finds it
(`detect`), and both sides turn a file into its expanded form and back (`expansion`). The bytes that
come back depend on the compression library, so each machine proves itself first (`conformance`).
"""
